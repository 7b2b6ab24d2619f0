"""A suite whose every test is rolled back: sessions on one connection, in savepoints."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, get_args

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm.session import JoinTransactionMode

from starlette_otp import OTP, TransactionRequired
from starlette_otp.models import Base, Device, OTPSession, User
from starlette_otp.testing import token_at
from tests.support import (
    PASSWORD,
    SECRET_KEY,
    Browser,
    Sessions,
    csrf_of,
    make_app,
    make_totp,
    make_user,
)
from tests.support import make_static as make_codes


@pytest.fixture(params=[mode for mode in get_args(JoinTransactionMode) if mode != "control_fully"])
async def sessions(engine: AsyncEngine, request: pytest.FixtureRequest) -> AsyncIterator[Sessions]:
    """SQLAlchemy's recipe, "Joining a Session into an External Transaction"."""
    async with engine.connect() as connection:
        outer = await connection.begin()
        yield async_sessionmaker(
            connection, expire_on_commit=False, join_transaction_mode=request.param
        )
        await outer.rollback()
    async with engine.connect() as connection:
        for table in Base.metadata.sorted_tables:
            assert await connection.scalar(select(func.count()).select_from(table)) == 0


async def test_a_log_in_and_out(otp: OTP, sessions: Sessions, alice: User) -> None:
    """The whole of it: the pages, a wrong token, a right one, a recovery code, a log-out."""
    device = await make_totp(sessions, alice)
    _, codes = await make_codes(sessions, alice, None)
    async with Browser(make_app(otp)) as browser:

        async def post(path: str, **form: Any) -> int:
            page = await browser.get(path)
            return (
                await browser.post(path, data={**form, "csrf_token": csrf_of(page)})
            ).status_code

        who = {"username": "alice", "password": PASSWORD, "otp_device": device.persistent_id}
        assert await post("/account/login", **who, otp_token="000000") != 303
        await otp.write(_forget)
        assert await post("/account/login", **who, otp_token=token_at(device)) == 303
        assert (await browser.state())["device"] == device.persistent_id
        assert await otp.match_token(alice, codes[0]) is not None
        assert await otp.match_token(alice, codes[0]) is None
        assert await post("/account/logout") in (200, 303)
        assert not (await browser.state())["authenticated"]
    assert await otp.read(lambda session: session.scalar(select(func.count(OTPSession.id)))) == 0


async def test_a_token_passes_once(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Replays are refused, and failures counted, in what is rolled back, too."""
    device = await make_totp(sessions, alice)
    found = [await otp.verify_token(alice, device.persistent_id, token_at(device)) for _ in "12"]
    assert [one is not None for one in found] == [True, False]
    stored = await otp.devices_for_user(alice)
    assert [one.throttling_failure_count for one in stored] == [1]
    assert await OTP(sessions, Device, secret_key=SECRET_KEY).user_has_device(alice)


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "REPEATABLE READ", "SERIALIZABLE"])
async def test_a_connection_on_which_no_lock_helps(
    engine: AsyncEngine, database_url: str, level: str
) -> None:
    """One that has begun in another isolation is refused; one that has not begun gets ours."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level=level)
        maker = async_sessionmaker(connection)
        async with connection.begin():
            with pytest.raises(TransactionRequired, match="READ COMMITTED"):
                await OTP(maker, Device, secret_key=SECRET_KEY).write(_forget)
    user = await make_user(async_sessionmaker(engine, expire_on_commit=False), "bob")
    device = await make_totp(async_sessionmaker(engine, expire_on_commit=False), user)
    async with AsyncExitStack() as stack:
        uses = []
        for _ in range(5):
            own = await stack.enter_async_context(engine.connect())
            await own.execution_options(isolation_level=level)
            otp = OTP(async_sessionmaker(own), Device, secret_key=SECRET_KEY)
            uses.append(otp.verify_token(user, device.persistent_id, token_at(device)))
        found = await asyncio.gather(*uses)
    assert [one is not None for one in found].count(True) == 1


async def _forget(session: Any) -> None:
    for device in await session.scalars(select(Device)):
        device.throttle_reset()
