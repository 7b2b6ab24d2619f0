"""Time-based one-time passwords (RFC 6238)."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from sqlalchemy import BigInteger, Integer
from sqlalchemy.orm import Mapped, mapped_column, validates

from starlette_otp import clock, oath
from starlette_otp.devices.base import DeviceMixin
from starlette_otp.devices.otpauth import OfDevice, OTPAuthMixin

logger = logging.getLogger("starlette_otp")


class TOTPDeviceMixin(OTPAuthMixin):
    """A TOTP device: an authenticator app.

    Columns: `step` and `t0` in seconds; `tolerance` and `drift` in steps; `last_t`, the newest
    step of which a token was accepted. A tolerance of 1 admits tokens for up to a step before and
    after the present one (RFC 6238 section 5.2), a documented deviation from the thirty seconds
    of OWASP ASVS 6.5.5.
    """

    __kind__ = "totp"
    kind_name = "Authenticator app"
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

        The window is around our own clock, and around the prover's as `drift` has it: a prover
        whose clock is set right again is let in. It is scanned from its oldest step to its newest;
        a step at or below `last_t` is never accepted (RFC 6238 section 5.2). With `sync` the drift
        moves to the match, as far as section 6 lets it.
        """
        plain_token = self.canonical(token)
        if plain_token is None:
            return False
        if self.is_ahead:
            logger.error(
                "%r last accepted a token that lies far ahead of this server's clock, so a clock "
                "was wrong: it refuses all tokens until then, or until it is reset.",
                self,
            )
        present, last_t = self._present, self._last_t
        steps = [step for step in self._window(present) if step > last_t]
        found = oath.match(
            self.secret, plain_token, steps, len(plain_token), self.algorithm or "SHA1"
        )
        if found is None:
            return False
        self.last_t = found
        if self.sync:
            self._follow(found - present)
        return True

    def is_replay(self, token: str) -> bool:
        """Whether the token is that of a step in the window that `last_t` has passed."""
        last_t = self._last_t
        steps = [step for step in self._window(self._present) if step <= last_t]
        # Most have used none of them, and need not be decrypted for it.
        plain_token = self.canonical(token) if steps and not self.is_ahead else None
        if plain_token is None:
            return False
        algorithm = self.algorithm or "SHA1"
        return oath.match(self.secret, plain_token, steps, len(plain_token), algorithm) is not None

    def spend_with(self, twin: DeviceMixin) -> None:
        """Take over a newer `last_t` from a device whose tokens are the same.

        A step's token is the same whatever its length and where the count begins. One that a wrong
        clock has put far ahead stays that device's alone.
        """
        if (
            isinstance(twin, TOTPDeviceMixin)
            and (self.algorithm or "SHA1") == (twin.algorithm or "SHA1")
            and self._last_t < twin._last_t <= min(twin._newest, self._newest + oath.MAX_DRIFT)
        ):
            self.last_t = twin.last_t

    def _follow(self, drift: int) -> None:
        """Note how many steps the prover's clock is off ours.

        A drift that was brought along from beyond the limit stays what it is: moved to the limit
        it would shut its owner out.
        """
        if abs(drift) <= oath.MAX_DRIFT or abs(self.drift or 0) <= oath.MAX_DRIFT:
            self.drift = oath.clamp_drift(drift)

    @property
    def is_ahead(self) -> bool:
        """Whether `last_t` is so far ahead of our clock that it, or ours then, was wrong."""
        return self._last_t > self._newest + oath.MAX_DRIFT

    @property
    def needs_reset(self) -> bool:
        """Whether the device verifies nothing, or nothing for long, until it is reset."""
        return super().needs_reset or self.is_ahead

    def reset(self) -> None:
        """Forget all failures, and a `last_t` that our clock has not reached; the caller commits.

        Tokens that were accepted while a clock was wrong are unused again when their time comes.
        """
        super().reset()
        if self._last_t > self._newest:
            self.last_t = -1

    def _window(self, present: int) -> list[int]:
        tolerance = self.tolerance or 0
        middles = {present, present + (self.drift or 0)}
        return sorted({m + n for m in middles for n in range(-tolerance, tolerance + 1)})

    @property
    def _present(self) -> int:
        return oath.time_step(clock.now().timestamp(), self.step or 30, self.t0 or 0)

    @property
    def _newest(self) -> int:
        """The newest step of the window."""
        return self._present + max(self.drift or 0, 0) + (self.tolerance or 0)

    @property
    def _last_t(self) -> int:
        last_t = self.last_t
        return -1 if last_t is None else last_t

    def config_url(self, account_name: str) -> str:
        """The otpauth:// URL that an authenticator app reads from a QR code."""
        image = self.setting("image")
        return self.otpauth_url(
            "totp", account_name, period=self.step or 30, **({"image": image} if image else {})
        )
