"""The one place that reads the time."""

from __future__ import annotations

import math
from datetime import UTC, datetime


def now() -> datetime:
    """The present as an aware datetime in UTC."""
    return datetime.now(UTC)


def in_words(moment: datetime) -> str:
    """How long it is until then, for people: "in 42 seconds", "in 3 minutes"."""
    seconds = max(1, math.ceil((moment - now()).total_seconds()))
    if seconds <= 90:
        return f"in {seconds} second{'s' if seconds > 1 else ''}"
    return f"in {math.ceil(seconds / 60)} minutes"
