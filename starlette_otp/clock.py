"""The one place that reads the time."""

from __future__ import annotations

import math
from datetime import UTC, datetime


def now() -> datetime:
    """The present as an aware datetime in UTC."""
    return datetime.now(UTC)


def in_words(moment: datetime) -> str:
    """How long it is until then, for people: "in 42 seconds", "in 3 minutes"."""
    return f"in {lasting((moment - now()).total_seconds())}"


def lasting(seconds: float) -> str:
    """A length of time, for people: "42 seconds", "3 minutes", "30 days"."""
    whole = max(1, math.ceil(seconds))
    if whole <= 90:
        return f"{whole} second{'s' if whole > 1 else ''}"
    if whole <= 5400:
        return f"{math.ceil(whole / 60)} minutes"
    days, rest = divmod(whole, 86400)
    return f"{days} days" if days > 1 and not rest else f"{math.ceil(whole / 3600)} hours"
