"""Recovery codes: made in a batch, replaced as a whole, spent one by one."""

import asyncio
import re
from typing import Any

import pytest
from sqlalchemy import func, select

from starlette_otp import OTP, TransactionRequired
from starlette_otp.models import StaticDevice, StaticToken, User
from tests.support import Sessions, make_static

CODE = re.compile(r"([0-9abcdefghjkmnpqrstvwxyz]{4}-){3}[0-9abcdefghjkmnpqrstvwxyz]{4}")


async def replace(sessions: Sessions, device: Any, *n: int) -> list[str]:
    async with sessions.begin() as session:
        row = await session.get_one(StaticDevice, device.id)
        return await row.replace_tokens(*n)


async def count(sessions: Sessions) -> int:
    async with sessions() as session:
        return await session.scalar(select(func.count()).select_from(StaticToken)) or 0


async def test_ten_codes(otp: OTP, sessions: Sessions, alice: User) -> None:
    """ASVS 6.5.4: ten codes of 80 bits in groups without look-alikes, each good once, in any
    case and with or without dashes."""
    device, _ = await make_static(sessions, alice)
    codes = await replace(sessions, device)
    assert len(set(codes)) == 10
    assert all(CODE.fullmatch(code) for code in codes)
    async with sessions() as session:
        digests = (await session.scalars(select(StaticToken.digest))).all()
    assert len(digests) == 10
    assert not {code.replace("-", "") for code in codes} & set(digests)
    for code in codes:
        typed = code.upper().replace("-", " ").replace("0", "O").replace("1", "I")
        assert await otp.match_token(alice, typed) == device
        assert await count(sessions) == len(codes) - codes.index(code) - 1


async def test_new_codes_replace_the_old(otp: OTP, sessions: Sessions, alice: User) -> None:
    """After a replacement no older code opens, chosen ones included; guesses of another look are
    not even asked for."""
    device, (made, chosen, digits) = await make_static(
        sessions, alice, None, "Chosen-Code", "12345678"
    )
    [code] = await replace(sessions, device, 1)
    for token in (chosen, digits):
        assert await otp.match_token(alice, token) is None
    assert await otp.match_token(alice, code) == device, "those guesses counted nothing"
    assert await otp.match_token(alice, made) is None
    assert await count(sessions) == 0


@pytest.mark.parametrize("n", [0, 1, 17_000])
async def test_any_number_of_codes(otp: OTP, sessions: Sessions, alice: User, n: int) -> None:
    """None takes all away; many are more than one statement has parameters for."""
    device, _ = await make_static(sessions, alice, None, None)
    codes = await replace(sessions, device, n)
    assert len(codes) == await count(sessions) == n
    if codes:
        assert await otp.match_token(alice, codes[-1]) == device


async def test_codes_for_a_device_that_is_new(otp: OTP, sessions: Sessions, alice: User) -> None:
    """A device just added to a session is saved for them."""
    async with sessions.begin() as session:
        device = StaticDevice(user_id=alice.id)
        session.add(device)
        codes = await device.replace_tokens(2)
    assert await otp.match_token(alice, codes[1]) == device


async def test_another_devices_codes_stay(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Only the codes of this device are replaced."""
    device, _ = await make_static(sessions, alice, None)
    other, (kept,) = await make_static(sessions, alice, None)
    await replace(sessions, device)
    assert await otp.match_token(alice, kept) == other


async def test_two_replacements_at_once_leave_one_set(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """Of two at once one's codes are good and the other's are not."""
    device, _ = await make_static(sessions, alice, None)
    sets = await asyncio.gather(*(replace(sessions, device, 3) for _ in range(8)))
    assert await count(sessions) == 3
    opened = [await otp.match_token(alice, codes[0]) is not None for codes in sets]
    assert opened.count(True) <= 1


async def test_a_rollback_leaves_the_old_codes(otp: OTP, sessions: Sessions, alice: User) -> None:
    """The caller commits: without that the codes shown are worth nothing."""
    device, (old,) = await make_static(sessions, alice, None)
    async with sessions() as session:
        [new] = await (await session.get_one(StaticDevice, device.id)).replace_tokens(1)
        await session.rollback()
    assert await otp.match_token(alice, old) == device
    assert await otp.match_token(alice, new) is None


async def test_a_device_in_no_session(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Codes need a device that is loaded in a session."""
    device, _ = await make_static(sessions, alice)
    for row in (device, StaticDevice()):
        with pytest.raises(TransactionRequired):
            await row.replace_tokens()


async def test_the_same_code_on_two_devices(otp: OTP, sessions: Sessions, alice: User) -> None:
    """The first device's is spent first, then the other's, then there is none."""
    one, _ = await make_static(sessions, alice, "Open-Sesame")
    two, _ = await make_static(sessions, alice, "Open-Sesame")
    found = [await otp.match_token(alice, "opensesame") for _ in range(3)]
    assert found == [one, two, None]
