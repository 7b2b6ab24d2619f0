"""The command line."""

import asyncio
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import func, make_url, select
from sqlalchemy.ext.asyncio import async_sessionmaker

from starlette_otp import OTP, clock
from starlette_otp.cli import main
from starlette_otp.models import OTPSession, StaticDevice, StaticToken, User
from tests.hosts import Subject
from tests.support import OTHER_KEY, PASSWORD, SECRET_KEY, Sessions, add, make_static, make_totp

HOST = """
import os
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool
from starlette_otp import OTP
from starlette_otp.models import Device

engine = create_async_engine(os.environ["HOST_DATABASE"], poolclass=NullPool)
otp = OTP(async_sessionmaker(engine), Device, secret_key=os.environ["HOST_KEY"])
something = 1
"""


async def run(*arguments: str, typed: str | None = None, **env: str | None) -> Result:
    """Run a command as the shell does, beside this test's event loop."""
    return await asyncio.to_thread(CliRunner().invoke, main, list(arguments), input=typed, env=env)


async def count(sessions: Sessions, model: type) -> int:
    async with sessions() as session:
        return await session.scalar(select(func.count()).select_from(model)) or 0


async def test_addstatictoken_is_the_way_in(
    otp: OTP, sessions: Sessions, alice: User, database_url: str
) -> None:
    """It makes the static device when there is none, and prints a token that opens once."""
    env = {"DATABASE_URL": database_url, "SECRET_KEY": SECRET_KEY}
    result = await run("addstatictoken", "alice", **env)
    assert result.exit_code == 0, result.output
    token = result.output.strip()
    assert await otp.match_token(alice, token) is not None
    assert await otp.match_token(alice, token) is None


async def test_addstatictoken_reuses_the_first_static_device(
    otp: OTP, sessions: Sessions, alice: User, database_url: str
) -> None:
    """A chosen token goes to the device the user has; it is printed as it was given."""
    device, _ = await make_static(sessions, alice, None)
    env = {"DATABASE_URL": database_url, "SECRET_KEY": SECRET_KEY}
    result = await run("addstatictoken", "alice", "--token", "Open-Sesame", **env)
    assert (result.exit_code, result.output) == (0, "Open-Sesame\n")
    assert await count(sessions, StaticDevice) == 1
    assert await otp.verify_token(alice, device.persistent_id, "opensesame") == device


@pytest.mark.parametrize("username", ["nobody", "al\0ice", "", "x" * 10_000])
async def test_addstatictoken_knows_no_such_user(
    username: str, alice: User, sessions: Sessions, database_url: str
) -> None:
    """An unknown user is a clear error and exit code 1, and nothing is made."""
    env = {"DATABASE_URL": database_url, "SECRET_KEY": SECRET_KEY}
    result = await run("addstatictoken", username, **env)
    assert result.exit_code == 1
    assert "There is no user named" in result.output
    assert await count(sessions, StaticDevice) == 0


async def test_a_bad_token_changes_nothing(
    alice: User, sessions: Sessions, database_url: str
) -> None:
    """A token that is too short is refused in a sentence, and no device is made for it."""
    env = {"DATABASE_URL": database_url, "SECRET_KEY": SECRET_KEY}
    result = await run("addstatictoken", "alice", "--token", "abc", **env)
    assert result.exit_code == 1
    assert "6 to 64 characters" in result.output
    assert await count(sessions, StaticDevice) == await count(sessions, StaticToken) == 0


async def test_addstatictoken_by_key(otp: OTP, alice: User, database_url: str) -> None:
    """A user may be named by primary key; one that nobody has, or that is none, is one sentence."""
    env = {"DATABASE_URL": database_url, "SECRET_KEY": SECRET_KEY}
    result = await run("addstatictoken", "--key", f"{alice.id}", **env)
    assert result.exit_code == 0, result.output
    assert await otp.match_token(alice, result.output.strip()) is not None
    for key in (f"{alice.id + 1}", "alice", "", "9" * 30, "\N{SUPERSCRIPT TWO}"):
        result = await run("addstatictoken", "--key", key, **env)
        assert result.exit_code == 1
        assert result.output == f"Error: There is no user with the key {key!r}.\n"
    for named in ([], ["alice", "--key", f"{alice.id}"]):
        result = await run("addstatictoken", *named, **env)
        assert (result.exit_code, "by USERNAME or by --key" in result.output) == (2, True)


