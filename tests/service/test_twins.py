"""Two devices of a user with one secret: a token is spent for both."""

import asyncio
import secrets
from typing import Any

import pytest
import time_machine
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from starlette_otp import OTP
from starlette_otp.devices import VerificationFailure
from starlette_otp.models import Device, HOTPDevice, TOTPDevice, User
from starlette_otp.service.rotation import rotate_keys
from starlette_otp.testing import make_device, token_at
from tests.support import OTHER_KEY, SECRET_KEY, Sessions, Statements, reload

SECRET = b"the secret of two rows"
KINDS = [TOTPDevice, HOTPDevice]


@pytest.fixture
def stopped_clock() -> Any:
    with time_machine.travel(1_900_000_000, tick=False) as clock:
        yield clock


@pytest.fixture(params=KINDS)
async def twins(
    request: pytest.FixtureRequest, otp: OTP, alice: User, stopped_clock: Any
) -> list[Any]:
    """Of an enrolment that was sent twice."""
    return [await make_device(otp, alice, request.param, secret=SECRET) for _ in range(2)]


async def test_a_spent_token_is_spent_for_both(otp: OTP, alice: User, twins: list[Any]) -> None:
    """What one accepts the other refuses, whichever way it is asked, as a replay; the next token
    is good, once."""
    one, other = twins
    token = token_at(one)
    assert await otp.match_token(alice, token) == one
    assert await otp.match_token(alice, token) is None
    attempt = await otp.attempt(alice, token, other.persistent_id)
    assert attempt.refusal is not None, "the former was counted"
    await forgive(otp, twins)
    attempt = await otp.attempt(alice, token, other.persistent_id)
    assert (attempt.device, attempt.reason) == (None, VerificationFailure.REPLAYED)
    await forgive(otp, twins)
    later = token_at(one, steps=1)
    assert await otp.verify_token(alice, other.persistent_id, later) == other
    assert await otp.verify_token(alice, one.persistent_id, later) is None
    await forgive(otp, twins)
    assert await otp.match_token(alice, later) is None


async def test_a_device_that_comes_later(otp: OTP, alice: User, twins: list[Any]) -> None:
    """A row that is made and confirmed by the token which the first has accepted is not confirmed,
    not even after the first is gone; nor is it the other way round."""
    one, other = twins
    token = token_at(one)
    assert await otp.verify_token(alice, one.persistent_id, token) == one
    sooner = await make_device(otp, alice, type(one), secret=SECRET)
    assert await otp.match_token(alice, token) is None
    await otp.remove_device(alice, sooner.persistent_id)
    late = await make_device(otp, alice, type(one), secret=SECRET, confirmed=False)
    await otp.remove_device(alice, one.persistent_id)
    assert await otp.confirm_device(alice, late.persistent_id, token) is None
    await otp.remove_device(alice, other.persistent_id)
    await forgive(otp, [late])
    assert await otp.confirm_device(alice, late.persistent_id, token) is None


async def test_an_unconfirmed_twin_follows(otp: OTP, alice: User, twins: list[Any]) -> None:
    """It is not asked, but spent, on both ways to verify."""
    (one, _), kind = twins, type(twins[0])
    waiting = await make_device(otp, alice, kind, secret=SECRET, confirmed=False)
    for number in range(2):
        token, named = token_at(one, steps=number), one.persistent_id if number else None
        assert (await otp.attempt(alice, token, named)).device == one
        assert await otp.confirm_device(alice, waiting.persistent_id, token) is None
        await forgive(otp, [waiting])


