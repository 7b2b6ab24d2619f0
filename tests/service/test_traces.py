"""What is told of attempts to verify (OWASP ASVS 16.3.1): why each failed, once a lock; how many
failures came before a success."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import time_machine
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from starlette_otp import OTP, otp_verification_failed, otp_verified
from starlette_otp.devices import VerificationFailure
from starlette_otp.models import Device, HOTPDevice, StaticDevice, TOTPDevice, User
from starlette_otp.testing import make_device, token_at
from tests.devices.race_process import race
from tests.support import (
    SECRET_KEY,
    Browser,
    Sessions,
    add,
    make_app,
    make_static,
    make_totp,
    reload,
)

TABLE: Any = Device.__table__
BY_HAND = {"address": "", "agent": ""}


@pytest.fixture(autouse=True)
def clock() -> Iterator[Any]:
    with time_machine.travel(1_900_000_000, tick=False) as clock:
        yield clock


class Told(list[dict[str, Any]]):
    """What the signals say besides who and which device."""

    def __call__(self, sender: Any, *, user: Any, device: Any, **more: Any) -> None:
        self.append(more)

    def taken(self) -> list[dict[str, Any]]:
        told = list(self)
        self.clear()
        return told

    @property
    def reasons(self) -> list[str]:
        return [more["reason"] for more in self.taken()]


@pytest.fixture
def failed(otp: OTP) -> Iterator[Told]:
    told = Told()
    with otp_verification_failed.connected_to(told):
        yield told


@pytest.fixture
def verified(otp: OTP) -> Iterator[Told]:
    told = Told()
    with otp_verified.connected_to(told):
        yield told


async def test_each_failure_has_its_reason(
    otp: OTP, engine: AsyncEngine, alice: User, failed: Told, clock: Any
) -> None:
    """Wrong, replayed, locked, stopped, unreadable: of a named device and of any."""
    device = await make_device(otp, alice, TOTPDevice)
    mine, reason = device.persistent_id, VerificationFailure
    for named in (mine, None):
        token = token_at(device)
        assert (await otp.attempt(alice, token, named)).device == device
        assert (await otp.attempt(alice, token, named)).reason is reason.REPLAYED
        assert (await otp.attempt(alice, token, named)).reason is reason.LOCKED
        clock.shift(60)
        assert (await otp.attempt(alice, "000000", named)).reason is reason.WRONG
        clock.shift(60)
        async with engine.begin() as connection:
            await connection.execute(update(TABLE).values(throttling_failure_count=100))
        assert (await otp.attempt(alice, token_at(device), named)).reason is reason.STOPPED
        await otp.reset_device(alice, mine)
        async with engine.begin() as connection:
            sealed = await connection.scalar(text("SELECT sealed_secret FROM otp_device"))
            await connection.execute(update(TABLE).values(sealed_secret="garbage"))
        assert (await otp.attempt(alice, token_at(device), named)).reason is reason.UNREADABLE
        async with engine.begin() as connection:
            await connection.execute(update(TABLE).values(sealed_secret=sealed))
        expected = [reason.REPLAYED, reason.LOCKED, reason.WRONG, reason.STOPPED, reason.UNREADABLE]
        assert failed.taken() == [{"reason": why, **BY_HAND} for why in expected]


async def test_nobody_to_ask(
    otp: OTP, sessions: Sessions, alice: User, bob: User, failed: Told
) -> None:
    """No device, none of that id, another user's, an unconfirmed one: there is no device; what
    none of the user's devices can have for a token is wrong."""
    device = await make_device(otp, bob, TOTPDevice, confirmed=False)
    for named in (device.persistent_id, "totp/999", "garbage", None):
        await otp.attempt(alice, "000000", named)
        await otp.attempt(bob, "000000", named)
    assert set(failed.reasons) == {"no_device"}
    await make_static(sessions, alice, None)
    await otp.match_token(alice, "000000")
    assert failed.reasons == ["wrong"]


async def test_what_was_accepted_long_ago_is_wrong(
    otp: OTP, alice: User, failed: Told, clock: Any
) -> None:
    """A replay is of the window: an older token is as wrong as any. HOTP's goes as far back as it
    looks ahead."""
    device = await make_device(otp, alice, HOTPDevice, counter=20, tolerance=2)
    for steps, expected in ((-1, "replayed"), (-3, "replayed"), (-4, "wrong")):
        await otp.verify_token(alice, device.persistent_id, token_at(device, steps=steps))
        clock.shift(900)
        assert failed.reasons == [expected]


