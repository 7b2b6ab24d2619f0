"""Key rotation: device secrets under the first key, while the application runs."""

import asyncio
import logging
import secrets
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import delete, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from starlette_otp import OTP, SecretUnreadable
from starlette_otp.cli import main
from starlette_otp.keyring import Keyring
from starlette_otp.models import Device, EmailDevice, HOTPDevice, User
from starlette_otp.service import rotation
from tests.support import (
    SECRET,
    Sessions,
    Statements,
    add,
    make_static,
    make_totp,
    reload,
    totp_token,
)

NEW_KEY = "the new secret key of these tests in 40 characters"
OLD_KEY = "the old secret key of these tests in 40 characters"
OLDEST_KEY = "the oldest secret key of these tests in 40 characters"
DONE = "Every device secret is under the first key."
TABLE: Any = Device.__table__


@pytest.fixture
def otp(sessions: Sessions) -> OTP:
    """The application before the rotation."""
    return made_under(sessions, OLD_KEY)


def made_under(sessions: Sessions, *keys: str) -> OTP:
    """The application with these keys."""
    return OTP(sessions, Device, secret_key=keys)


async def rotate(database_url: str, *arguments: str, old: str = OLD_KEY) -> Result:
    """Run the command as the shell does, beside this test's event loop."""
    env = {"DATABASE_URL": database_url, "SECRET_KEY": NEW_KEY, "OLD_SECRET_KEYS": old}
    command = ["rotate-keys", *arguments]
    return await asyncio.to_thread(CliRunner().invoke, main, command, env=env)


async def sealed(sessions: Sessions) -> dict[int, str]:
    async with sessions() as session:
        rows = await session.execute(select(TABLE.c.id, TABLE.c.sealed_secret))
        return {row.id: row.sealed_secret for row in rows}


async def under(sessions: Sessions, key: str) -> int:
    """How many secrets open under this key alone."""
    ring = Keyring(key)
    async with sessions() as session:
        rows = await session.execute(select(TABLE.c.kind, TABLE.c.user_id, TABLE.c.sealed_secret))
    opened = [ring.open(r.sealed_secret, kind=r.kind, owner=str(r.user_id)) for r in rows]
    return len(opened) - opened.count(None)


async def test_after_a_rotation_the_old_keys_can_go(
    sessions: Sessions, alice: User, database_url: str
) -> None:
    """Devices of all kinds and of several old keys verify under the new key alone, and a recovery
    code made under the oldest opens once."""
    made_under(sessions, OLDEST_KEY)
    static, (code, other) = await make_static(sessions, alice, None, None)
    made_under(sessions, OLD_KEY, OLDEST_KEY)
    totp = await make_totp(sessions, alice)
    hotp = await add(sessions, HOTPDevice(user_id=alice.id, secret=SECRET))
    await add(sessions, EmailDevice(user_id=alice.id))
    made_under(sessions, NEW_KEY, OLD_KEY, OLDEST_KEY)
    assert await under(sessions, NEW_KEY) == 0
    result = await rotate(database_url, old=f"{OLD_KEY}\n{OLDEST_KEY}")
    assert result.exit_code == 0, result.output
    assert DONE in result.output
    otp = made_under(sessions, NEW_KEY)
    assert await otp.verify_token(alice, totp.persistent_id, totp_token()) == totp
    assert await otp.verify_token(alice, hotp.persistent_id, "755224") == hotp
    assert await otp.match_token(alice, code) == static
    assert await otp.verify_token(alice, static.persistent_id, code) is None
    async with sessions.begin() as session:
        (await session.get_one(type(static), static.id)).throttle_reset()
    assert await otp.match_token(alice, other) == static


@pytest.mark.parametrize("batch", ["1", "3", "7", "100"])
async def test_in_batches(
    sessions: Sessions, otp: OTP, alice: User, database_url: str, batch: str
) -> None:
    """However many rows a transaction has, every secret is rewritten, and a second run rewrites
    none."""
    for _ in range(7):
        await make_totp(sessions, alice)
    result = await rotate(database_url, "--batch", batch)
    assert (result.exit_code, DONE in result.output) == (0, True), result.output
    assert await under(sessions, NEW_KEY) == 7
    before = await sealed(sessions)
    assert (await rotate(database_url, "--batch", batch)).exit_code == 0
    assert await sealed(sessions) == before


async def test_an_empty_database(database_url: str, sessions: Sessions) -> None:
    """Without devices there is nothing to do, and that is said."""
    result = await rotate(database_url)
    assert (result.exit_code, DONE in result.output) == (0, True)


@pytest.mark.parametrize("batch", ["0", "-1", "x"])
async def test_a_batch_that_is_none(
    sessions: Sessions, otp: OTP, alice: User, database_url: str, batch: str
) -> None:
    """A batch of no rows is refused: it would end before it began and call that a success."""
    await make_totp(sessions, alice)
    result = await rotate(database_url, "--batch", batch)
    assert result.exit_code == 2
    assert DONE not in result.output


