"""Words: devices, moments and browsers, as people call them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from starlette.concurrency import run_in_threadpool

from starlette_otp import clock
from starlette_otp.devices.words import with_name
from starlette_otp.exceptions import is_missing

UNKNOWN_BROWSER = "Unknown browser"
_MAX_SHOWN = 80
_SYSTEMS = {"Mac OS X": "macOS"}
_AGES = ((86400, "day"), (3600, "hour"), (60, "minute"))
_MONTH_SECONDS = 30 * 86400


def label(device: Any, user: object) -> str:
    """What a device is and its owner's name for it: "Authenticator app · Phone"."""
    shown: str = device.shown_name(user)
    # Codes are one set; what the row that holds them is called says no more.
    return shown if device.is_spare else with_name(shown, device.name)


def in_sentence(kind_name: str) -> str:
    """What a kind is called within a sentence: "authenticator app", and "SMS" as it is."""
    is_plain = kind_name[1:] == kind_name[1:].lower()
    return kind_name.lower() if is_plain else kind_name


def on_day(moment: datetime) -> str:
    """The day of a moment: "3 December 2026"."""
    return f"{moment.day} {moment:%B %Y}"


def ago(moment: datetime) -> str:
    """How long ago that was: "just now", "3 minutes ago"; after a month the day."""
    seconds = (clock.now() - moment).total_seconds()
    if seconds >= _MONTH_SECONDS:
        return f"on {on_day(moment)}"
    for length, name in _AGES:
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {name}{'s' if number > 1 else ''} ago"
    return "just now"


async def browsers(agents: Sequence[str]) -> list[str]:
    """What browsers call themselves, each as browser and system: "Firefox on Windows"."""
    # Its rules take long to load for the first time, and some to match.
    return await run_in_threadpool(lambda: [_browser(agent) for agent in agents])


@lru_cache(maxsize=1024)
def _browser(agent: str) -> str:
    try:
        from ua_parser import parse
    except ImportError as exc:
        if not is_missing(exc, "ua_parser"):
            raise
        return _shown(agent)
    found = parse(agent)
    system = found.os.family if found.os else ""
    names = [found.user_agent.family if found.user_agent else "", _SYSTEMS.get(system, system)]
    return " on ".join(name for name in names if name) or _shown(agent)


def _shown(agent: str) -> str:
    return agent[:_MAX_SHOWN] or UNKNOWN_BROWSER
