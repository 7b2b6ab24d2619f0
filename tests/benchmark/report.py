"""What a run prints: where it ran, and a table of medians."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from tests.benchmark.load import Load
from tests.benchmark.scenarios import Scenario

LIBRARIES = [
    *("starlette", "sqlalchemy", "asyncpg", "uvicorn", "uvloop", "httptools"),
    *("django", "django-otp", "psycopg", "gunicorn"),
]
HEADER = ["", "site", "requests/s", "of", "ratio", "CPU µs", "database µs", "p50 ms", "p99 ms"]


@dataclass(frozen=True)
class Window:
    """One window of one scenario at one site; the CPU times are microseconds a request."""

    round: int
    scenario: str
    site: str
    load: Load
    cpu: float
    database_cpu: float | None

    @property
    def rate(self) -> float:
        """Answers a second."""
        return sum(self.load.statuses.values()) / self.load.seconds


def headline(postgres: str, client: str) -> str:
    """Machine, versions, client."""
    there = []
    for name in LIBRARIES:
        try:
            there.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            there.append(f"no {name}")
    lines = [
        f"{_processor()}, {platform.system()} {platform.release()}",
        f"Python {platform.python_version()} ({sys.implementation.name}), "
        f"starlette-otp {version('starlette-otp')} {_commit()}",
        ", ".join(there),
        f"{postgres}, synchronous_commit = off; client: {client}",
    ]
    return "\n".join(lines)


def _processor() -> str:
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{os.cpu_count()} cores {name}"


def _commit() -> str:
    if not shutil.which("git"):
        return ""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip()


def table(windows: Sequence[Window], scenarios: Sequence[Scenario], sites: Sequence[str]) -> str:
    """The medians of the windows as a table in Markdown."""
    rows = [HEADER]
    for scenario in scenarios:
        title = scenario.title
        for site in sites:
            own = [w for w in windows if (w.scenario, w.site) == (scenario.name, site)]
            if own:
                rows.append([title, *_row(own, windows, scenario)])
                title = ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = [
        "| "
        + " | ".join(_cell(*values) for values in zip(row, widths, range(9), strict=True))
        + " |"
        for row in rows
    ]
    rule = [("-" * width if i < 2 else "-" * (width - 1) + ":") for i, width in enumerate(widths)]
    return "\n".join([lines[0], "| " + " | ".join(rule) + " |", *lines[1:]])


def _cell(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column < 2 else text.rjust(width)


def _row(own: list[Window], windows: Sequence[Window], scenario: Scenario) -> list[str]:
    rates = [window.rate for window in own]
    # A round's windows lie side by side, so the machine's moods weigh on both alike.
    limit = {
        w.round: w.rate for w in windows if (w.scenario, w.site) == (scenario.name, scenario.limit)
    }
    ratios = [w.rate / limit[w.round] for w in own if w.round in limit]
    database = [w.database_cpu for w in own if w.database_cpu is not None]
    return [
        own[0].site,
        f"{median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f})",
        scenario.limit if ratios else "",
        f"{median(ratios):.2f}" if ratios else "",
        f"{median(w.cpu for w in own):,.0f}",
        f"{median(database):,.0f}" if database else "",
        f"{median(w.load.p50 for w in own) / 1000:.1f}",
        f"{median(w.load.p99 for w in own) / 1000:.1f}",
    ]


def shortened(windows: Sequence[Window]) -> str:
    """Which windows were shorter because everybody had sent their request; empty if none."""
    short: dict[tuple[str, str], list[float]] = {}
    for window in windows:
        if window.load.exhausted:
            short.setdefault((window.scenario, window.site), []).append(window.load.seconds)
    if not short:
        return ""
    each = [
        f"{scenario} at {site} {median(seconds):.1f} s"
        for (scenario, site), seconds in short.items()
    ]
    return "Every user was used up before the window was over (--users): " + ", ".join(each)
