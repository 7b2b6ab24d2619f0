"""Locking: a SELECT that locks its rows, and the transaction that such a lock wants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from sqlalchemy import Select, inspect, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapper, selectinload

from starlette_otp.exceptions import TransactionRequired

_Row = TypeVar("_Row")


def locked(query: Select[_Row]) -> Select[_Row]:
    """`query`, locking its rows; an instance the session already had is read anew, too.

    Its first column is the entity. Nothing is joined: after waiting for a lock PostgreSQL hands
    back joined rows of the old snapshot. What a host's mapping would join is read by a statement
    of its own, after the lock.
    """
    entity = query.column_descriptions[0]
    mappers: Iterable[Mapper[Any]] = inspect(entity["entity"]).self_and_descendants
    joined = [
        selectinload(getattr(mapper.class_, relation.key))
        for mapper in mappers
        for relation in mapper.relationships
        if relation.parent is mapper and relation.lazy in ("joined", False)
    ]
    query = query.options(*joined).with_for_update()
    return query.execution_options(populate_existing=True)


async def require_read_committed(session: AsyncSession, model: type[Any]) -> None:
    """Refuse a session in which a lock on rows of `model` would not help.

    AUTOCOMMIT drops the lock at once, and above READ COMMITTED a transaction that waited for the
    lock still sees the row as it was, or fails and takes the count of failures with it.

    Raises:
        TransactionRequired: as said.
    """
    connection = await session.connection(bind_arguments={"mapper": inspect(model)})
    raw: Any = (await connection.get_raw_connection()).dbapi_connection
    level = "autocommit"
    if raw is not None and not raw.autocommit:
        level = await connection.scalar(text("SHOW transaction_isolation"))
    if level != "read committed":
        raise TransactionRequired(
            f"Devices are locked in a READ COMMITTED transaction; this session's is {level}."
        )
