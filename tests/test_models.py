"""The ready-made tables and their migrations."""

import asyncio
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.util import CommandError
from click.testing import CliRunner
from sqlalchemy import inspect
from sqlalchemy.ext.asyncio import create_async_engine

from alembic import command
from starlette_otp.cli import main
from starlette_otp.exceptions import ConfigurationError
from starlette_otp.models import VERSION_TABLE, Base, database_url, include_name

ROOT = Path(__file__).parent.parent


async def tables_in(url: str) -> set[str]:
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    await engine.dispose()
    return set(names)


async def test_alembic_builds_exactly_the_ready_made_tables(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`alembic upgrade head` leaves nothing to autogenerate, and goes down to base and up."""
    monkeypatch.setenv("DATABASE_URL", empty_url)
    config = Config(str(ROOT / "alembic.ini"))
    ours = set(Base.metadata.tables)
    await asyncio.to_thread(command.upgrade, config, "head")
    await asyncio.to_thread(command.check, config)
    assert await tables_in(empty_url) == ours | {VERSION_TABLE}
    await asyncio.to_thread(command.downgrade, config, "base")
    assert await tables_in(empty_url) == {VERSION_TABLE}
    await asyncio.to_thread(command.upgrade, config, "head")
    assert await tables_in(empty_url) == ours | {VERSION_TABLE}


async def test_check_notices_a_table_that_differs(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check that the tables are right would see it if they were not."""
    monkeypatch.setenv("DATABASE_URL", empty_url)
    config = Config(str(ROOT / "alembic.ini"))
    await asyncio.to_thread(command.upgrade, config, "head")
    engine = create_async_engine(empty_url)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE otp_device DROP COLUMN last_t")
    await engine.dispose()
    with pytest.raises(CommandError, match="last_t"):
        await asyncio.to_thread(command.check, config)


async def test_migrate_does_the_same(empty_url: str) -> None:
    """`starlette-otp migrate` builds the tables, and a second time changes nothing."""
    for _ in range(2):
        env = {"DATABASE_URL": empty_url.replace("+asyncpg", "")}
        result = await asyncio.to_thread(CliRunner().invoke, main, ["migrate"], env=env)
        assert (result.exit_code, result.output) == (
            0,
            "The ready-made tables are at revision 0012.\n",
        )
    assert await tables_in(empty_url) == set(Base.metadata.tables) | {VERSION_TABLE}


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("postgres://u:p@h/d", "postgresql+asyncpg://u:p@h/d"),
        ("postgresql://u@h/d", "postgresql+asyncpg://u@h/d"),
        ("postgresql+asyncpg://u@h/d", "postgresql+asyncpg://u@h/d"),
        ("postgresql+psycopg://u@h/d", "postgresql+asyncpg://u@h/d"),
        ("postgresql://u:p%40@h:5433/d", "postgresql+asyncpg://u:p%40@h:5433/d"),
        ("postgresql:///d?host=/run/pg", "postgresql+asyncpg:///d?host=%2Frun%2Fpg"),
        ("postgres://u@h/d?sslmode=require", "postgresql+asyncpg://u@h/d?ssl=require"),
    ],
)
def test_database_url_names_the_driver(given: str, made: str) -> None:
    """Any spelling of a PostgreSQL URL becomes one for asyncpg."""
    assert database_url(given) == made


def test_no_database_url_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without DATABASE_URL the error says what to set."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with pytest.raises(ConfigurationError, match="Set DATABASE_URL"):
        database_url()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("postgresql://u:p@h:99999/d", "port is 1 to 65535, and not 99999"),
        ("postgresql://u:p@h:port/d", "can't be read"),
        ("localhost", "can't be read"),
        ("sqlite:///x.db", "has to be a PostgreSQL"),
        ("postgresqlite://h/d", "has to be a PostgreSQL"),
    ],
)
def test_a_bad_database_url_is_one_sentence(given: str, said: str) -> None:
    """What is no URL of a PostgreSQL is refused before anybody connects, without its password."""
    with pytest.raises(ConfigurationError, match=said) as refused:
        database_url(given)
    assert "u:p" not in str(refused.value)


async def test_migrate_claims_what_it_did(empty_url: str) -> None:
    """The revision named is the database's: one that is none, or behind it, is a sentence."""

    async def migrate(revision: str) -> tuple[int, str]:
        env = {"DATABASE_URL": empty_url}
        result = await asyncio.to_thread(CliRunner().invoke, main, ["migrate", revision], env=env)
        assert result.output.count("\n") == 1, result.output
        return result.exit_code, result.output

    assert await migrate("0001") == (0, "The ready-made tables are at revision 0001.\n")
    code, said = await migrate("base")
    assert (code, "stay at revision 0001: migrate never takes them back" in said) == (1, True)
    code, said = await migrate("nonsense")
    assert (code, said.startswith("Error: The tables can't go to 'nonsense'")) == (1, True)
    assert await migrate("head") == (0, "The ready-made tables are at revision 0012.\n")
    assert await tables_in(empty_url) == set(Base.metadata.tables) | {VERSION_TABLE}


def test_a_hosts_alembic_leaves_the_ready_made_tables_alone() -> None:
    """The filter for a host's migrations hides the ready-made tables and their version."""
    assert not include_name("otp_device", "table", {})
    assert not include_name(VERSION_TABLE, "table", {})
    assert include_name("invoices", "table", {})
    assert include_name("otp_device", "column", {})
    assert not include_name("otp_device", "table", {"schema_name": None})
    assert include_name("otp_device", "table", {"schema_name": "club"})
