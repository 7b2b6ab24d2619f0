"""The sites as processes: how each is served, and how much processor time it has taken."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil

from tests.benchmark.common import DATABASE_VARIABLE

UVICORN = (
    "--host 127.0.0.1 --port {port} --workers {workers} --no-access-log --log-level warning "
    "--loop {loop} --http {http}"
)
LOOPS = {"uvloop": "httptools", "asyncio": "h11"}
"""What uvicorn runs on: its extra "standard", or what it is without; and what reads HTTP then."""
GUNICORN = (
    "-b 127.0.0.1:{port} -w {workers} -k gthread --threads {threads} --keep-alive 75 "
    "--log-level warning"
)
GUNICORN_THREADS = 4
"""More were slower: they contend for the interpreter's lock."""
ROOT = Path(__file__).parents[2]

COMMANDS = {
    "plain": f"uvicorn tests.benchmark.plain:app {UVICORN}",
    "bare": f"uvicorn tests.benchmark.bare:app {UVICORN}",
    "ours": f"uvicorn tests.benchmark.ours:app {UVICORN}",
    "django-asgi": f"uvicorn tests.benchmark.django_site:asgi {UVICORN} --lifespan off",
    "django-wsgi": f"gunicorn tests.benchmark.django_site:wsgi {GUNICORN}",
}
"""The sites, and the command of each."""


def installed() -> list[str]:
    """The sites whose libraries are there."""
    has_django = all(map(find_spec, ["django", "django_otp", "psycopg", "psycopg_pool"]))
    missing = set() if has_django else {"django-asgi", "django-wsgi"}
    if find_spec("gunicorn") is None:
        missing.add("django-wsgi")
    return [name for name in COMMANDS if name not in missing]


class Site:
    """A running site."""

    def __init__(self, name: str, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.port = port
        self.process = process
        self.log = log

    def cpu(self) -> float:
        """Seconds of processor time that its processes have taken."""
        return cpu_of(self.process.pid)

    def settle(self) -> None:
        """Wait until it has finished what a client that went away has left."""
        before, tries = self.cpu(), 0
        while tries < 50:
            time.sleep(0.2)
            now = self.cpu()
            if now - before < 0.02:
                return
            before, tries = now, tries + 1


def cpu_of(pid: int) -> float:
    """Seconds of processor time of a process and those that it started."""
    parent = psutil.Process(pid)
    total = 0.0
    for process in [parent, *parent.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


@contextmanager
def serve(
    name: str, url: str | None, workers: int, logs: Path, loop: str = "uvloop"
) -> Iterator[Site]:
    """Start a site and wait until it answers.

    Args:
        name: one of COMMANDS.
        url: its database.
        workers: processes.
        logs: the folder for what it prints.
        loop: one of LOOPS.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    places = {"port": port, "workers": workers, "threads": GUNICORN_THREADS}
    command = COMMANDS[name].format(**places, loop=loop, http=LOOPS[loop])
    environment = {**os.environ, DATABASE_VARIABLE: url or ""}
    log = logs / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command.split()],
            cwd=ROOT,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/public", log)
        yield Site(name, port, process, log)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(150):
        with suppress(URLError, OSError), urlopen(url, timeout=5) as answer:
            if answer.status == 200:
                return
        if process.poll() is not None:
            break
        time.sleep(0.2)
    raise SystemExit(f"{url} does not answer:\n{log.read_text()[-3000:]}")
