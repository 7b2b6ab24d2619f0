"""Clocks that were wrong and are right again: the prover's, and ours."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import time_machine

from starlette_otp import OTP
from starlette_otp.models import EmailDevice, TOTPDevice, User
from tests.support import SECRET, Sessions, add, make_static, make_totp, reload, totp_token

NOW = datetime(2030, 1, 1, tzinfo=UTC)
MONTH = 30 * 86_400


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


async def verify(otp: OTP, user: User, device: Any, offset: int = 0) -> bool:
    """Whether the token of now, `offset` steps away, is accepted; waits do not matter."""
    await otp.reset_device(user, device.persistent_id)
    return await otp.verify_token(user, device.persistent_id, totp_token(offset=offset)) is not None


@pytest.mark.parametrize("drift", [10, -10, 3, 14, -14])
async def test_a_prover_whose_clock_is_set_right_is_let_in(
    otp: OTP, sessions: Sessions, alice: User, clock: time_machine.Traveller, drift: int
) -> None:
    """The window is around our own clock as well as around the drift, which follows the match."""
    device = await make_totp(sessions, alice, drift=drift)
    assert await verify(otp, alice, device, drift)
    clock.shift(3600)
    assert not await verify(otp, alice, device, 5 if drift < 5 else 2)
    assert await verify(otp, alice, device)
    assert (await reload(sessions, device)).drift == 0


async def test_a_token_of_both_windows_is_accepted_once(
    otp: OTP, sessions: Sessions, alice: User, clock: time_machine.Traveller
) -> None:
    """RFC 6238 section 5.2 holds over both windows: nothing at or below the last accepted step."""
    device = await make_totp(sessions, alice, drift=2)
    assert await verify(otp, alice, device, 1)
    assert [await verify(otp, alice, device, offset) for offset in (1, 0, -1)] == [False] * 3
    assert await verify(otp, alice, device, 2)


@pytest.mark.parametrize("drift", [14, -14])
async def test_a_drift_beyond_ten_steps_stays(
    otp: OTP, sessions: Sessions, alice: User, clock: time_machine.Traveller, drift: int
) -> None:
    """RFC 6238 section 6: one that was brought along is followed no further, and never moved back
    to where its prover is not."""
    device = await make_totp(sessions, alice, drift=drift)
    for late in (0, -1, 1, 0):
        clock.shift(3600)
        assert await verify(otp, alice, device, drift + late)
        assert (await reload(sessions, device)).drift == drift
    assert not await verify(otp, alice, device, 2 * drift)


async def test_a_server_that_was_a_month_ahead(
    otp: OTP,
    sessions: Sessions,
    alice: User,
    clock: time_machine.Traveller,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """RFC 6238 section 5.2: who logged in meanwhile stays refused; the log says why, and
    reset_device lets them in, for each token once."""
    device = await make_totp(sessions, alice)
    clock.shift(MONTH)
    assert await otp.match_token(alice, totp_token())
    assert "clock was wrong" not in caplog.text
    clock.shift(3600 - MONTH)
    assert await otp.match_token(alice, totp_token()) is None
    assert "<TOTPDevice totp/1> last accepted a token that lies far ahead" in caplog.text
    assert await otp.reset_device(alice, device.persistent_id) == device
    row = await reload(sessions, device)
    assert (row.last_t, row.throttling_failure_count) == (-1, 0)
    assert [bool(await otp.match_token(alice, totp_token())) for _ in range(2)] == [True, False]


async def test_a_moment_between_two_servers_is_no_wrong_clock(
    otp: OTP,
    sessions: Sessions,
    alice: User,
    clock: time_machine.Traveller,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who logged in at a server some seconds ahead of this one waits that long, and nobody is
    alarmed."""
    await make_totp(sessions, alice)
    assert await otp.match_token(alice, totp_token(offset=1))
    clock.shift(-120)
    assert await otp.match_token(alice, totp_token()) is None
    clock.shift(300)
    assert await otp.match_token(alice, totp_token())
    assert "ahead" not in caplog.text


async def test_a_reset_gives_no_token_back(
    otp: OTP, sessions: Sessions, alice: User, clock: time_machine.Traveller
) -> None:
    """A step that our clock has reached stays accepted: its token is no good after a reset."""
    device = await make_totp(sessions, alice)
    assert await verify(otp, alice, device, 1)
    assert not await verify(otp, alice, device, 1)
    assert not await verify(otp, alice, device, 0)


async def test_a_reset_lets_any_device_verify_again(
    otp: OTP, sessions: Sessions, alice: User, bob: User, caplog: pytest.LogCaptureFixture
) -> None:
    """A device that is stopped, of any kind, confirmed or not, forgets its failures; another
    user's and one that is none are None and change nothing."""
    caplog.set_level("INFO", "starlette_otp")
    static, _ = await make_static(sessions, alice, "Chosen-Code")
    mail = await add(sessions, EmailDevice(user_id=alice.id, confirmed=False))
    for device in (static, mail):
        async with sessions.begin() as session:
            (await session.get_one(type(device), device.id)).throttling_failure_count = 100
        for user, persistent_id in ((bob, device.persistent_id), (alice, "totp/99"), (alice, "x")):
            assert await otp.reset_device(user, persistent_id) is None
        assert (await reload(sessions, device)).needs_reset
        assert await otp.reset_device(alice, device.persistent_id) == device
        assert not (await reload(sessions, device)).needs_reset
        assert f"A device of user {alice.id} was reset ({device!r})." in caplog.text


def test_what_needs_a_reset(clock: time_machine.Traveller) -> None:
    """A stopped device, and one whose last accepted step is more than ten steps ahead of what our
    clock could accept."""
    present = int(NOW.timestamp()) // 30
    found = [
        TOTPDevice(secret=SECRET, drift=drift, last_t=present + ahead).needs_reset
        for drift, ahead in [(0, 11), (0, 12), (10, 21), (10, 22), (-10, 11), (-10, 12)]
    ]
    assert found == [False, True] * 3
    assert TOTPDevice(throttling_failure_count=100).needs_reset
