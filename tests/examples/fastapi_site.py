"""A FastAPI application whose people sign up, set up a second factor, and sign in, all by JSON.

Pages of the site use `/auth`, with cookies; programs use `/mobile/auth`, with a bearer token.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, HTTPException, Security
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.sessions import SessionMiddleware

from starlette_otp import OTP, OTPMiddleware, SessionAuthBackend
from starlette_otp.fastapi import OTPRouter, Verified, install_problem_handlers, otp_required
from starlette_otp.models import Base, Device, User


class SignUp(BaseModel):
    username: str
    password: str


def make_app(database_url: str, secret_key: str) -> FastAPI:
    engine = create_async_engine(database_url, hide_parameters=True)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    # Who has no second factor yet sets one up before anything else.
    otp = OTP(sessions, Device, secret_key=secret_key, site_name="Acme", require_device=True)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        yield
        await engine.dispose()

    app = FastAPI(
        lifespan=lifespan,
        middleware=[
            Middleware(SessionMiddleware, secret_key=secret_key),
            Middleware(
                AuthenticationMiddleware,
                backend=SessionAuthBackend(otp, transports=("cookie", "bearer")),
            ),
            Middleware(OTPMiddleware, otp=otp),
        ],
    )
    install_problem_handlers(app)
    app.include_router(OTPRouter(otp), prefix="/auth", tags=["two-factor"])
    app.include_router(
        OTPRouter(otp, transport="bearer"), prefix="/mobile/auth", tags=["two-factor"]
    )

    @app.post("/users", status_code=201)
    async def sign_up(given: SignUp) -> dict[str, str]:
        user = User(username=given.username)
        try:
            user.set_password(given.password)
        except ValueError as exc:
            raise HTTPException(400, {"code": "weak_password", "detail": str(exc)}) from None
        if await otp.find_user(given.username) is not None:
            raise HTTPException(409, {"code": "name_taken", "detail": "That name is taken."})
        async with sessions.begin() as session:
            session.add(user)
        return {"username": user.username}

    @app.get("/notes")
    async def notes(user: Verified) -> list[str]:
        return [f"A note of {user.username}'s."]

    @app.post("/transfers", status_code=204)
    async def transfer(user: Annotated[User, Security(otp_required(max_age=300))]) -> None:
        """For this the code may be five minutes old, at most."""

    return app
