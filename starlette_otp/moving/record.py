"""The record of a move, table `otp_import`: which old row became what, so that none comes twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    MetaData,
    String,
    Table,
    func,
    insert,
    inspect,
    select,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.schema import CreateTable

from starlette_otp import clock
from starlette_otp.devices.owner import table_of
from starlette_otp.service.enrolment import turn_number

NAME = "otp_import"


class Record:
    """The table `otp_import`, in the schema of the devices; none of the host's own models.

    Args:
        device_model: the host's.
        site: the old site's name, before the names of its tables.
    """

    def __init__(self, device_model: type[Any], site: str) -> None:
        self._site = site
        self._turn = turn_number(device_model, "import", "")
        self._mapper = {"mapper": inspect(device_model)}
        self._table = Table(
            NAME,
            MetaData(),
            Column("source", String(255), primary_key=True),
            Column("old_id", String(255), primary_key=True),
            Column("device_id", BigInteger),
            Column("user_key", String(255)),
            Column("imported_at", DateTime(timezone=True), nullable=False),
            schema=table_of(device_model).schema,
        )

    async def is_there(self, session: AsyncSession) -> bool:
        """Whether anything was moved here before."""
        connection = await session.connection(bind_arguments=self._mapper)
        name = connection.dialect.identifier_preparer.format_table(self._table)
        return await session.scalar(select(func.to_regclass(name))) is not None

    async def wait(self, session: AsyncSession) -> None:
        """Wait for another move that is at it, and make the table where it is missing."""
        taken = select(func.pg_advisory_xact_lock(self._turn))
        await session.execute(taken, bind_arguments=self._mapper)
        if not await self.is_there(session):
            await session.execute(CreateTable(self._table), bind_arguments=self._mapper)

    async def known(
        self, session: AsyncSession, rows: Iterable[tuple[str, str]]
    ) -> dict[tuple[str, str], Any]:
        """What became of old rows, by table and id, as far as they were moved before."""
        table, wanted = self._table.c, [(self._source(name), old_id) for name, old_id in rows]
        if not wanted or not await self.is_there(session):
            return {}
        query = select(self._table).where(tuple_(table.source, table.old_id).in_(wanted))
        found = await session.execute(query, bind_arguments=self._mapper)
        return {(row.source.partition("/")[2], row.old_id): row for row in found}

    async def add(
        self, session: AsyncSession, rows: Sequence[tuple[str, str, int | None, Any]]
    ) -> None:
        """Note what became of old rows: table, id, our device, our user's key."""
        now = clock.now()
        values = [
            {
                "source": self._source(table),
                "old_id": old_id,
                "device_id": device_id,
                "user_key": str(key),
                "imported_at": now,
            }
            for table, old_id, device_id, key in rows
        ]
        if values:
            await session.execute(insert(self._table), values, bind_arguments=self._mapper)

    def _source(self, table: str) -> str:
        return f"{self._site}/{table}"
