"""Transactions: every one of ours opens here, whatever the engine's isolation level is."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from typing import Any, Literal, TypeVar, get_args

import asyncpg
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.util import await_only

from starlette_otp.devices.locking import require_read_committed
from starlette_otp.exceptions import (
    READ_ONLY,
    ConfigurationError,
    DatabaseUnavailable,
    is_away,
    is_worth_another_try,
    sqlstate_of,
)
from starlette_otp.service import greenlets
from starlette_otp.service.plain import Plain, on_driver, plain_engine
from starlette_otp.service.rows import PlainUnit, SessionUnit, Unit, Updates, sender

logger = logging.getLogger("starlette_otp")

T = TypeVar("T")
G = TypeVar("G")
Isolation = Literal["AUTOCOMMIT", "READ COMMITTED"]
Reads = Literal["autocommit", "transaction"]


class _Lost(OSError):
    """The driver's connection broke, or there was none to be had."""


class Transactions:
    """Short transactions over a host's sessionmaker.

    Sessions are made with `expire_on_commit=False`, and the maker is left as it is. One that is
    bound to a connection that has begun, as a test's which is rolled back, is used within that
    transaction, if it is READ COMMITTED.

    Args:
        sessionmaker: the host's.
        model: the class of the devices.
        reads: "transaction" where a single statement needs one around it, too.

    Raises:
        ConfigurationError: no sessionmaker, or no such way to read.
    """

    def __init__(
        self,
        sessionmaker: async_sessionmaker[AsyncSession],
        model: type[Any],
        reads: Reads = "autocommit",
    ) -> None:
        if not isinstance(sessionmaker, async_sessionmaker):
            raise ConfigurationError(
                f"OTP takes an async_sessionmaker, not {type(sessionmaker).__name__}: "
                "OTP(async_sessionmaker(engine), ...)."
            )
        if reads not in get_args(Reads):
            raise ConfigurationError(
                f'OTP(reads=) is "autocommit" or "transaction", not {reads!r}.'
            )
        self._reading: Isolation = "AUTOCOMMIT" if reads == "autocommit" else "READ COMMITTED"
        self.sessionmaker = sessionmaker
        self._mapper = inspect(model)
        self._plain: Plain | None = None
        self._updates = Updates()

    async def read(self, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Run `work` in a session that only reads: no BEGIN, no ROLLBACK, if reads need none.

        What it writes, if it does, is committed statement by statement, or in the end.
        """
        return await self._run(lambda: self._session(self._reading), work)

    async def write(self, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Run `work` in a READ COMMITTED transaction of its own and commit.

        Raises:
            DatabaseUnavailable: the database is away; nothing was written that this call knows of.
        """
        return await self._run(lambda: self._session("READ COMMITTED"), work)

    async def run(
        self,
        isolation: Isolation,
        models: tuple[type[Any], ...],
        work: Callable[[Unit], Awaitable[T]],
    ) -> T:
        """Run `work` as cheaply as these models and the host's engine allow, and commit.

        Args:
            isolation: AUTOCOMMIT for statements each on its own, if reads need no transaction.
            models: what its statements load; none of them: through a session.
            work: asked for statements' rows and changes to be saved.

        Raises:
            DatabaseUnavailable: as `write`.
        """
        # Where reads do, something stands before the database that SQLAlchemy has been told of.
        is_direct = self._reading == "AUTOCOMMIT"
        isolation = self._reading if isolation == "AUTOCOMMIT" else isolation
        engine = plain_engine(self.sessionmaker)
        if engine is None or not self._are_plain(engine, models, isolation != "AUTOCOMMIT"):
            return await self._run(lambda: self._unit(isolation), work)
        if is_direct and on_driver(engine):
            committing = False

            async def within(driver: Any) -> T:
                nonlocal committing
                unit = PlainUnit(driver.fetch, engine.dialect, self._updates)
                if isolation == "AUTOCOMMIT":
                    return await work(unit)
                async with driver.transaction(isolation="read_committed"):
                    result = await work(unit)
                    committing = True
                return result

            try:
                return await greenlets.spawn(_borrow, engine, within)
            except Exception as exc:
                # Nothing has happened. What is to be done about the pool's other connections
                # SQLAlchemy knows best, and hosts know its errors and not the driver's: the work
                # is done again through its own.
                not_now = is_away(exc) and not isinstance(exc, _Lost)
                again = isinstance(exc, _Lost | asyncpg.PostgresError) and not not_now
                if committing or not (again or is_worth_another_try(exc)):
                    _tell_away(exc)
                    raise
        return await self._run(lambda: self._connection(engine, isolation), work)

    def _are_plain(self, engine: AsyncEngine, models: tuple[type[Any], ...], writing: bool) -> bool:
        if self._plain is None or self._plain.dialect is not engine.dialect:
            self._plain = Plain(engine.dialect)
        return self._plain(models, writing)

    @asynccontextmanager
    async def _session(self, isolation: Isolation) -> AsyncIterator[AsyncSession]:
        async with self.sessionmaker(expire_on_commit=False, autoflush=False) as session:
            bound = session.get_bind(mapper=self._mapper)
            if isinstance(bound, Connection) and bound.in_transaction():
                # Its isolation is what it is: a lock has to help in it all the same.
                if isolation != "AUTOCOMMIT":
                    await require_read_committed(session, self._mapper.class_)
            else:
                with _connecting():
                    await session.connection(
                        bind_arguments={"mapper": self._mapper},
                        execution_options={"isolation_level": isolation},
                    )
            try:
                yield session
            except DBAPIError as exc:
                if sqlstate_of(exc) == READ_ONLY:
                    # The pool is well after a fail-over, one connection after the other.
                    await session.invalidate()
                raise
            await session.commit()

    @asynccontextmanager
    async def _unit(self, isolation: Isolation) -> AsyncIterator[Unit]:
        async with self._session(isolation) as session:
            yield SessionUnit(session)

    @asynccontextmanager
    async def _connection(self, engine: AsyncEngine, isolation: Isolation) -> AsyncIterator[Unit]:
        async with AsyncExitStack() as stack:
            with _connecting():
                connection = await stack.enter_async_context(engine.connect())
            await connection.execution_options(isolation_level=isolation)
            try:
                async with connection.begin():
                    yield PlainUnit(sender(connection), engine.dialect, self._updates)
            except DBAPIError as exc:
                if sqlstate_of(exc) == READ_ONLY:
                    await connection.invalidate()
                raise

    async def _run(
        self,
        begin: Callable[[], AbstractAsyncContextManager[G]],
        work: Callable[[G], Awaitable[T]],
        retry: bool = True,
    ) -> T:
        committing = False
        try:
            async with begin() as given:
                result = await work(given)
                committing = True
            return result
        except Exception as exc:
            # A deadlock has one loser; and the pool may hold connections from before the database
            # restarted. Before the commit nothing has happened, so the work can be done again.
            if retry and not committing and is_worth_another_try(exc):
                return await self._run(begin, work, retry=False)
            _tell_away(exc)
            raise


@contextmanager
def _connecting() -> Iterator[None]:
    """Whatever a server has against a connection means that it is away.

    SQLAlchemy 2.0 passes the driver's error on as it is, and in that nobody could tell any more
    that it came of connecting.
    """
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as exc:
        raise _Lost(str(exc)) from exc


def _borrow(engine: AsyncEngine, work: Callable[[Any], Awaitable[T]]) -> T:
    """Let `work` have the driver's own connection, borrowed from an engine's pool.

    Called in a greenlet, as what the pool does itself has to be: the one it takes to wait for
    `work` here, too, costs half of what two would, one to borrow and one to give back.
    """
    try:
        pooled = engine.sync_engine.raw_connection()
    except (OSError, PoolTimeout):
        raise
    except Exception as exc:
        # Whatever a server has against a connection, SQLAlchemy's own way says it better.
        raise _Lost("No connection to the database could be made.") from exc
    driver: Any = pooled.driver_connection
    is_well = False
    try:
        if driver.is_in_transaction():
            # A listener of the pool's has run SQL, which began one: ours would be a part of it,
            # and go with it when the connection is handed back.
            pooled.rollback()
        result = await_only(work(driver))
        is_well = not driver.is_in_transaction()
    except Exception as exc:
        is_well = not driver.is_in_transaction() and sqlstate_of(exc) != READ_ONLY
        if driver.is_closed():
            raise _Lost("The connection to the database broke.") from exc
        raise
    finally:
        if is_well:
            pooled.close()
        else:
            # Given up half-way, as by a client that went away: nobody shall have it next, and
            # nobody waits for what it was at.
            driver.terminate()
            pooled.invalidate()
    if not is_well:
        raise RuntimeError("A transaction was still open on a connection that was done with.")
    return result


def _tell_away(exc: Exception) -> None:
    """Raise DatabaseUnavailable if that is what an exception means."""
    if is_away(exc):
        logger.warning("The database is away: %s", type(exc.__cause__ or exc).__name__)
        raise DatabaseUnavailable() from exc
