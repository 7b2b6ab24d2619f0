"""The client: wrk where it is installed, else one of asyncio's; both replay raw requests."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

SCRIPT = Path(__file__).with_name("replay.lua")
TIMEOUT = 30
"""Seconds that an answer may take: log-ins wait for each other."""


@dataclass(frozen=True)
class Load:
    """What a client saw.

    Attributes:
        sent: requests, those still on their way at the end included.
        exhausted: every request was sent before the time was over, so the window is shorter.
        seconds: from the first request to the last answer.
        p50: microseconds; wrk corrects its percentiles for what a slow answer held up.
        p99: microseconds.
        failed: connections that broke, and answers that did not come.
        statuses: answers by status.
        sample: the first answer that was not expected.
    """

    sent: int
    exhausted: bool
    seconds: float
    p50: float
    p99: float
    failed: int
    statuses: dict[str, int]
    sample: str


def client() -> str:
    """Which client there is."""
    return "wrk, one thread" if shutil.which("wrk") else "asyncio, one process"


def run(
    port: int,
    requests: Sequence[bytes],
    *,
    expected: int,
    once: bool,
    seconds: int,
    connections: int,
) -> Load:
    """One window on 127.0.0.1.

    Args:
        port: the site's.
        requests: raw, sent in this order over all connections.
        expected: the status that every answer should have.
        once: stop when all were sent, instead of beginning anew.
        seconds: how long.
        connections: how many requests are on their way at a time.
    """
    if not shutil.which("wrk"):
        window = _Window(list(requests), expected, once)
        return asyncio.run(window.run(port, seconds, connections))
    with TemporaryDirectory() as folder:
        file = Path(folder) / "requests"
        file.write_bytes(b"".join(b"%d\n%b" % (len(raw), raw) for raw in requests))
        options = ["-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={TIMEOUT}s"]
        mode = "once" if once else "cycle"
        command = ["wrk", *options, "-s", str(SCRIPT), f"http://127.0.0.1:{port}/", "--"]
        command += [str(file), mode, str(expected)]
        shown = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        seen = json.loads(shown.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        raise SystemExit(f"wrk failed:\n{shown.stdout}\n{shown.stderr}") from None
    return Load(**{**seen, "exhausted": bool(seen["exhausted"])})


class _Window:
    """A window of the asyncio client."""

    def __init__(self, requests: list[bytes], expected: int, once: bool) -> None:
        self.requests = requests
        self.expected = expected
        self.once = once
        self.sent = self.failed = 0
        self.exhausted = False
        self.statuses: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.sample = ""

    async def run(self, port: int, seconds: int, connections: int) -> Load:
        started = time.perf_counter()
        end = started + seconds
        each = (self._connection(port, end) for _ in range(connections))
        await asyncio.gather(*each)
        took = time.perf_counter() - started
        ordered = sorted(self.latencies) or [0.0]
        p50, p99 = (ordered[int(len(ordered) * part)] * 1e6 for part in (0.5, 0.99))
        statuses = dict(self.statuses)
        return Load(self.sent, self.exhausted, took, p50, p99, self.failed, statuses, self.sample)

    async def _connection(self, port: int, end: float) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while time.perf_counter() < end:
                if self.once and self.sent == len(self.requests):
                    self.exhausted = True
                    break
                raw = self.requests[self.sent % len(self.requests)]
                self.sent += 1
                before = time.perf_counter()
                writer.write(raw)
                async with asyncio.timeout(TIMEOUT):
                    status, body = await _answer(reader)
                self.latencies.append(time.perf_counter() - before)
                self.statuses[status] += 1
                if status != str(self.expected) and not self.sample:
                    self.sample = f"{status} {body[:300]!r}"
            writer.close()
        except (OSError, EOFError, TimeoutError):
            self.failed += 1


async def _answer(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """The status and the body of the next answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = head[9:12].decode()
    if b"\r\ntransfer-encoding: chunked\r\n" not in head:
        length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
        return status, await reader.readexactly(int(length or 0))
    body = b""  # Django without CommonMiddleware gives no length
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return status, body
