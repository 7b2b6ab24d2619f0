"""What a request costs: statements counted at the engine, transactions at the driver."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import itsdangerous
import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from starlette_otp import OTP
from starlette_otp.models import Device, TOTPDevice, User
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


def signed(value: object) -> str:
    data = base64.b64encode(json.dumps({"otp_session": value, "other": 1}).encode())
    return itsdangerous.TimestampSigner(SECRET_KEY).sign(data).decode()


@pytest.mark.parametrize(
    "cookie",
    [
        None,
        "",
        "garbage",
        signed(None),
        signed(17),
        signed(["A" * 43]),
        signed("A" * 42),
        signed("A" * 44),
        signed("\0" * 43),
        signed("é" * 43),
        signed("A" * 42 + "\n"),
        signed("A" * 43)[:-1] + "!",
    ],
    ids=range(12),
)
async def test_no_session_costs_no_statement(
    otp: OTP, engine: AsyncEngine, cookie: str | None
) -> None:
    """A request without a session, or with a cookie of garbage or forged, costs no SQL."""
    statements = Statements(engine)
    cookies = {} if cookie is None else {"session": cookie}
    async with Browser(make_app(otp), cookies=cookies) as browser:
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
