"""Sessions whose every change is taken back when a test is over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker


@asynccontextmanager
async def rolled_back(engine: AsyncEngine) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    """Sessions on one connection, in savepoints of a transaction that is rolled back in the end.

    SQLAlchemy's recipe for test suites ("Joining a Session into an External Transaction"). Requests
    of such a test come one after the other, as one connection wants it.

    Args:
        engine: over a database with its tables.
    """
    async with engine.connect() as connection:
        outer = await connection.begin()
        try:
            yield async_sessionmaker(
                connection, expire_on_commit=False, join_transaction_mode="create_savepoint"
            )
        finally:
            await outer.rollback()