async def test_stopped_half_way_it_goes_on(
    sessions: Sessions, otp: OTP, alice: User, database_url: str
) -> None:
    """What was done stays done, both halves verify meanwhile, and a second run does the rest."""
    ours = [secrets.token_bytes(20) for _ in range(6)]
    devices = [await make_totp(sessions, alice, secret=secret) for secret in ours]
    otp = made_under(sessions, NEW_KEY, OLD_KEY)
    async for _ in rotation.rotate_keys(otp, 2):
        break
    half = await sealed(sessions)
    assert (await under(sessions, NEW_KEY), await under(sessions, OLD_KEY)) == (2, 4)
    for number in (0, -1):
        device, token = devices[number], totp_token(ours[number])
        assert await otp.verify_token(alice, device.persistent_id, token) == device
    assert (await rotate(database_url)).exit_code == 0
    after = await sealed(sessions)
    assert await under(sessions, NEW_KEY) == 6
    assert [id for id in half if half[id] == after[id]] == [d.id for d in devices[:2]]


async def test_while_the_application_verifies(
    sessions: Sessions, otp: OTP, alice: User, bob: User
) -> None:
    """Verifications that go on meanwhile all succeed, are recorded, and none of their rows is left
    behind or taken back."""
    owners = [alice] * 10 + [bob] * 10
    ours = [secrets.token_bytes(20) for _ in owners]
    pairs = zip(owners, ours, strict=True)
    devices = [await make_totp(sessions, owner, secret=secret) for owner, secret in pairs]
    otp = made_under(sessions, NEW_KEY, OLD_KEY)

    async def turn() -> int:
        return sum([batch.rows async for batch in rotation.rotate_keys(otp, 3)])

    uses = [
        otp.verify_token(owner, device.persistent_id, totp_token(secret))
        for owner, device, secret in zip(owners, devices, ours, strict=True)
    ]
    guesses = [otp.match_token(user, "letters") for user in (alice, bob)]
    total, *results = await asyncio.gather(turn(), *uses, *guesses)
    assert total == 20
    assert results == [*devices, None, None]
    assert await under(sessions, NEW_KEY) == 20
    assert all([(await reload(sessions, device)).last_used_at for device in devices])


async def test_rows_deleted_meanwhile_do_not_end_it(
    sessions: Sessions, otp: OTP, engine: AsyncEngine, alice: User
) -> None:
    """A batch whose rows are deleted while it waits for them is not the last one."""
    devices = [await make_totp(sessions, alice) for _ in range(3)]
    otp = made_under(sessions, NEW_KEY, OLD_KEY)
    async with engine.connect() as connection:
        await connection.execute(delete(TABLE).where(TABLE.c.id == devices[0].id))
        steps = rotation.rotate_keys(otp, 1)
        first = asyncio.ensure_future(anext(steps))
        await until_someone_waits(engine)
        await connection.commit()
        await first
    async for _ in steps:
        pass
    assert await under(sessions, NEW_KEY) == 2


async def test_a_secret_set_meanwhile_stays(
    sessions: Sessions, otp: OTP, engine: AsyncEngine, alice: User
) -> None:
    """A secret that the application sets while the rotation waits is not overwritten by the old."""
    device = await make_totp(sessions, alice)
    otp = made_under(sessions, NEW_KEY, OLD_KEY)
    async with sessions() as session:
        (await session.get_one(type(device), device.id)).secret = b"another secret 67890"
        await session.flush()
        steps = rotation.rotate_keys(otp)
        first = asyncio.ensure_future(anext(steps))
        await until_someone_waits(engine)
        await session.commit()
        await first
    assert (await reload(sessions, device)).secret == b"another secret 67890"
    sent = Statements(engine)
    assert [batch.unreadable async for batch in rotation.rotate_keys(otp)] == [[]]
    assert not [statement for statement in sent if statement.startswith("UPDATE")], "none is due"


