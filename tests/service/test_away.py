"""What counts as a database that is away, and what does not."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from starlette_otp import OTP, DatabaseUnavailable
from starlette_otp.exceptions import is_away
from starlette_otp.models import Device, TOTPDevice, User
from tests.conftest import sql
from tests.support import PASSWORD, SECRET_KEY, Browser, Sessions, make_app, make_totp, totp_token


@pytest.fixture
async def device(sessions: Sessions, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice)


def wrapped(orig: BaseException, invalidated: bool = False) -> DBAPIError:
    return DBAPIError("SELECT 1", {}, orig, connection_invalidated=invalidated)


def unsent(orig: BaseException) -> DBAPIError:
    return DBAPIError(None, None, orig)


@pytest.mark.parametrize(
    ("exc", "away"),
    [
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (FileNotFoundError("the socket"), True),
        (PoolTimeout(), True),
        (wrapped(ConnectionResetError()), True),
        (wrapped(ValueError(), invalidated=True), True),
        (asyncpg.CannotConnectNowError(), True),
        (asyncpg.ConnectionDoesNotExistError(), True),
        (wrapped(asyncpg.TooManyConnectionsError()), True),
        (wrapped(asyncpg.DiskFullError()), True),
        (wrapped(asyncpg.AdminShutdownError()), True),
        (DatabaseUnavailable(), True),
        (wrapped(asyncpg.QueryCanceledError()), True),
        (wrapped(asyncpg.LockNotAvailableError()), True),
        (wrapped(asyncpg.ReadOnlySQLTransactionError()), True),
        (wrapped(asyncpg.DeadlockDetectedError()), True),
        (unsent(asyncpg.InvalidCatalogNameError()), True),
        (unsent(asyncpg.InvalidPasswordError()), True),
        (unsent(asyncpg.ObjectNotInPrerequisiteStateError()), True),
        (unsent(asyncpg.ForeignKeyViolationError()), False),
        (unsent(asyncpg.SerializationError()), False),
        (wrapped(asyncpg.ObjectNotInPrerequisiteStateError()), False),
        (wrapped(asyncpg.UndefinedTableError()), False),
        (asyncpg.InvalidPasswordError(), True),
        (asyncpg.InvalidCatalogNameError(), True),
        (asyncpg.ObjectNotInPrerequisiteStateError(), False),
        (IntegrityError("", {}, asyncpg.UniqueViolationError()), False),
        (ValueError(), False),
    ],
)
def test_what_is_away(exc: Exception, away: bool) -> None:
    """Away is what fails while a connection is made, and what says "not now": the pool's time-out,
    SQLSTATE classes 08, 28, 3D, 53, 57P, a lock or a statement that took too long, a deadlock, a
    standby."""
    assert is_away(exc) is away


async def test_a_pool_that_is_exhausted(database_url: str, alice: User) -> None:
    """No connection within the pool's time-out is 503, not a hanging page."""
    engine = create_async_engine(database_url, pool_size=1, max_overflow=0, pool_timeout=0.01)
    otp = OTP(async_sessionmaker(engine), Device, secret_key=SECRET_KEY)
    async with engine.connect():
        with pytest.raises(DatabaseUnavailable):
            await otp.user_has_device(alice)
    assert await otp.user_has_device(alice) is False
    await engine.dispose()


@pytest.fixture
async def limited(database_url: str, server_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine whose role may not connect."""
    url = make_url(database_url)
    role = f"role_{url.database}"
    await sql(server_url, f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 0")
    engine = create_async_engine(url.set(username=role))
    yield engine
    await engine.dispose()
    await sql(server_url, f"DROP ROLE {role}")


async def test_too_many_connections(limited: AsyncEngine, alice: User) -> None:
    """A server that takes no more connections is away."""
    otp = OTP(async_sessionmaker(limited), Device, secret_key=SECRET_KEY)
    with pytest.raises(DatabaseUnavailable):
        await otp.match_token(alice, "000000")


async def backends(sessions: Sessions, where: str) -> list[int]:
    query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND "
    async with sessions() as session:
        return list(await session.scalars(text(query + where)))


async def terminate(sessions: Sessions, pids: list[int]) -> None:
    async with sessions() as session:
        for pid in pids:
            await session.scalar(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})


async def test_stale_connections_fail_no_call(
    otp: OTP, sessions: Sessions, alice: User, device: TOTPDevice, database_url: str
) -> None:
    """A whole pool of connections that the server has closed fails neither reads nor writes."""
    other = create_async_engine(database_url)
    reads = [otp.user_has_device(alice) for _ in range(5)]
    assert await asyncio.gather(*reads) == [True] * 5
    await terminate(async_sessionmaker(other), await backends(sessions, "pid <> pg_backend_pid()"))
    await other.dispose()
    again = [otp.user_has_device(alice) for _ in range(3)]
    answers = await asyncio.gather(otp.match_token(alice, totp_token()), *again)
    assert answers == [device, True, True, True]


async def test_a_connection_lost_while_it_waits_for_the_lock(
    otp: OTP, sessions: Sessions, alice: User, device: TOTPDevice
) -> None:
    """A verification that loses its connection before the commit is done again, and counts once."""
    async with sessions.begin() as session:
        await otp.devices_for_user(alice, for_verify=True, session=session)
        task = asyncio.create_task(otp.verify_token(alice, device.persistent_id, "000000"))
        while not (waiting := await backends(sessions, "wait_event_type = 'Lock'")):
            await asyncio.sleep(0.01)
        await terminate(sessions, waiting)
    assert await task is None
    [row] = await otp.devices_for_user(alice)
    assert row.throttling_failure_count == 1


@pytest.mark.parametrize("exc", [ConnectionRefusedError(), ValueError("a bug")])
async def test_the_hosts_own_functions_may_find_it_away(sessions: Sessions, exc: Exception) -> None:
    """A host's `authenticate` whose own database is away is 503 as well; its bugs are its own."""

    async def authenticate(*args: Any) -> Any:
        raise exc

    otp = OTP(sessions, Device, secret_key=SECRET_KEY, authenticate=authenticate)
    async with Browser(make_app(otp)) as browser:
        fields = {"username": "alice", "password": PASSWORD}
        if isinstance(exc, OSError):
            answer = await browser.submit("/account/login", **fields)
            assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        else:
            with pytest.raises(ValueError, match="a bug"):
                await browser.submit("/account/login", **fields)
