"""OTPSessionMixin: the table `otp_session`, one row a session."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal

from sqlalchemy import BigInteger, Connection, DateTime, ForeignKey, Identity, String, event
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from starlette_otp.devices.base import DeviceMixin
from starlette_otp.devices.bases import TableMixin
from starlette_otp.devices.endings import end_inactive
from starlette_otp.devices.owner import owner_column, table_of

MAX_USER_AGENT = 255
"""Characters that are kept of a browser's name."""
MAX_AMR = 128


def as_timedelta(age: timedelta | float) -> timedelta:
    """An age that a class sets, as a timedelta or in seconds."""
    return age if isinstance(age, timedelta) else timedelta(seconds=age)


class OTPSessionMixin(TableMixin):
    """A session: table `otp_session`. The host sets `__device_model__` to its device class.

    The cookie holds a random token, the row its digest: a copied cookie is worth nothing once the
    row is gone or has a new token. Keyed fingerprints bind the row's columns to each other: one
    that was rewritten in the database, or copied from another row, opens nothing.

    A ticket is a row here, too: it stands for a password that was typed, until a token follows.
    """

    __device_model__: ClassVar[type[DeviceMixin]]
    __tablename__ = "otp_session"

    max_age: ClassVar[timedelta | float] = timedelta(days=14)
    """How long a session lives from its log-in, whatever tokens follow (NIST SP 800-63B-4 section
    2.2.3: at AAL2 at most 24 hours); a timedelta or seconds."""
    idle_age: ClassVar[timedelta | float | None] = timedelta(days=3)
    """How long it lives after it was last seen (ibidem: at AAL2 at most an hour), which is written
    once in ten minutes, so that it may be that much less; None: no matter."""
    cookie_name: ClassVar[str] = "otp_session"
    """Another for each OTP of a site. `__Host-` before it keeps other hosts of the domain from
    setting it (RFC 6265bis section 4.1.3.2)."""
    cookie_path: ClassVar[str] = "/"
    cookie_domain: ClassVar[str | None] = None
    """None: this host alone, without its subdomains."""
    cookie_samesite: ClassVar[Literal["Lax", "Strict", "None"]] = "Lax"
    cookie_secure: ClassVar[bool | None] = None
    """Whether it is sent by https alone; None: if it was set by https."""

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    token_digest: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    verified_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)
    seen_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """When a request had it last; written once in ten minutes."""
    user_agent: Mapped[str] = mapped_column(String(MAX_USER_AGENT), default="", server_default="")
    amr: Mapped[str | None] = mapped_column(String(MAX_AMR))
    """How its user was authenticated before any device, as RFC 8176 names it, by spaces; None: by
    their password."""
    agent_id: Mapped[int | None] = mapped_column(BigInteger)
    """The trusted browser that stood for a token when it began: it ends with that trust."""
    is_trusted: Mapped[bool] = mapped_column(default=False, server_default="false")
    """Whether the user trusts its browser as long as it lasts, verified."""
    password_fingerprint: Mapped[str] = mapped_column(String(64))
    """Of the token, the former one, the user, the hash of their password, `amr` and `agent_id`."""
    device_fingerprint: Mapped[str | None] = mapped_column(String(64))
    """Of the token, the device that verified it, when, and `is_trusted`; of a ticket: of the user's
    devices, and when each was used last before it."""
    is_ticket: Mapped[bool] = mapped_column(default=False, server_default="false")
    former_digest: Mapped[str | None] = mapped_column(String(64), index=True)
    """Of the token before the last verification: until `former_until` it is worth authenticated."""
    former_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "__device_model__"):  # a host's own mixin has none yet
            cls.__device_model__.__session_model__ = cls

    @declared_attr
    def user_id(cls) -> Mapped[Any]:
        return owner_column(cls.__device_model__)

    @declared_attr
    def device_id(cls) -> Mapped[int | None]:
        key = ForeignKey(table_of(cls.__device_model__).c.id, ondelete="SET NULL")
        return mapped_column(key, index=True)


@event.listens_for(OTPSessionMixin, "after_mapper_constructed", propagate=True)
def _listen_to_users(mapper: object, model: Any) -> None:
    """Hear of the users of a class of sessions as it is mapped."""

    def hear(mapper: object, connection: Connection, user: Any) -> None:
        end_inactive(connection, model, user)

    if model.__device_model__.__user_model__ is not None:
        event.listen(model.__device_model__.__user_model__, "before_update", hear, propagate=True)
