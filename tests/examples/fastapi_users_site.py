"""A FastAPI site whose first factor is fastapi-users' cookie, and whose second is a token.

fastapi-users registers people, looks at their passwords and knows them again by its cookie; OTP has
devices on its user table and says whether one of them has verified this browser.
"""

import uuid
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, HTTPException
from fastapi_users import BaseUserManager, FastAPIUsers, UUIDIDMixin, schemas
from fastapi_users.authentication import AuthenticationBackend as Backend
from fastapi_users.authentication import CookieTransport, JWTStrategy
from fastapi_users.db import SQLAlchemyBaseUserTableUUID, SQLAlchemyUserDatabase
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase
from starlette.authentication import AuthCredentials, AuthenticationBackend
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection, Request

from starlette_otp import OTP, OTPMiddleware, is_verified, login
from starlette_otp.devices import DeviceMixin, OTPSessionMixin, TOTPDeviceMixin
from starlette_otp.fastapi import otp_required

SECRET_KEY = "a secret key of an example, over 32 characters"


class Base(DeclarativeBase): ...


class User(SQLAlchemyBaseUserTableUUID, Base):
    @property
    def password_hash(self) -> str:
        """For OTP: a new password ends what was verified under the old one."""
        return self.hashed_password


class Device(DeviceMixin, Base):
    __user_model__ = User


class TOTPDevice(TOTPDeviceMixin, Device):
    issuer = "Acme"


class OTPSession(OTPSessionMixin, Base):
    __device_model__ = Device


# The first factor, as fastapi-users' own documentation has it.


class UserRead(schemas.BaseUser[uuid.UUID]): ...


class UserCreate(schemas.BaseUserCreate): ...


class UserManager(UUIDIDMixin, BaseUserManager[User, uuid.UUID]):
    reset_password_token_secret = SECRET_KEY
    verification_token_secret = SECRET_KEY


cookie = CookieTransport(cookie_name="first_factor")
strategy: JWTStrategy[User, uuid.UUID] = JWTStrategy(SECRET_KEY, lifetime_seconds=3600)
backend = Backend("cookie", cookie, lambda: strategy)


class CookieBackend(AuthenticationBackend):
    """`request.user` is whom fastapi-users' cookie names, for OTPMiddleware and the guards."""

    def __init__(self, sessions: async_sessionmaker[Any]) -> None:
        self.sessions = sessions

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, User] | None:
        async with self.sessions() as session:
            users = UserManager(SQLAlchemyUserDatabase(session, User))
            user = await strategy.read_token(conn.cookies.get(cookie.cookie_name), users)
        if user is None or not user.is_active:
            return None
        return AuthCredentials(["authenticated"]), user


def make_site(engine: AsyncEngine) -> FastAPI:
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    otp = OTP(sessions, Device, secret_key=SECRET_KEY)

    async def user_manager() -> Any:
        async with sessions() as session:
            yield UserManager(SQLAlchemyUserDatabase(session, User))

    site = FastAPI(
        middleware=[
            Middleware(SessionMiddleware, secret_key=SECRET_KEY),
            Middleware(AuthenticationMiddleware, backend=CookieBackend(sessions)),
            Middleware(OTPMiddleware, otp=otp),
        ]
    )
    users = FastAPIUsers[User, uuid.UUID](user_manager, [backend])
    site.include_router(users.get_register_router(UserRead, UserCreate))
    site.include_router(users.get_auth_router(backend))

    current_user = users.current_user(active=True)
    # Whoever has a device yet has to be verified by it to get another.
    may_enrol = otp_required(if_configured=True)

    @site.post("/devices", dependencies=[Depends(may_enrol)])
    async def enrol(user: Annotated[User, Depends(current_user)]) -> dict[str, str]:
        """A new device: its URL is the QR code for an authenticator app."""
        device = TOTPDevice(name="Authenticator app", confirmed=False)
        await otp.add_device(user, device)
        return {"id": device.persistent_id, "url": device.config_url(user.email)}

    @site.post("/devices/confirm", dependencies=[Depends(may_enrol)])
    async def confirm(
        request: Request,
        user: Annotated[User, Depends(current_user)],
        device: Annotated[str, Body()],
        token: Annotated[str, Body()],
    ) -> dict[str, bool]:
        """The first token of a new device, which also verifies this browser."""
        confirmed = await otp.confirm_device(user, device, token)
        if confirmed is None:
            raise HTTPException(403, "That is not the device's token.")
        await login(request, confirmed)
        return {"second_factor": is_verified(request)}

    @site.post("/verify")
    async def verify(
        request: Request,
        user: Annotated[User, Depends(current_user)],
        device: Annotated[str, Body()],
        token: Annotated[str, Body()],
    ) -> dict[str, bool]:
        """The second factor of a log-in."""
        verified = await otp.verify_token(user, device, token)
        if verified is None:
            raise HTTPException(403, "That is not the device's token.")
        await login(request, verified)
        return {"second_factor": is_verified(request)}

    @site.get("/me")
    async def me(
        request: Request, user: Annotated[User, Depends(current_user)]
    ) -> dict[str, bool | list[str]]:
        """`user.is_verified` is fastapi-users', for the address; `is_verified(request)` is ours."""
        return {
            "address_confirmed": user.is_verified,
            "second_factor": is_verified(request),
            "devices": [device.persistent_id for device in await otp.devices_for_user(user)],
        }

    @site.get("/vault")
    async def vault(user: Annotated[User, Depends(otp_required())]) -> dict[str, str]:
        return {"owner": user.email}

    return site
