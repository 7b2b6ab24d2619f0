"""Applications' own models: every call declares a new family on a DeclarativeBase of its own."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import String
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from starlette_otp.devices import (
    DeviceMixin,
    OTPSessionMixin,
    StaticDeviceMixin,
    StaticTokenMixin,
    TOTPDeviceMixin,
    UserMixin,
)


@dataclass(frozen=True)
class Subject:
    """A user who lives elsewhere."""

    identity: Any
    username: str = "alice"
    is_authenticated: bool = True


@dataclass(frozen=True)
class Host:
    """The classes of one application. `User` makes a user, in the database or elsewhere."""

    User: Callable[..., Any]
    Device: type[Any]
    TOTPDevice: type[Any]
    StaticDevice: type[Any]
    StaticToken: type[Any]
    OTPSession: type[Any]

    async def create_tables(self, engine: AsyncEngine) -> None:
        async with engine.begin() as connection:
            await connection.run_sync(self.Device.metadata.create_all)


_kept: list[type[Any]] = []


def keep(cls: type[Any]) -> type[Any]:
    """Hold a class as an application's module does: SQLAlchemy holds subclasses weakly."""
    _kept.append(cls)
    return cls


def new_base() -> type[DeclarativeBase]:
    class Base(DeclarativeBase):
        pass

    return Base


def int_users(base: Any) -> type[Any]:
    class User(UserMixin, base):
        __tablename__ = "users"
        id: Mapped[int] = mapped_column(primary_key=True)

    return User


def uuid_users(base: Any) -> type[Any]:
    """The key has another name in Python than in the table."""

    class User(UserMixin, base):
        __tablename__ = "accounts"
        key: Mapped[uuid.UUID] = mapped_column("id", primary_key=True, default=uuid.uuid4)

    return User


def composite_users(base: Any) -> type[Any]:
    class Member(base):
        __tablename__ = "members"
        tenant: Mapped[int] = mapped_column(primary_key=True)
        number: Mapped[int] = mapped_column(primary_key=True)

    return Member


def devices_of(base: Any, user_model: Any) -> type[Any]:
    class Device(DeviceMixin, base):
        __user_model__ = user_model
        user = relationship(user_model)

    return Device


def devices_of_subjects(base: Any) -> type[Any]:
    class Device(DeviceMixin, base):
        user_id: Mapped[str] = mapped_column(String(255), index=True)

    return Device


def totp_of(device: Any) -> type[Any]:
    @keep
    class TOTPDevice(TOTPDeviceMixin, device):
        pass

    return TOTPDevice


def static_of(device: Any) -> type[Any]:
    @keep
    class StaticDevice(StaticDeviceMixin, device):
        pass

    return StaticDevice


def tokens_of(base: Any, device: Any) -> type[Any]:
    class StaticToken(StaticTokenMixin, base):
        __device_model__ = device

    return StaticToken


def sessions_of(base: Any, device: Any) -> type[Any]:
    class OTPSession(OTPSessionMixin, base):
        __device_model__ = device

    return OTPSession


def make_host(users: Callable[[Any], type[Any]] | None = int_users, base: Any = None) -> Host:
    """A complete family, on a new base unless given; of users who live elsewhere when `users` is
    None."""
    base = base or new_base()
    user_model = users(base) if users else Subject
    device = devices_of(base, user_model) if users else devices_of_subjects(base)
    return Host(
        user_model,
        device,
        totp_of(device),
        static_of(device),
        tokens_of(base, device),
        sessions_of(base, device),
    )
