"""The old site's database: one read-only snapshot, and what its tables look like."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from starlette_otp.exceptions import ConfigurationError

# Not of information_schema, which hides what the reader may not read: a device in there would be
# no second factor. So it is refused when it is read.
_COLUMNS = """
    SELECT c.relname AS "table", a.attname AS "column"
    FROM pg_attribute a
    JOIN pg_class c ON c.oid = a.attrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
        AND a.attnum > 0 AND NOT a.attisdropped
"""
_REFERENCES = """
    SELECT c.relname AS "table", a.attname AS "column", f.relname AS "to", fa.attname AS "key"
    FROM pg_constraint k
    JOIN pg_class c ON c.oid = k.conrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_class f ON f.oid = k.confrelid
    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
    JOIN pg_attribute fa ON fa.attrelid = k.confrelid AND fa.attnum = k.confkey[1]
    WHERE k.contype = 'f' AND cardinality(k.conkey) = 1 AND n.nspname = $1
"""
_KEYS = """
    SELECT c.relname AS "table", a.attname AS "column"
    FROM pg_constraint k
    JOIN pg_class c ON c.oid = k.conrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
    WHERE k.contype = 'p' AND cardinality(k.conkey) = 1 AND n.nspname = $1
"""


class Snapshot:
    """A read-only transaction on the old database, which sees what was there when it began.

    Attributes:
        columns: of each table.
        keys: the primary key of each table that has one of a single column.
        references: for table and column of each foreign key, the table and key that it names.
    """

    def __init__(self, connection: Any, schema: str) -> None:
        self._connection = connection
        self.schema = schema
        self.columns: dict[str, set[str]] = {}
        self.keys: dict[str, str] = {}
        self.references: dict[tuple[str, str], tuple[str, str]] = {}

    async def look(self) -> None:
        """Find out which tables there are."""
        for row in await self._connection.fetch(_COLUMNS, self.schema):
            self.columns.setdefault(row["table"], set()).add(row["column"])
        for row in await self._connection.fetch(_KEYS, self.schema):
            self.keys[row["table"]] = row["column"]
        for row in await self._connection.fetch(_REFERENCES, self.schema):
            self.references[row["table"], row["column"]] = row["to"], row["key"]

    def require(self, table: str, columns: Iterable[str]) -> None:
        """Refuse a table that lacks what it is read for.

        Raises:
            ConfigurationError: it has no such column.
        """
        missing = sorted(set(columns) - self.columns.get(table, set()))
        if missing:
            raise ConfigurationError(f"The table {table} there has no {', '.join(missing)}.")

    async def count(self, table: str) -> int:
        """How many rows a table has."""
        found: int = await self._connection.fetchval(f"SELECT count(*) FROM {self._named(table)}")  # noqa: S608
        return found

    async def pages(self, table: str, key: str, batch: int) -> AsyncIterator[Sequence[Any]]:
        """All rows of a table in the order of their key, `batch` at a time."""
        name, column = self._named(table), _quoted(key)
        after = ""
        values: list[Any] = []
        while True:
            query = f"SELECT * FROM {name} {after} ORDER BY {column} LIMIT {batch}"  # noqa: S608
            rows = await self._connection.fetch(query, *values)
            if not rows:
                return
            yield rows
            after, values = f"WHERE {column} > $1", [rows[-1][key]]

    async def of(self, table: str, column: str, keys: Iterable[Any]) -> Sequence[Any]:
        """The rows of a table in which a column has one of these values, in their order."""
        name, values = _quoted(column), list(keys)
        if (table, column) not in self.references:
            # Nothing says that it is of the keys' type.
            name, values = f"{name}::text", [str(key) for key in values]
        query = (
            f"SELECT * FROM {self._named(table)} WHERE {name} = ANY($1) "  # noqa: S608
            f"ORDER BY {_quoted(self.keys.get(table, column))}"
        )
        rows: Sequence[Any] = await self._connection.fetch(query, values)
        return rows

    def _named(self, table: str) -> str:
        return f"{_quoted(self.schema)}.{_quoted(table)}"


@asynccontextmanager
async def snapshot(url: str, schema: str = "public") -> AsyncIterator[Snapshot]:
    """Open the old database for reading.

    Args:
        url: `postgresql://user:password@host/database`.
        schema: where its tables are.

    Raises:
        ConfigurationError: it is no such URL, or nothing can be read there.
    """
    try:
        known = make_url(url)
    except ArgumentError:
        raise ConfigurationError("--from is a URL, as postgresql://user@host/database.") from None
    if known.get_backend_name() not in ("postgresql", "postgres"):
        raise ConfigurationError(
            "--from is a PostgreSQL database: postgresql://user@host/database."
        )
    dsn = known.set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        connection = await asyncpg.connect(dsn)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as exc:
        # Its own words may hold the password.
        raise ConfigurationError(
            f"The old database can't be reached: {type(exc).__name__}."
        ) from None
    try:
        await connection.transaction(isolation="repeatable_read", readonly=True).start()
        # Rows that a policy hides from the reader are an error, and not left out.
        await connection.execute("SET LOCAL row_security = off")
        opened = Snapshot(connection, schema)
        await opened.look()
        yield opened
    finally:
        # There is nothing to commit, and to roll back only while it lasts.
        await connection.close()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