NAMELESS = """
class Person(Base):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    address: Mapped[str]

class Device(DeviceMixin, Base):
    __user_model__ = Person
"""
ELSEWHERE = """
class Device(DeviceMixin, Base):
    user_id: Mapped[str] = mapped_column(String(255), index=True)
"""
OWN_TABLES = """
import os
from sqlalchemy import String
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool
from starlette_otp import OTP
from starlette_otp.devices import *

class Base(DeclarativeBase):
    pass
{users}
class StaticDevice(StaticDeviceMixin, Device):
    pass

class StaticToken(StaticTokenMixin, Base):
    __device_model__ = Device

class OTPSession(OTPSessionMixin, Base):
    __device_model__ = Device

engine = create_async_engine(os.environ["HOST_DATABASE"], poolclass=NullPool)
otp = OTP(async_sessionmaker(engine), Device, secret_key=os.environ["HOST_KEY"])
"""


@pytest.fixture
def own_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_url: str
) -> Callable[[str, str], tuple[Any, dict[str, str | None]]]:
    """Makes the module of an application with users of its own; and its settings."""
    monkeypatch.chdir(tmp_path)
    env = {"HOST_DATABASE": empty_url, "HOST_KEY": SECRET_KEY}

    def make(name: str, users: str) -> tuple[Any, dict[str, str | None]]:
        (tmp_path / f"{name}.py").write_text(OWN_TABLES.format(users=users))
        monkeypatch.syspath_prepend(tmp_path)
        for variable, value in env.items():
            monkeypatch.setenv(variable, value)
        sys.modules.pop(name, None)
        return importlib.import_module(name), {**env}

    return make


async def test_users_without_a_name_have_a_key(own_tables: Any) -> None:
    """Of a user class without `username` the key names a user, and the error says so."""
    host, env = own_tables("nameless_of_cli_test", NAMELESS)
    async with host.engine.begin() as connection:
        await connection.run_sync(host.Base.metadata.create_all)
    person = await add(async_sessionmaker(host.engine), host.Person(address="a@site.example"))
    app = ("--app", "nameless_of_cli_test:otp")
    result = await run("addstatictoken", "a@site.example", *app, **env)
    assert result.exit_code == 1
    assert "no user named 'a@site.example'. They have no username" in result.output
    assert "--key" in result.output
    result = await run("adduser", "a@site.example", *app, typed=f"{PASSWORD}\n{PASSWORD}\n", **env)
    assert (result.exit_code, "no user model with username" in result.output) == (1, True)
    result = await run("addstatictoken", "--key", "1", *app, **env)
    assert result.exit_code == 0, result.output
    assert await host.otp.match_token(person, result.output.strip()) is not None


@pytest.mark.parametrize("named", [["oidc|7"], ["--key", "oidc|7"]])
async def test_users_who_live_elsewhere_are_named_by_their_identity(
    own_tables: Any, named: list[str]
) -> None:
    """Where the users are in no table, a name and a key are the same."""
    host, env = own_tables("elsewhere_of_cli_test", ELSEWHERE)
    async with host.engine.begin() as connection:
        await connection.run_sync(host.Base.metadata.create_all)
    result = await run("addstatictoken", *named, "--app", "elsewhere_of_cli_test:otp", **env)
    assert result.exit_code == 0, result.output
    assert await host.otp.match_token(Subject("oidc|7"), result.output.strip()) is not None


