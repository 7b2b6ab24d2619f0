"""Moving in: users, passwords and devices of another library's site, read from its own tables."""

from collections.abc import Mapping
from typing import Any

from starlette_otp.moving.record import NAME


def include_name(name: str | None, type_: str, parent_names: Mapping[Any, str | None]) -> bool:
    """A filter for a host's own Alembic, so that it does not propose to drop the record of a move.

    Pass it as `context.configure(include_name=...)`.
    """
    return not (type_ == "table" and name == NAME)
