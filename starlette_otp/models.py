"""Ready-made tables, for an application that has no models of its own yet."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from sqlalchemy import BigInteger, Identity, MetaData, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from starlette_otp.devices.agents import AgentMixin
from starlette_otp.devices.base import DeviceMixin
from starlette_otp.devices.email import EmailDeviceMixin
from starlette_otp.devices.hotp import HOTPDeviceMixin
from starlette_otp.devices.limits import ChallengeLimitMixin
from starlette_otp.devices.sessions import OTPSessionMixin
from starlette_otp.devices.static import StaticDeviceMixin, StaticTokenMixin
from starlette_otp.devices.throttle import LoginThrottleMixin
from starlette_otp.devices.totp import TOTPDeviceMixin
from starlette_otp.devices.users import UserMixin
from starlette_otp.exceptions import ConfigurationError

_EXAMPLE = "it is as postgresql://user:password@host:5432/name"
VERSION_TABLE = "otp_alembic_version"
"""Where Alembic keeps the state of these tables, apart from the host's own."""
RECORD_TABLE = "otp_import"
"""Where a move keeps its record; moving/record.py makes it, and knows no tables of ours."""


class Base(DeclarativeBase):
    """The metadata of the ready-made tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class User(UserMixin, Base):
    """A user with a name and a password."""

    __tablename__ = "otp_user"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)


class Device(DeviceMixin, Base):
    """Any device."""

    __user_model__ = User


class TOTPDevice(TOTPDeviceMixin, Device):
    """An authenticator app."""


class HOTPDevice(HOTPDeviceMixin, Device):
    """A hardware token, or an app with a button."""


class EmailDevice(EmailDeviceMixin, Device):
    """Tokens by mail; the application sets `EmailDevice.mailer`."""


class StaticDevice(StaticDeviceMixin, Device):
    """A set of recovery codes."""


class StaticToken(StaticTokenMixin, Base):
    """A recovery code's digest."""

    __device_model__ = Device


class ChallengeLimit(ChallengeLimitMixin, Base):
    """What was sent to a user or to an address."""

    __device_model__ = Device


class OTPSession(OTPSessionMixin, Base):
    """A session."""

    __device_model__ = Device


class Agent(AgentMixin, Base):
    """A browser that its user trusts."""

    __device_model__ = Device


class LoginThrottle(LoginThrottleMixin, Base):
    """Wrong passwords in a row."""

    __device_model__ = Device


def database_url(url: str | None = None) -> str:
    """The URL of the database for asyncpg: `url`, or DATABASE_URL from the environment.

    Any driver that it names gives way to asyncpg, and libpq's `sslmode` is asyncpg's `ssl`.

    Raises:
        ConfigurationError: there is none, or it is no PostgreSQL's.
    """
    url = url or os.environ.get("DATABASE_URL", "")
    if not url:
        raise ConfigurationError("Set DATABASE_URL to the PostgreSQL database, postgresql://...")
    try:
        made = make_url(url)
    except (ArgumentError, ValueError):
        # Not what they say: it may hold the password.
        raise ConfigurationError(f"The database's URL can't be read; {_EXAMPLE}.") from None
    if made.drivername.partition("+")[0] not in ("postgres", "postgresql"):
        raise ConfigurationError("The database has to be a PostgreSQL, postgresql://...")
    if not 0 < (made.port or 5432) < 65536:
        raise ConfigurationError(f"The database's port is 1 to 65535, and not {made.port}.")
    query = {"ssl" if name == "sslmode" else name: value for name, value in made.query.items()}
    made = made.set(drivername="postgresql+asyncpg", query=query)
    return made.render_as_string(hide_password=False)


def include_name(name: str | None, type_: str, parent_names: Mapping[Any, str | None]) -> bool:
    """A filter for a host's own Alembic, so that it does not propose to drop these tables.

    Pass it as `context.configure(include_name=...)`. Tables of these names in a schema of the
    host's are the host's.
    """
    ours = type_ == "table" and parent_names.get("schema_name") is None
    return not ours or name not in {*Base.metadata.tables, VERSION_TABLE, RECORD_TABLE}
