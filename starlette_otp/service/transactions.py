"""Transactions: every one of ours opens here, whatever the engine's isolation level is."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

from sqlalchemy import inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from starlette_otp.exceptions import DatabaseUnavailable, is_away

logger = logging.getLogger("starlette_otp")

T = TypeVar("T")


class Transactions:
    """Short transactions over a host's sessionmaker.

    Sessions are made with `expire_on_commit=False`, and the maker is left as it is.
    """

    def __init__(self, sessionmaker: async_sessionmaker[AsyncSession], model: type[Any]) -> None:
        self.sessionmaker = sessionmaker
        self._mapper = inspect(model)

    async def read(self, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Run `work` in a session that only reads: no BEGIN, no ROLLBACK."""
        return await self._run("AUTOCOMMIT", work)

    async def write(self, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Run `work` in a READ COMMITTED transaction of its own and commit.

        Raises:
            DatabaseUnavailable: the database is away; nothing was written that this call knows of.
        """
        return await self._run("READ COMMITTED", work)

    async def _run(
        self,
        isolation: Literal["AUTOCOMMIT", "READ COMMITTED"],
        work: Callable[[AsyncSession], Awaitable[T]],
        retry: bool = True,
    ) -> T:
        committing = False
        try:
            async with self.sessionmaker(expire_on_commit=False, autoflush=False) as session:
                await session.connection(
                    bind_arguments={"mapper": self._mapper},
                    execution_options={"isolation_level": isolation},
                )
                result = await work(session)
                committing = True
                await session.commit()
                return result
        except Exception as exc:
            # The pool may hold connections from before the database restarted. Before the commit
            # nothing has happened, so the work can be done again on a new one.
            stale = isinstance(exc, DBAPIError) and exc.connection_invalidated
            if stale and retry and not committing:
                return await self._run(isolation, work, retry=False)
            if is_away(exc):
                logger.warning("The database is away: %s", type(exc).__name__)
                raise DatabaseUnavailable() from exc
            raise
