"""Devices whose token is made here and delivered elsewhere: mail, SMS, a chat."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import Any, ClassVar

from sqlalchemy import DateTime, String
from sqlalchemy.orm import Mapped, mapped_column

from starlette_otp import clock, oath
from starlette_otp.devices.base import DeviceMixin
from starlette_otp.devices.policies import CooldownMixin

TOKEN_DIGITS = 6
"""Six digits are 20 bits, the least that NIST SP 800-63B and OWASP ASVS 6.5.4 allow."""


class SideChannelDeviceMixin(CooldownMixin, DeviceMixin):
    """A device with a challenge: a token from the system's CSPRNG, valid for minutes, used once.

    A kind says how its token travels, in `deliver(token, **context)`. It is called after the
    commit, with nothing locked; if it raises, the token is dead and the cooldown given back.
    """

    code_prompt = "Enter the code that we send you"
    code_has_letters = False

    token_validity: ClassVar[float] = 300
    """Seconds; OWASP ASVS 6.5.5 allows ten minutes."""
    challenge_message: ClassVar[str] = "We sent you a code."
    """What the user is told after a challenge; `{destination}` is where it went, masked."""

    token_digest: Mapped[str | None] = mapped_column(String(64), use_existing_column=True)
    valid_until: Mapped[datetime | None] = mapped_column(
        DateTime(timezone=True), use_existing_column=True
    )

    asked_by: Mapped[str | None] = mapped_column(String(64), use_existing_column=True)

    def accepts(self, token: str) -> bool:
        """Whether a token is out for who asks, and `token` can be it: six digits."""
        return (
            self._is_out
            and self._is_asked_here
            and oath.canonical_digits(token, TOKEN_DIGITS) is not None
        )

    async def prepare_challenge(self, **context: Any) -> str:
        """Make a new token, of which the row gets a keyed digest; an older one is dead.

        Made for a browser it is good there only (ASVS 6.6.2).
        """
        token = str(secrets.randbelow(10**TOKEN_DIGITS)).zfill(TOKEN_DIGITS)
        self.token_digest = self.keyring().digests(self._purpose, token)[0]
        self.valid_until = clock.now() + timedelta(seconds=self.token_validity)
        browser = self.asking_browser
        self.asked_by = browser and self.keyring().digests("browser", browser)[0]
        self.delivery["token"] = token
        return self.challenge_message

    async def check_token(self, token: str) -> bool:
        """Accept the token that is out, once."""
        plain_token = oath.canonical_digits(token, TOKEN_DIGITS)
        if plain_token is None or not self._is_out or not self._is_asked_here:
            return False
        if not self.keyring().digest_matches(self._purpose, plain_token, self.token_digest or ""):
            return False
        self._forget_token()
        return True

    def retract_challenge(self, failed: DeviceMixin) -> None:
        """Undo the challenge that could not be delivered, unless a newer one has been made."""
        if isinstance(failed, SideChannelDeviceMixin) and failed.token_digest == self.token_digest:
            self._forget_token()

    def _forget_token(self) -> None:
        self.token_digest = self.valid_until = self.asked_by = None

    @property
    def _is_asked_here(self) -> bool:
        if self.asked_by is None:
            return True
        return self.keyring().digest_matches("browser", self.asking_browser or "", self.asked_by)

    @property
    def _is_out(self) -> bool:
        return bool(self.token_digest and self.valid_until and clock.now() < self.valid_until)

    @property
    def _purpose(self) -> str:
        # The device's id in the digest: copied to another device's row it matches nothing.
        return f"challenge {self.id}"
