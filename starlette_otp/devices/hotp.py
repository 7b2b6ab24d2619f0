"""Counter-based one-time passwords (RFC 4226)."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column, validates

from starlette_otp import oath
from starlette_otp.devices.base import DeviceMixin
from starlette_otp.devices.otpauth import OTPAuthMixin

_LAST = 2**63 - 1
"""The largest counter that the column holds."""


class HOTPDeviceMixin(OTPAuthMixin):
    """An HOTP device: a hardware token or an app with a button.

    Columns: `counter`, the next one that is accepted; `tolerance`, how many counters beyond it are
    tried, too (RFC 4226 section 7.4: as few as possible).
    """

    __kind__ = "hotp"
    kind_name = "Code generator"
    code_prompt = "Enter the code from your code generator"
    enrollable = False
    __kind_defaults__ = {"digits": 6, "tolerance": 5, "algorithm": "SHA1", "counter": 0}

    resync_window: ClassVar[int] = 100
    """How far beyond its counter `OTP.resynchronize` looks for two consecutive tokens."""

    counter: Mapped[int | None] = mapped_column(BigInteger, use_existing_column=True)

    @validates("counter")
    def _validate_counter(self, name: str, value: Any) -> Any:
        # `in range` would walk through all of it for anything but an int.
        if not isinstance(value, int) or not 0 <= value <= _LAST:
            raise ValueError("counter is 0 to 2^63 - 1.")
        return value

    async def check_token(self, token: str) -> bool:
        """Accept the token of a counter in the window; the counter moves forward past it, only so.

        RFC 4226 section 7.2.
        """
        plain_token = self.canonical(token)
        if plain_token is None:
            return False
        first = self.counter or 0
        window = range(first, min(first + (self.tolerance or 0) + 1, _LAST))
        algorithm = self.algorithm or "SHA1"
        found = oath.match(self.secret, plain_token, window, len(plain_token), algorithm)
        if found is None:
            return False
        self.counter = found + 1
        return True

    def is_replay(self, token: str) -> bool:
        """Whether the token is that of one of the last counters, as many as the window has."""
        plain_token = self.canonical(token)
        if plain_token is None:
            return False
        counter = self.counter or 0
        passed = range(max(0, counter - (self.tolerance or 0) - 1), counter)
        algorithm = self.algorithm or "SHA1"
        return oath.match(self.secret, plain_token, passed, len(plain_token), algorithm) is not None

    def spend_with(self, twin: DeviceMixin) -> None:
        """Take over a counter that is further on from a device whose tokens are the same."""
        if (
            isinstance(twin, HOTPDeviceMixin)
            and (self.algorithm or "SHA1") == (twin.algorithm or "SHA1")
            and (twin.counter or 0) > (self.counter or 0)
        ):
            self.counter = twin.counter

    async def check_consecutive(self, first_token: str, second_token: str) -> bool:
        """Accept two tokens of consecutive counters within `resync_window` counters of ours.

        RFC 4226 section 7.4: a wider window wants a sequence of tokens, since each single one is
        likelier to be guessed.
        """
        token, next_token = self.canonical(first_token), self.canonical(second_token)
        if token is None or next_token is None:
            return False
        start = self.counter or 0
        for counter in range(start, min(start + self.resync_window, _LAST - 1)):
            pair = (counter, counter + 1)
            tokens = [oath.hotp(self.secret, c, len(token), self.algorithm or "SHA1") for c in pair]
            if oath.equal(tokens[0] + tokens[1], token + next_token):
                self.counter = counter + 2
                return True
        return False

    def config_url(self, account_name: str) -> str:
        """The otpauth:// URL that an authenticator app reads from a QR code."""
        return self.otpauth_url("hotp", account_name, counter=self.counter or 0)
