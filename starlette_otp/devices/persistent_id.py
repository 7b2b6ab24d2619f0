"""Persistent ids: what names a device outside the database, "totp/17"."""

from __future__ import annotations

import re

_PERSISTENT_ID = re.compile(r"([a-z][a-z0-9_.-]{0,31})/([1-9][0-9]{0,17})", re.ASCII)


def parse_persistent_id(persistent_id: object) -> tuple[str, int]:
    """Kind and id of a persistent id; `("", 0)`, which names nothing, for any garbage."""
    found = _PERSISTENT_ID.fullmatch(persistent_id) if isinstance(persistent_id, str) else None
    return (found[1], int(found[2])) if found else ("", 0)


def check_device_id(device_id: object) -> None:
    """Refuse what can be no persistent id because it is something else, as the device itself.

    None is what a form without the field gives, and names no device.

    Raises:
        TypeError: it is neither a str nor None.
    """
    if device_id is not None and not isinstance(device_id, str):
        raise TypeError(
            f"A device is named by its persistent_id, a str, not by {type(device_id).__name__}."
        )