async def test_a_lock_is_told_once(
    otp: OTP, alice: User, failed: Told, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Of three hundred attempts while a device waits the signal tells of the failure and of the
    first that was turned away, and again after the next failure; the log has a line for each."""
    device = await make_device(otp, alice, TOTPDevice)
    for named in (device.persistent_id, None):
        for _ in range(30):
            await otp.attempt(alice, "000000", named)
        assert failed.reasons == ["wrong", "locked"]
        assert caplog.text.count(f"A token of user {alice.id} was refused") == 30
        caplog.clear()
        clock.shift(900)
    # The way of asking makes no difference to what was told.
    await otp.attempt(alice, "000000")
    await otp.attempt(alice, "000000", device.persistent_id)
    await otp.attempt(alice, "000000")
    assert failed.reasons == ["wrong", "locked"]


async def test_a_lock_is_told_once_by_all_processes(
    otp: OTP, sessions: Sessions, alice: User, failed: Told
) -> None:
    """Of fifty attempts at once by twenty OTPs, as in as many processes, two are told."""
    device = await make_device(otp, alice, TOTPDevice)
    otps = [OTP(sessions, Device, secret_key=SECRET_KEY) for _ in range(20)]
    assert await race(otps, "verify_token", alice, device.persistent_id, "000000") == 0
    assert failed.reasons == ["wrong", "locked"]


async def test_failures_before_a_success(
    otp: OTP, alice: User, verified: Told, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A success tells the wrong tokens since the user's last one, as the device that had most has
    counted them, on both ways; five or more are a warning. What came before the last success is
    not counted again."""
    caplog.set_level(logging.INFO, "starlette_otp")
    target = await make_device(otp, alice, TOTPDevice, secret=b"the one that is guessed at")
    own = await make_device(otp, alice, TOTPDevice)
    for number, (named, wrong) in enumerate([(own.persistent_id, 4), (None, 5)] * 2):
        for _ in range(wrong):
            clock.shift(900)
            assert await otp.verify_token(alice, target.persistent_id, "000000") is None
        clock.shift(900)
        if number % 2:
            await otp.verify_token(alice, own.persistent_id, "000000")
            clock.shift(900)
        caplog.clear()
        assert (await otp.attempt(alice, token_at(own), named)).device == own
        counted = [4, 5][number % 2]
        assert verified.taken() == [{"failures_before": counted, **BY_HAND}]
        (record,) = caplog.records
        assert (record.levelno == logging.WARNING) is (counted >= 5)
        assert (f", after {counted} wrong ones" in record.getMessage()) is (counted >= 5)
        clock.shift(30)
        await otp.attempt(alice, token_at(own), named)
        assert verified.taken() == [{"failures_before": 0, **BY_HAND}]


async def test_guesses_at_recovery_codes_are_told(
    otp: OTP, sessions: Sessions, alice: User, verified: Told, clock: Any
) -> None:
    """Made codes wait for nothing, whoever guesses at them; their owner is told how many tried."""
    static, (code,) = await make_static(sessions, alice, None)
    for guess in ["0000-0000-0000-0000"] * 150:
        assert await otp.match_token(alice, guess) is None
    assert (await otp.attempt(alice, code)).device == static
    assert verified.taken() == [{"failures_before": 150, **BY_HAND}]


async def test_chosen_codes_wait(otp: OTP, sessions: Sessions, alice: User) -> None:
    """A device with a token that somebody chose waits, also for its made ones."""
    static, (chosen, code) = await make_static(sessions, alice, "a chosen one", None)
    assert await otp.match_token(alice, "a wrong one") is None
    for token in (chosen, code):
        attempt = await otp.attempt(alice, token, static.persistent_id)
        assert attempt.reason is VerificationFailure.LOCKED


async def test_the_forms_tell_who_asks(
    otp: OTP, sessions: Sessions, alice: User, failed: Told, verified: Told, caplog: Any
) -> None:
    """Through a request the address and the agent are in the line and in the signal, and what an
    agent calls itself makes no line of its own."""
    caplog.set_level(logging.INFO, "starlette_otp")
    device = await make_totp(sessions, alice)
    await add(sessions, StaticDevice(user_id=alice.id))
    client = {"address": "127.0.0.1", "agent": "a 'browser'"}
    async with Browser(make_app(otp)) as browser:
        browser.headers["user-agent"] = client["agent"]
        await browser.log_in("letters", otp_device=device.persistent_id)
        assert failed.taken() == [{"reason": "wrong", **client}]
        await otp.reset_device(alice, device.persistent_id)
        await browser.log_in(token_at(device))
        assert verified.taken() == [{"failures_before": 0, **client}]
    said = [r.getMessage() for r in caplog.records if r.getMessage().startswith("A token")]
    whose, who = f"A token of user {alice.id} was", "from '127.0.0.1' by \"a 'browser'\"."
    assert said == [
        f"{whose} refused ({device}, wrong) {who}",
        f"{whose} accepted ({device}) {who}",
    ]


async def test_what_was_told_is_not_told_again(
    otp: OTP, alice: User, sessions: Sessions, clock: Any
) -> None:
    """Who slips at one device and signs in with another reads of that one slip, each day."""
    phone = await make_device(otp, alice, TOTPDevice)
    other = await make_device(otp, alice, TOTPDevice, secret=b"another secret of hers")
    for number in range(8):
        clock.shift(86_400)
        assert await otp.verify_token(alice, phone.persistent_id, "000000") is None
        named = other.persistent_id if number % 2 else None
        attempt = await otp.attempt(alice, token_at(other), named)
        assert attempt.device == other
        assert attempt.device is not None
        assert attempt.device.failures_before == 1
    clock.shift(86_400)
    assert await otp.verify_token(alice, phone.persistent_id, token_at(phone)) == phone
    assert (await reload(sessions, phone)).failures_told == 0
