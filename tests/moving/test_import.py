"""A Django site moves in: what is carried over, what is not, and what the operator is told."""

import asyncio
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from click.testing import CliRunner
from sqlalchemy import MetaData, func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from starlette_otp import OTP, models, oath
from starlette_otp.cli import main
from starlette_otp.devices.users import hash_password
from starlette_otp.models import Base, Device, StaticToken, TOTPDevice, User
from starlette_otp.moving import include_name
from tests.moving.old import CREATE, KEY, OTHER_KEY, Old, Run, at
from tests.support import OTHER_KEY as OTHER_SECRET_KEY
from tests.support import PASSWORD, SECRET_KEY, Sessions, make_static, make_totp, make_user


async def all_rows(sessions: Sessions) -> list[str]:
    found: list[str] = []
    async with sessions() as session:
        for table in ("otp_user", "otp_device", "otp_static_token", "otp_import"):
            rows = await session.execute(text(f"SELECT t::text FROM {table} t ORDER BY 1"))
            found += rows.scalars()
    return found


async def count(sessions: Sessions, model: Any) -> int:
    async with sessions() as session:
        return await session.scalar(select(func.count()).select_from(model)) or 0


async def test_a_site_moves_in(otp: OTP, old: Old, run: Run, sessions: Sessions) -> None:
    """Users, passwords and devices; each device goes on where it was, and nobody enrols again."""
    now, step = time.time(), oath.time_step(time.time())
    ann = await old.user("ann", password=hash_password(PASSWORD), is_staff=True)
    await old.app(ann, last_t=step - 40, drift=1, last_used_at=at(now - 1200))
    await old.add("otp_hotp_hotpdevice", user_id=ann, key=OTHER_KEY, counter=7, name="Fob")
    await old.codes(ann, "ABCDEFGH", "abcdefgh", "23456789")
    sent_at = at(now - 20)
    await old.add(
        "otp_email_emaildevice", user_id=ann, token="123456", last_generated_timestamp=sent_at
    )
    await old.user("ben", password="!unusable", is_active=False)
    result = await run(*CREATE)
    assert result.exit_code == 0, result.output
    assert set(old.outcomes.values()) == {"imported"}
    user: Any = await otp.find_user("ann")
    assert (user.email, user.is_staff, user.check_password(PASSWORD)) == (
        "ann@old.example",
        True,
        True,
    )
    ben: Any = await otp.find_user("ben")
    assert (ben.is_active, ben.password_hash) == (False, "")
    app, fob, codes, mail = await otp.devices_for_user(user)
    assert (app.last_t, app.drift, app.secret.hex()) == (step - 40, 1, KEY)
    assert await otp.verify_token(user, app.persistent_id, oath.hotp(app.secret, step + 1))
    assert await otp.verify_token(user, fob.persistent_id, oath.hotp(fob.secret, 7))
    assert not await otp.verify_token(user, fob.persistent_id, oath.hotp(fob.secret, 6))
    for token, is_there in (("abcd-efgh", True), ("23456789", True), ("ABCDEFGH", False)):
        found = await otp.verify_token(user, codes.persistent_id, token)
        assert (found is not None) == is_there, token
    assert mail.last_generated_timestamp == sent_at
    assert not await otp.verify_token(user, mail.persistent_id, "123456")


async def test_a_second_run_brings_nothing_back(
    otp: OTP, old: Old, run: Run, sessions: Sessions
) -> None:
    """Removed devices, users and spent codes stay gone; only what is new comes."""
    ann, ben = await old.user("ann"), await old.user("ben")
    await old.app(ann)
    await old.codes(ann, "abcdefgh", "23456789")
    await old.app(ben)
    assert (await run(*CREATE)).exit_code == 0
    user: Any = await otp.find_user("ann")
    app, codes = await otp.devices_for_user(user)
    await otp.remove_device(user, app.persistent_id)
    assert await otp.verify_token(user, codes.persistent_id, "abcdefgh")
    async with sessions.begin() as session:
        await session.delete(await otp.find_user("ben"))
    before = await all_rows(sessions)
    result = await run(*CREATE)
    assert (result.exit_code, set(old.outcomes.values())) == (0, {"already"}), result.output
    assert await all_rows(sessions) == before
    assert "removed here" in result.output
    new = await old.add("otp_hotp_hotpdevice", user_id=ann, key=OTHER_KEY)
    assert (await run(*CREATE)).exit_code == 0
    assert old.outcomes[f"otp_hotp.hotpdevice/{new}"] == "imported"
    assert len(await otp.devices_for_user(user)) == 2


