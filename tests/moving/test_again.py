"""A move that is run again: what was set up anew, confirmed, removed or let in meanwhile."""

import time
from pathlib import Path
from typing import Any

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from starlette_otp import OTP, oath
from starlette_otp.models import Device, User
from starlette_otp.moving.brought import BroughtDevice
from starlette_otp.moving.catch_up import catch_up
from starlette_otp.moving.rules import ALREADY, Judged
from tests.moving.old import CREATE, KEY, OTHER_KEY, Old, Run
from tests.support import Sessions, make_user

UNPROTECTED = "Without a second factor here: ann"


async def test_confirmed_there_since(otp: OTP, old: Old, run: Run, sessions: Sessions) -> None:
    """A device that waited is moved anew once it is confirmed; until then it protects nobody."""
    ann = await old.user("ann")
    number = await old.app(ann, confirmed=False)
    assert (await run(*CREATE, "--unconfirmed", "keep")).exit_code == 0
    user: Any = await otp.find_user("ann")
    assert await otp.devices_for_user(user) == []
    await old.run("UPDATE otp_totp_totpdevice SET confirmed = true WHERE id = $1", number)
    result = await run(*CREATE)
    assert result.exit_code == 0, result.output
    (device,) = await otp.devices_for_user(user)
    token = oath.hotp(bytes.fromhex(KEY), oath.time_step(time.time()))
    assert await otp.verify_token(user, device.persistent_id, token)
    assert (await run(*CREATE)).exit_code == 0
    assert len(await otp.devices_for_user(user)) == 1


async def test_confirmed_here_since(otp: OTP, old: Old, run: Run, sessions: Sessions) -> None:
    """It does not come twice."""
    number = await old.app(await old.user("ann"), confirmed=False)
    assert (await run(*CREATE, "--unconfirmed", "keep")).exit_code == 0
    user: Any = await otp.find_user("ann")
    (waiting,) = await otp.devices_for_user(user, confirmed=False)
    token = oath.hotp(bytes.fromhex(KEY), oath.time_step(time.time()))
    assert await otp.confirm_device(user, waiting.persistent_id, token)
    await old.run("UPDATE otp_totp_totpdevice SET confirmed = true WHERE id = $1", number)
    assert (await run(*CREATE)).exit_code == 0
    assert len(await otp.devices_for_user(user, confirmed=None)) == 1


async def test_stopped_by_staff_here(otp: OTP, old: Old, run: Run, sessions: Sessions) -> None:
    """A device that is not confirmed any more stays so, and its owner is named."""
    await old.app(await old.user("ann"))
    assert (await run(*CREATE)).exit_code == 0
    async with sessions.begin() as session:
        await session.execute(update(Device).values(confirmed=False))
    result = await run(*CREATE, "--catch-up")
    assert (result.exit_code, UNPROTECTED in result.output) == (1, True), result.output
    assert "not confirmed here" in result.output
    assert await otp.devices_for_user(await otp.find_user("ann")) == []


async def test_removed_here(otp: OTP, old: Old, run: Run, sessions: Sessions) -> None:
    """It does not come back; who has nothing else is named, and the operator chooses."""
    await old.app(await old.user("ann"))
    assert (await run(*CREATE)).exit_code == 0
    user: Any = await otp.find_user("ann")
    (device,) = await otp.devices_for_user(user)
    await otp.remove_device(user, device.persistent_id)
    result = await run(*CREATE)
    assert (result.exit_code, UNPROTECTED in result.output) == (1, True), result.output
    assert "no second factor here any more" in result.output
    assert (await run(*CREATE, "--unprotected", "skip")).exit_code == 3
    assert await otp.devices_for_user(user) == []


async def test_let_in_again(otp: OTP, old: Old, run: Run, sessions: Sessions) -> None:
    """Whom the operator has let in is not made inactive a second time; who is new, is."""
    await old.app(await old.user("ann"), "")
    options = (*CREATE, "--unprotected", "deactivate")
    assert (await run(*options)).exit_code == 3
    async with sessions.begin() as session:
        await session.execute(update(User).values(is_active=True))
    await old.app(await old.user("ben"), "")
    result = await run(*options)
    assert (result.exit_code, "database refused" in result.output) == (3, False), result.output
    users: list[Any] = [await otp.find_user(name) for name in ("ann", "ben")]
    assert [user.is_active for user in users] == [True, False]