async def test_clearsessions_deletes_expired_rows_only(
    sessions: Sessions, alice: User, database_url: str
) -> None:
    """Expired sessions go, in batches; those that live stay."""
    now = clock.now()

    def row(number: int, age: timedelta) -> OTPSession:
        return OTPSession(
            token_digest=f"{number}",
            user_id=alice.id,
            created_at=now,
            expires_at=now - age,
            password_fingerprint="",
        )

    expired = [row(number, timedelta(seconds=1)) for number in range(7)]
    await add(sessions, *expired, row(7, timedelta(days=-1)))
    env = {"DATABASE_URL": database_url, "SECRET_KEY": SECRET_KEY}
    result = await run("clearsessions", "--batch", "3", **env)
    assert (result.exit_code, result.output) == (0, "Deleted 7 expired sessions.\n")
    assert await count(sessions, OTPSession) == 1


async def test_app_names_the_hosts_own_objects(
    otp: OTP, alice: User, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--app module:otp uses the host's OTP; what is wrong with it is one sentence."""
    (tmp_path / "host_of_cli_test.py").write_text(HOST)
    monkeypatch.chdir(tmp_path)
    env = {"HOST_DATABASE": database_url, "HOST_KEY": SECRET_KEY, "DATABASE_URL": None}
    result = await run("addstatictoken", "alice", "--app", "host_of_cli_test:otp", **env)
    assert result.exit_code == 0, result.output
    assert await otp.match_token(alice, result.output.strip())
    for number, line in enumerate(("1 / 0", "raise SystemExit('two\\nlines')", "def (")):
        (tmp_path / f"broken_{number}_of_cli_test.py").write_text(line)
    for path in (
        "no_such_module:otp",
        "host_of_cli_test:nothing",
        "host_of_cli_test:something",
        "broken_0_of_cli_test:otp",
        "broken_1_of_cli_test:otp",
        "broken_2_of_cli_test:otp",
        ":otp",
    ):
        result = await run("clearsessions", "--app", path, **env)
        assert result.exit_code == 1
        assert result.output.startswith(f"Error: --app {path}")
        assert result.output.count("\n") == 1


async def test_missing_settings_are_one_sentence(database_url: str) -> None:
    """Without a key or a database the error says what to set; a dead database is no traceback."""
    result = await run("clearsessions", DATABASE_URL=database_url, SECRET_KEY=None)
    assert (result.exit_code, "Set SECRET_KEY" in result.output) == (1, True)
    result = await run("clearsessions", DATABASE_URL=None, SECRET_KEY=SECRET_KEY)
    assert (result.exit_code, "Set DATABASE_URL" in result.output) == (1, True)
    result = await run("clearsessions", DATABASE_URL=database_url, SECRET_KEY="short")
    assert (result.exit_code, "32 characters" in result.output) == (1, True)
    result = await run("clearsessions", DATABASE_URL="sqlite:///x.db", SECRET_KEY=SECRET_KEY)
    assert (result.exit_code, "has to be a PostgreSQL" in result.output) == (1, True)
    dead = "postgresql://127.0.0.1:9/none"
    for command in ("clearsessions", "migrate"):
        result = await run(command, DATABASE_URL=dead, SECRET_KEY=SECRET_KEY)
        assert (result.exit_code, "can't be reached" in result.output) == (1, True), result.output


async def test_no_setting_is_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that is none, in DATABASE_URL or in the host's own engine, is one sentence."""
    url = "postgresql+asyncpg://u@localhost:99999/d"
    (tmp_path / "host_of_cli_port_test.py").write_text(HOST)
    monkeypatch.chdir(tmp_path)
    for given in (["migrate"], ["clearsessions"], ["rotate-keys"]):
        result = await run(*given, DATABASE_URL=url, SECRET_KEY=SECRET_KEY)
        assert (result.exit_code, "99999" in result.output) == (1, True), result.output
    given = ["clearsessions", "--app", "host_of_cli_port_test:otp"]
    result = await run(*given, HOST_DATABASE=url, HOST_KEY=SECRET_KEY)
    assert (result.exit_code, result.output.count("\n")) == (1, 1), result.output
    assert result.output.startswith("Error: ")


async def test_a_wrong_key_is_one_line(
    otp: OTP, sessions: Sessions, alice: User, database_url: str
) -> None:
    """Under a wrong key a thousand devices are one line: how many, and some by name."""
    for _ in range(7):
        await make_totp(sessions, alice)
    shown = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "starlette_otp", "rotate-keys"],
        env={**os.environ, "DATABASE_URL": database_url, "SECRET_KEY": OTHER_KEY},
        capture_output=True,
        text=True,
    )
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr == (
        "Error: 7 of the secrets decrypt under no key of these: "
        "totp/1, totp/2, totp/3, totp/4, totp/5 and 2 more.\n"
    )


