"""The FastAPI application with sign-up, a second factor set up, and signing in, all by JSON."""

import os
from typing import Annotated

from fastapi import FastAPI, HTTPException, Security
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.routing import Mount

from starlette_otp import OTP, OTPMiddleware, SessionAuthBackend
from starlette_otp.fastapi import OTPRouter, Verified, install_problem_handlers, otp_required
from starlette_otp.models import Device, User, database_url

SECRET_KEY = os.environ["SECRET_KEY"]  # 32 characters or more

engine = create_async_engine(database_url(), hide_parameters=True)  # no hashes in a traceback
sessions = async_sessionmaker(engine, expire_on_commit=False)
# Who has no second factor yet sets one up before anything else.
otp = OTP(sessions, Device, secret_key=SECRET_KEY, site_name="Acme", require_device=True)
backend = SessionAuthBackend(otp, transports=("cookie", "bearer"))
app = FastAPI(
    # The pages, where guards send browsers.
    routes=[Mount("/account", routes=otp.routes(), name="otp")],
    middleware=[
        Middleware(SessionMiddleware, secret_key=SECRET_KEY),
        Middleware(AuthenticationMiddleware, backend=backend),
        Middleware(OTPMiddleware, otp=otp),
    ],
)
install_problem_handlers(app)  # FastAPI's own errors in the shape of the others
app.include_router(OTPRouter(otp), prefix="/auth", tags=["two-factor"])
mobile = OTPRouter(otp, transport="bearer")
app.include_router(mobile, prefix="/mobile/auth", tags=["two-factor"])


class SignUp(BaseModel):
    username: str = Field(min_length=1, max_length=254, pattern=r"^[^\x00]+$")
    password: str


@app.post("/users", status_code=201)
async def sign_up(given: SignUp) -> dict[str, str]:
    if await otp.find_user(given.username) is not None:
        raise HTTPException(409, "That name is taken.")
    user = User(username=given.username)
    try:
        user.set_password(given.password)
    except ValueError as exc:
        raise HTTPException(400, str(exc)) from None
    async with sessions.begin() as session:
        session.add(user)
    return {"username": user.username}


@app.get("/notes")
async def notes(user: Verified) -> list[str]:
    return [f"A note of {user.username}'s."]


@app.post("/transfers", status_code=204)
async def transfer(user: Annotated[User, Security(otp_required(max_age=300))]) -> None:
    """For this the last code may be five minutes old, at most."""