async def test_set_up_anew(otp: OTP, old: Old, run: Run, sessions: Sessions) -> None:
    """In the same row, there or here: it is told, and catching up leaves the device alone."""
    ann = await old.user("ann")
    fob = await old.add("otp_hotp_hotpdevice", user_id=ann, key=KEY, counter=5)
    app = await old.app(ann)
    assert (await run(*CREATE)).exit_code == 0
    for table, number in (("hotp_hotp", fob), ("totp_totp", app)):
        statement = f"UPDATE otp_{table}device SET key = $1 WHERE id = $2"
        await old.run(statement, OTHER_KEY, number)
    await old.run("UPDATE otp_hotp_hotpdevice SET counter = 9")
    result = await run(*CREATE, "--catch-up")
    assert result.exit_code == 3, result.output
    assert set(old.outcomes.values()) == {"already", "refused"}
    assert "one of them was set up anew" in result.output
    devices = await otp.devices_for_user(await otp.find_user("ann"))
    assert {device.secret.hex() for device in devices} == {KEY}
    assert [device.counter for device in devices if device.kind == "hotp"] == [5]


async def test_removed_there(otp: OTP, old: Old, run: Run, sessions: Sessions) -> None:
    """A device that was moved and is gone there, as one that was stolen, is told of and stays."""
    ann = await old.user("ann")
    number = await old.app(ann)
    await old.codes(ann, "abcdefgh")
    assert (await run(*CREATE)).exit_code == 0
    await old.run("DELETE FROM otp_totp_totpdevice")
    result = await run(*CREATE, "--catch-up")
    assert result.exit_code == 0, result.output
    assert "1 x totp: It was removed there since, and is here still." in result.output
    assert old.outcomes[f"otp_totp_totpdevice/{number}"] == "already"
    assert len(await otp.devices_for_user(await otp.find_user("ann"))) == 2


async def test_what_catching_up_did_is_said(
    otp: OTP, old: Old, run: Run, sessions: Sessions
) -> None:
    """On the terminal, too."""
    await old.app(await old.user("ann"))
    assert (await run(*CREATE)).exit_code == 0
    await old.run("UPDATE otp_totp_totpdevice SET last_t = 5")
    result = await run(*CREATE, "--catch-up")
    assert "1 x totp: What was used there since is used here." in result.output


async def test_large_batches(otp: OTP, old: Old, run: Run, sessions: Sessions) -> None:
    """Thousands of users in one transaction, and again."""
    await old.run(
        "INSERT INTO auth_user (id, username) SELECT n, 'u' || n FROM generate_series(1, 4000) n"
    )
    await old.run(
        f"INSERT INTO otp_totp_totpdevice (id, user_id, key) SELECT n, n, '{KEY}' "
        "FROM generate_series(1, 4000) n"
    )
    for _ in range(2):
        result = await run(*CREATE, "--batch", "5000")
        assert result.exit_code == 0, result.output
    assert set(old.outcomes.values()) == {"already"}


async def test_in_one_database(
    otp: OTP, run: Run, engine: AsyncEngine, database_url: str, tmp_path: Path, old: Old
) -> None:
    """Where the old tables are beside ours, ours are not taken for an old site's."""
    site = Old(database_url, tmp_path)
    await site.make("otp_user_of_old")
    ann = await site.user("ann")
    await site.app(ann)
    await site.run("ALTER TABLE otp_device ADD FOREIGN KEY (user_id) REFERENCES otp_user_of_old")
    for _ in range(2):
        result = await run(*CREATE, "--from", site.url)
        assert result.exit_code == 0, result.output
    assert len(await otp.devices_for_user(await otp.find_user("ann"))) == 1


