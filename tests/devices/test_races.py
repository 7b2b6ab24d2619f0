"""A token is accepted once, however many requests, connections and processes race for it."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import time_machine
from sqlalchemy import text
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route

from starlette_otp import OTP
from starlette_otp.models import Device, User
from tests.devices.race_process import race, racing
from tests.support import Browser, Sessions, make_app, make_static, make_totp, reload, totp_token

NOW = 1_900_000_000.0
LEVELS = ["AUTOCOMMIT", "READ COMMITTED", "REPEATABLE READ"]
pytestmark = pytest.mark.usefixtures("stopped_clock")


@pytest.fixture
def stopped_clock() -> Any:
    with time_machine.travel(NOW, tick=False):
        yield


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> str:
    level: str = request.param
    return level


Runner = Any


@asynccontextmanager
async def one_process(url: str, level: str) -> AsyncIterator[Runner]:
    async with racing(url, level) as otps:

        async def run(call: str, user: Any, *arguments: str) -> list[int]:
            return [await race(otps, call, user, *arguments)]

        yield run


@asynccontextmanager
async def two_processes(url: str, level: str) -> AsyncIterator[Runner]:
    """Both start and connect, and are then given each order at the same moment."""
    command = [sys.executable, "-m", "tests.devices.race_process", url, level, str(NOW)]
    pipe = asyncio.subprocess.PIPE
    programs = [
        await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe) for _ in range(2)
    ]

    async def run(call: str, user: Any, *arguments: str) -> list[int]:
        order = {"call": call, "user": str(user.id), "arguments": arguments}
        for program in programs:
            program.stdin.write(json.dumps(order).encode() + b"\n")
        return [int(await program.stdout.readline()) for program in programs]

    try:
        for program in programs:
            assert await program.stdout.readline() == b"ready\n"
        yield run
    finally:
        for program in programs:
            program.stdin.close()
            await program.wait()


@pytest.mark.parametrize("processes", [one_process, two_processes])
async def test_exactly_one_of_many_attempts_wins(
    processes: Any, level: str, database_url: str, otp: OTP, sessions: Sessions, alice: User
) -> None:
    """RFC 6238 section 5.2, ASVS 6.5.1: of fifty concurrent uses of a TOTP token or a static token
    in each process exactly one wins, and fifty wrong ones count as one failure, on engines of every
    isolation level."""
    by_id = await make_totp(sessions, alice)
    matched = await make_totp(sessions, alice, secret=b"abcdefghijklmnopqrst")
    failing = await make_totp(sessions, alice, digits=8)
    static, (code, matched_code) = await make_static(sessions, alice, None, None)
    async with processes(database_url, level) as run:

        async def wins(call: str, *arguments: str) -> int:
            won: int = sum(await run(call, alice, *arguments))
            await reset(sessions)
            return won

        assert await wins("verify_token", by_id.persistent_id, totp_token()) == 1
        assert await wins("match_token", totp_token(matched.secret)) == 1
        assert await wins("verify_token", static.persistent_id, code) == 1
        assert await wins("match_token", matched_code) == 1
        assert sum(await run("verify_token", alice, failing.persistent_id, "00000000")) == 0
        assert (await reload(sessions, failing)).throttling_failure_count == 1
        assert sum(await run("match_token", alice, "000000")) == 0
        for device in (by_id, matched):
            assert (await reload(sessions, device)).throttling_failure_count == 1


async def reset(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await session.execute(text("UPDATE otp_device SET throttling_failure_count = 0"))


async def test_one_wins_when_every_attempt_is_tried(
    level: str,
    database_url: str,
    otp: OTP,
    sessions: Sessions,
    alice: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is not the waits that stop a replay: without them one wins and each other one fails."""
    monkeypatch.setattr(Device, "throttle_factor", 0)
    device = await make_totp(sessions, alice)
    static, (code,) = await make_static(sessions, alice, None)
    async with racing(database_url, level) as racers:
        assert await race(racers, "verify_token", alice, device.persistent_id, totp_token()) == 1
        assert await race(racers, "match_token", alice, code) == 1
    for row in (device, static):
        assert (await reload(sessions, row)).throttling_failure_count == 49


async def test_a_device_verified_in_the_callers_own_session(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """`device.verify_token` on devices loaded for_verify: of fifty transactions one is accepted."""
    device = await make_totp(sessions, alice)

    async def attempt() -> bool:
        async with sessions.begin() as session:
            own = await Device.from_persistent_id(session, device.persistent_id, for_verify=True)
            assert own
            return await own.verify_token(totp_token())

    assert sum(await asyncio.gather(*(attempt() for _ in range(50)))) == 1


async def test_tokens_of_different_windows_race(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Of the three tokens of the window any number may win, but each at most once, in order."""
    device = await make_totp(sessions, alice)
    tokens = [totp_token(offset=offset) for offset in (-1, 0, 1)] * 10
    found = await asyncio.gather(
        *(otp.verify_token(alice, device.persistent_id, token) for token in tokens)
    )
    accepted = [token for token, device in zip(tokens, found, strict=True) if device]
    assert 1 <= len(accepted) == len(set(accepted))


async def test_a_failure_survives_the_requests_own_rollback(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """The 401 that a wrong token causes rolls the request's transaction back, not the count."""
    device = await make_totp(sessions, alice)

    async def transfer(request: Request) -> None:
        async with sessions.begin() as session:
            (await session.get(User, alice.id)).email = "changed@acme.example"
            await session.flush()
            if not await otp.verify_token(alice, device.persistent_id, "000000"):
                raise HTTPException(401)

    async with Browser(make_app(otp, Route("/transfer", transfer))) as browser:
        assert (await browser.get("/transfer")).status_code == 401
    assert (await reload(sessions, device)).throttling_failure_count == 1
    assert (await reload(sessions, alice)).email == ""
