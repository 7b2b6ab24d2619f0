"""The migrations of the ready-made tables, from the tree or from an installed wheel."""

from __future__ import annotations

import asyncio

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from alembic import command
from starlette_otp.exceptions import ConfigurationError, DatabaseUnavailable, is_away
from starlette_otp.models import VERSION_TABLE
from starlette_otp.resources import MIGRATIONS


def upgrade(url: str, revision: str = "head") -> str:
    """Bring the database at `url` to a revision; the same as `alembic upgrade` in the tree.

    Returns:
        The revision at which the tables are now.

    Raises:
        ConfigurationError: there is no such revision, or the tables are past it.
        DatabaseUnavailable: the database is away.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    try:
        command.upgrade(config, revision)
        reached = asyncio.run(_revision(url))
    except CommandError as exc:
        raise ConfigurationError(f"The tables can't go to {revision!r}: {exc}.") from None
    except Exception as exc:
        if not is_away(exc):
            raise
        raise DatabaseUnavailable() from exc
    script = ScriptDirectory.from_config(config)
    known = {None, *(made.revision for made in script.walk_revisions())}
    wanted = script.as_revision_number(revision)
    if wanted in known - {reached}:
        raise ConfigurationError(
            f"The ready-made tables stay at revision {reached}: migrate never takes them back."
        )
    return reached


async def _revision(url: str) -> str:
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.connect() as connection:
        reached = await connection.run_sync(
            lambda sync: MigrationContext.configure(
                sync, opts={"version_table": VERSION_TABLE}
            ).get_current_revision()
        )
    return str(reached)