async def until_someone_waits(engine: AsyncEngine) -> None:
    """Until a session of this database waits for a lock."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with engine.connect() as connection:
        while not await connection.scalar(waiting):
            await connection.rollback()
            await asyncio.sleep(0.01)


async def test_a_secret_under_a_retired_key(
    sessions: Sessions, otp: OTP, alice: User, caplog: pytest.LogCaptureFixture
) -> None:
    """When the old key went too early the token is refused, is no failure of the user's, and one
    sentence in the log names the command."""
    device = await make_totp(sessions, alice)
    otp = made_under(sessions, NEW_KEY)
    with caplog.at_level(logging.ERROR, "starlette_otp"):
        assert await otp.verify_token(alice, device.persistent_id, totp_token()) is None
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert device.persistent_id in record.getMessage()
    assert "`starlette-otp rotate-keys`" in record.getMessage()
    assert (await reload(sessions, device)).throttling_failure_count == 0
    otp = made_under(sessions, NEW_KEY, OLD_KEY)
    assert await otp.verify_token(alice, device.persistent_id, totp_token()) == device


async def test_what_does_not_decrypt_is_counted(
    sessions: Sessions,
    otp: OTP,
    engine: AsyncEngine,
    alice: User,
    bob: User,
    database_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Truncated, emptied, swapped and foreign ciphertexts are left as they are, counted, named in
    the log, and make the exit code 1; the others are rewritten all the same."""
    made_under(sessions, OLDEST_KEY)
    lost = await make_totp(sessions, alice)
    made_under(sessions, OLD_KEY)
    mine, bobs = await make_totp(sessions, alice), await make_totp(sessions, bob)
    cut, empty = await make_totp(sessions, alice), await make_totp(sessions, alice)
    good = await make_totp(sessions, alice)
    broken = {
        mine.id: bobs.sealed_secret,
        bobs.id: mine.sealed_secret,
        cut.id: cut.sealed_secret[:60] if cut.sealed_secret else "",
        empty.id: "",
    }
    async with engine.begin() as connection:
        for row_id, value in broken.items():
            change = update(TABLE).where(TABLE.c.id == row_id).values(sealed_secret=value)
            await connection.execute(change)
    before = await sealed(sessions)
    result = await rotate(database_url, "--batch", "2")
    assert result.exit_code == 1
    named = ", ".join(device.persistent_id for device in (lost, mine, bobs, cut, empty))
    assert f"5 of the secrets decrypt under no key of these: {named}." in result.output
    assert DONE not in result.output
    after = await sealed(sessions)
    assert [id for id in before if before[id] != after[id]] == [good.id]
    for device in (lost, mine, bobs, cut, empty):
        assert str(SecretUnreadable(device.persistent_id)) in caplog.text
    assert not any(value in caplog.text for value in before.values() if value)


async def test_rows_of_undeclared_kinds_and_without_a_secret(
    sessions: Sessions, otp: OTP, engine: AsyncEngine, alice: User, database_url: str
) -> None:
    """A kind that this application does not declare is rewritten for the one that does; a row
    without a secret has none to rewrite."""
    strange, none = await make_totp(sessions, alice), await make_totp(sessions, alice)
    value = otp.keyring.seal(SECRET, kind="pager", owner=str(alice.id))
    async with engine.begin() as connection:
        for row, values in (
            (strange, {"kind": "pager", "sealed_secret": value, "secret_id": None}),
            (none, {"sealed_secret": None}),
        ):
            await connection.execute(update(TABLE).where(TABLE.c.id == row.id).values(values))
    assert (await rotate(database_url)).exit_code == 0
    after = (await sealed(sessions))[strange.id]
    assert Keyring(NEW_KEY).open(after, kind="pager", owner=str(alice.id)) == SECRET


async def test_the_progress_counts_every_secret(sessions: Sessions, otp: OTP, alice: User) -> None:
    """The bar's length is the number of secrets, and the batches add up to it."""
    for _ in range(5):
        await make_totp(sessions, alice)
    assert await rotation.count_secrets(otp) == 5
    rows = [batch.rows async for batch in rotation.rotate_keys(otp, 2)]
    assert rows == [2, 2, 1]


async def test_without_keys_or_database_it_says_so(database_url: str) -> None:
    """A short key or a dead database is one sentence and exit code 1."""
    result = await rotate(database_url, old="short")
    assert (result.exit_code, "32 characters" in result.output) == (1, True)
    result = await rotate("postgresql://127.0.0.1:9/none")
    assert (result.exit_code, "can't be reached" in result.output) == (1, True)


def test_a_reseal_is_for_what_opens() -> None:
    """`reseal` gives the same text when it is under the first key, another under an old one, and
    nothing for what is another row's."""
    ring, row = Keyring([NEW_KEY, OLD_KEY]), {"kind": "totp", "owner": "1"}
    old, new = Keyring(OLD_KEY).seal(SECRET, **row), ring.seal(SECRET, **row)
    assert ring.reseal(new, **row) == new
    resealed = ring.reseal(old, **row)
    assert resealed is not None
    assert Keyring(NEW_KEY).open(resealed, **row) == SECRET
    assert ring.reseal(old, kind="totp", owner="2") is None
    assert ring.reseal("garbage", **row) is None


async def test_rotation_lets_rows_of_one_secret_know_each_other(
    otp: OTP, sessions: Sessions, engine: AsyncEngine, alice: User, database_url: str
) -> None:
    """The digests by which two rows of one secret are known are made anew under the new key, and
    made at all where a row is from before there were any."""
    one = await make_totp(sessions, alice)
    async with engine.begin() as connection:
        await connection.execute(update(TABLE).values(secret_digest=None))
    made_under(sessions, OLD_KEY)
    other = await make_totp(sessions, alice)
    assert (await rotate(database_url)).exit_code == 0
    otp = made_under(sessions, NEW_KEY)
    late = await make_totp(sessions, alice)
    rows = [await reload(sessions, row) for row in (one, other, late)]
    assert len({row.secret_digest for row in rows}) == 1
    token = totp_token()
    assert await otp.verify_token(alice, one.persistent_id, token) == one
    for row in (other, late):
        assert await otp.verify_token(alice, row.persistent_id, token) is None
