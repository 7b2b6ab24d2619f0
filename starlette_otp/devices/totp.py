"""Time-based one-time passwords (RFC 6238)."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import BigInteger, Integer
from sqlalchemy.orm import Mapped, mapped_column, validates

from starlette_otp import clock, oath
from starlette_otp.devices.otpauth import OfDevice, OTPAuthMixin


class TOTPDeviceMixin(OTPAuthMixin):
    """A TOTP device: an authenticator app.

    Columns: `step` and `t0` in seconds; `tolerance` and `drift` in steps; `last_t`, the newest
    step of which a token was accepted. A tolerance of 1 admits tokens for up to a step before and
    after the present one (RFC 6238 section 5.2), a documented deviation from the thirty seconds
    of OWASP ASVS 6.5.5.
    """

    __kind__ = "totp"
    __kind_defaults__ = {
        "digits": 6,
        "tolerance": 1,
        "algorithm": "SHA1",
        "step": 30,
        "t0": 0,
        "drift": 0,
        "last_t": -1,
    }

    image: ClassVar[OfDevice] = None
    """URL of a picture that the prover's app may show."""
    sync: ClassVar[bool] = True
    """Follow the drift of the prover's clock (RFC 6238 section 6)."""

    step: Mapped[int | None] = mapped_column(Integer, use_existing_column=True)
    t0: Mapped[int | None] = mapped_column(BigInteger, use_existing_column=True)
    drift: Mapped[int | None] = mapped_column(Integer, use_existing_column=True)
    last_t: Mapped[int | None] = mapped_column(BigInteger, use_existing_column=True)

    @validates("step")
    def _validate_step(self, name: str, value: Any) -> Any:
        if value not in range(1, 3601):
            raise ValueError("step is 1 to 3600 seconds.")
        return value

    async def check_token(self, token: str) -> bool:
        """Accept the token of a step in the window that is newer than the last accepted one.

        The window is scanned from its oldest step to its newest; a step at or below `last_t` is
        never accepted (RFC 6238 section 5.2). With `sync` the drift moves to the match, as far as
        section 6 lets it.
        """
        digits = self.canonical(token)
        if digits is None:
            return False
        present = oath.time_step(clock.now().timestamp(), self.step or 30, self.t0 or 0)
        middle, tolerance = present + (self.drift or 0), self.tolerance or 0
        oldest = max(middle - tolerance, self._last_t + 1)
        window = range(oldest, middle + tolerance + 1)
        found = oath.match(self.secret, digits, window, len(digits), self.algorithm or "SHA1")
        if found is None:
            return False
        self.last_t = found
        if self.sync:
            self.drift = oath.clamp_drift(found - present)
        return True

    @property
    def _last_t(self) -> int:
        return -1 if self.last_t is None else self.last_t

    def config_url(self, account_name: str) -> str:
        """The otpauth:// URL that an authenticator app reads from a QR code."""
        image = self.setting("image")
        return self.otpauth_url(
            "totp", account_name, period=self.step or 30, **({"image": image} if image else {})
        )
