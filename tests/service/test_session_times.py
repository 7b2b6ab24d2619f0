"""When a session ends by itself: so long after its log-in, and so long after it was last seen."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starlette_otp import OTP, DatabaseUnavailable, log_out
from starlette_otp.models import OTPSession, TOTPDevice, User
from tests.support import (
    ANONYMOUS,
    AUTHENTICATED,
    SECRET_KEY,
    Browser,
    Sessions,
    Statements,
    door,
    make_app,
    make_totp,
    totp_token,
    verified_by,
)

DAY, HOUR, MINUTE = 86_400, 3_600, 60
REVERIFY = "/account/login?reverify=1"


async def leave(request: Request) -> Response:
    await log_out(request)
    return PlainTextResponse("out")


@pytest.fixture
def clock() -> Iterator[Any]:
    with time_machine.travel(1_800_000_000, tick=False) as moving:
        yield moving


@pytest.fixture
async def device(sessions: Sessions, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice)


@pytest.fixture
async def browser(otp: OTP, alice: User, device: TOTPDevice, clock: Any) -> AsyncIterator[Browser]:
    """Alice's, verified."""
    app = make_app(otp, door(otp, alice, device), Route("/leave", leave))
    async with Browser(app) as browser:
        await browser.get("/enter")
        yield browser


async def test_tokens_do_not_make_it_longer(
    browser: Browser, device: TOTPDevice, clock: Any
) -> None:
    """Two weeks after the log-in it ends, however often and however late a token verified it."""
    for _ in range(13):
        clock.shift(DAY)
        assert (await browser.submit(REVERIFY, otp_token=totp_token())).status_code == 303
    clock.shift(DAY - 1)
    assert (await browser.submit(REVERIFY, otp_token=totp_token())).status_code == 303
    assert await browser.state() == verified_by(device)
    clock.shift(1)
    assert await browser.state() == ANONYMOUS


async def test_it_ends_when_it_is_not_seen(
    browser: Browser, device: TOTPDevice, clock: Any
) -> None:
    """It ends three days after it was last seen, and lives on while it is seen."""
    for _ in range(4):
        clock.shift(3 * DAY - 1)
        assert await browser.state() == verified_by(device)
    clock.shift(2 * DAY - 1)
    assert await browser.state() == verified_by(device), "a second before its two weeks are over"


async def test_three_days_unseen(browser: Browser, clock: Any) -> None:
    """Three days unseen are enough, and seeing it then brings nothing back."""
    clock.shift(3 * DAY)
    assert await browser.state() == ANONYMOUS
    assert await browser.state() == ANONYMOUS


@pytest.mark.parametrize(
    ("idle_age", "lives"), [(timedelta(hours=1), HOUR), (900, 900), (None, 14 * DAY)]
)
async def test_idle_age(
    otp: OTP,
    alice: User,
    clock: Any,
    monkeypatch: pytest.MonkeyPatch,
    idle_age: Any,
    lives: int,
) -> None:
    """It is the class's, a timedelta or seconds, shorter than ten minutes too; with None only
    max_age counts."""
    monkeypatch.setattr(OTPSession, "idle_age", idle_age)
    async with Browser(make_app(otp, door(otp, alice))) as browser:
        await browser.get("/enter")
        if idle_age is not None:
            for _ in range(3):
                clock.shift(lives // 2)
                assert await browser.state() == AUTHENTICATED
        clock.shift(lives - 1)
        assert await browser.state() == AUTHENTICATED
        clock.shift(lives + 1)
        assert await browser.state() == ANONYMOUS


async def test_it_is_written_once_in_ten_minutes(
    browser: Browser, engine: AsyncEngine, clock: Any
) -> None:
    """That it was seen is one UPDATE in ten minutes; all other requests are one SELECT."""
    statements = Statements(engine)

    async def verbs() -> list[str]:
        statements.clear()
        await browser.get("/vault")
        return [statement.split()[0] for statement in statements]

    assert await verbs() == ["SELECT"]
    clock.shift(10 * MINUTE)
    assert await verbs() == ["SELECT"]
    clock.shift(1)
    assert await verbs() == ["SELECT", "UPDATE"]
    for _ in range(2):
        assert await verbs() == ["SELECT"]
        clock.shift(5 * MINUTE)
    clock.shift(1)
    assert await verbs() == ["SELECT", "UPDATE"]
    # In the last days, too, when it does not end later for it.
    for _ in range(6):
        clock.shift(2 * DAY)
        assert await verbs() == ["SELECT", "UPDATE"]


async def test_it_is_written_after_the_answer(
    browser: Browser, engine: AsyncEngine, clock: Any
) -> None:
    """Nobody waits for it: the answer has gone when it is written."""
    app: Any = browser._transport.app  # type: ignore[attr-defined]
    order: list[str] = []
    statements = Statements(engine)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        order.append(f"{message['type']} {len(statements)}")

    clock.shift(HOUR)
    cookie = f"otp_session={browser.cookie}".encode()
    scope = {"type": "http", "method": "GET", "path": "/state", "query_string": b""}
    await app({**scope, "headers": [(b"cookie", cookie)]}, receive, send)
    assert order == ["http.response.start 1", "http.response.body 1"]
    assert len(statements) == 2


async def test_a_log_out_is_not_seen(browser: Browser, sessions: Sessions, clock: Any) -> None:
    """The request that ends a session, or that meets a new one, writes nothing of the old one."""
    clock.shift(HOUR)
    await browser.get("/leave")
    assert await browser.state() == ANONYMOUS
    await browser.get("/enter")
    clock.shift(HOUR)
    await browser.get("/enter")
    assert (await browser.state())["verified"]


async def test_a_database_that_goes_away_after_the_answer(
    browser: Browser, otp: OTP, clock: Any, device: TOTPDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer has gone already: the next request tells of it, or writes it."""
    engine = create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:1/nothing")
    away = OTP(async_sessionmaker(engine), otp.device_model, secret_key=SECRET_KEY)
    with monkeypatch.context() as patch:
        clock.shift(HOUR)
        patch.setattr(otp.sessions, "seen", away.sessions.seen)
        assert await browser.state() == verified_by(device)
        with pytest.raises(DatabaseUnavailable):
            await away.sessions.seen(1)
    await engine.dispose()
    assert await browser.state() == verified_by(device)


async def test_rows_from_before_live_as_long_as_they_say(
    browser: Browser, sessions: Sessions, device: TOTPDevice, clock: Any
) -> None:
    """A row of a version without idle_age goes on until the end that is written in it."""
    async with sessions.begin() as session:
        end = OTPSession.created_at + timedelta(days=14)
        await session.execute(update(OTPSession).values(expires_at=end))
    clock.shift(DAY)
    assert await browser.state() == verified_by(device)
    clock.shift(13 * DAY - 1)
    assert await browser.state() == verified_by(device)
    clock.shift(1)
    assert await browser.state() == ANONYMOUS