@pytest.mark.parametrize("command", [[], ["migrate"], ["demo"]])
async def test_h_is_help(command: list[str]) -> None:
    """`-h` is understood by every command."""
    result = await run(*command, "-h")
    assert (result.exit_code, result.output.startswith("Usage:")) == (0, True)


async def test_missing_tables_are_one_sentence(empty_url: str) -> None:
    """In a database without the tables the error names the command that builds them, or the
    option; a database that does not exist is named."""
    result = await run("clearsessions", DATABASE_URL=empty_url, SECRET_KEY=SECRET_KEY)
    assert result.exit_code == 1
    assert re.search('relation "otp_.*" does not exist. Run `starlette-otp migrate`', result.output)
    assert result.output.count("\n") == 1
    nowhere = make_url(empty_url).set(database="nowhere").render_as_string(hide_password=False)
    result = await run("migrate", DATABASE_URL=nowhere)
    assert (result.exit_code, 'database "nowhere" does not exist' in result.output) == (1, True)


async def test_adduser_makes_a_user_who_can_sign_in(
    otp: OTP, sessions: Sessions, database_url: str
) -> None:
    """The password is asked for, twice; with --staff the user is staff, without it not."""
    env = {"DATABASE_URL": database_url, "SECRET_KEY": SECRET_KEY}
    for name, options in (("alice", ["--staff"]), ("bob", [])):
        typed = f"{PASSWORD}\n{PASSWORD}\n"
        result = await run("adduser", name, *options, typed=typed, **env)
        assert result.exit_code == 0, result.output
        assert PASSWORD not in result.output
        user = await otp.find_user(name)
        assert (user.is_staff, user.is_active) == (bool(options), True)
        assert user.check_password(PASSWORD)


@pytest.mark.parametrize(
    ("username", "typed", "said"),
    [
        ("alice", f"{PASSWORD}\n{PASSWORD}\n", "There is a user named 'alice' already."),
        ("", f"{PASSWORD}\n{PASSWORD}\n", "A username is 1 to 254 characters"),
        ("b\0b", f"{PASSWORD}\n{PASSWORD}\n", "A username is 1 to 254 characters"),
        ("bob", "x" * 1025 + "\n" + "x" * 1025 + "\n", "1024 characters"),
    ],
)
async def test_adduser_refuses_in_a_sentence(
    alice: User, sessions: Sessions, database_url: str, username: str, typed: str, said: str
) -> None:
    """A name that is taken or none, or a password that is none: nobody is made."""
    env = {"DATABASE_URL": database_url, "SECRET_KEY": SECRET_KEY}
    result = await run("adduser", username, typed=typed, **env)
    assert (result.exit_code, said in result.output) == (1, True), result.output
    assert await count(sessions, User) == 1


@pytest.mark.parametrize("typed", [f"{PASSWORD}\nanother\n", ""])
async def test_adduser_aborts_without_a_password(
    sessions: Sessions, database_url: str, typed: str
) -> None:
    """Where nobody types a password twice alike, nobody is made."""
    shown = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "starlette_otp", "adduser", "bob"],
        env={**os.environ, "DATABASE_URL": database_url, "SECRET_KEY": SECRET_KEY},
        input=typed,
        capture_output=True,
        text=True,
        start_new_session=True,  # without a terminal that could be asked instead
    )
    assert (shown.returncode, shown.stderr.endswith("Aborted!\n")) == (1, True), shown.stderr
    assert await count(sessions, User) == 0
