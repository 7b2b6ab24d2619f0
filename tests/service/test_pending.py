"""Devices that wait to be confirmed: few, and not for long."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import time_machine
from click.testing import CliRunner

from starlette_otp import OTP, TooManyPending
from starlette_otp.cli import main
from starlette_otp.models import HOTPDevice, TOTPDevice, User
from tests.support import SECRET, SECRET_KEY, Sessions, make_totp, reload, totp_token

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


def pending() -> TOTPDevice:
    return TOTPDevice(secret=SECRET, confirmed=False)


async def test_five_of_a_user(
    otp: OTP, sessions: Sessions, alice: User, bob: User, clock: time_machine.Traveller
) -> None:
    """A sixth is refused with the number as data; confirmed ones, other users' and expired ones
    don't count."""
    await make_totp(sessions, alice)
    await otp.add_device(bob, pending())
    made = [await otp.add_device(alice, pending()) for _ in range(5)]
    with pytest.raises(TooManyPending) as caught:
        await otp.add_device(alice, HOTPDevice(confirmed=False))
    assert caught.value.limit == 5
    assert await otp.devices_for_user(alice, confirmed=False) == made
    await otp.add_device(alice, HOTPDevice())
    clock.shift(600)
    await otp.add_device(alice, pending())


async def test_five_at_once(otp: OTP, alice: User) -> None:
    """Of ten added at once five are, and the others refused."""
    adding = [otp.add_device(alice, pending()) for _ in range(10)]
    made = await asyncio.gather(*adding, return_exceptions=True)
    assert sum(isinstance(device, TooManyPending) for device in made) == 5
    assert len(await otp.devices_for_user(alice, confirmed=False)) == 5


async def test_ten_minutes(
    otp: OTP, sessions: Sessions, alice: User, clock: time_machine.Traveller
) -> None:
    """A device can be confirmed for ten minutes; then it is as good as none, and counts nothing."""
    late, early = [await otp.add_device(alice, pending()) for _ in range(2)]
    clock.shift(599)
    assert await otp.confirm_device(alice, early.persistent_id, totp_token()) == early
    clock.shift(1)
    assert await otp.confirm_device(alice, late.persistent_id, totp_token(offset=1)) is None
    row = await reload(sessions, late)
    assert (row.confirmed, row.throttling_failure_count) == (False, 0)


async def test_no_limits(
    otp: OTP,
    alice: User,
    clock: time_machine.Traveller,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None as a setting is no limit; nothing of that kind is swept."""
    monkeypatch.setattr(TOTPDevice, "max_pending", None)
    monkeypatch.setattr(TOTPDevice, "pending_max_age", None)
    made = [await otp.add_device(alice, pending()) for _ in range(7)]
    clock.shift(100_000)
    assert await otp.clear_pending() == 0
    assert len(await otp.devices_for_user(alice, confirmed=False)) == 7
    assert await otp.confirm_device(alice, made[0].persistent_id, totp_token())


async def test_the_expired_are_swept(
    otp: OTP, sessions: Sessions, alice: User, clock: time_machine.Traveller
) -> None:
    """`clear_pending` deletes what was not confirmed in time, in batches; neither what still may
    be, nor a device that has verified and was unconfirmed later."""
    for _ in range(3):
        await make_totp(sessions, alice, confirmed=False)
    suspended = await make_totp(sessions, alice, confirmed=False, last_used_at=NOW)
    kept = await make_totp(sessions, alice)
    clock.shift(600)
    waiting = await make_totp(sessions, alice, confirmed=False)
    assert await otp.clear_pending(batch=2) == 3
    assert await otp.devices_for_user(alice, confirmed=None) == [suspended, kept, waiting]


async def test_the_command_sweeps_them(
    sessions: Sessions, alice: User, clock: time_machine.Traveller, database_url: str
) -> None:
    """`starlette-otp clearsessions` deletes them, too, and says so where there were any."""
    await make_totp(sessions, alice, confirmed=False)
    clock.shift(600)
    env = {"DATABASE_URL": database_url, "SECRET_KEY": SECRET_KEY}
    for said in ("Deleted 1 device never confirmed.\n", ""):
        result = await asyncio.to_thread(CliRunner().invoke, main, ["clearsessions"], env=env)
        assert result.output == f"Deleted 0 expired sessions.\n{said}"
