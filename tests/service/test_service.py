"""OTP's own calls: devices, tokens, confirmation."""

import re
from typing import Any

import pytest
import time_machine
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from starlette.authentication import UnauthenticatedUser

from starlette_otp import OTP, TransactionRequired
from starlette_otp.models import Device, TOTPDevice, User
from tests.support import Sessions, Statements, make_static, make_totp, reload, totp_token

OTHER_SECRET = b"another secret of 20"
NOW = 1_800_000_000


async def row_of(sessions: Sessions, device: Any) -> dict[str, Any]:
    """All columns of a device as the database has them."""
    table = Device.__table__
    async with sessions() as session:
        query = select(table).where(table.c.id == device.id)
        return dict((await session.execute(query)).mappings().one())


async def failures(sessions: Sessions, *devices: Any) -> list[int]:
    return [(await row_of(sessions, device))["throttling_failure_count"] for device in devices]


# Devices.


async def test_devices_come_by_id_and_by_confirmation(
    otp: OTP, sessions: Sessions, alice: User, bob: User
) -> None:
    """A user's devices are listed by id: the confirmed ones, the others, or all; nobody else's."""
    first = await make_totp(sessions, alice)
    second = await make_totp(sessions, alice, confirmed=False)
    third, _ = await make_static(sessions, alice)
    await make_totp(sessions, bob)
    assert await otp.devices_for_user(alice) == [first, third]
    assert await otp.devices_for_user(alice, confirmed=False) == [second]
    assert await otp.devices_for_user(alice, confirmed=None) == [first, second, third]


@pytest.mark.parametrize("nobody", [None, UnauthenticatedUser(), object()])
async def test_nobody_has_no_devices(
    otp: OTP, sessions: Sessions, alice: User, nobody: object
) -> None:
    """Anonymous users have no devices and no tokens, and that is no error."""
    device = await make_totp(sessions, alice)
    assert await otp.devices_for_user(nobody, confirmed=None) == []
    assert await otp.user_has_device(nobody) is False
    assert await otp.verify_token(nobody, device.persistent_id, totp_token()) is None
    assert await otp.match_token(nobody, totp_token()) is None
    assert await otp.confirm_device(nobody, device.persistent_id, totp_token()) is None


async def test_user_has_device_is_one_exists(
    otp: OTP, sessions: Sessions, engine: Any, alice: User
) -> None:
    """user_has_device asks with one EXISTS, and tells confirmed devices from others."""
    await make_totp(sessions, alice, confirmed=False)
    statements = Statements(engine)
    assert await otp.user_has_device(alice) is False
    assert len(statements) == 1
    assert statements[0].startswith("SELECT EXISTS")
    assert await otp.user_has_device(alice, confirmed=False) is True
    assert await otp.user_has_device(alice, confirmed=None) is True


async def test_for_verify_locks_the_devices(otp: OTP, sessions: Sessions, alice: User) -> None:
    """With for_verify the devices are locked until the caller's transaction ends."""
    device = await make_totp(sessions, alice)
    other = select(TOTPDevice).with_for_update(nowait=True)
    async with sessions.begin() as session:
        assert await otp.devices_for_user(alice, for_verify=True, session=session) == [device]
        async with sessions() as waiting:
            with pytest.raises(DBAPIError, match="could not obtain lock"):
                await waiting.scalar(other)
    async with sessions() as session:
        assert await session.scalar(other) == device


async def test_for_verify_reads_the_row_anew(otp: OTP, sessions: Sessions, alice: User) -> None:
    """A device that the session had already is read again under the lock."""
    device = await make_totp(sessions, alice)
    async with sessions.begin() as session:
        stale = await session.get(TOTPDevice, device.id)
        assert stale is not None
        assert await otp.verify_token(alice, device.persistent_id, totp_token())
        [fresh] = await otp.devices_for_user(alice, for_verify=True, session=session)
        assert fresh is stale
        assert await fresh.verify_token(totp_token()) is False


