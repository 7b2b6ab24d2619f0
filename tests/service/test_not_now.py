"""A server that says "not now": 503 on every way, and well again as soon as the server is."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import event, make_url, text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from starlette_otp import OTP, DatabaseUnavailable
from starlette_otp.models import Device, TOTPDevice, User
from starlette_otp.testing import token_at
from tests.conftest import sql
from tests.support import SECRET_KEY, Sessions, make_totp


class OwnSession(AsyncSession):
    """A host's class, which has everything run through it."""


@pytest.fixture(params=["driver", "connection", "session"])
async def site(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[OTP]:
    """An OTP of an engine of its own, whose statements go that way."""
    engine = create_async_engine(database_url)
    if request.param == "connection":
        event.listen(engine.sync_engine, "after_cursor_execute", lambda *args: None)
    class_ = OwnSession if request.param == "session" else AsyncSession
    yield OTP(async_sessionmaker(engine, class_=class_), Device, secret_key=SECRET_KEY)
    await engine.dispose()


@pytest.fixture
async def device(sessions: Sessions, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice)


async def configure(engine: AsyncEngine, setting: str) -> None:
    """Set it for every connection to this database from now on."""
    async with engine.begin() as connection:
        await connection.execute(text(f"ALTER DATABASE {engine.url.database} SET {setting}"))


Calls = Callable[[OTP, User, TOTPDevice], Awaitable[Any]]


@pytest.mark.parametrize("setting", ["lock_timeout = '50ms'", "statement_timeout = '50ms'"])
async def test_a_lock_that_is_not_to_be_had(
    site: OTP, engine: AsyncEngine, alice: User, device: TOTPDevice, setting: str
) -> None:
    """A host's own time limits make a verification that can't have its lock unavailable, and it
    counts nothing."""
    await configure(engine, setting)
    async with engine.begin() as connection:
        await connection.execute(text("SELECT FROM otp_device FOR UPDATE"))
        with pytest.raises(DatabaseUnavailable):
            await site.verify_token(alice, device.persistent_id, token_at(device))
    assert await site.verify_token(alice, device.persistent_id, token_at(device)) == device


async def test_a_database_that_takes_no_connections(
    site: OTP, server_url: str, engine: AsyncEngine, alice: User, device: TOTPDevice
) -> None:
    """One that is closed for maintenance is away, and so is one that is not there (yet)."""
    name = engine.url.database
    await engine.dispose()
    await sql(server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    with pytest.raises(DatabaseUnavailable):
        await site.verify_token(alice, device.persistent_id, token_at(device))
    with pytest.raises(DatabaseUnavailable):
        await site.user_has_device(alice)
    await sql(server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert await site.verify_token(alice, device.persistent_id, token_at(device)) == device


@pytest.mark.parametrize("wrong", [{"database": "nowhere"}, {"username": "nobody"}])
async def test_what_fails_while_connecting(
    database_url: str, alice: User, device: TOTPDevice, wrong: dict[str, str]
) -> None:
    """Whatever a server has against a connection, a request is answered as when it is away."""
    url = make_url(database_url).set(**wrong)  # type: ignore[arg-type]
    engine = create_async_engine(url)
    otp = OTP(async_sessionmaker(engine), Device, secret_key=SECRET_KEY)
    for call in (otp.verify_token(alice, "totp/1", "000000"), otp.user_has_device(alice)):
        with pytest.raises(DatabaseUnavailable):
            await call
    await engine.dispose()


async def test_a_standby_after_a_fail_over(
    site: OTP, engine: AsyncEngine, alice: User, device: TOTPDevice
) -> None:
    """A server that has become read-only is away; once it is not, the pool's old connections, which
    still think so, are replaced and fail nothing."""
    await site.user_has_device(alice)
    await configure(engine, "default_transaction_read_only = on")
    await site.transactions.sessionmaker.kw["bind"].dispose()
    with pytest.raises(DatabaseUnavailable):
        await site.verify_token(alice, device.persistent_id, token_at(device))
    await site.user_has_device(alice)  # a connection that only reads
    async with engine.begin() as connection:
        await connection.execute(text("SET TRANSACTION READ WRITE"))
        name = engine.url.database
        await connection.execute(text(f"ALTER DATABASE {name} RESET default_transaction_read_only"))
    assert await site.verify_token(alice, device.persistent_id, token_at(device)) == device


async def test_a_deadlock_is_tried_again(
    site: OTP, engine: AsyncEngine, alice: User, device: TOTPDevice, sessions: Sessions
) -> None:
    """The loser of a deadlock does its work once more."""
    other = await make_totp(sessions, alice, name="other")
    await configure(engine, "deadlock_timeout = '50ms'")
    began = asyncio.Event()
    waiting = text("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")

    async def work(session: AsyncSession) -> str:
        first = not began.is_set()
        await session.execute(text(f"SELECT FROM otp_device WHERE id = {device.id} FOR UPDATE"))
        began.set()
        while first and not await session.scalar(waiting):
            await asyncio.sleep(0.01)  # until the rival waits for the row above
        await session.execute(text(f"SELECT FROM otp_device WHERE id = {other.id} FOR UPDATE"))
        return "done"

    async with engine.begin() as rival:
        await rival.execute(text("SET LOCAL deadlock_timeout = '10s'"))
        await rival.execute(text(f"SELECT FROM otp_device WHERE id = {other.id} FOR UPDATE"))
        task = asyncio.create_task(site.write(work))
        await began.wait()
        await rival.execute(text(f"SELECT FROM otp_device WHERE id = {device.id} FOR UPDATE"))
    assert await task == "done"


async def test_a_second_deadlock_is_not_now(
    site: OTP, engine: AsyncEngine, alice: User, device: TOTPDevice, sessions: Sessions
) -> None:
    """Who loses again is told to come again, and not that something is wrong."""
    other = await make_totp(sessions, alice, name="other")
    await configure(engine, "deadlock_timeout = '50ms'")
    began: asyncio.Queue[None] = asyncio.Queue()
    waiting = text("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")

    async def work(session: AsyncSession) -> None:
        await session.execute(text(f"SELECT FROM otp_device WHERE id = {device.id} FOR UPDATE"))
        began.put_nowait(None)
        while not await session.scalar(waiting):
            await asyncio.sleep(0.01)
        await session.execute(text(f"SELECT FROM otp_device WHERE id = {other.id} FOR UPDATE"))

    task = None
    for _ in range(2):
        async with engine.begin() as rival:
            await rival.execute(text("SET LOCAL deadlock_timeout = '10s'"))
            await rival.execute(text(f"SELECT FROM otp_device WHERE id = {other.id} FOR UPDATE"))
            task = task or asyncio.create_task(site.write(work))
            await began.get()
            await rival.execute(text(f"SELECT FROM otp_device WHERE id = {device.id} FOR UPDATE"))
    assert task is not None
    with pytest.raises(DatabaseUnavailable):
        await task