async def test_a_twin_that_was_asked_first_follows(
    otp: OTP, sessions: Sessions, alice: User, stopped_clock: Any
) -> None:
    """Of two of different tolerance the first refuses the token that the second accepts: it is
    spent for the first, too, and is no failure of it."""
    strict = await make_device(otp, alice, TOTPDevice, secret=SECRET, tolerance=0)
    lenient = await make_device(otp, alice, TOTPDevice, secret=SECRET)
    token = token_at(lenient, steps=1)
    assert await otp.match_token(alice, token) == lenient
    stored = await reload(sessions, strict)
    assert (stored.last_t, stored.throttling_failure_count) == (1_900_000_000 // 30 + 1, 0)
    stopped_clock.shift(30)
    assert await otp.match_token(alice, token) is None


async def test_others_do_not_follow(
    otp: OTP, sessions: Sessions, alice: User, bob: User, stopped_clock: Any
) -> None:
    """Another user's row with the same secret stays as it was, and so does one whose steps are of
    another length; what the table holds of two users' one secret differs."""
    one = await make_device(otp, alice, TOTPDevice, secret=SECRET)
    slow = await make_device(otp, alice, TOTPDevice, secret=SECRET, step=60)
    theirs = await make_device(otp, bob, TOTPDevice, secret=SECRET)
    assert await otp.match_token(alice, token_at(one)) == one
    for row in (slow, theirs):
        assert (await reload(sessions, row)).last_t == -1
    assert one.secret_digest == slow.secret_digest
    assert one.secret_digest != theirs.secret_digest


async def test_tokens_are_the_same_wherever_the_count_begins(
    otp: OTP, alice: User, engine: AsyncEngine, stopped_clock: Any
) -> None:
    """A row whose `t0` is another has the same tokens a step later; one without the values that
    a device starts with has them all the same."""
    one = await make_device(otp, alice, TOTPDevice, secret=SECRET)
    late = await make_device(otp, alice, TOTPDevice, secret=SECRET, t0=30)
    bare = await make_device(otp, alice, TOTPDevice, secret=SECRET)
    async with engine.begin() as connection:
        nulls = "UPDATE otp_device SET algorithm = NULL, step = NULL, t0 = NULL WHERE id = :id"
        await connection.execute(text(nulls), {"id": bare.id})
    token = token_at(one)
    assert await otp.verify_token(alice, one.persistent_id, token) == one
    for other in (late, bare):
        attempt = await otp.attempt(alice, token, other.persistent_id)
        assert attempt.reason is VerificationFailure.REPLAYED


async def test_a_secret_that_is_replaced(otp: OTP, alice: User, twins: list[Any]) -> None:
    """Rows part when one of them gets another secret."""
    one, other = twins
    async with otp.transactions.sessionmaker.begin() as session:
        row = await session.get_one(type(other), other.id)
        row.secret = secrets.token_bytes(20)
    assert await otp.verify_token(alice, one.persistent_id, token_at(one)) == one
    assert await otp.verify_token(alice, other.persistent_id, token_at(row)) == row


async def test_a_reset_is_not_undone(otp: OTP, alice: User, stopped_clock: Any) -> None:
    """After a wrong clock a device that was reset verifies, although its twin was not."""
    far = 1_900_000_000 // 30 + 1000
    twins = [await make_device(otp, alice, TOTPDevice, secret=SECRET, last_t=far) for _ in range(2)]
    await otp.reset_device(alice, twins[1].persistent_id)
    assert await otp.match_token(alice, token_at(twins[1])) == twins[1]


async def test_one_token_at_both_rows_at_once(
    otp: OTP, sessions: Sessions, alice: User, twins: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of sixty uses at once, by twenty OTPs as in as many processes, at one row, at the other and
    at any, one wins."""
    monkeypatch.setattr(Device, "throttle_factor", 0)
    otps = [OTP(sessions, Device, secret_key=SECRET_KEY) for _ in range(20)]
    token = token_at(twins[0])
    uses = [
        use
        for own in otps
        for use in (
            own.verify_token(alice, twins[1].persistent_id, token),
            own.verify_token(alice, twins[0].persistent_id, token),
            own.match_token(alice, token),
        )
    ]
    assert sum(found is not None for found in await asyncio.gather(*uses)) == 1


@pytest.mark.parametrize("size", [1, 100])
async def test_while_keys_rotate(
    otp: OTP, sessions: Sessions, alice: User, twins: list[Any], size: int
) -> None:
    """Half-way through a rotation two rows of one secret still know each other, and so they do in
    two attempts that have waited for its commit."""
    otps = [OTP(sessions, Device, secret_key=[OTHER_KEY, SECRET_KEY]) for _ in range(3)]
    written, go = asyncio.Event(), asyncio.Event()
    rotating = otps[0].transactions
    write = rotating.write

    async def write_and_wait(work: Any) -> Any:
        async def and_wait(session: Any) -> Any:
            batch = await work(session)
            written.set()
            await go.wait()
            return batch

        return await write(and_wait)

    rotating.write = write_and_wait  # type: ignore[method-assign]
    batches: Any = rotate_keys(otps[0], size)
    first = asyncio.ensure_future(anext(batches))
    await written.wait()
    token = token_at(twins[0])
    uses = [
        asyncio.create_task(own.verify_token(alice, twin.persistent_id, token))
        for own, twin in zip(otps[1:], twins, strict=True)
    ]
    await blocked(otp, len(uses))
    go.set()
    await first
    assert sum(found is not None for found in await asyncio.gather(*uses)) == 1
    await forgive(otp, twins)
    for twin in twins:
        assert await otps[1].verify_token(alice, twin.persistent_id, token) is None
    await batches.aclose()


async def test_keys_that_rotate_while_the_lock_is_waited_for(
    otp: OTP, sessions: Sessions, alice: User, stopped_clock: Any
) -> None:
    """Who waits for the lock on a twin, which is written under another key meanwhile, and has
    accepted the token, still knows it."""
    one, other = [await make_device(otp, alice, TOTPDevice, secret=SECRET) for _ in range(2)]
    table: Any = TOTPDevice.__table__
    waiting = text("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
    async with sessions.begin() as session:
        await session.get(TOTPDevice, one.id, with_for_update=True)
        attempt = asyncio.create_task(otp.verify_token(alice, other.persistent_id, token_at(other)))
        while not await session.scalar(waiting):
            await asyncio.sleep(0.01)
        await session.execute(update(table).values(secret_digest="0" * 64))
        spent = update(table).where(table.c.id == one.id).values(last_t=1_900_000_000 // 30)
        await session.execute(spent)
    assert await attempt is None


async def test_what_twins_cost(
    otp: OTP, engine: AsyncEngine, alice: User, twins: list[Any]
) -> None:
    """A locking SELECT more than alone, however many others there are; and an UPDATE more where
    there is a row more to spend the token for."""
    for _ in range(20):
        await make_device(otp, alice, type(twins[0]), secret=secrets.token_bytes(20))
    statements = Statements(engine)
    token = token_at(twins[0])
    assert await otp.verify_token(alice, twins[1].persistent_id, token) == twins[1]
    assert await otp.verify_token(alice, twins[0].persistent_id, token) is None
    verbs = [statement.split()[0] for statement in statements]
    assert verbs == ["SELECT", "SELECT", "UPDATE", "UPDATE", "UPDATE", "SELECT", "SELECT", "UPDATE"]


async def blocked(otp: OTP, count: int) -> None:
    """Wait until so many transactions wait for a lock."""
    query = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    async with asyncio.timeout(30):
        while await otp.read(lambda session: session.scalar(query)) < count:
            await asyncio.sleep(0.01)


async def forgive(otp: OTP, devices: list[Any]) -> None:
    for device in devices:
        async with otp.transactions.sessionmaker.begin() as session:
            row = await session.get(type(device), device.id)
            if row is not None:
                row.throttle_reset()
