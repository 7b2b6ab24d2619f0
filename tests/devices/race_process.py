"""Many attempts at once, in this process or as one of several: `python -m ... URL LEVEL TIME`.

As a program it connects, says "ready", and for each line of JSON {"call", "arguments"} makes the
attempts at once and answers with the number that succeeded.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import time_machine
from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from starlette_otp import OTP
from starlette_otp.models import Device
from tests.hosts import Subject
from tests.support import SECRET_KEY

CONNECTIONS = 20
ATTEMPTS = 50


@asynccontextmanager
async def racing(url: str, isolation_level: str) -> AsyncIterator[list[OTP]]:
    """Twenty OTPs over twenty connections, all of them open, of an engine of this isolation level.

    Attempts at one device queue in their OTP before they take a connection; these race.
    """
    engine = create_async_engine(
        url, isolation_level=isolation_level, pool_size=CONNECTIONS, max_overflow=0
    )

    async def connect(all_open: asyncio.Barrier) -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
            await all_open.wait()

    all_open = asyncio.Barrier(CONNECTIONS)
    await asyncio.gather(*(connect(all_open) for _ in range(CONNECTIONS)))
    maker = async_sessionmaker(engine)
    yield [OTP(maker, Device, secret_key=SECRET_KEY) for _ in range(CONNECTIONS)]
    await engine.dispose()


async def race(otps: list[OTP], call: str, user: Any, *arguments: str) -> int:
    """How many of the attempts succeed."""
    attempts = [getattr(otps[number % len(otps)], call) for number in range(ATTEMPTS)]
    found = await asyncio.gather(*(attempt(user, *arguments) for attempt in attempts))
    return sum(device is not None for device in found)


async def main(url: str, isolation_level: str, now: str) -> None:
    async with racing(url, isolation_level) as otps:
        print("ready", flush=True)
        with time_machine.travel(float(now), tick=False):
            for line in sys.stdin:
                order = json.loads(line)
                user = Subject(order["user"])
                print(await race(otps, order["call"], user, *order["arguments"]), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
