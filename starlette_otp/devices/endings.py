"""Endings: what a flush of a device or of a user takes from sessions, in the same flush.

What changes rows past the ORM's units of work is found out when a session is found next.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ClauseElement, Connection, delete, inspect, update
from sqlalchemy.orm.attributes import get_history
from sqlalchemy.orm.base import PassiveFlag

from starlette_otp.devices.owner import table_of

UNVERIFIED = {"device_id": None, "verified_at": None, "device_fingerprint": None}
"""What a session's row has that no device verified."""


def unverify(connection: Connection, device: Any) -> None:
    """Take their verification from a device's sessions, and the trust that it vouched for, if it is
    being unconfirmed.

    For good: confirmed again it verifies none of them, nor one that began meanwhile.
    """
    model = type(device).__session_model__
    if model is not None and _turns(device, "confirmed"):
        table = table_of(model)
        query = update(table).where(table.c.device_id == device.id)
        connection.execute(query.values(UNVERIFIED))
        agents = type(device).__agent_model__
        if agents is not None:
            table = table_of(agents)
            connection.execute(delete(table).where(table.c.device_id == device.id))


def end_tickets(connection: Connection, device: Any) -> None:
    """End the tickets of the user whose device is being deleted."""
    model = type(device).__session_model__
    if model is not None:
        table = table_of(model)
        mine = table.c.is_ticket, table.c.user_id == device.user_id
        connection.execute(delete(table).where(*mine))


def end_inactive(connection: Connection, model: Any, user: Any) -> None:
    """End all that a user is known by who is being made inactive, or active again.

    Args:
        connection: of the flush.
        model: the class of the sessions.
        user: a row of the host's user model.
    """
    if "is_active" in inspect(user).mapper.column_attrs and _turns(user, "is_active"):
        table = table_of(model)
        key = model.__device_model__.user_key(user)
        connection.execute(delete(table).where(table.c.user_id == key))
        agents = model.__device_model__.__agent_model__
        if agents is not None:
            table = table_of(agents)
            connection.execute(delete(table).where(table.c.user_id == key))


def _turns(row: Any, name: str) -> bool:
    """Whether a flush makes an attribute false, or true again: then what past a flush, or beside
    one, was made false before ends as late as that."""
    # A value from before that was never loaded is not asked for.
    history = get_history(row, name, PassiveFlag.PASSIVE_NO_INITIALIZE)
    new, old = list(history.added or ()), list(history.deleted or ())
    if not new:
        return False
    if isinstance(new[0], ClauseElement) or hasattr(new[0], "__clause_element__"):
        return True  # What an expression will give only the database knows.
    return not new[0] or (bool(old) and not old[0])
