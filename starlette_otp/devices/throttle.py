"""LoginThrottleMixin: the table `otp_login_throttle`, wrong passwords counted by name."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, ClassVar

from sqlalchemy import DateTime, String
from sqlalchemy.orm import Mapped, mapped_column

from starlette_otp import clock
from starlette_otp.devices.base import DeviceMixin
from starlette_otp.devices.bases import TableMixin


class LoginThrottleMixin(TableMixin):
    """Wrong passwords in a row: table `otp_login_throttle`. The host sets `__device_model__`.

    A row is for a name, whether or not somebody has it, or for one known browser of that name's
    owner. It holds a keyed digest of them (OWASP ASVS 6.3.1, OWASP's device cookies).
    """

    __device_model__: ClassVar[type[DeviceMixin]]
    __tablename__ = "otp_login_throttle"

    free_tries: ClassVar[int] = 5
    """Wrong passwords in a row before the first wait, which is one second, and doubles."""
    max_delay: ClassVar[float] = 900
    """Seconds that a wait takes at most."""
    forget_after: ClassVar[timedelta] = timedelta(days=1)
    """When `clearsessions` sweeps a row that nobody tried again."""

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    failure_count: Mapped[int]
    attempted_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "__device_model__"):  # a host's own mixin has none yet
            cls.__device_model__.__login_throttle_model__ = cls

    @classmethod
    def wait_after(cls, failures: int, attempted_at: datetime) -> float:
        """Seconds still to wait after that many failures; 0 when there is no wait."""
        if failures < cls.free_tries:
            return 0
        # The exponent is capped too: a large count must not overflow.
        delay = min(2 ** min(failures - cls.free_tries, 64), cls.max_delay)
        left = delay - (clock.now() - attempted_at).total_seconds()
        # As with devices: a clock that was set back locks nobody out.
        return left if 0 < left <= 2 * delay else 0
