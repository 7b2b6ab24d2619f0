"""A device's secret at rest: sealed, its owner's only, never readable in the database."""

import base64
import logging
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from starlette_otp import OTP, ConfigurationError, SecretUnreadable
from starlette_otp.models import Base, Device, StaticDevice, TOTPDevice, User
from tests.hosts import make_host
from tests.support import (
    OTHER_KEY,
    PASSWORD,
    SECRET,
    SECRET_KEY,
    Browser,
    Sessions,
    add,
    make_app,
    make_static,
    make_totp,
    reload,
    totp_token,
)

OTHER_SECRET = b"abcdefghijklmnopqrst"


async def execute(engine: AsyncEngine, statement: str, **values: Any) -> Any:
    async with engine.begin() as connection:
        return await connection.execute(text(statement), values)


async def test_nothing_readable_in_the_database(
    otp: OTP, sessions: Sessions, engine: AsyncEngine, alice: User
) -> None:
    """RFC 6238 section 5.1, ASVS 6.5.2: after a whole log-in no row of any table holds a secret,
    a static token, the password or the session's token in any spelling."""
    await make_totp(sessions, alice)
    static, (made, chosen) = await make_static(sessions, alice, None, "Chosen-Code")
    async with Browser(make_app(otp)) as browser:
        assert (await browser.log_in(totp_token())).status_code == 303
        assert (await browser.state())["verified"]
        session_token = browser.cookie
    async with engine.connect() as connection:
        dump = ""
        for table in Base.metadata.tables:
            rows = await connection.scalars(text(f"SELECT t::text FROM {table} t"))
            dump += "\n".join(rows.all()).lower()
    assert "alice" in dump
    secrets = {
        "totp": SECRET,
        "static": (await reload(sessions, static)).secret,
        "made": made.encode(),
        "made, canonical": made.replace("-", "").encode(),
        "chosen": chosen.encode(),
        "chosen, canonical": b"chosencode",
        "password": PASSWORD.encode(),
        "session": session_token.encode(),
    }
    assert len(session_token) == 43
    for name, secret in secrets.items():
        for spelling in (
            secret.decode("latin-1"),
            secret.hex(),
            base64.b64encode(secret).decode().rstrip("="),
            base64.urlsafe_b64encode(secret).decode().rstrip("="),
            base64.b32encode(secret).decode().rstrip("="),
        ):
            assert spelling.lower() not in dump, name


async def test_a_new_device_draws_its_secret(sessions: Sessions, otp: OTP, alice: User) -> None:
    """RFC 4226 R6, RFC 6238 5.1: 20 random bytes unless one is set, the same when read back."""
    device, other = TOTPDevice(user_id=alice.id), TOTPDevice(user_id=alice.id)
    shown = device.secret
    await add(sessions, device, other)
    assert len(shown) == 20
    assert (await reload(sessions, device)).secret == device.secret == shown
    assert len((await reload(sessions, other)).secret) == 20
    assert other.secret != shown


@pytest.mark.parametrize("short", [b"", b"123456789012345", "1234567890123456", None])
def test_a_short_secret_is_refused(short: Any) -> None:
    """RFC 4226 R6: less than 16 bytes is a ValueError when set."""
    with pytest.raises(ValueError, match="16 bytes"):
        TOTPDevice(secret=short)


@pytest.mark.parametrize("names", ["secret user_id", "user_id secret"])
async def test_sealed_whatever_the_order_of_arguments(
    names: str, sessions: Sessions, otp: OTP, alice: User
) -> None:
    """The owner inside the sealed text is the row's, set before the secret or after it."""
    values = {"secret": SECRET, "user_id": alice.id}
    device = await add(sessions, TOTPDevice(**{name: values[name] for name in names.split()}))
    assert (await reload(sessions, device)).secret == SECRET


async def test_a_changed_secret_is_sealed_anew(sessions: Sessions, otp: OTP, alice: User) -> None:
    """Setting the secret of a stored device replaces what is in its row."""
    device = await make_totp(sessions, alice)
    sealed = device.sealed_secret
    async with sessions.begin() as session:
        own = await session.get(TOTPDevice, device.id)
        own.secret = OTHER_SECRET
        assert own.secret == OTHER_SECRET
    changed = await reload(sessions, device)
    assert changed.secret == OTHER_SECRET
    assert changed.sealed_secret != sealed
    assert await otp.match_token(alice, totp_token(OTHER_SECRET)) == device


