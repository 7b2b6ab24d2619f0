"""What a request costs: statements counted at the engine, transactions at the driver."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from httpx2 import ASGITransport
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.routing import Mount, Route

from starlette_otp import OTP, ConfigurationError, OTPMiddleware, SessionAuthBackend
from starlette_otp.models import Device, TOTPDevice, User
from tests.support import (
    ANONYMOUS,
    AUTHENTICATED,
    HTML,
    PASSWORD,
    SECRET_KEY,
    Browser,
    Sessions,
    Statements,
    csrf_of,
    door,
    make_app,
    make_totp,
    state,
    totp_token,
    verified_by,
)


class Transactions(list[str]):
    """What asyncpg sends to begin and to end transactions."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__()
        event.listen(engine.sync_engine, "checkout", self._listen)

    def _listen(self, connection: Any, record: object, proxy: object) -> None:
        connection.driver_connection.add_query_logger(self._note)

    def _note(self, logged: Any) -> None:
        query = " ".join(logged.query.rstrip(";").split())
        if query.startswith(("BEGIN", "COMMIT", "ROLLBACK")):
            self.append(query)


@pytest.fixture
async def device(sessions: Sessions, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice)


@pytest.fixture
async def browser(otp: OTP, alice: User, device: TOTPDevice) -> AsyncIterator[Browser]:
    async with Browser(make_app(otp, door(otp, alice, device))) as browser:
        await browser.get("/enter")
        yield browser


async def test_a_verified_request_is_one_select(
    browser: Browser, engine: AsyncEngine, device: TOTPDevice
) -> None:
    """Session, user and device of a verified request are one SELECT, without BEGIN or ROLLBACK."""
    statements, transactions = Statements(engine), Transactions(engine)
    assert await browser.state() == verified_by(device)
    assert (await browser.get("/vault")).status_code == 200
    assert [statement.split()[0] for statement in statements] == ["SELECT", "SELECT"]
    assert transactions == []


async def test_an_authenticated_request_is_one_select(
    otp: OTP, engine: AsyncEngine, alice: User
) -> None:
    """A session that no device verified costs the same one SELECT."""
    async with Browser(make_app(otp, door(otp, alice))) as browser:
        await browser.get("/enter")
        statements = Statements(engine)
        assert await browser.state() == AUTHENTICATED
    assert len(statements) == 1


@pytest.mark.parametrize(
    "cookie",
    [None, "", "garbage", "A" * 42, "A" * 44, "A" * 42 + "!", "A" * 42 + "é", "%00" * 43],
    ids=range(8),
)
async def test_no_session_costs_no_statement(
    otp: OTP, engine: AsyncEngine, cookie: str | None
) -> None:
    """A request without a session, or with a cookie of garbage, costs no SQL."""
    statements = Statements(engine)
    headers = {} if cookie is None else {"cookie": f"otp_session={cookie}".encode()}
    async with Browser(make_app(otp), headers={**HTML, **headers}) as browser:
        assert await browser.state() == ANONYMOUS
        assert (await browser.get("/vault")).status_code == 303
    assert statements == []


@pytest.mark.parametrize(
    ("level", "after"),
    [
        (None, ["BEGIN ISOLATION LEVEL READ COMMITTED", "COMMIT"]),
        ("AUTOCOMMIT", []),
        ("REPEATABLE READ", ["BEGIN ISOLATION LEVEL REPEATABLE READ", "COMMIT"]),
        ("SERIALIZABLE", ["BEGIN ISOLATION LEVEL SERIALIZABLE", "COMMIT"]),
    ],
)
async def test_the_engines_own_isolation_level_does_not_matter(
    otp: OTP, database_url: str, alice: User, device: TOTPDevice, level: Any, after: list[str]
) -> None:
    """Reads are in autocommit and verifications READ COMMITTED, whatever the engine's default,
    which its connections have again afterwards."""
    options = {} if level is None else {"isolation_level": level}
    engine = create_async_engine(database_url, **options)
    own = OTP(async_sessionmaker(engine), Device, secret_key=SECRET_KEY)
    assert await own.user_has_device(alice) is True
    transactions = Transactions(engine)
    assert await own.verify_token(alice, device.persistent_id, "000000") is None
    await asyncio.sleep(0)  # asyncpg tells a loop later
    assert transactions == ["BEGIN ISOLATION LEVEL READ COMMITTED", "COMMIT"]
    assert await own.user_has_device(alice) is True
    assert len(transactions) == 2
    async with engine.begin() as connection:
        await connection.scalar(text("SELECT 1"))
    await engine.dispose()
    assert transactions[2:] == after


