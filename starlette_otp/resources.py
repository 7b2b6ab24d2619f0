"""Where the shipped templates and migrations are: inside a wheel, or beside the package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def _shipped(packaged: str, in_tree: str) -> Path:
    inside = _PACKAGE / packaged
    return inside if inside.is_dir() else _PACKAGE.parent / in_tree


TEMPLATES = _shipped("templates", "templates")
MIGRATIONS = _shipped("_migrations", "alembic")
