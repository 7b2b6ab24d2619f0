"""What every kind of device keeps: its name, its equality, its locks, its contract."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from starlette_otp import OTP, TransactionRequired
from starlette_otp.devices.locking import locked, require_read_committed
from starlette_otp.devices.persistent_id import parse_persistent_id
from starlette_otp.models import Base, Device, StaticDevice, TOTPDevice, User
from tests.hosts import make_host
from tests.support import (
    SECRET,
    SECRET_KEY,
    Sessions,
    Statements,
    add,
    make_static,
    make_totp,
    reload,
    totp_token,
)

GARBAGE = [
    None,
    17,
    b"totp/1",
    ["totp/1"],
    "",
    "/",
    "totp",
    "totp/",
    "/1",
    "totp/0",
    "totp/-1",
    "totp/+1",
    "totp/01",
    "totp/1.0",
    "totp/1_0",
    "totp/1e3",
    "totp/１",  # noqa: RUF001 (a full-width digit is the point)
    "totp/1\n",
    " totp/1",
    "totp/1/1",
    "totp/1\0",
    "TOTP/1",
    "totp\0/1",
    "\ud800/1",
    "None/1",
    "device/1",
    "nothing/1",
    "static/1",
    "totp/999999999999999999",
    "totp/9999999999999999999999",
    "totp/" + "1" * 10_000,
    "t" * 10_000 + "/1",
    "totp/1; DROP TABLE otp_device",
]


async def test_a_persistent_id_finds_its_device(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Kind, slash, id; found by the device model and by its own class, not by another kind's."""
    device = await make_totp(sessions, alice)
    assert device.persistent_id == f"totp/{device.id}"
    async with sessions() as session:
        assert await Device.from_persistent_id(session, device.persistent_id) == device
        assert await TOTPDevice.from_persistent_id(session, device.persistent_id) == device
        assert await StaticDevice.from_persistent_id(session, device.persistent_id) is None


