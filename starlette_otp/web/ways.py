"""The ways through the second step: a user's devices, as the page offers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette_otp import clock
from starlette_otp.devices.policies import CooldownMixin
from starlette_otp.devices.words import shown_names

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Way:
    """One of the user's devices.

    Attributes:
        device_id: its persistent id.
        name: what it is, told from the others: "Authenticator app · Phone".
        prompt: what is asked for.
        has_letters: whether a phone's keyboard has to have letters.
        is_interactive: whether it sends a code.
        destination: where that goes, masked; or nothing.
        wait: when the next may be asked for, "in 42 seconds"; nothing if now.
    """

    device_id: str
    name: str = ""
    prompt: str = "Enter your code"
    has_letters: bool = True
    is_interactive: bool = True
    destination: str = ""
    wait: str = ""


def in_order(devices: Sequence[Any]) -> list[Any]:
    """A user's devices, the one that was used last first, and spare ones last.

    Who has used a recovery code once shall not be asked for another the next time.
    """
    last_first = sorted(devices, key=lambda device: device.last_used_at or _NEVER, reverse=True)
    return sorted(last_first, key=lambda device: device.is_spare)


def ways_of(devices: Sequence[Any], user: object) -> list[Way]:
    """The ways of these devices, as `in_order` has them."""
    devices = in_order(devices)
    names = shown_names(devices, user)
    return [_way(device, name, user) for device, name in zip(devices, names, strict=True)]


def _way(device: Any, name: str, user: object) -> Way:
    next_at = device.next_generation_at if isinstance(device, CooldownMixin) else None
    return Way(
        device_id=device.persistent_id,
        name=name,
        prompt=device.code_prompt,
        has_letters=device.code_has_letters,
        is_interactive=device.is_interactive(),
        destination=device.shown_destination(user),
        wait="" if next_at is None else clock.in_words(next_at),
    )
