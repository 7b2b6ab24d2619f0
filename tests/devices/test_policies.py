"""Throttling: growing waits, a stop after many failures, and who is excepted."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine

from starlette_otp import OTP
from starlette_otp.devices import VerifyNotAllowed
from starlette_otp.models import TOTPDevice, User
from tests.support import (
    Sessions,
    add,
    make_static,
    make_totp,
    reload,
    totp_token,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LARGEST = 2**31 - 1


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


def failed(count: int, ago: float = 0, **values: Any) -> TOTPDevice:
    """A device that failed so often, the last time so many seconds ago."""
    at = NOW - timedelta(seconds=ago)
    return TOTPDevice(throttling_failure_count=count, throttling_failure_timestamp=at, **values)


WAITS = {1: 1, 2: 2, 3: 4, 4: 8, 10: 512, 11: 900, 12: 900, 99: 900}


@pytest.mark.parametrize(("count", "seconds"), list(WAITS.items()))
async def test_the_wait_doubles_up_to_the_cap(
    count: int, seconds: int, clock: time_machine.Traveller
) -> None:
    """RFC 4226 section 7.3: after n failures factor x 2^(n-1) seconds, at most 900."""
    device = failed(count)
    until = NOW + timedelta(seconds=seconds)
    evidence = {
        "reason": VerifyNotAllowed.N_FAILED_ATTEMPTS,
        "failure_count": count,
        "locked_until": until,
    }
    assert await device.verify_is_allowed() == (False, evidence)
    clock.move_to(until - timedelta(microseconds=1), tick=False)
    assert await device.verify_is_allowed() == (False, evidence)
    clock.move_to(until, tick=False)
    assert await device.verify_is_allowed() == (True, None)


@pytest.mark.parametrize("factor", [0.5, 2, 60])
async def test_a_kind_sets_its_own_factor_and_cap(
    factor: float, clock: time_machine.Traveller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The waits are the class attributes' of the device."""
    monkeypatch.setattr(TOTPDevice, "throttle_factor", factor)
    monkeypatch.setattr(TOTPDevice, "throttle_max_delay", 240)
    assert failed(3).locked_until == NOW + timedelta(seconds=min(4 * factor, 240))
    assert failed(30).locked_until == NOW + timedelta(seconds=240)


async def test_factor_zero_waits_never_but_stops(
    clock: time_machine.Traveller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without waits failures are still counted, and the stop is still there."""
    monkeypatch.setattr(TOTPDevice, "throttle_factor", 0)
    device = failed(99)
    assert await device.verify_is_allowed() == (True, None)
    device.throttle_increment()
    allowed, evidence = await device.verify_is_allowed()
    assert not allowed
    assert evidence["locked_until"] is None
    assert evidence["failure_count"] == 100


async def test_a_hundred_failures_stop_a_device_until_someone_resets_it(
    clock: time_machine.Traveller,
) -> None:
    """NIST SP 800-63B: after 100 consecutive failures no wait is long enough; a reset opens."""
    device = failed(100, ago=10**8)
    allowed, evidence = await device.verify_is_allowed()
    assert not allowed
    assert evidence == {
        "reason": VerifyNotAllowed.N_FAILED_ATTEMPTS,
        "failure_count": 100,
        "locked_until": None,
    }
    device.throttle_reset()
    assert await device.verify_is_allowed() == (True, None)


async def test_without_a_limit_only_the_waits_remain(
    clock: time_machine.Traveller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """max_failures = None: never stopped."""
    monkeypatch.setattr(TOTPDevice, "max_failures", None)
    assert await failed(10_000, ago=901).verify_is_allowed() == (True, None)


@pytest.mark.parametrize(
    ("token", "stopped"), [(None, False), ("chosen-code", True), ("12345678", True)]
)
async def test_made_tokens_are_not_stopped(
    token: str | None, stopped: bool, otp: OTP, sessions: Sessions, alice: User
) -> None:
    """NIST SP 800-63B: look-up secrets of 64 bits or more need no limit; chosen ones do."""
    device, _ = await make_static(sessions, alice, token)
    device = await reload(sessions, device)
    device.throttling_failure_count = 100
    device.throttling_failure_timestamp = NOW - timedelta(days=10_000)
    assert (await device.verify_is_allowed())[0] is not stopped


@pytest.mark.parametrize("count", [64, 65, 1024, 1025, LARGEST])
async def test_large_counts_do_not_overflow(
    count: int,
    otp: OTP,
    sessions: Sessions,
    alice: User,
    monkeypatch: pytest.MonkeyPatch,
    clock: time_machine.Traveller,
) -> None:
    """However many failures there were: the wait is the cap, and one more can be counted."""
    monkeypatch.setattr(TOTPDevice, "max_failures", None)
    device = await add(sessions, failed(count, user_id=alice.id))
    assert device.locked_until == NOW + timedelta(seconds=900)
    clock.shift(901)
    assert await otp.match_token(alice, "000000") is None
    assert (await reload(sessions, device)).throttling_failure_count == min(count + 1, LARGEST)


@pytest.mark.parametrize("seconds", [0.5, 16, 17, 100, 10**8])
async def test_a_clock_set_back_does_not_lengthen_the_wait(
    seconds: float, clock: time_machine.Traveller
) -> None:
    """A failure that lies ahead because the clock was set back locks for twice its wait at most."""
    device = failed(5, ago=-seconds)
    locked = []
    for second in range(200):
        clock.move_to(NOW + timedelta(seconds=second), tick=False)
        locked.append(device.locked_until is not None)
    assert sum(locked) <= 2 * 16
    assert locked[0] is (seconds <= 16), "a server's clock may be a little ahead of another's"


async def test_a_failure_locks_and_a_success_resets(
    otp: OTP, sessions: Sessions, alice: User, clock: time_machine.Traveller
) -> None:
    """A failure is counted and stamped; the right token is refused until the wait is over, which
    counts nothing; then it verifies, and the count begins anew."""
    device = await make_totp(sessions, alice)
    name = device.persistent_id
    assert await otp.verify_token(alice, name, "000000") is None
    clock.shift(0.9)
    assert await otp.verify_token(alice, name, totp_token()) is None
    assert await otp.match_token(alice, totp_token()) is None
    assert await otp.verify_token(alice, name, "000000") is None
    locked = await reload(sessions, device)
    assert locked.throttling_failure_count == 1
    assert locked.throttling_failure_timestamp == NOW
    assert (locked.last_used_at, locked.last_t) == (None, -1)
    clock.shift(0.1)
    assert await otp.verify_token(alice, name, totp_token()) == device
    after = await reload(sessions, device)
    assert (after.throttling_failure_count, after.throttling_failure_timestamp) == (0, None)
    assert after.last_used_at == NOW + timedelta(seconds=1)
    assert after.created_at == NOW


async def test_each_device_has_a_count_of_its_own(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """Failures with one device lock no other."""
    device = await make_totp(sessions, alice)
    static, (token,) = await make_static(sessions, alice, None)
    assert await otp.verify_token(alice, device.persistent_id, "000000") is None
    assert await otp.verify_token(alice, static.persistent_id, token) == static
    assert (await reload(sessions, device)).throttling_failure_count == 1
