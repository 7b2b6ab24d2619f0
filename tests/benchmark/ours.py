"""The site on starlette-otp, as README.md puts one together, over the ready-made tables."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from starlette_otp import (
    OTP,
    OTPMiddleware,
    PasswordQueue,
    SessionAuthBackend,
    log_in,
    login,
    requires_otp,
)
from starlette_otp import models as tables
from tests.benchmark.common import POOL, SECRET_KEY, database_url, loaded

# Refused tokens are counted and written as ever, but nobody has to wait.
tables.TOTPDevice.throttle_factor = 0
tables.TOTPDevice.max_failures = None

engine = create_async_engine(
    tables.database_url(database_url()), pool_size=POOL, max_overflow=0, pool_use_lifo=True
)
# All requests come from one address.
queue = PasswordQueue(places=1000, per_name=1000, per_address=1000)
otp = OTP(async_sessionmaker(engine), tables.Device, secret_key=SECRET_KEY, password_queue=queue)


def verdict(accepted: bool) -> Response:
    return JSONResponse({"verified": accepted}, 200 if accepted else 403)


async def public(request: Request) -> Response:
    return PlainTextResponse("hello everybody")


@requires_otp
async def vault(request: Request) -> Response:
    return PlainTextResponse(f"hello {request.user.username}")


async def verify(request: Request) -> Response:
    """A token alone: the session stays as it is."""
    if not request.user.is_authenticated:
        return JSONResponse({}, 401)
    body = await request.json()
    device = await otp.verify_token(request.user, body["device"], body["token"])
    return verdict(device is not None)


async def step_up(request: Request) -> Response:
    """A token, and the session under a new one of its own."""
    if not request.user.is_authenticated:
        return JSONResponse({}, 401)
    body = await request.json()
    device = await otp.verify_token(request.user, body["device"], body["token"])
    if device is not None:
        await login(request, device)
    return verdict(device is not None)


async def sign_in(request: Request) -> Response:
    """Name, password and token at once."""
    body = await request.json()
    user = await otp.authenticate(request, body["username"], body["password"])
    device = await otp.match_token(user, body["token"]) if user is not None else None
    if user is None or device is None:
        return verdict(False)
    user.otp_device = device
    await log_in(request, user)
    return verdict(True)


app = Starlette(
    routes=[
        Route("/public", public),
        Route("/vault", vault),
        Route("/verify", verify, methods=["POST"]),
        Route("/stepup", step_up, methods=["POST"]),
        Route("/signin", sign_in, methods=["POST"]),
        Mount("/account", routes=otp.routes(), name="otp"),
    ],
    middleware=[
        Middleware(SessionMiddleware, secret_key=SECRET_KEY),
        Middleware(
            AuthenticationMiddleware,
            backend=SessionAuthBackend(otp, transports=("cookie", "bearer")),
        ),
        Middleware(OTPMiddleware, otp=otp),
    ],
)
loaded()