# What can't be carried over, and what becomes of who is left without.


REFUSED = {
    "no key": ({"key": ""}, "open"),
    "short": ({"key": KEY[:20]}, "16 bytes"),
    "no hex": ({"key": "zz" + KEY}, "not in hex"),
    "step 0": ({"key": KEY, "step": 0}, "1 to 3600"),
    "four digits": ({"key": KEY, "digits": 4}, "6 to 10"),
    "tolerance": ({"key": KEY, "tolerance": 150}, "0 to 100"),
}


@pytest.mark.parametrize(("values", "reason"), REFUSED.values(), ids=REFUSED)
async def test_what_the_models_refuse(
    otp: OTP, old: Old, run: Run, sessions: Sessions, values: dict[str, Any], reason: str
) -> None:
    """Its owner would be without a second factor: nothing is written, and they are named."""
    ann, ben = await old.user("ann"), await old.user("ben")
    number = await old.app(ann, **values)
    await old.app(ben)
    result = await run(*CREATE)
    assert result.exit_code == 1, result.output
    assert f"Without a second factor here: ann ({ann})." in result.output
    assert "Nothing is written" in result.output
    line = old.report()[f"otp_totp.totpdevice/{number}"]
    assert (line["outcome"], reason in line["reason"]) == ("refused", True), line
    assert (await count(sessions, User), await count(sessions, Device)) == (0, 0)


async def test_unprotected_users(
    otp: OTP, old: Old, run: Run, sessions: Sessions, tmp_path: Path
) -> None:
    """They are left out, made inactive, or given recovery codes that nobody else can read."""
    ann = await old.user("ann")
    await old.add("otp_yubikey_yubikeydevice", user_id=ann)
    await old.user("ben")
    assert (await run(*CREATE, "--unprotected", "skip")).exit_code == 3
    assert await otp.find_user("ann") is None
    assert await otp.find_user("ben") is not None
    assert (await run(*CREATE, "--unprotected", "codes")).exit_code == 2
    file = tmp_path / "codes"
    result = await run(*CREATE, "--unprotected", "codes", "--codes-file", str(file))
    assert result.exit_code == 3, result.output
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    name, key, *made_codes = file.read_text().split()
    assert (name, key, len(made_codes)) == ("ann", f"({ann}):", 10)
    user: Any = await otp.find_user("ann")
    assert await otp.match_token(user, made_codes[0]) is not None
    assert not any(code in result.output for code in made_codes)
    cat = await old.user("cat")
    await old.app(cat, "")
    assert (await run(*CREATE, "--unprotected", "deactivate")).exit_code == 3
    found: Any = await otp.find_user("cat")
    assert not found.is_active
    again = await otp.find_user("ann")
    assert again is not None
    assert len(await otp.devices_for_user(again)) == 1


async def test_what_is_not_quite_as_it_was(
    otp: OTP, old: Old, run: Run, sessions: Sessions
) -> None:
    """Failures, a drift, doubled and short tokens, devices that were not confirmed: it is said."""
    ann = await old.user("ann")
    many = await old.app(ann, throttling_failure_count=5000, throttling_failure_timestamp=at(9))
    far = await old.app(ann, OTHER_KEY, drift=14)
    begun = await old.app(ann, confirmed=False)
    codes = await old.codes(ann, "samesame", "SAMESAME", "abc", "")
    result = await run(*CREATE)
    assert result.exit_code == 3
    report = old.report()
    said = {number: report[f"otp_totp.totpdevice/{number}"] for number in (many, far, begun)}
    assert [line["outcome"] for line in said.values()] == ["imported", "imported", "skipped"]
    assert "5000 failures, of which 99 count" in said[many]["reason"]
    assert "beyond ten steps" in said[far]["reason"]
    line = report[f"otp_static.staticdevice/{codes}"]
    assert line["outcome"] == "partly"
    assert "there twice, and count once: 1." in line["reason"]
    assert "and are gone: 2." in line["reason"]
    user: Any = await otp.find_user("ann")
    first, second, _ = await otp.devices_for_user(user)
    assert (first.throttling_failure_count, second.drift) == (99, 14)
    assert (await run(*CREATE, "--unconfirmed", "keep")).exit_code == 0
    (waiting,) = await otp.devices_for_user(user, confirmed=False)
    assert not waiting.pending_expired