async def test_with_another_choice_of_users(
    otp: OTP, old: Old, run: Run, sessions: Sessions
) -> None:
    """Who was made here is not taken for whoever has the same key: that is another person."""
    zoe, yan = await make_user(sessions, "zoe"), await make_user(sessions, "yan")
    ann, ben = await old.user("ann", id=zoe.id), await old.user("ben", id=yan.id)
    await old.app(ann, id=11)
    await old.app(ben, id=12)
    assert (await run(*CREATE)).exit_code == 0
    await old.add("otp_hotp_hotpdevice", id=13, user_id=ann, key=OTHER_KEY)
    await old.run("DELETE FROM otp_totp_totpdevice WHERE id = 12")
    await old.add("otp_yubikey_yubikeydevice", id=14, user_id=ben)
    result = await run("--catch-up", "--unprotected", "deactivate")
    assert result.exit_code == 3, result.output
    assert "An earlier run made them another user here" in result.output
    assert old.outcomes["otp_hotp.hotpdevice/13"] == "refused"
    users: list[Any] = [await otp.find_user(name) for name in ("zoe", "yan")]
    for user in users:
        assert (user.is_active, await otp.devices_for_user(user)) == (True, [])
    assert (await run(*CREATE)).exit_code == 3
    assert len(await otp.devices_for_user(await otp.find_user("ann"))) == 2


async def test_codes_made_anew_there(otp: OTP, old: Old, run: Run, sessions: Sessions) -> None:
    """In the same row, as two-factor does it: those here are spent, which is told; and who has
    nothing else is without a second factor."""
    number = await old.codes(await old.user("ann"), "abcdefgh", "jkmnpqrs")
    assert (await run(*CREATE)).exit_code == 0
    await old.run("DELETE FROM otp_static_statictoken")
    await old.add("otp_static_statictoken", device_id=number, token="tuvwxyza")
    result = await run(*CREATE, "--catch-up")
    assert (result.exit_code, "made anew there" in result.output) == (3, True), result.output
    assert await otp.recovery_codes_left(await otp.find_user("ann")) == 0
    result = await run(*CREATE)
    assert (result.exit_code, UNPROTECTED in result.output) == (1, True), result.output


async def test_sites_of_names_that_begin_alike(
    otp: OTP, old: Old, run: Run, sessions: Sessions
) -> None:
    """The devices of one are not missing at the other."""
    user = await make_user(sessions, "ann")
    await old.user("ann", id=user.id)
    number = await old.app(user.id)
    assert (await run("--name", "club/north")).exit_code == 0
    await old.run("UPDATE otp_totp_totpdevice SET id = 999, key = $1", OTHER_KEY)
    result = await run("--name", "club")
    assert (result.exit_code, "removed there" in result.output) == (0, False), result.output
    result = await run("--name", "club/north")
    assert f"otp_totp_totpdevice/{number}" in old.outcomes
    assert "removed there" in result.output


async def test_catching_up_with_very_many(otp: OTP, sessions: Sessions) -> None:
    """More devices in a batch than a statement has parameters."""
    device = BroughtDevice("otp_totp_totpdevice", "1", "", "totp")
    there = [Judged(device, ALREADY, device_id=number) for number in range(1, 40_000)]
    async with sessions.begin() as session:
        await catch_up(session, Device, there)


async def test_two_sites_of_one_name(otp: OTP, old: Old, run: Run, sessions: Sessions) -> None:
    """Who has somebody's old key at another site does not become that somebody; who has changed
    their name here is still themselves."""
    for name in ("ann", "cat"):
        await old.app(await old.user(name))
    assert (await run(*CREATE)).exit_code == 0
    async with sessions.begin() as session:
        await session.execute(update(User).where(User.username == "cat").values(username="kate"))
    statement = "UPDATE auth_user SET username = 'bob', email = 'bob@b.example' WHERE id = 1"
    await old.run(statement)
    await old.app(1, OTHER_KEY)
    await old.app(3, OTHER_KEY)
    result = await run(*CREATE)
    assert (result.exit_code, "want a --name each" in result.output) == (3, True), result.output
    numbers = [len(await otp.devices_for_user(await otp.find_user(n))) for n in ("ann", "kate")]
    assert numbers == [1, 2]