async def test_an_old_ciphertext_put_back_verifies_nothing(
    sessions: Sessions, engine: AsyncEngine, otp: OTP, alice: User
) -> None:
    """Who can write into the database and has an old backup of it can't bring a replaced secret
    back, into its own row or into that of another device of the same user."""
    device = await make_totp(sessions, alice)
    stolen = device.sealed_secret
    async with sessions.begin() as session:
        (await session.get_one(TOTPDevice, device.id)).secret = OTHER_SECRET
    other = await make_totp(sessions, alice, secret=OTHER_SECRET)
    await execute(engine, "UPDATE otp_device SET sealed_secret = :stolen", stolen=stolen)
    for row in (device, other):
        assert await otp.verify_token(alice, row.persistent_id, totp_token(SECRET)) is None
        with pytest.raises(SecretUnreadable):
            _ = (await reload(sessions, row)).secret


async def test_a_row_from_before_secrets_had_ids(
    sessions: Sessions, engine: AsyncEngine, otp: OTP, alice: User
) -> None:
    """A secret that was sealed without an id of its own goes on verifying."""
    device = await make_totp(sessions, alice)
    sealed = otp.keyring.seal(SECRET, kind="totp", owner=str(alice.id))
    await execute(
        engine, "UPDATE otp_device SET sealed_secret = :sealed, secret_id = NULL", sealed=sealed
    )
    assert await otp.verify_token(alice, device.persistent_id, totp_token(SECRET)) == device


async def test_a_changed_secret_on_an_expired_instance(
    engine: AsyncEngine, otp: OTP, alice: User
) -> None:
    """A device can be given a secret and an owner after a commit expired it."""
    bob = await add(async_sessionmaker(engine, expire_on_commit=False), User(username="bob"))
    async with async_sessionmaker(engine)() as session:
        device = TOTPDevice(user_id=alice.id, secret=SECRET)
        session.add(device)
        await session.commit()
        device.secret = OTHER_SECRET
        await session.commit()
        device.user_id = bob.id
        await session.commit()
        await session.refresh(device)
        assert device.secret == OTHER_SECRET


async def test_a_secret_that_was_rolled_back_is_forgotten(
    sessions: Sessions, otp: OTP, alice: User
) -> None:
    """A secret set in a transaction that rolls back is neither read nor written afterwards."""
    device = await make_totp(sessions, alice)
    async with sessions() as session:
        own = await session.get(TOTPDevice, device.id)
        own.secret = OTHER_SECRET
        await session.rollback()
        await session.refresh(own)
        assert own.secret == SECRET
        own.name = "phone"
        await session.commit()
    assert (await reload(sessions, device)).secret == SECRET


async def test_moved_to_another_user_the_secret_stays_readable(
    sessions: Sessions, otp: OTP, alice: User, bob: User
) -> None:
    """A device moved by the ORM is sealed for its new owner, whose token it accepts."""
    device = await make_totp(sessions, alice)
    async with sessions.begin() as session:
        (await session.get(TOTPDevice, device.id)).user_id = bob.id
    assert (await reload(sessions, device)).secret == SECRET
    assert await otp.match_token(alice, totp_token()) is None
    assert await otp.match_token(bob, totp_token()) == device


UNREADABLE = {
    "another user's": "UPDATE otp_device SET sealed_secret = :foreign WHERE id = :id",
    "another kind's": "UPDATE otp_device SET sealed_secret = :static WHERE id = :id",
    "moved by SQL": "UPDATE otp_device SET user_id = :bob WHERE id = :id",
    "truncated": "UPDATE otp_device SET sealed_secret = left(sealed_secret, 60) WHERE id = :id",
    "empty": "UPDATE otp_device SET sealed_secret = '' WHERE id = :id",
    "none": "UPDATE otp_device SET sealed_secret = NULL WHERE id = :id",
    "plain": "UPDATE otp_device SET sealed_secret = '12345678901234567890' WHERE id = :id",
}