@pytest.mark.parametrize(
    ("option", "failures", "is_stopped"),
    [("--keep-stopped", 100, True), ("--reset-throttling", 0, False)],
)
async def test_stopped_devices(
    otp: OTP, old: Old, run: Run, sessions: Sessions, option: str, failures: int, is_stopped: bool
) -> None:
    """As the operator wants it."""
    await old.app(await old.user("ann"), throttling_failure_count=100)
    assert (await run(*CREATE, option)).exit_code == 0
    (device,) = await otp.devices_for_user(await otp.find_user("ann"))
    assert (device.throttling_failure_count, device.is_stopped) == (failures, is_stopped)


PASSWORDS = {
    "md5": ("md5$salt$" + 32 * "0", "refuse", ""),
    "md5 kept": ("md5$salt$" + 32 * "0", "keep", "md5$salt$" + 32 * "0"),
    "plain": ("correct horse", "keep", ""),
    "pbkdf2": ("pbkdf2_sha256$1000$salt$AAAA", "refuse", "pbkdf2_sha256$1000$salt$AAAA"),
}


@pytest.mark.parametrize(("stored", "weak", "here"), PASSWORDS.values(), ids=PASSWORDS)
async def test_passwords(
    otp: OTP, old: Old, run: Run, sessions: Sessions, stored: str, weak: str, here: str
) -> None:
    """Carried over as they are; weak ones if that is wanted, and plain ones never."""
    ann = await old.user("ann", password=stored)
    result = await run(*CREATE, "--weak-passwords", weak)
    user: Any = await otp.find_user("ann")
    assert (user.password_hash, result.exit_code) == (here, 0 if here else 3)
    assert old.outcomes[f"auth_user/{ann}"] == ("imported" if here else "partly")
    assert stored not in result.output + old.report_file.read_text()


# Whose they become.


async def test_the_same_keys(otp: OTP, old: Old, run: Run, sessions: Sessions) -> None:
    """Of users who are here already; others are told of."""
    here = await make_user(sessions, "ann")
    await old.user("somebody", id=here.id)
    await old.app(here.id)
    stranger = await old.user("nobody", id=here.id + 77)
    number = await old.app(stranger)
    result = await run()
    assert result.exit_code == 3, result.output
    assert "no user with this key" in old.report()[f"otp_totp.totpdevice/{number}"]["reason"]
    assert len(await otp.devices_for_user(here)) == 1
    assert await count(sessions, User) == 1


@pytest.mark.parametrize("by", ["username", "email"])
async def test_who_matches(otp: OTP, old: Old, run: Run, sessions: Sessions, by: str) -> None:
    """By name or address; where two would be one, neither is."""
    ann = await make_user(sessions, "ann", email="ann@site.example")
    ben = await make_user(sessions, "ben", email="ben@site.example")
    await old.app(await old.user("ann", email="ANN@site.example"))
    for name in ("ben", "\N{FULLWIDTH LATIN SMALL LETTER B}en"):
        await old.app(await old.user(name, email="ben@site.example"))
    result = await run("--users", "match", "--match", by, "--batch", "1")
    assert result.exit_code == 3, result.output
    assert f"Several users there have the {by} of one here." in result.output
    assert len(await otp.devices_for_user(ann)) == 1
    assert await otp.devices_for_user(ben) == []


async def test_an_address_is_no_name(otp: OTP, old: Old, run: Run, sessions: Sessions) -> None:
    """Who has no name there is nobody here whose name is their address."""
    here = await make_user(sessions, "ann@old.example")
    number = await old.user("ann", username=None, email="ann@old.example")
    await old.app(number)
    assert (await run("--users", "match")).exit_code == 3
    assert await otp.devices_for_user(here) == []


async def test_names_that_are_taken(otp: OTP, old: Old, run: Run, sessions: Sessions) -> None:
    """Nobody takes over the account of who is here, nor do two become one."""
    await make_user(sessions, "ann")
    await old.app(await old.user("ann"))
    for name in ("ben", " ben"):
        await old.app(await old.user(name))
    await old.user("Ann")
    result = await run(*CREATE, "--batch", "1")
    assert result.exit_code == 3, result.output
    assert "somebody of this name here already" in result.output
    assert "Several users there would have one name here." in result.output
    assert await count(sessions, Device) == 0
    assert await otp.find_user("Ann") is not None


