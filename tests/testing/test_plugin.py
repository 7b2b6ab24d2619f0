"""The pytest plugin for hosts: a database of its own, and never one with somebody's rows."""

import asyncio
import importlib
import re
import tomllib
from pathlib import Path

from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine

from starlette_otp.models import User
from tests.conftest import sql
from tests.host_suite import run_pytest
from tests.support import Sessions, reload

STRICT = {
    "pytest.ini": "[pytest]\nasyncio_mode = auto\nfilterwarnings = error\n"
    "asyncio_default_fixture_loop_scope = function\n"
}
TESTS = """
from sqlalchemy import func, select
from starlette_otp.models import TOTPDevice, User
from starlette_otp.testing import make_device, token_at


async def test_a_token_opens(otp, user, other_user):
    device = await make_device(otp, user, TOTPDevice)
    assert await otp.match_token(user, token_at(device)) == device
    assert await otp.devices_for_user(other_user) == []


def test_the_next_begins_empty(otp_sessions, user):
    assert user.id == 1
"""
SHOWS = """
from sqlalchemy import text

async def test_show(otp_sessions, user):
    async with otp_sessions() as session:
        print("made", await session.scalar(text("SELECT current_database()")))
"""


def told_to_use(url: str) -> str:
    """A conftest.py of a host who names a database for the tests."""
    return (
        "import pytest\n\n@pytest.fixture(scope='session')\n"
        f"def otp_database_url():\n    return {url!r}\n"
    )


async def databases(engine: AsyncEngine) -> set[str]:
    async with engine.connect() as connection:
        return set(await connection.scalars(text("SELECT datname FROM pg_database")))


async def test_the_database_that_the_environment_names_is_left_alone(
    engine: AsyncEngine, sessions: Sessions, alice: User, tmp_path: Path
) -> None:
    """Tests pass beside a database full of rows and change none; theirs is gone after the run."""
    url = engine.url.render_as_string(hide_password=False)
    files = {**STRICT, "test_it.py": TESTS, "test_show.py": SHOWS}
    files["pytest.ini"] += "addopts = -s\n"
    result = await asyncio.to_thread(run_pytest, tmp_path, files, DATABASE_URL=url)
    assert (result.returncode, "3 passed" in result.stdout) == (0, True), result.stdout
    made = re.search(r"made (otp_test_\w+)", result.stdout)
    assert made, result.stdout
    assert made[1] not in await databases(engine)
    assert await reload(sessions, alice) is not None


async def test_a_database_with_rows_is_refused(
    engine: AsyncEngine, sessions: Sessions, alice: User, tmp_path: Path
) -> None:
    """Told to use a database with rows that it did not make, the plugin says so, and they stay."""
    url = engine.url.render_as_string(hide_password=False)
    files = {**STRICT, "test_it.py": TESTS, "conftest.py": told_to_use(url)}
    result = await asyncio.to_thread(run_pytest, tmp_path, files)
    assert result.returncode == 1
    assert f"{engine.url.database} has rows in public.otp_user" in result.stdout
    assert "passed" not in result.stdout
    assert await reload(sessions, alice) is not None


async def test_rows_in_other_tables_are_rows(empty_engine: AsyncEngine, tmp_path: Path) -> None:
    """A database whose only rows are in tables of others is refused, and nothing is built in it."""
    url = empty_engine.url.render_as_string(hide_password=False)
    async with empty_engine.begin() as connection:
        await connection.execute(text('CREATE TABLE "An order" AS SELECT 1 AS id'))
    files = {**STRICT, "test_it.py": TESTS, "conftest.py": told_to_use(url)}
    result = await asyncio.to_thread(run_pytest, tmp_path, files)
    assert (result.returncode, '"An order"' in result.stdout) == (1, True)
    async with empty_engine.connect() as connection:
        assert await connection.scalar(text("SELECT to_regclass('otp_user')")) is None


async def test_an_empty_database_may_be_given(engine: AsyncEngine, tmp_path: Path) -> None:
    """A migrated database without rows does, run after run."""
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE otp_alembic_version AS SELECT '0001' AS id"))
    url = engine.url.render_as_string(hide_password=False)
    files = {**STRICT, "test_it.py": TESTS, "conftest.py": told_to_use(url)}
    for _ in range(2):
        result = await asyncio.to_thread(run_pytest, tmp_path, files)
        assert (result.returncode, "2 passed" in result.stdout) == (0, True), result.stdout


CLUB = """
from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette_otp.devices import *

class Base(DeclarativeBase):
    metadata = MetaData(schema="club")

class User(UserMixin, Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)

class Device(DeviceMixin, Base):
    __user_model__ = User

class TOTPDevice(TOTPDeviceMixin, Device):
    pass

class OTPSession(OTPSessionMixin, Base):
    __device_model__ = Device
"""


async def test_the_tables_may_be_in_a_schema(empty_url: str, tmp_path: Path) -> None:
    """It is made with them, and emptied after each test."""
    files = {
        "pytest.ini": STRICT["pytest.ini"] + "otp_device_model = club:Device\n",
        "club.py": CLUB,
        "test_it.py": TESTS.replace("starlette_otp.models", "club"),
    }
    result = await asyncio.to_thread(run_pytest, tmp_path, files, DATABASE_URL=empty_url)
    assert (result.returncode, "2 passed" in result.stdout) == (0, True), result.stdout


def test_it_starts_a_server_where_there_is_none(tmp_path: Path) -> None:
    """Without DATABASE_URL a PostgreSQL runs for these tests alone."""
    result = run_pytest(tmp_path, {**STRICT, "test_it.py": TESTS}, DATABASE_URL=None)
    assert (result.returncode, "2 passed" in result.stdout) == (0, True), result.stdout


async def test_a_role_that_may_make_no_database_is_told(empty_url: str, tmp_path: Path) -> None:
    """Where the server makes no database for the tests, one sentence says so."""
    server = empty_url.replace("+asyncpg", "")
    role = f"poor_{make_url(empty_url).database}"
    await sql(server, f"CREATE ROLE {role} LOGIN PASSWORD 'poor'")
    poor = make_url(empty_url).set(username=role, password="poor")
    files = {**STRICT, "test_it.py": TESTS}
    url = poor.render_as_string(hide_password=False)
    result = await asyncio.to_thread(run_pytest, tmp_path, files, DATABASE_URL=url)
    await sql(server, f"DROP ROLE {role}")
    assert (result.returncode, "No database for the tests can be made" in result.stdout) == (
        1,
        True,
    )
    assert "Traceback" not in result.stdout


def test_pytest_finds_it_by_itself() -> None:
    """The package names the plugin as pytest's entry point."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    name = project["project"]["entry-points"]["pytest11"]["starlette_otp"]
    assert importlib.import_module(name).otp