async def test_for_verify_wants_a_transaction(otp: OTP, sessions: Sessions, alice: User) -> None:
    """for_verify without an open transaction says so instead of locking nothing."""
    with pytest.raises(TransactionRequired):
        await otp.devices_for_user(alice, for_verify=True)
    async with sessions() as session:
        with pytest.raises(TransactionRequired):
            await otp.devices_for_user(alice, for_verify=True, session=session)


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "REPEATABLE READ", "SERIALIZABLE"])
async def test_for_verify_wants_read_committed(
    otp: OTP, sessions: Sessions, alice: User, level: Any
) -> None:
    """for_verify refuses a transaction in which its lock would not help."""
    async with sessions() as session:
        await session.connection(execution_options={"isolation_level": level})
        with pytest.raises(TransactionRequired, match="READ COMMITTED"):
            await otp.devices_for_user(alice, for_verify=True, session=session)


# verify_token.


async def test_verify_token_gives_the_device_once(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """verify_token gives the device and writes it back; the same token opens nothing again
    (RFC 6238 section 5.2)."""
    device = await make_totp(sessions, alice)
    assert await otp.verify_token(alice, device.persistent_id, totp_token()) == device
    row = await row_of(sessions, device)
    assert row["last_used_at"] is not None
    assert await otp.verify_token(alice, device.persistent_id, totp_token()) is None


async def test_verify_token_locks_one_row_and_writes_it_once(
    otp: OTP, sessions: Sessions, engine: Any, alice: User
) -> None:
    """A verification is one SELECT ... FOR UPDATE of otp_device alone and one UPDATE."""
    device = await make_totp(sessions, alice)
    statements = Statements(engine)
    assert await otp.verify_token(alice, device.persistent_id, "000000") is None
    with time_machine.travel(NOW * 2, tick=False):
        assert await otp.verify_token(alice, device.persistent_id, totp_token())
    kinds = [(s.split()[0], s.endswith("FOR UPDATE"), "JOIN" in s) for s in statements]
    assert kinds == 2 * [("SELECT", True, False), ("UPDATE", False, False)], statements


async def test_a_failure_outlives_the_requests_own_transaction(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """A failure is counted even if the request that caused it rolls back
    (RFC 4226 section 7.3)."""
    device = await make_totp(sessions, alice)
    async with sessions() as session:
        await session.execute(text("SELECT 1"))
        assert await otp.verify_token(alice, device.persistent_id, "000000") is None
        await session.rollback()
    assert await failures(sessions, device) == [1]


async def test_a_locked_device_is_not_tried_and_counts_nothing(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """While a device is locked even the right token is refused, uncounted, and accepted later."""
    device = await make_totp(sessions, alice)
    with time_machine.travel(NOW, tick=False) as clock:
        for token in ("000000", "000001", totp_token()):
            assert await otp.verify_token(alice, device.persistent_id, token) is None
        assert await failures(sessions, device) == [1]
        clock.shift(1)
        assert await otp.verify_token(alice, device.persistent_id, totp_token()) == device
    assert await failures(sessions, device) == [0]


@pytest.mark.parametrize("call", ["verify_token", "confirm_device"])
async def test_another_users_device_is_as_good_as_none(
    otp: OTP, sessions: Sessions, alice: User, bob: User, call: str
) -> None:
    """Another user's device id verifies nothing, whatever the token, and leaves the device be."""
    await make_totp(sessions, alice, secret=OTHER_SECRET)
    device = await make_totp(sessions, bob)
    before = await row_of(sessions, device)
    for token in (totp_token(), "000000"):
        assert await getattr(otp, call)(alice, device.persistent_id, token) is None
    assert await row_of(sessions, device) == before


async def test_garbage_names_no_device(otp: OTP, sessions: Sessions, alice: User) -> None:
    """A device id that is none, or names the row by another kind, is as good as none."""
    device = await make_totp(sessions, alice)
    before = await row_of(sessions, device)
    for garbage in ("", "totp", f"static/{device.id}", f"totp/{device.id} ", "totp/\0", "totp/9e9",
                    f"totp/{'9' * 40}", f"TOTP/{device.id}", f"totp/{device.id}\n"):  # fmt: skip
        assert await otp.verify_token(alice, garbage, totp_token()) is None, garbage
    assert await row_of(sessions, device) == before


async def test_an_unconfirmed_device_verifies_nothing(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """A stolen password can't enrol its own device and pass: an unconfirmed one is never asked."""
    device = await make_totp(sessions, alice, confirmed=False)
    before = await row_of(sessions, device)
    assert await otp.verify_token(alice, device.persistent_id, totp_token()) is None
    assert await otp.match_token(alice, totp_token()) is None
    assert await row_of(sessions, device) == before


async def test_an_unreadable_secret_is_refused_and_logged(
    otp: OTP, sessions: Sessions, alice: User, caplog: pytest.LogCaptureFixture
) -> None:
    """A secret that does not decrypt is no failure of the user's: refused, logged, not counted."""
    device = await make_totp(sessions, alice)
    async with sessions.begin() as session:
        await session.execute(text("UPDATE otp_device SET sealed_secret = 'broken'"))
    assert await otp.verify_token(alice, device.persistent_id, totp_token()) is None
    assert await otp.match_token(alice, totp_token()) is None
    assert re.search(rf"{device.persistent_id} does not decrypt", caplog.text)
    assert await failures(sessions, device) == [0]


async def test_a_token_is_text(otp: OTP, alice: User) -> None:
    """A token that is no text is a programmer's error, not a wrong token."""
    with pytest.raises(TypeError, match="not int"):
        await otp.match_token(alice, 123456)  # type: ignore[arg-type]


# match_token.


async def test_match_token_changes_only_the_winner(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """Of several devices the first that accepts is written back, and no other one; for one that
    has the same secret the token is spent."""
    first = await make_totp(sessions, alice, secret=OTHER_SECRET)
    winner, also = [await make_totp(sessions, alice) for _ in range(2)]
    static, _ = await make_static(sessions, alice, None, "chosen-one")
    rest = (first, static, also)
    before = [await row_of(sessions, device) for device in rest]
    assert await otp.match_token(alice, totp_token()) == winner
    stored = await row_of(sessions, winner)
    assert stored["last_used_at"] is not None
    before[-1]["last_t"] = stored["last_t"]
    assert [await row_of(sessions, device) for device in rest] == before


async def test_match_token_counts_a_failure_with_every_device_asked(
    otp: OTP, sessions: Sessions, alice: User, bob: User
) -> None:
    """A token that nobody accepts counts one failure with each device that was asked: not with
    recovery codes, which look different, nor locked, unconfirmed or other people's devices."""
    asked = [
        await make_totp(sessions, alice, secret=secret) for secret in (OTHER_SECRET, b"3" * 20)
    ]
    static, _ = await make_static(sessions, alice, None)
    eight = await make_totp(sessions, alice, digits=8)
    unconfirmed = await make_totp(sessions, alice, confirmed=False)
    his = await make_totp(sessions, bob)
    with time_machine.travel(NOW, tick=False):
        locked = await make_totp(sessions, alice)
        assert await otp.verify_token(alice, locked.persistent_id, "000000") is None
        assert await otp.match_token(alice, totp_token()) is None
    assert await failures(sessions, *asked) == [1, 1]
    assert await failures(sessions, static, eight, unconfirmed, his, locked) == [0, 0, 0, 0, 1]


async def test_match_token_spends_a_recovery_code(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """A recovery code is found by match_token, costs the TOTP device no failure, and is spent
    (ASVS 6.5.1)."""
    device = await make_totp(sessions, alice)
    static, [code] = await make_static(sessions, alice, None)
    assert await otp.match_token(alice, code.upper()) == static
    assert await failures(sessions, device, static) == [0, 0]
    assert await otp.match_token(alice, code) is None


# confirm_device.


async def test_confirm_device_confirms_with_a_token(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """The owner confirms a device with one of its tokens; that token is then spent."""
    device = await make_totp(sessions, alice, confirmed=False)
    confirmed = await otp.confirm_device(alice, device.persistent_id, totp_token())
    assert confirmed == device
    assert confirmed.confirmed is True
    assert (await reload(sessions, device)).confirmed is True
    assert await otp.verify_token(alice, device.persistent_id, totp_token()) is None


async def test_confirm_device_is_throttled(otp: OTP, sessions: Sessions, alice: User) -> None:
    """A wrong token confirms nothing, counts, and locks the device for the right one."""
    with time_machine.travel(NOW, tick=False) as clock:
        device = await make_totp(sessions, alice, confirmed=False)
        for token in ("000000", totp_token()):
            assert await otp.confirm_device(alice, device.persistent_id, token) is None
        row = await row_of(sessions, device)
        assert (row["confirmed"], row["throttling_failure_count"]) == (False, 1)
        clock.shift(1)
        assert await otp.confirm_device(alice, device.persistent_id, totp_token()) == device