OWN = """
import os
from uuid import UUID, uuid4
from sqlalchemy import String
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool
from starlette_otp import OTP
from starlette_otp.devices import *

class Base(DeclarativeBase):
    __table_args__ = {"schema": "club"}

class Person(Base):
    __tablename__ = "person"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    email: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str] = mapped_column(default="")
    is_active: Mapped[bool] = mapped_column(default=True)

class Device(DeviceMixin, Base):
    __user_model__ = Person

class TOTPDevice(TOTPDeviceMixin, Device): ...

class SMSDevice(SideChannelDeviceMixin, Device):
    number: Mapped[str | None] = mapped_column(String(20))
    async def deliver(self, token, **context): ...

class OTPSession(OTPSessionMixin, Base):
    __device_model__ = Device

engine = create_async_engine(os.environ["HOST_DATABASE"], poolclass=NullPool)
otp = OTP(async_sessionmaker(engine), Device, secret_key=os.environ["HOST_KEY"], load_user=None)
"""


async def test_into_an_application_of_its_own(
    old: Old,
    run: Run,
    engine: AsyncEngine,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With keys, tables and a kind of its own, and users without a name."""
    (tmp_path / "moved_in.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    env = {"HOST_DATABASE": database_url, "HOST_KEY": SECRET_KEY}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    import moved_in  # type: ignore[import-not-found]

    async with engine.begin() as connection:
        await connection.execute(text("CREATE SCHEMA club"))
        await connection.run_sync(moved_in.Base.metadata.create_all)
    ann = await old.user("ann", email="ann@old.example")
    await old.add("otp_twilio_twiliosmsdevice", user_id=ann, number="+15555550100")
    await old.app(ann)
    hotp = await old.add("otp_hotp_hotpdevice", user_id=ann, key=OTHER_KEY)
    kind = ("--kind", "otp_twilio_twiliosmsdevice=sms:number")
    app = ("--app", "moved_in:otp")
    result = await run(*CREATE, *app, *kind, **env)
    assert result.exit_code == 3, result.output
    assert "no kind of device 'hotp'" in old.report()[f"otp_hotp.hotpdevice/{hotp}"]["reason"]
    async with engine.connect() as connection:
        query = text("SELECT p.email, d.kind, d.number FROM club.otp_device d JOIN club.person p")
        query = text(f"{query} ON p.id = d.user_id ORDER BY d.kind")
        rows = [tuple(row) for row in await connection.execute(query)]
        known = await connection.scalar(text("SELECT count(*) FROM club.otp_import"))
    assert rows == [
        ("ann@old.example", "sms", "+15555550100"),
        ("ann@old.example", "totp", None),
    ]
    assert known == 3
    wrong = await run(*CREATE, *app, "--kind", "otp_none=sms:number", **env)
    assert (wrong.exit_code, "no such table" in wrong.output) == (1, True)


async def test_users_with_other_keys(
    otp: OTP, empty_url: str, tmp_path: Path, database_url: str
) -> None:
    """A user model of another name and key, found by the devices' foreign key."""
    site = Old(empty_url, tmp_path)
    await site.make("accounts_person", "uuid")
    import uuid

    ann = await site.user("ann", id=uuid.uuid4())
    await site.app(ann)
    env = {"DATABASE_URL": database_url, "SECRET_KEY": SECRET_KEY}
    arguments = ["import-django", "--from", site.url, *CREATE, "--yes"]
    result = await asyncio.to_thread(CliRunner().invoke, main, arguments, env=env)
    assert result.exit_code == 0, result.output
    assert len(await otp.devices_for_user(await otp.find_user("ann"))) == 1


# Again, at once, half-way.


async def test_catching_up(otp: OTP, old: Old, run: Run, sessions: Sessions) -> None:
    """What was used there since is used here; never the other way, nor on what was used here."""
    ann, ben = await old.user("ann"), await old.user("ben")
    step = oath.time_step(time.time())
    app = await old.app(ann, last_t=step - 100)
    fob = await old.add("otp_hotp_hotpdevice", user_id=ann, key=OTHER_KEY, counter=5)
    await old.codes(ann, "abcdefgh", "23456789")
    used_here = await old.app(ben, last_t=step - 100)
    assert (await run(*CREATE)).exit_code == 0
    other: Any = await otp.find_user("ben")
    (theirs,) = await otp.devices_for_user(other)
    assert await otp.verify_token(other, theirs.persistent_id, oath.hotp(theirs.secret, step - 1))
    for number in (app, used_here):
        await old.run("UPDATE otp_totp_totpdevice SET last_t = $1 WHERE id = $2", step, number)
    await old.run("UPDATE otp_hotp_hotpdevice SET counter = 3 WHERE id = $1", fob)
    await old.run("DELETE FROM otp_static_statictoken WHERE token = $1", "abcdefgh")
    result = await run(*CREATE, "--catch-up")
    assert result.exit_code == 0, result.output
    user: Any = await otp.find_user("ann")
    first, second, codes = await otp.devices_for_user(user)
    assert (first.last_t, second.counter) == (step, 5)
    assert await otp.verify_token(user, codes.persistent_id, "23456789")
    assert not await otp.verify_token(user, codes.persistent_id, "abcdefgh")
    (theirs,) = await otp.devices_for_user(other)
    assert theirs.last_t == step - 1


async def test_codes_that_were_made_here_since(
    otp: OTP, old: Old, run: Run, sessions: Sessions, tmp_path: Path
) -> None:
    """Catching up leaves them alone; and codes that were given once are not given again."""
    ann, ben = await old.user("ann"), await old.user("ben")
    await old.codes(ann, "abcdefgh", "23456789")
    await old.app(ben, "")
    given = (*CREATE, "--unprotected", "codes", "--codes-file", str(tmp_path / "codes"))
    assert (await run(*given)).exit_code == 3
    user: Any = await otp.find_user("ann")
    new_codes = await otp.new_recovery_codes(user)
    other: Any = await otp.find_user("ben")
    (codes,) = await otp.devices_for_user(other)
    await otp.remove_device(other, codes.persistent_id)
    result = await run(*given, "--catch-up")
    assert result.exit_code == 3, result.output
    assert await otp.recovery_codes_left(user) == len(new_codes)
    assert await otp.devices_for_user(other) == []


async def many(old: Old, number: int = 40) -> None:
    for name in range(number):
        user = await old.user(f"user{name}")
        await old.app(user)
        await old.codes(user, "abcdefgh", f"code{name:04}")


def command(old: Old, *options: str) -> list[str]:
    given = ["import-django", "--from", old.url, *CREATE, "--batch", "1", "--yes", *options]
    return [sys.executable, "-m", "starlette_otp", *given]


async def test_killed_half_way(
    otp: OTP, old: Old, run: Run, sessions: Sessions, database_url: str
) -> None:
    """Each user is there whole or not at all, and another run brings the rest."""
    await many(old)
    env = {**os.environ, "DATABASE_URL": database_url, "SECRET_KEY": SECRET_KEY}
    process = subprocess.Popen(command(old), env=env, stdout=subprocess.DEVNULL)
    while await count(sessions, User) < 3:
        await asyncio.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = await count(sessions, User)
    assert there < 40
    assert await count(sessions, Device) == 2 * there
    assert await count(sessions, StaticToken) == 2 * there
    result = await run(*CREATE)
    assert result.exit_code == 0, result.output
    numbers = [await count(sessions, model) for model in (User, Device, StaticToken)]
    assert numbers == [40, 80, 80]


async def test_two_at_once(otp: OTP, old: Old, sessions: Sessions, database_url: str) -> None:
    """Nothing comes twice, and neither fails."""
    await many(old, 25)
    env = {**os.environ, "DATABASE_URL": database_url, "SECRET_KEY": SECRET_KEY}
    both = [
        await asyncio.create_subprocess_exec(
            *command(old), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for _ in range(2)
    ]
    said = [(await one.communicate())[0].decode() for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    numbers = [await count(sessions, model) for model in (User, Device, StaticToken)]
    assert numbers == [25, 50, 50]


# What can't be done is a sentence.


async def test_a_dry_run_and_a_no(otp: OTP, old: Old, run: Run, sessions: Sessions) -> None:
    """Say what would be done, and write nothing."""
    ann = await old.user("ann")
    await old.app(ann)
    assert (await run(*CREATE, "--dry-run")).exit_code == 0
    assert old.outcomes[f"auth_user/{ann}"] == "imported"
    result = await run(*CREATE, yes=False)
    assert (result.exit_code, "Nothing is written." in result.output) == (1, True)
    assert await count(sessions, User) == 0


async def test_wrong_options(otp: OTP, old: Old, run: Run, tmp_path: Path) -> None:
    """Are told as such."""
    file = tmp_path / "settings"
    file.write_text("[]")
    for wrong in (("--kind", "nonsense"), ("--settings", str(file)), ("--users", "some")):
        result = await run(*wrong)
        assert result.exit_code == 2, result.output
    result = await run("--username-column", "nick")
    assert (result.exit_code, "has no column 'nick'" in result.output) == (1, True)


@pytest.mark.parametrize("command", ["import-django", "import-allauth", "import-flask-security"])
async def test_another_kind_of_database(
    otp: OTP, database_url: str, empty_url: str, command: str
) -> None:
    """It has no such tables."""
    env = {"DATABASE_URL": database_url, "SECRET_KEY": SECRET_KEY}
    arguments = [command, "--from", empty_url, "--yes"]
    result = await asyncio.to_thread(CliRunner().invoke, main, arguments, env=env)
    assert (result.exit_code, "This database has no table" in result.output) == (1, True)


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "postgresql://x:hunter2@127.0.0.1:1/y"])
async def test_a_source_that_is_none(otp: OTP, database_url: str, url: str) -> None:
    """And its password is not told."""
    env = {"DATABASE_URL": database_url, "SECRET_KEY": SECRET_KEY}
    arguments = ["import-django", "--from", url, "--yes"]
    result = await asyncio.to_thread(CliRunner().invoke, main, arguments, env=env)
    assert result.exit_code == 1
    assert re.search("--from is a|can't be reached", result.output)
    assert "hunter2" not in result.output


async def test_targets_that_take_nothing(
    otp: OTP, old: Old, run: Run, sessions: Sessions, engine: AsyncEngine, alice: User
) -> None:
    """One that is read-only, one without tables, one under another key."""
    await old.app(await old.user("ann"))
    await make_totp(sessions, alice)
    result = await run(*CREATE, SECRET_KEY=OTHER_SECRET_KEY)
    assert (result.exit_code, "under another key" in result.output) == (1, True)
    name = engine.url.database
    async with engine.begin() as connection:
        setting = f"ALTER DATABASE {name} SET default_transaction_read_only = on"
        await connection.execute(text(setting))
    result = await run(*CREATE)
    assert (result.exit_code, "read-only" in result.output) == (1, True), result.output
    async with engine.connect() as connection:
        await connection.execute(text("SET default_transaction_read_only = off"))
        await connection.execute(text(f"ALTER DATABASE {name} RESET default_transaction_read_only"))
        await connection.commit()
    without_tables = old.url.replace("postgresql", "postgresql+asyncpg", 1)
    result = await run(*CREATE, DATABASE_URL=without_tables)
    assert (result.exit_code, "The database says" in result.output) == (1, True)
    assert "Traceback" not in result.output


async def test_nothing_secret_is_said(otp: OTP, old: Old, run: Run, sessions: Sessions) -> None:
    """Neither in the output nor in the report."""
    ann = await old.user("ann", password="pbkdf2_sha256$1000$salt$AAAA")
    await old.app(ann)
    await old.app(ann, KEY[:20])
    await old.app(ann, "not-a-hex-key-at-all")
    await old.codes(ann, "abcdefgh", "abc")
    result = await run(*CREATE)
    said = result.output + old.report_file.read_text()
    for needle in (KEY, KEY[:20], "not-a-hex", "abcdefgh", "salt$AAAA", "@old.example"):
        assert needle not in said, needle


async def test_the_hosts_alembic_leaves_the_record_alone(
    otp: OTP, old: Old, run: Run, engine: AsyncEngine
) -> None:
    """With the filter that the page names; and beside the ready-made tables with theirs."""
    await old.user("ann")
    assert (await run(*CREATE)).exit_code == 0

    def differences(connection: Any, filter_: Any, metadata: MetaData) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"include_name": filter_})
        return list(compare_metadata(context, metadata))

    async with engine.connect() as connection:
        assert await connection.run_sync(differences, include_name, Base.metadata) == []
        assert await connection.run_sync(differences, models.include_name, MetaData()) == []


async def test_static_devices_and_an_app_keep_what_was_there(
    otp: OTP, old: Old, run: Run, sessions: Sessions
) -> None:
    """Users who have devices here already keep them."""
    ann = await make_user(sessions, "ann")
    await make_static(sessions, ann, None)
    await old.user("ann", id=ann.id)
    await old.app(ann.id, "")
    assert (await run()).exit_code == 3
    assert await count(sessions, TOTPDevice) == 0
    assert len(await otp.devices_for_user(ann)) == 1
