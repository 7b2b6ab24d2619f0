"""A FastAPI site of fastapi-users' people whose clients keep a bearer token.

fastapi-users registers people and looks at their passwords; the token is that of OTP's session: one
token says who it is and which device verified it, and can be ended.
"""

import uuid
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Security
from fastapi.security import OAuth2PasswordRequestForm
from fastapi_users import FastAPIUsers
from fastapi_users.authentication import AuthenticationBackend as Backend
from fastapi_users.authentication import BearerTransport, Strategy
from fastapi_users.db import SQLAlchemyUserDatabase
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware

from starlette_otp import OTP, OTPMiddleware, SessionAuthBackend
from starlette_otp.devices import LoginThrottleMixin
from starlette_otp.fastapi import OTPRouter, otp_required
from tests.examples.fastapi_users_site import (
    SECRET_KEY,
    Base,
    Device,
    User,
    UserCreate,
    UserManager,
    UserRead,
)


class LoginThrottle(LoginThrottleMixin, Base):
    """Wrong passwords are counted by name, and those who guess have to wait."""

    __device_model__ = Device


class SessionStrategy(Strategy[User, uuid.UUID]):
    """Whom SessionAuthBackend has found by the token; fastapi-users writes none."""

    def __init__(self, request: Request) -> None:
        self.request = request

    async def read_token(self, token: str | None, user_manager: Any) -> User | None:
        user: Any = self.request.user
        return user if user.is_authenticated else None

    async def write_token(self, user: User) -> str:
        raise NotImplementedError("Log in by OTPRouter.")

    async def destroy_token(self, token: str, user: User) -> None:
        raise NotImplementedError("Log out by OTPRouter.")


backend = Backend("session", BearerTransport("auth/session"), SessionStrategy)


def make_site(engine: AsyncEngine) -> FastAPI:
    sessions = async_sessionmaker(engine, expire_on_commit=False)

    async def authenticate(request: Request, username: str, password: str) -> User | None:
        async with sessions() as session:
            users = UserManager(SQLAlchemyUserDatabase(session, User))
            form = OAuth2PasswordRequestForm(username=username, password=password)
            return await users.authenticate(form)

    otp = OTP(
        sessions, Device, secret_key=SECRET_KEY, authenticate=authenticate, require_device=True
    )

    async def user_manager() -> Any:
        async with sessions() as session:
            yield UserManager(SQLAlchemyUserDatabase(session, User))

    site = FastAPI(
        middleware=[
            Middleware(
                AuthenticationMiddleware, backend=SessionAuthBackend(otp, transports=("bearer",))
            ),
            Middleware(OTPMiddleware, otp=otp),
        ]
    )
    users = FastAPIUsers[User, uuid.UUID](user_manager, [backend])
    site.include_router(users.get_register_router(UserRead, UserCreate))
    site.include_router(OTPRouter(otp, transport="bearer"), prefix="/auth")
    current_user = users.current_user(active=True)

    @site.get("/me")
    async def me(user: Annotated[User, Depends(current_user)]) -> str:
        return user.email

    @site.get("/vault")
    async def vault(
        user: Annotated[User, Security(otp_required(current_user=current_user))],
    ) -> str:
        return user.email

    return site