async def test_a_malformed_persistent_id_names_nothing(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """Any garbage for an id gives None, never an exception, and leaves the device untouched."""
    device = await make_totp(sessions, alice)
    for garbage in GARBAGE:
        async with sessions() as session:
            assert await Device.from_persistent_id(session, garbage) is None, garbage
        if garbage and not isinstance(garbage, str):
            continue  # a mistake of the host's, which the calls of OTP name
        assert await otp.verify_token(alice, garbage, totp_token()) is None, garbage
        assert await otp.confirm_device(alice, garbage, totp_token()) is None, garbage
    after = await reload(sessions, device)
    assert (after.throttling_failure_count, after.last_t) == (0, -1)


def test_parsing_a_persistent_id() -> None:
    """The parts of a good one; of garbage the parts of nothing."""
    assert parse_persistent_id("my_app.pager-2/17") == ("my_app.pager-2", 17)
    assert parse_persistent_id("totp/" + "9" * 19) == ("", 0)


async def test_two_instances_of_one_row_are_equal(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """Equal and of one hash; two rows differ, and so do two that are in no row yet."""
    device, other = await make_totp(sessions, alice), await make_totp(sessions, alice)
    again = await reload(sessions, device)
    assert again is not device
    assert again == device
    assert hash(again) == hash(device)
    assert {device, again, other} == {device, other}
    assert device != other
    assert device != device.persistent_id
    unsaved = TOTPDevice()
    assert unsaved == unsaved
    assert unsaved != TOTPDevice()
    assert unsaved != device


async def test_devices_for_user_lists_by_id(
    otp: OTP, sessions: Sessions, alice: User, bob: User
) -> None:
    """The user's own, the oldest first, of the class that is asked, confirmed or not as wanted."""
    static, _ = await make_static(sessions, alice)
    device = await make_totp(sessions, alice)
    pending = await make_totp(sessions, alice, confirmed=False)
    await make_totp(sessions, bob)
    assert await otp.devices_for_user(alice) == [static, device]
    assert await otp.devices_for_user(alice, None) == [static, device, pending]
    assert await otp.devices_for_user(alice, confirmed=False) == [pending]
    async with sessions() as session:
        assert [*await session.scalars(TOTPDevice.devices_for_user(alice))] == [device, pending]
        assert [*await session.scalars(StaticDevice.devices_for_user(alice))] == [static]


async def test_an_unconfirmed_device_verifies_nothing(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """A stolen password can't enrol its own device: refused on every path, and not counted."""
    device = await make_totp(sessions, alice, confirmed=False)
    static, (code,) = await make_static(sessions, alice, None)
    async with sessions.begin() as session:
        (await session.get(StaticDevice, static.id)).confirmed = False
    for token in (totp_token(), code):
        assert await otp.match_token(alice, token) is None
        for each in (device, static):
            assert await otp.verify_token(alice, each.persistent_id, token) is None
            async with sessions.begin() as session:
                own = await Device.from_persistent_id(session, each.persistent_id, for_verify=True)
                assert not await own.verify_token(token)
                allowed, evidence = await own.verify_is_allowed()
                assert not allowed
                assert "error_message" in evidence
    assert (await reload(sessions, device)).last_t == -1
    assert (await reload(sessions, device)).throttling_failure_count == 0


async def test_confirm_device_confirms_by_a_token(
    otp: OTP, sessions: Sessions, alice: User, bob: User
) -> None:
    """The one call that is exempt: the owner's own device, throttled, and its token is spent."""
    device = await make_totp(sessions, alice, confirmed=False)
    name = device.persistent_id
    assert await otp.confirm_device(bob, name, totp_token()) is None
    assert (await reload(sessions, device)).throttling_failure_count == 0
    assert await otp.confirm_device(alice, name, "000000") is None
    locked_out = await reload(sessions, device)
    assert (locked_out.throttling_failure_count, locked_out.confirmed) == (1, False)
    assert await otp.confirm_device(alice, name, totp_token()) is None, "locked"
    async with sessions.begin() as session:
        (await session.get(TOTPDevice, device.id)).throttle_reset()
    confirmed = await otp.confirm_device(alice, name, totp_token())
    assert confirmed == device
    assert confirmed.confirmed
    assert (await reload(sessions, device)).confirmed
    assert await otp.verify_token(alice, name, totp_token()) is None


@pytest.mark.parametrize("token", [None, 123456, b"123456", ["123456"]])
async def test_a_token_is_a_text(token: Any, otp: OTP, sessions: Sessions, alice: User) -> None:
    """A token of another type is the caller's mistake, and no failure of the user's."""
    device = await make_totp(sessions, alice)
    with pytest.raises(TypeError, match="A token is a str"):
        await otp.verify_token(alice, device.persistent_id, token)
    assert (await reload(sessions, device)).throttling_failure_count == 0


@pytest.fixture(params=["AUTOCOMMIT", "REPEATABLE READ", "SERIALIZABLE"])
async def isolated(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[Sessions]:
    """Sessions in which a lock would not help."""
    engine = create_async_engine(database_url, isolation_level=request.param)
    yield async_sessionmaker(engine)
    await engine.dispose()


async def test_locking_wants_read_committed(
    isolated: Sessions, otp: OTP, sessions: Sessions, alice: User
) -> None:
    """On AUTOCOMMIT the lock is gone at once, above READ COMMITTED it waits for an old row: both
    are refused instead."""
    device = await make_totp(sessions, alice)
    async with isolated.begin() as session:
        with pytest.raises(TransactionRequired, match="READ COMMITTED"):
            await require_read_committed(session, Device)
    async with isolated.begin() as session:
        with pytest.raises(TransactionRequired):
            await otp.devices_for_user(alice, for_verify=True, session=session)
    async with isolated.begin() as session:
        with pytest.raises(TransactionRequired):
            await Device.from_persistent_id(session, device.persistent_id, for_verify=True)
        assert await otp.devices_for_user(alice, session=session) == [device]


async def test_a_database_whose_own_default_is_repeatable_read(
    database_url: str, otp: OTP, sessions: Sessions, alice: User
) -> None:
    """A level that the server sets is refused as one that the engine sets; OTP's own is its own."""
    device = await make_totp(sessions, alice)
    settings = {"default_transaction_isolation": "repeatable read"}
    engine = create_async_engine(database_url, connect_args={"server_settings": settings})
    maker = async_sessionmaker(engine)
    async with maker.begin() as session:
        with pytest.raises(TransactionRequired, match="repeatable read"):
            await Device.from_persistent_id(session, device.persistent_id, for_verify=True)

    async def work(session: AsyncSession) -> Any:
        return await session.scalar(text("SHOW transaction_isolation"))

    assert await OTP(maker, Device, secret_key=SECRET_KEY).write(work) == "read committed"
    await engine.dispose()


async def test_locking_wants_a_transaction(otp: OTP, sessions: Sessions, alice: User) -> None:
    """devices_for_user(for_verify=True) locks in a transaction of the caller's, or not at all."""
    device = await make_totp(sessions, alice)
    with pytest.raises(TransactionRequired):
        await otp.devices_for_user(alice, for_verify=True)
    async with sessions() as session:
        with pytest.raises(TransactionRequired):
            await otp.devices_for_user(alice, for_verify=True, session=session)
    async with sessions.begin() as session:
        assert await otp.devices_for_user(alice, for_verify=True, session=session) == [device]


async def test_locking_with_sessions_bound_to_classes(
    otp: OTP, sessions: Sessions, engine: Any, alice: User
) -> None:
    """A sessionmaker that binds classes instead of one engine for all locks as well."""
    device = await make_totp(sessions, alice)
    bound = async_sessionmaker(binds={Base: engine})
    async with bound.begin() as session:
        found = await Device.from_persistent_id(session, device.persistent_id, for_verify=True)
        assert found == device
        assert await otp.devices_for_user(alice, for_verify=True, session=session) == [device]


async def test_a_locking_select_names_one_table_and_reads_anew(
    otp: OTP, sessions: Sessions, engine: Any, alice: User
) -> None:
    """It joins nothing, in id order, and an instance already in the session gets the row's present
    values, or a replay could pass."""
    device = await make_totp(sessions, alice)
    statements = Statements(engine)
    async with sessions() as stale:
        old = await stale.get(TOTPDevice, device.id)
        assert await otp.match_token(alice, totp_token()) == device
        again = await stale.scalar(locked(select(TOTPDevice)))
        assert again is old
        assert not await again.verify_token(totp_token())
    locking = [s for s in statements if "FOR UPDATE" in s]
    assert len(locking) == 2
    assert all("FROM otp_device WHERE" in s and "JOIN" not in s for s in locking)
    assert "ORDER BY otp_device.id" in locking[0]


async def test_a_verification_is_one_select_and_one_update(
    otp: OTP, sessions: Sessions, engine: Any, alice: User
) -> None:
    """One locking SELECT and one UPDATE of the same row, in one transaction."""
    device = await make_totp(sessions, alice)
    statements = Statements(engine)
    assert await otp.verify_token(alice, device.persistent_id, totp_token()) == device
    assert [s.split()[0] for s in statements] == ["SELECT", "UPDATE"]


async def test_a_third_partys_kind_says_only_what_is_its_own(
    database_url: str, sessions: Sessions
) -> None:
    """check_token alone makes a kind: it gets what the user typed, and confirmation, ownership,
    throttling and counting are the base's."""
    models = make_host()
    asked = []

    class Password(models.Device):
        async def check_token(self, token: str) -> bool:
            asked.append(token)
            return token == " Open Sesame-1 "

    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(models.Device.metadata.create_all)
    maker = async_sessionmaker(engine, expire_on_commit=False)
    otp = OTP(maker, models.Device, secret_key=SECRET_KEY)
    alice = await add(maker, models.User(username="alice"))
    device = await add(maker, Password(user=alice))
    totp = await add(maker, models.TOTPDevice(user=alice, secret=SECRET))
    assert device.persistent_id == f"password/{device.id}"
    assert not device.is_interactive()
    assert await otp.generate_challenge(alice, device.persistent_id) is None
    assert await otp.match_token(alice, " Open Sesame-1 ") == device
    assert await otp.match_token(alice, totp_token()) == totp
    assert await otp.match_token(alice, "wrong") is None
    assert await otp.match_token(alice, " Open Sesame-1 ") is None, "locked"
    assert asked == [" Open Sesame-1 ", totp_token(), "wrong"]
    assert (await reload(maker, device)).throttling_failure_count == 1
    await engine.dispose()