@pytest.mark.parametrize("statement", UNREADABLE.values(), ids=UNREADABLE)
async def test_an_unreadable_secret_is_refused_and_logged(
    statement: str,
    otp: OTP,
    sessions: Sessions,
    engine: AsyncEngine,
    alice: User,
    bob: User,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A sealed text that is not this row's accepts nothing, is logged without itself, and is no
    failure of the user's, in verify_token, match_token and confirm_device alike."""
    device = await make_totp(sessions, alice)
    bobs = await make_totp(sessions, bob)
    static, _ = await make_static(sessions, alice)
    every = {
        "id": device.id,
        "bob": bob.id,
        "foreign": bobs.sealed_secret,
        "static": static.sealed_secret,
    }
    used = {name: value for name, value in every.items() if f":{name}" in statement}
    await execute(engine, statement, **used)
    user = bob if "bob" in used else alice
    await execute(engine, "DELETE FROM otp_device WHERE id = :id", id=bobs.id)
    before = await reload(sessions, device)
    with pytest.raises(SecretUnreadable):
        _ = before.secret
    with caplog.at_level(logging.ERROR, "starlette_otp"):
        assert await otp.verify_token(user, device.persistent_id, totp_token()) is None
        assert await otp.match_token(user, totp_token()) is None
        assert await otp.confirm_device(user, device.persistent_id, totp_token()) is None
    assert [device.persistent_id in record.getMessage() for record in caplog.records] == [True] * 3
    after = await reload(sessions, device)
    assert after.sealed_secret == before.sealed_secret
    assert (
        after.sealed_secret is None
        or len(after.sealed_secret) < 20
        or (after.sealed_secret not in caplog.text)
    )
    assert (after.throttling_failure_count, after.last_t) == (0, -1)


async def test_an_unreadable_device_does_not_stand_in_the_way(
    otp: OTP, sessions: Sessions, engine: AsyncEngine, alice: User
) -> None:
    """match_token goes on to the next device, and only a readable one counts a failure."""
    broken, good = await make_totp(sessions, alice), await make_totp(sessions, alice)
    await execute(engine, UNREADABLE["truncated"], id=broken.id)
    assert await otp.match_token(alice, totp_token()) == good
    assert await otp.match_token(alice, totp_token()) is None
    counts = [(await reload(sessions, row)).throttling_failure_count for row in (broken, good)]
    assert counts == [0, 1]


async def test_without_an_otp_there_are_no_keys(
    empty_url: str, sessions: Sessions, alice: User
) -> None:
    """Before OTP(...) a device can't be stored, and the error says what to make."""
    models = make_host()
    async with sessions() as session:
        session.add(models.TOTPDevice(user_id=1, secret=SECRET))
        with pytest.raises(ConfigurationError, match=r"make an OTP\(...\)"):
            await session.flush()


async def test_keys_rotate(sessions: Sessions, alice: User) -> None:
    """The newest key seals, the older still open; devices of a key that is gone verify nothing."""
    OTP(sessions, Device, secret_key=SECRET_KEY)
    old = await make_totp(sessions, alice)
    static, (kept,) = await make_static(sessions, alice, None)
    otp = OTP(sessions, Device, secret_key=[OTHER_KEY, SECRET_KEY])
    new = await make_totp(sessions, alice, secret=OTHER_SECRET)
    assert await otp.match_token(alice, totp_token()) == old
    assert await otp.match_token(alice, totp_token(OTHER_SECRET)) == new
    assert await otp.match_token(alice, kept) == static
    otp = OTP(sessions, Device, secret_key=OTHER_KEY)
    with pytest.raises(SecretUnreadable, match=old.persistent_id):
        _ = (await reload(sessions, old)).secret
    assert (await reload(sessions, new)).secret == OTHER_SECRET


def test_a_static_device_has_a_secret_of_its_own() -> None:
    """Two static devices digest the same token differently: a digest copied over is useless."""
    one, two = StaticDevice(), StaticDevice()
    assert one.secret != two.secret
    assert len(one.secret) == 20
