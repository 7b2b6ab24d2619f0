"""Recovery codes as calls: how many are left, and all of them made anew."""

import asyncio
from typing import Any

import pytest

from starlette_otp import OTP, ConfigurationError, otp_device_added
from starlette_otp.models import StaticDevice, TOTPDevice, User
from tests.hosts import devices_of, int_users, keep, new_base, sessions_of, totp_of
from tests.service.test_enrolment import NOBODY
from tests.support import SECRET, SECRET_KEY, Sessions, add, make_static, make_totp, reload


async def test_they_are_made_and_counted(otp: OTP, alice: User, bob: User) -> None:
    """Ten, each good once; a device for them is told of when it is made, and only then."""
    told = []

    def receive(sender: Any, user: Any, device: Any) -> None:
        told.append((user.id, device.kind, device.name, device.confirmed))

    assert await otp.recovery_codes_left(alice) == 0
    with otp_device_added.connected_to(receive):
        codes = await otp.new_recovery_codes(alice)
        assert await otp.recovery_codes_left(alice) == len(set(codes)) == 10
        assert await otp.match_token(alice, codes[3]) is not None
        assert await otp.match_token(alice, codes[3]) is None
        assert await otp.recovery_codes_left(alice) == 9
        anew = await otp.new_recovery_codes(alice, 2)
    assert told == [(alice.id, "static", "Recovery codes", True)]
    assert await otp.recovery_codes_left(alice) == 2
    assert await otp.match_token(alice, codes[0]) is None
    assert await otp.match_token(alice, anew[0]) is not None
    assert await otp.recovery_codes_left(bob) == 0


async def test_they_replace_those_of_all_devices(
    otp: OTP, sessions: Sessions, alice: User, bob: User
) -> None:
    """Those of other static devices are worth nothing, too; the devices stay, and other users'."""
    one, [first] = await make_static(sessions, alice, None)
    other, [second] = await make_static(sessions, alice, "a chosen one")
    _, [elsewhere] = await make_static(sessions, bob, None)
    codes = await otp.new_recovery_codes(alice)
    assert await otp.devices_for_user(alice) == [one, other]
    for old in (first, second):
        assert await otp.match_token(alice, old) is None
    assert await otp.match_token(alice, codes[0]) == one
    assert await otp.match_token(bob, elsewhere) is not None


async def test_a_set_has_codes(otp: OTP, alice: User) -> None:
    """None, fewer than none, or thousands are no set, and change nothing."""
    await otp.new_recovery_codes(alice)
    for number in (0, -3, 101):
        with pytest.raises(ValueError, match="1 to 100"):
            await otp.new_recovery_codes(alice, number)
    assert await otp.recovery_codes_left(alice) == 10


async def test_two_at_once_leave_one_set(otp: OTP, alice: User) -> None:
    """Of two who come first at the same time one is too late: one device, one set that counts."""
    made = await asyncio.gather(*[otp.new_recovery_codes(alice) for _ in range(5)])
    assert len(await otp.devices_for_user(alice)) == 1
    assert await otp.recovery_codes_left(alice) == 10
    good = [await otp.match_token(alice, codes[0]) is not None for codes in made]
    assert good.count(True) == 1


async def test_unconfirmed_ones_do_not_count(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Codes of a device that verifies nothing are none that are left, and stay what they are."""
    device = await add(sessions, StaticDevice(user_id=alice.id, confirmed=False))
    assert await otp.recovery_codes_left(alice) == 0
    await otp.new_recovery_codes(alice)
    assert not (await reload(sessions, device)).confirmed


@pytest.mark.parametrize("user", NOBODY)
async def test_nobody_has_none(otp: OTP, user: Any) -> None:
    """Nobody has no codes, and gets none."""
    assert await otp.recovery_codes_left(user) == 0
    with pytest.raises(ValueError, match="authenticated user"):
        await otp.new_recovery_codes(user)


async def test_a_host_without_static_devices(sessions: Sessions) -> None:
    """One sentence says what is missing."""
    base = new_base()
    device = devices_of(base, int_users(base))
    keep(totp_of(device))
    keep(sessions_of(base, device))
    otp = OTP(sessions, device, secret_key=SECRET_KEY)
    for call in (otp.recovery_codes_left, otp.new_recovery_codes):
        with pytest.raises(ConfigurationError, match="no static devices"):
            await call(None)


async def test_a_device_gets_another_name(
    otp: OTP, sessions: Sessions, alice: User, bob: User
) -> None:
    """Its owner names it, spaces at the ends aside; what can't be a name changes nothing."""
    device = await make_totp(sessions, alice)
    found = await otp.rename_device(alice, device.persistent_id, "  My   phone ")
    assert found is not None
    assert found.name == (await reload(sessions, device)).name == "My phone"
    assert await otp.rename_device(bob, device.persistent_id, "Mine") is None
    assert await otp.rename_device(alice, "totp/0", "Mine") is None
    for name in ("", "  ", "x" * 65, "a\0b", "\ud800", "\x1b[2J", "a\u202eb", "a\u200bb"):
        with pytest.raises(ValueError, match="1 to 64 characters"):
            await otp.rename_device(alice, device.persistent_id, name)
    stored = await reload(sessions, device)
    assert (stored.name, stored.secret, stored.confirmed) == ("My phone", SECRET, True)


async def test_a_pending_device_has_a_name_too(otp: OTP, alice: User) -> None:
    """One that waits to be confirmed is renamed as any."""
    device = await otp.add_device(alice, TOTPDevice(confirmed=False))
    found = await otp.rename_device(alice, device.persistent_id, "Tablet")
    assert found is not None
    assert (found.name, found.confirmed) == ("Tablet", False)
