"""Recovery codes that wait: they count once their owner says that they are saved."""

import asyncio
from typing import Any

import pytest
import time_machine
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from starlette_otp import OTP, TooManyPending, otp_device_added, otp_recovery_codes
from starlette_otp.devices import StaticDeviceMixin
from starlette_otp.models import StaticDevice, TOTPDevice, User
from tests.hosts import make_host
from tests.support import (
    SECRET_KEY,
    Browser,
    Sessions,
    door,
    make_app,
    make_static,
    reload,
    verified_by,
)


async def test_the_first_ones_count_when_they_are_saved(otp: OTP, alice: User, bob: User) -> None:
    """Not before, and not for anybody else; the device is told of when they do."""
    told: list[Any] = []

    def added(sender: Any, user: Any, device: Any) -> None:
        told.append((user.id, device.persistent_id))

    def renewed(sender: Any, user: Any, device: Any, reason: str, left: int) -> None:
        told.append((reason, left))

    with otp_device_added.connected_to(added), otp_recovery_codes.connected_to(renewed):
        device, codes = await otp.recovery_codes.prepare(alice)
        assert (len(set(codes)), device.confirmed, device.name) == (10, False, "Recovery codes")
        assert await otp.recovery_codes_left(alice) == 0
        assert await otp.match_token(alice, codes[0]) is None
        assert await otp.recovery_codes.keep(bob, device.persistent_id) is None
        assert told == []
        assert await otp.recovery_codes.keep(alice, device.persistent_id) == device
    assert told == [("renewed", 10), (alice.id, device.persistent_id)]
    assert await otp.match_token(alice, codes[0]) == device
    assert await otp.recovery_codes_left(alice) == 9


async def test_they_take_the_place_of_all_there_were(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """On the device that there is, whose sessions stay verified; those of others are gone."""
    one, [first] = await make_static(sessions, alice, None)
    other, [second] = await make_static(sessions, alice, "a chosen one")
    app = make_app(otp, door(otp, alice, one))
    async with Browser(app) as browser:
        await browser.get("/enter")
        waiting, codes = await otp.recovery_codes.prepare(alice)
        assert await otp.match_token(alice, second) == other
        assert await otp.recovery_codes.keep(alice, waiting.persistent_id) == one
        assert await browser.state() == verified_by(one)
    assert await otp.devices_for_user(alice, confirmed=None) == [one, other]
    assert await otp.match_token(alice, first) is None
    assert await otp.recovery_codes_left(alice) == 10
    assert await otp.match_token(alice, codes[9]) == one


async def test_codes_that_came_later_take_their_place(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """Prepared in two tabs, those of the first can't be kept: the user has the others, too."""
    staff_made = await otp.add_device(alice, StaticDevice(confirmed=False, name="From the office"))
    first, _ = await otp.recovery_codes.prepare(alice)
    second, codes = await otp.recovery_codes.prepare(alice)
    assert await otp.recovery_codes.keep(alice, first.persistent_id) is None
    assert await otp.recovery_codes.keep(alice, second.persistent_id) == second
    assert await otp.match_token(alice, codes[0]) == second
    assert await reload(sessions, staff_made) is not None


async def test_they_do_not_wait_for_ever(otp: OTP, alice: User) -> None:
    """As any device that nobody confirms; and what counts already can't be kept again."""
    with time_machine.travel("2031-05-04T12:00Z", tick=False) as clock:
        device, _ = await otp.recovery_codes.prepare(alice)
        clock.shift(600)
        assert await otp.recovery_codes.keep(alice, device.persistent_id) is None
        device, _ = await otp.recovery_codes.prepare(alice)
        assert await otp.recovery_codes.keep(alice, device.persistent_id) == device
        assert await otp.recovery_codes.keep(alice, device.persistent_id) is None
    for garbage in ("", "static/0", "totp/1", "x"):
        assert await otp.recovery_codes.keep(alice, garbage) is None


async def test_two_clicks_keep_them_once(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Of two at the same moment one is too late, and ten codes are left."""
    await make_static(sessions, alice, None)
    device, _ = await otp.recovery_codes.prepare(alice)
    kept = await asyncio.gather(
        *[otp.recovery_codes.keep(alice, device.persistent_id) for _ in range(5)]
    )
    assert sum(one is not None for one in kept) == 1
    assert await otp.recovery_codes_left(alice) == 10
    assert len(await otp.devices_for_user(alice, confirmed=None)) == 1


async def test_nobody_has_none_that_wait(otp: OTP) -> None:
    """Nobody gets none, and keeps none."""
    with pytest.raises(ValueError, match="authenticated user"):
        await otp.recovery_codes.prepare(None)
    with pytest.raises(ValueError, match="authenticated user"):
        await otp.recovery_codes.keep(None, "static/1")


async def test_waiting_codes_are_no_pending_device_too_many(otp: OTP, alice: User) -> None:
    """Codes that are looked at again and again leave room for one device that waits less."""
    for _ in range(7):
        await otp.recovery_codes.prepare(alice)
    for _ in range(4):
        await otp.add_device(alice, TOTPDevice(confirmed=False))
    with pytest.raises(TooManyPending):
        await otp.add_device(alice, TOTPDevice(confirmed=False))


async def test_they_take_the_place_of_those_of_every_kind(empty_engine: AsyncEngine) -> None:
    """Of two kinds that hold codes, too: what there was is worth nothing afterwards."""
    host = make_host()

    class PaperDevice(StaticDeviceMixin, host.Device):  # type: ignore[name-defined, misc]
        __kind__ = "paper"

    await host.create_tables(empty_engine)
    sessions = async_sessionmaker(empty_engine, expire_on_commit=False)
    otp = OTP(sessions, host.Device, secret_key=SECRET_KEY)
    user = host.User(username="alice")
    async with sessions.begin() as session:
        session.add(user)
        await session.flush()
        paper = PaperDevice(user_id=user.id)
        session.add(paper)
        old = [await paper.add_token() for _ in range(3)]
    assert await otp.recovery_codes_left(user) == 3
    waiting, codes = await otp.recovery_codes.prepare(user)
    assert await otp.recovery_codes.keep(user, waiting.persistent_id) == paper
    assert await otp.match_token(user, old[0]) is None
    assert await otp.match_token(user, codes[0]) == paper
    [new] = await otp.new_recovery_codes(user, 1)
    assert await otp.match_token(user, codes[1]) is None
    assert await otp.match_token(user, new) == paper
