"""AgentMixin: the table `otp_agent`, browsers that users trust, one row for each and its user."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal, SupportsFloat

from sqlalchemy import BigInteger, DateTime, Float, ForeignKey, Identity, String
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from starlette_otp import clock
from starlette_otp.devices.base import DeviceMixin
from starlette_otp.devices.bases import TableMixin
from starlette_otp.devices.owner import owner_column, table_of
from starlette_otp.devices.sessions import MAX_USER_AGENT
from starlette_otp.exceptions import ConfigurationError

MOST_DAYS = 36500
"""A hundred years: more is no limit."""
Days = float | Callable[[Any], float | None] | None
"""A number of days, fractions too, or a function of the user that gives one; None: no limit."""


class AgentMixin(TableMixin):
    """A browser that its user trusts. The host sets `__device_model__` to its device class.

    The cookie holds a random token, signed; the row its digest. A keyed fingerprint binds the
    row's columns to each other and to the user's password. Trust is never a verification.
    """

    __device_model__: ClassVar[type[DeviceMixin]]
    __tablename__ = "otp_agent"

    trust_days: ClassVar[Days] = 30
    """How long trust lasts; of this, and of what `trust_agent` is given, the strictest."""
    inactivity_days: ClassVar[Days] = 30
    """How long it lasts without being used."""
    trust_session_by_default: ClassVar[bool] = True
    """Whether who verifies without the box "Trust this browser" trusts it for that session."""
    max_agents: ClassVar[int] = 20
    """Of one user; beyond it the one that was seen last longest ago goes."""
    cookie_name: ClassVar[str] = "otp_agent"
    """Its beginning: a digest of the user's key follows, so that each of several users of one
    browser has their own."""
    cookie_path: ClassVar[str] = "/"
    cookie_domain: ClassVar[str | None] = None
    cookie_samesite: ClassVar[Literal["Lax", "Strict", "None"]] = "Lax"
    cookie_secure: ClassVar[bool | None] = None
    """Whether it is sent by https alone; None: if it was set by https."""

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    token_digest: Mapped[str] = mapped_column(String(64), unique=True)
    former_digest: Mapped[str | None] = mapped_column(String(64), index=True)
    """Of the token before the present one, which is a copy's after `former_until`: a minute after
    the present one was seen; None until then."""
    former_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    lost_digest: Mapped[str | None] = mapped_column(String(64))
    """Of a token that never came back, and was taken for lost: who comes with it has a copy."""
    trusted_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    trust_days_given: Mapped[float | None] = mapped_column(Float)
    last_seen_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    rotated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    user_agent: Mapped[str] = mapped_column(String(MAX_USER_AGENT), default="", server_default="")
    fingerprint: Mapped[str] = mapped_column(String(64))
    """Of the tokens, the user, the vouching device, since when, for how long, and the password."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "__device_model__"):  # a host's own mixin has none yet
            if cls.__device_model__.__session_model__ is None:
                raise ConfigurationError(
                    f"{cls.__name__} has to stand below the class with OTPSessionMixin."
                )
            cls.__device_model__.__agent_model__ = cls

    @declared_attr
    def user_id(cls) -> Mapped[Any]:
        return owner_column(cls.__device_model__)

    @declared_attr
    def device_id(cls) -> Mapped[int | None]:
        """The device that had verified the session in which the browser was trusted."""
        key = ForeignKey(table_of(cls.__device_model__).c.id, ondelete="CASCADE")
        return mapped_column(key, index=True)

    def expires_at(self, user: object) -> datetime | None:
        """When trust ends, as it is in force; None for never."""
        days, idle = type(self).longest(user), days_of(type(self).inactivity_days, user)
        ends = [(self.trusted_at, days), (self.trusted_at, self.trust_days_given)]
        ends.append((self.last_seen_at, idle))
        return min((at + timedelta(days=n) for at, n in ends if n is not None), default=None)

    @classmethod
    def longest(cls, user: object) -> float | None:
        """For how many days a user may trust a browser, at most; None for no limit."""
        return days_of(cls.trust_days, user)

    def is_over(self, user: object) -> bool:
        """Whether trust has ended by its age or for want of use."""
        end = self.expires_at(user)
        return end is not None and end <= clock.now()


def days_of(setting: Days, user: object) -> float | None:
    """A setting's days for a user; None for no limit.

    Raises:
        ConfigurationError: they are no number.
    """
    # A function that is an attribute of a class is not bound to it here: it takes the user.
    days: Any = setting(user) if callable(setting) else setting
    if days is None:
        return None
    is_number = isinstance(days, SupportsFloat) and not isinstance(days, bool | str)
    if not is_number or math.isnan(float(days)):
        raise ConfigurationError(f"trust_days and inactivity_days are numbers, not {days!r}.")
    number = float(days)
    return None if number > MOST_DAYS else max(0.0, number)
