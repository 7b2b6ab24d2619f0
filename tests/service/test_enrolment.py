"""Devices given to users and taken from them."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import func, select
from starlette.authentication import UnauthenticatedUser

from starlette_otp import OTP, oath
from starlette_otp.models import (
    EmailDevice,
    HOTPDevice,
    StaticDevice,
    StaticToken,
    TOTPDevice,
    User,
)
from tests.support import (
    AUTHENTICATED,
    SECRET,
    Browser,
    Sessions,
    add,
    make_static,
    make_totp,
    reload,
    totp_token,
)

NOBODY = [None, UnauthenticatedUser(), User(username="not saved")]


@pytest.mark.parametrize("kind", [TOTPDevice, HOTPDevice, EmailDevice, StaticDevice])
async def test_a_device_is_saved_as_the_users(
    otp: OTP, sessions: Sessions, alice: User, bob: User, kind: type[Any]
) -> None:
    """Whosever it said it was, the device is the user's, with its name and a readable secret."""
    device = await otp.add_device(alice, kind(name="new", user_id=bob.id))
    assert await otp.devices_for_user(alice) == [device]
    assert await otp.devices_for_user(bob) == []
    row = await reload(sessions, device)
    assert (row.name, row.confirmed, row.secret) == ("new", True, device.secret)


async def test_enrolling_an_authenticator(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Added unconfirmed it verifies nothing; its first token confirms it and is spent by that."""
    device = await otp.add_device(alice, TOTPDevice(secret=SECRET, confirmed=False))
    assert not await otp.user_has_device(alice)
    assert await otp.match_token(alice, totp_token()) is None
    confirmed = await otp.confirm_device(alice, device.persistent_id, totp_token())
    assert confirmed == device
    assert confirmed.confirmed
    assert await otp.user_has_device(alice)
    assert await otp.match_token(alice, totp_token()) is None
    assert (await reload(sessions, device)).last_used_at is not None


async def test_enrolling_a_counter(otp: OTP, sessions: Sessions, alice: User) -> None:
    """An HOTP device is confirmed by a token of its counter, which moves."""
    device = await otp.add_device(alice, HOTPDevice(secret=SECRET, confirmed=False))
    token = oath.hotp(SECRET, 2)
    assert await otp.confirm_device(alice, device.persistent_id, token) == device
    assert (await reload(sessions, device)).counter == 3


async def test_a_wrong_token_confirms_nothing(
    otp: OTP, sessions: Sessions, alice: User, bob: User
) -> None:
    """It is counted and locks the device; another user confirms nothing of alice's."""
    device = await otp.add_device(alice, TOTPDevice(secret=SECRET, confirmed=False))
    assert await otp.confirm_device(bob, device.persistent_id, totp_token()) is None
    assert await otp.confirm_device(alice, device.persistent_id, "000000") is None
    assert await otp.confirm_device(alice, device.persistent_id, totp_token()) is None, "locked"
    row = await reload(sessions, device)
    assert (row.confirmed, row.throttling_failure_count) == (False, 1)


@pytest.mark.parametrize("user", NOBODY, ids=["None", "anonymous", "unsaved"])
async def test_nobody_gets_a_device(otp: OTP, sessions: Sessions, user: Any) -> None:
    """A device, or a recovery code, for nobody is an error and leaves nothing behind."""
    with pytest.raises(ValueError, match="needs an authenticated user"):
        await otp.add_device(user, TOTPDevice())
    with pytest.raises(ValueError, match="needs an authenticated user"):
        await otp.add_static_token(user)
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(TOTPDevice)) == 0


async def test_a_removed_device_verifies_nothing(
    otp: OTP, sessions: Sessions, alice: User, browser: Browser
) -> None:
    """ASVS 6.5.6, 7.4.3: the device is gone, and the session it verified is authenticated only."""
    device, other = await make_totp(sessions, alice), await make_totp(sessions, alice)
    await browser.log_in(totp_token(), otp_device=device.persistent_id)
    assert (await browser.state())["verified"]
    assert await otp.remove_device(alice, device.persistent_id) == device
    assert await browser.state() == AUTHENTICATED
    assert await otp.verify_token(alice, device.persistent_id, totp_token(offset=1)) is None
    assert await otp.devices_for_user(alice) == [other]


async def test_removing_recovery_codes(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Its tokens go with a static device, and an unconfirmed device can be removed, too."""
    device, _ = await make_static(sessions, alice, None, None)
    unconfirmed = await add(sessions, TOTPDevice(user_id=alice.id, confirmed=False))
    for row in (device, unconfirmed):
        assert await otp.remove_device(alice, row.persistent_id) == row
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(StaticToken)) == 0
    assert await otp.devices_for_user(alice, confirmed=None) == []


async def test_only_ones_own_devices_are_removed(
    otp: OTP, sessions: Sessions, alice: User, bob: User
) -> None:
    """Another user's device, an unknown and a malformed id remove nothing."""
    device = await make_totp(sessions, alice)
    assert await otp.remove_device(bob, device.persistent_id) is None
    assert await otp.remove_device(None, device.persistent_id) is None
    for garbage in ("", "totp/999999", f"hotp/{device.id}", "totp/-1", "\0", "totp/1; --"):
        assert await otp.remove_device(alice, garbage) is None
    assert await reload(sessions, device) == device


async def test_one_removal_of_many_tells_it(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Of several removals at once one gives the device, the others None."""
    device = await make_totp(sessions, alice)
    removals = [otp.remove_device(alice, device.persistent_id) for _ in range(5)]
    assert (await asyncio.gather(*removals)).count(None) == 4
