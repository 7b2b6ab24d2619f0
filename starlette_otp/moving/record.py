"""The record of a move, table `otp_import`: which old row became what, so that none comes twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    DateTime,
    MetaData,
    String,
    Table,
    and_,
    any_,
    func,
    insert,
    inspect,
    literal,
    select,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.schema import CreateIndex, CreateTable

from starlette_otp import clock
from starlette_otp.devices.owner import table_of
from starlette_otp.service.enrolment import turn_number

NAME = "otp_import"
CODES, INACTIVE = "otp_import_codes", "otp_import_inactive"
"""The tables, of none, under which it is recorded that a user was given recovery codes, or was
made inactive: once."""
WAITING = "{}, waiting"
"""The name of a table whose device was not confirmed when it was moved: once it is, it is moved
anew."""


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
            Column("user_key", String(255), index=True),
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
            for index in self._table.indexes:
                await session.execute(CreateIndex(index), bind_arguments=self._mapper)

    async def known(
        self, session: AsyncSession, rows: Iterable[tuple[str, str]]
    ) -> dict[tuple[str, str], Any]:
        """What became of old rows, by table and id, as far as they were moved before."""
        wanted = {(self._source(name), old_id): (name, old_id) for name, old_id in rows}
        if not wanted or not await self.is_there(session):
            return {}
        # Two arrays: a list of pairs as long as a batch is more than PostgreSQL's parser takes.
        arrays = [literal(list(column), ARRAY(String)) for column in zip(*wanted, strict=True)]
        asked = func.unnest(*arrays).table_valued("source", "old_id", name="asked").render_derived()
        table, is_it = self._table.c, asked.c
        query = select(self._table).join(
            asked, and_(table.source == is_it.source, table.old_id == is_it.old_id)
        )
        found = await session.execute(query, bind_arguments=self._mapper)
        return {wanted[row.source, row.old_id]: row for row in found}

    async def of_users(self, session: AsyncSession, keys: Iterable[Any]) -> list[Any]:
        """The rows that became devices of users here, by the users' keys; each with its `table`."""
        wanted = [str(key) for key in keys]
        if not wanted or not await self.is_there(session):
            return []
        columns, prefix = self._table.c, self._source("")
        name = func.substr(columns.source, len(prefix) + 1).label("table")
        query = select(name, columns.old_id, columns.device_id, columns.user_key).where(
            columns.source.startswith(prefix, autoescape=True),
            # Of a site of this name, and not of one whose name goes on after a slash.
            name.not_like("%/%"),
            columns.device_id.is_not(None),
            columns.user_key == any_(literal(wanted, ARRAY(String))),
        )
        return list(await session.execute(query, bind_arguments=self._mapper))

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
