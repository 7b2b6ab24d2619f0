"""The benchmark's site and data still go together; what it measures is no test's affair."""

import asyncio
import os
import subprocess
import sys

from tests.benchmark.common import DATABASE_VARIABLE
from tests.benchmark.data import Size, seed_ours
from tests.benchmark.scenarios import right_token

ASK = """
import sys
from starlette.testclient import TestClient
from tests.benchmark.ours import app
cookie, device, token = sys.argv[1:]
with TestClient(app, headers={"Cookie": cookie}) as client:
    print(client.get("/vault").status_code)
    print(client.post("/stepup", json={"device": device, "token": token}).status_code)
"""


async def test_the_site_of_the_benchmark(empty_url: str) -> None:
    """A seeded session is verified, and its device accepts a token."""
    url = empty_url.replace("+asyncpg", "")
    data = await asyncio.to_thread(seed_ours, url, Size(3, 2))
    person = data.people[-1]
    arguments = [person.cookie, person.device, right_token()]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ASK, *arguments),
        env={**os.environ, DATABASE_VARIABLE: url},
        stdout=subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert said.split() == [b"200", b"200"]
