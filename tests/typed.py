"""What a host's type checker makes of the public face: mypy and pyright, both strict, read this.

Nothing here runs; `.ci/run` checks it.
"""

from collections.abc import Sequence
from typing import Any, assert_type

from pwdlib import PasswordHash
from pwdlib.hashers.bcrypt import BcryptHasher
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute

from starlette_otp import OTP, SessionAuthBackend, log_in, login, requires_otp, session_claims
from starlette_otp.devices import DeviceMixin, TOTPDeviceMixin, UserMixin
from starlette_otp.fastapi import OTPRouter
from starlette_otp.hashers import DjangoHasher, FlaskSecurityHasher
from starlette_otp.testing import make_device


class Base(DeclarativeBase):
    pass


class User(UserMixin, Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)


class Device(DeviceMixin, Base):
    __user_model__ = User


class TOTPDevice(TOTPDeviceMixin, Device):
    issuer = "Acme"


engine = create_async_engine("postgresql+asyncpg://localhost/club")
otp = OTP(async_sessionmaker(engine), Device, secret_key="a key of these types, 32 characters")
assert_type(otp, OTP[Device])
moved = OTP(
    async_sessionmaker(engine),
    Device,
    secret_key="a key of these types, 32 characters",
    password_hashers=[DjangoHasher(weak=True), FlaskSecurityHasher("salt"), BcryptHasher()],
)
assert_type(moved, OTP[Device])
assert_type(PasswordHash([DjangoHasher()]).verify("password", "hash"), bool)
assert_type(otp.device_model, type[Device])


async def calls(user: User) -> None:
    assert_type(await otp.verify_token(user, "totp/1", "123456"), Device | None)
    assert_type(await otp.match_token(user, "123456"), Device | None)
    assert_type(await otp.confirm_device(user, "totp/1", "123456"), Device | None)
    assert_type(await otp.resynchronize(user, "hotp/1", "123456", "234567"), Device | None)
    assert_type(await otp.remove_device(user, "totp/1"), Device | None)
    assert_type(await otp.devices_for_user(user), list[Device])
    assert_type(await otp.user_has_device(user), bool)
    assert_type(await otp.generate_challenge(user, "totp/1"), str | None)
    assert_type(await otp.add_device(user, TOTPDevice(name="phone")), TOTPDevice)
    assert_type(await make_device(otp, user, TOTPDevice), TOTPDevice)
    for device in await otp.devices_for_user(user):
        assert_type(device.persistent_id, str)
        assert_type(device.confirmed, bool)
    assert_type(TOTPDevice().secret, bytes)


@requires_otp
async def vault(request: Request) -> PlainTextResponse:
    return PlainTextResponse("inside")


@requires_otp(max_age=300)
async def safe(request: Request) -> PlainTextResponse:
    await log_in(request, request.user)
    await login(request, request.user.otp_device)
    return PlainTextResponse("inside")


async def stays_what_it_was(request: Request) -> None:
    assert_type(await vault(request), PlainTextResponse)
    assert_type(await safe(request), PlainTextResponse)


async def how_they_were_authenticated(request: Request, user: User) -> None:
    await log_in(request, user, amr=["mfa"])
    assert_type(await session_claims(request), dict[str, Any])


def the_json_routes() -> OTPRouter:
    assert_type(otp.api_routes("bearer"), Sequence[BaseRoute])
    return OTPRouter(otp, transport="bearer", prefix="/auth")


def any_otp_is_a_type(given: OTP) -> SessionAuthBackend:
    return SessionAuthBackend(given)
