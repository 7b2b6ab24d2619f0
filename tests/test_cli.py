"""The command line."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import func, make_url, select

from starlette_otp import OTP, clock
from starlette_otp.cli import main
from starlette_otp.models import OTPSession, StaticDevice, StaticToken, User
from tests.support import SECRET_KEY, Sessions, add, make_static

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


async def run(*arguments: str, **env: str | None) -> Result:
    """Run a command as the shell does, beside this test's event loop."""
    return await asyncio.to_thread(CliRunner().invoke, main, list(arguments), env=env)


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
    for path in ("no_such_module:otp", "host_of_cli_test:nothing", "host_of_cli_test:something"):
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


async def test_missing_tables_are_one_sentence(empty_url: str) -> None:
    """In a database without the tables the error names the command that builds them, or the
    option; a database that does not exist is named."""
    result = await run("clearsessions", DATABASE_URL=empty_url, SECRET_KEY=SECRET_KEY)
    assert result.exit_code == 1
    assert 'relation "otp_session" does not exist. Run `starlette-otp migrate`' in result.output
    assert result.output.count("\n") == 1
    nowhere = make_url(empty_url).set(database="nowhere").render_as_string(hide_password=False)
    result = await run("migrate", DATABASE_URL=nowhere)
    assert (result.exit_code, 'database "nowhere" does not exist' in result.output) == (1, True)
