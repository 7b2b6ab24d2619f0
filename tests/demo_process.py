"""The demo as a person runs it: a process of its own, and what it prints."""

import base64
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette_otp import oath

COMMAND = [sys.executable, "-m", "starlette_otp", "demo"]


@dataclass
class Demo:
    """A running demo."""

    url: str
    printed: str
    process: subprocess.Popen[str]

    def word(self, name: str) -> str:
        found = re.search(rf"^\s*{name}\s+(\S+)$", self.printed, re.MULTILINE)
        assert found, self.printed
        return found[1]

    @property
    def static_tokens(self) -> list[str]:
        return re.findall(r"^  (\w{4}(?:-\w{4}){3})$", self.printed, re.MULTILINE)

    def read_to(self, words: str) -> None:
        """Read on what the terminal shows, to the end of the line with these words."""
        assert self.process.stdout is not None
        while words not in self.printed:
            line = self.process.stdout.readline()
            assert line, self.printed
            self.printed += line

    def token(self, now: float) -> str:
        """What the authenticator app shows, which scanned the printed URL."""
        found = re.search(r"otpauth://totp/\S*secret=([A-Z2-7]+)", self.printed)
        assert found, self.printed
        return oath.hotp(base64.b32decode(found[1]), int(now // 30))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def demo(
    data: Path, *options: str, env: dict[str, str] | None = None, command: list[str] = COMMAND
) -> Iterator[Demo]:
    """Run the demo until the block ends, then stop it as a service manager does."""
    base = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    process = subprocess.Popen(
        [*command, "--data", str(data), "--port", str(free_port()), *options],
        env=base | {"PYTHONUNBUFFERED": "1"} | (env or {}),
        cwd=data.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if found := re.search(r"Open (http://127.0.0.1:\d+)/", line):
            break
    else:
        raise AssertionError(f"the demo ended with {process.wait()}:\n{printed}")
    running = Demo(found[1], printed, process)
    try:
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        running.printed += process.communicate(timeout=30)[0]
