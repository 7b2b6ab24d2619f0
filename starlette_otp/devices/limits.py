"""ChallengeLimitMixin: the table `otp_challenge_limit`, what was sent to whom of late."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, ClassVar

from sqlalchemy import ARRAY, DateTime, String
from sqlalchemy.orm import Mapped, mapped_column

from starlette_otp import clock
from starlette_otp.devices.base import DeviceMixin
from starlette_otp.devices.bases import TableMixin
from starlette_otp.devices.policies import CooldownMixin, GenerateNotAllowed

DAY = timedelta(days=1)
_MOST = 1000
"""Of one day no more challenges are remembered."""


class ChallengeLimitMixin(TableMixin):
    """What was sent to a user or to an address: table `otp_challenge_limit`.

    The host sets `__device_model__` to its device class. The row is found by a keyed digest of the
    user's key or the address and outlives the devices, so that removing one and adding it again
    lifts no limit. Columns: `sent_at`, the challenges of the last day that no token has answered;
    `waiting_since`, when the wait between challenges began; `given_back`, that a delivery has
    failed and ended the wait, which it does once until a token is accepted.
    """

    __device_model__: ClassVar[type[DeviceMixin]]
    __tablename__ = "otp_challenge_limit"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    sent_at: Mapped[list[datetime]] = mapped_column(
        ARRAY(DateTime(timezone=True)), server_default="{}"
    )
    waiting_since: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    given_back: Mapped[bool] = mapped_column(server_default="false")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "__device_model__"):  # a host's own mixin has none yet
            cls.__device_model__.__challenge_limit_model__ = cls

    def refusal(self, device: CooldownMixin) -> dict[str, Any] | None:
        """Why the device may not send one more now, as `generate_is_allowed` says it; or None."""
        next_at = device.next_after(self.waiting_since)
        if next_at is not None:
            reason = GenerateNotAllowed.COOLDOWN_DURATION_PENDING
            return {"reason": reason, "next_generation_at": next_at}
        recent, limit = self._recent(), device.max_challenges_per_day
        if limit is None or len(recent) < limit:
            return None
        next_at = (recent[-limit] if limit else clock.now()) + DAY
        return {"reason": GenerateNotAllowed.DAILY_LIMIT_REACHED, "next_generation_at": next_at}

    def forget(self, answered: Collection[datetime]) -> None:
        """Take challenges that a token has answered out of the count; the caller commits."""
        if any(moment in answered for moment in self.sent_at):
            self.sent_at = [moment for moment in self.sent_at if moment not in answered]
            self.given_back = False
        if self.waiting_since in answered:
            self.waiting_since = None

    def note(self, moment: datetime) -> None:
        """Count a challenge that is sent now; the caller commits."""
        recent = self._recent()
        self.given_back = self.given_back and bool(recent)
        self.sent_at = [*recent, moment][-_MOST:]
        self.waiting_since = moment

    def _recent(self) -> list[datetime]:
        now = clock.now()
        # What a clock that was set back left in the future must not count for ever.
        return sorted(moment for moment in self.sent_at if now - DAY < moment <= now + DAY)