async def test_a_log_in_is_seven_statements(
    otp: OTP, database_url: str, engine: AsyncEngine, alice: User, device: TOTPDevice
) -> None:
    """Name, password and token in one go: the count of wrong passwords, the user; BEGIN, the lock,
    the UPDATE, COMMIT; the new session, which checks its device in the same statement. The list of
    devices is not read."""
    async with Browser(make_app(otp)) as browser:
        page = await browser.get("/account/login")
        statements, transactions = Statements(engine), Transactions(engine)
        fields = {"username": "alice", "password": PASSWORD, "otp_token": totp_token()}
        answer = await browser.post("/account/login", data={"csrf_token": csrf_of(page), **fields})
        assert answer.status_code == 303
        await asyncio.sleep(0)  # asyncpg tells a loop later
    verbs = [statement.split()[0] for statement in statements]
    assert verbs == ["SELECT", "SELECT", "SELECT", "UPDATE", "WITH"]
    assert transactions == ["BEGIN ISOLATION LEVEL READ COMMITTED", "COMMIT"]


@pytest.fixture
async def careless(otp: OTP, alice: User, device: TOTPDevice) -> AsyncIterator[Browser]:
    """A verified browser at an application that names paths which need nobody."""
    backend = SessionAuthBackend(otp, exclude=("/static", "/healthz/", "/application/open"))
    app = Starlette(
        routes=[
            Route("/{path:path}", state),
        ],
        middleware=[
            Middleware(SessionMiddleware, secret_key=SECRET_KEY),
            Middleware(AuthenticationMiddleware, backend=backend),
            Middleware(OTPMiddleware, otp=otp),
        ],
    )
    app.router.routes.insert(0, door(otp, alice, device))
    async with Browser(app) as browser:
        await browser.get("/enter")
        yield browser


@pytest.mark.parametrize("path", ["/static", "/static/site.css", "/healthz", "/static/a/b"])
async def test_excluded_paths_cost_no_statement(
    careless: Browser, engine: AsyncEngine, path: str
) -> None:
    """Where nobody is needed, and below it, a verified browser is anonymous without any SQL."""
    statements = Statements(engine)
    assert (await careless.get(path)).json() == ANONYMOUS
    assert statements == []


@pytest.mark.parametrize("path", ["/", "/statics", "/static.css", "/x/static", "/healthzz"])
async def test_other_paths_are_not_excluded(
    careless: Browser, device: TOTPDevice, path: str
) -> None:
    """A path that only begins alike, or has the name further down, is as any other."""
    assert (await careless.get(path)).json() == verified_by(device)


async def test_excluded_paths_of_a_mounted_application(
    otp: OTP, engine: AsyncEngine, careless: Browser
) -> None:
    """Paths are the application's own, wherever it is mounted."""
    mounted = Starlette(routes=[Mount("/club", careless._transport.app)])  # type: ignore[attr-defined]
    async with Browser(mounted, cookies=careless.cookies) as browser:
        statements = Statements(engine)
        assert (await browser.get("/club/static/site.css")).json() == ANONYMOUS
        assert statements == []


async def test_excluded_paths_below_a_root_path(
    careless: Browser, engine: AsyncEngine, device: TOTPDevice
) -> None:
    """Behind a proxy that says "/app" paths below that are the application's own, and one that
    only begins with the same letters is as any other, as it is for Starlette's routes."""
    app: Any = careless._transport.app  # type: ignore[attr-defined]
    transport = ASGITransport(app=app, root_path="/app")
    base, cookies = "http://site.example", careless.cookies
    async with Browser(app, transport=transport, base_url=base, cookies=cookies) as browser:
        for path in ("/application/static", "/appstatic", "/app/statics"):
            assert (await browser.get(path)).json() == verified_by(device), path
        statements = Statements(engine)
        for path in ("/app/static", "/app/static/site.css", "/static", "/application/open"):
            assert (await browser.get(path)).json() == ANONYMOUS, path
        assert statements == []


@pytest.mark.parametrize("exclude", ["/static", ["static"], [""]])
def test_exclude_takes_paths(otp: OTP, exclude: Any) -> None:
    """A text, or what does not begin with a slash, is an error in one sentence."""
    with pytest.raises(ConfigurationError, match="exclude"):
        SessionAuthBackend(otp, exclude=exclude)
