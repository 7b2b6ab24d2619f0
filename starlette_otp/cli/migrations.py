"""The migrations of the ready-made tables, from the tree or from an installed wheel."""

from __future__ import annotations

from alembic.config import Config

from alembic import command
from starlette_otp.exceptions import DatabaseUnavailable, is_away
from starlette_otp.resources import MIGRATIONS


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at `url` to a revision; the same as `alembic upgrade` in the tree.

    Raises:
        DatabaseUnavailable: the database is away.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    try:
        command.upgrade(config, revision)
    except Exception as exc:
        if not is_away(exc):
            raise
        raise DatabaseUnavailable() from exc
