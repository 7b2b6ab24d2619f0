"""What many tests need: people, devices, tokens, an application, a browser without a screen."""

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import httpx2
from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from starlette_otp import (
    OTP,
    LoginView,
    OTPMiddleware,
    SessionAuthBackend,
    clock,
    log_in,
    oath,
    requires_otp,
)
from starlette_otp.models import Device, OTPSession, StaticDevice, TOTPDevice, User
from starlette_otp.service.session_rows import SessionRows

SECRET_KEY = "a secret key of these tests, over 32 characters"
OTHER_KEY = "another secret key of these tests, also over 32"
PASSWORD = "correct horse battery staple"
SECRET = b"12345678901234567890"
HTML = {"accept": "text/html,application/xhtml+xml"}

Sessions = async_sessionmaker[AsyncSession]


@cache
def password_hash() -> str:
    user = User(username="anyone")
    user.set_password(PASSWORD)
    return user.password_hash


async def make_user(sessions: Sessions, username: str, **values: Any) -> User:
    user = User(username=username, password_hash=password_hash(), **values)
    async with sessions.begin() as session:
        session.add(user)
    return user


async def add(sessions: Sessions, *rows: Any) -> Any:
    async with sessions.begin() as session:
        session.add_all(rows)
    return rows[0]


async def make_totp(sessions: Sessions, user: Any, **values: Any) -> TOTPDevice:
    values = {"user_id": user.id, "secret": SECRET, **values}
    device: TOTPDevice = await add(sessions, TOTPDevice(**values))
    return device


async def make_static(sessions: Sessions, user: Any, *tokens: str | None) -> tuple[Any, list[str]]:
    """A static device with these tokens; None for a made one."""
    async with sessions.begin() as session:
        device = StaticDevice(user_id=user.id)
        session.add(device)
        return device, [await device.add_token(token) for token in tokens]


def totp_token(secret: bytes = SECRET, offset: int = 0, digits: int = 6) -> str:
    """The token of now, `offset` steps away."""
    return oath.hotp(secret, int(time.time() // 30) + offset, digits)


async def reload(sessions: Sessions, row: Any) -> Any:
    """The row as the database has it, or None."""
    async with sessions() as session:
        return await session.get(type(row), row.id)


async def grow_old(sessions: Sessions, seconds: float) -> None:
    """Let the verification of every session be that old, as if its row had been signed then."""
    rows = SessionRows(Device, Device.keyring())
    async with sessions.begin() as session:
        for row in await session.scalars(select(OTPSession)):
            row.verified_at = clock.now() - timedelta(seconds=seconds)
            signed = dict(vars(row))
            rows.sign(signed, await session.get(User, row.user_id))
            row.device_fingerprint = signed["device_fingerprint"]


class Statements(list[str]):
    """Every statement an engine sends while this is listening."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__()
        event.listen(engine.sync_engine, "before_cursor_execute", self._note)

    def _note(self, conn: Any, cursor: Any, statement: str, *rest: Any) -> None:
        self.append(" ".join(statement.split()))


@requires_otp
async def vault(request: Request) -> Response:
    return PlainTextResponse(f"hello {request.user.username}")


def shown(request: Request) -> dict[str, Any]:
    """Which of the three states the request is in."""
    device = request.user.otp_device
    return {
        "authenticated": request.user.is_authenticated,
        "verified": request.user.is_verified(),
        "device": device and device.persistent_id,
        "scopes": request.auth.scopes,
    }


async def state(request: Request) -> Response:
    return JSONResponse(shown(request))


ANONYMOUS = {"authenticated": False, "verified": False, "device": None, "scopes": []}
AUTHENTICATED = {**ANONYMOUS, "authenticated": True, "scopes": ["authenticated"]}


def verified_by(device: Any) -> dict[str, Any]:
    """The state that `device` makes."""
    scopes = ["authenticated", "verified"]
    values = {"verified": True, "device": device.persistent_id, "scopes": scopes}
    return AUTHENTICATED | values


class CodesView(LoginView):
    """LoginView that also tells the codes of the form's errors, in a header."""

    def render(self, request: Request, form: Any) -> Response:
        response = super().render(request, form)
        response.headers["x-codes"] = " ".join(form.error_codes)
        return response


class OnePageView(CodesView):
    """The same with name, password and token on one page."""

    two_stage = False


def codes(answer: httpx2.Response) -> list[str]:
    """The codes of the errors in a form that came back."""
    assert answer.status_code == 200, (answer.status_code, answer.text)
    return answer.headers["x-codes"].split()


def door(otp: OTP, user: Any, device: Any = None) -> Route:
    """A route that logs this user in without the forms, verified if there is a device."""

    async def enter(request: Request) -> Response:
        found = await otp.load_user(request, user.id)
        if device is not None:
            # As an instance is that has just accepted a token.
            device.last_used_at = datetime.now(UTC)
        found.otp_device = device
        await log_in(request, found)
        return PlainTextResponse("in")

    return Route("/enter", enter)


def make_app(
    otp: OTP, *routes: BaseRoute, login_view: type[HTTPEndpoint] | None = None
) -> Starlette:
    return Starlette(
        routes=[
            *routes,
            Route("/vault", vault),
            Route("/state", state),
            Mount("/account", routes=otp.routes(login_view), name="otp"),
        ],
        middleware=middleware(otp),
    )


def middleware(otp: OTP) -> Sequence[Middleware]:
    return [
        Middleware(SessionMiddleware, secret_key=SECRET_KEY),
        Middleware(AuthenticationMiddleware, backend=SessionAuthBackend(otp)),
        Middleware(OTPMiddleware, otp=otp),
    ]


class Browser(httpx2.AsyncClient):
    """An HTTP client that accepts HTML, keeps cookies and fills in the CSRF token."""

    def __init__(self, app: Any, **kwargs: Any) -> None:
        transport = httpx2.ASGITransport(app=app)
        super().__init__(
            **{"transport": transport, "base_url": "http://site.example", "headers": HTML, **kwargs}
        )

    async def submit(self, url: str, **fields: str) -> httpx2.Response:
        """Open the page, then post its form."""
        page = await self.get(url)
        return await self.post(url, data={"csrf_token": csrf_of(page), **fields})

    async def log_in(
        self, token: str = "", url: str = "/account/login", **fields: str
    ) -> httpx2.Response:
        """Log alice in."""
        given = {"username": "alice", "password": PASSWORD, "otp_token": token, **fields}
        return await self.submit(url, **given)

    @property
    def cookie(self) -> str:
        """The session's cookie, as a thief would copy it."""
        return str(self.cookies["otp_session"])

    async def state(self) -> dict[str, Any]:
        """What the application makes of this browser."""
        answer: dict[str, Any] = (await self.get("/state")).json()
        return answer


def csrf_of(page: httpx2.Response) -> str:
    found = re.search(r'name="csrf_token"[^>]* value="([^"]+)"', page.text)
    assert found, page.text
    return found[1]
