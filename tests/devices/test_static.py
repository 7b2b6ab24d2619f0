"""Static devices: recovery codes, each accepted once."""

import asyncio
import re
from typing import Any

import pytest
from sqlalchemy import func, select

from starlette_otp import OTP, TransactionRequired
from starlette_otp.devices.static import canonical_static, make_token
from starlette_otp.models import StaticDevice, StaticToken, User
from tests.support import Sessions, Statements, add, make_static, make_totp, reload, totp_token


async def add_token(sessions: Sessions, device: Any, token: str | None = None) -> str:
    async with sessions.begin() as session:
        own = await session.get(StaticDevice, device.id)
        return await own.add_token(token)


async def count(sessions: Sessions) -> int:
    async with sessions() as session:
        return await session.scalar(select(func.count()).select_from(StaticToken)) or 0


def test_made_tokens_are_long_random_and_easy_to_type() -> None:
    """ASVS 6.5.3, NIST SP 800-63B: 80 bits from a CSPRNG, in groups, without look-alike letters."""
    tokens = {make_token() for _ in range(200)}
    assert len(tokens) == 200
    assert all(re.fullmatch("([0-9a-hjkmnp-tv-z]{4}-){3}[0-9a-hjkmnp-tv-z]{4}", t) for t in tokens)
    assert len(set("".join(tokens))) == 33, "all 32 characters and the dash occur"


@pytest.mark.parametrize(
    ("typed", "canonical"),
    [
        ("ABCD-efgh 1", "abcdefgh1"),
        (" - a- ", "a"),
        ("", None),
        (" - ", None),
        ("abc\u2013efgh\u2011i\u2212j\u2014k", "abcefghijk"),
        ("\u200e\u200babc\u00a0efg\u2009h\t\r\n\u00ad\ufeff", "abcefgh"),
        ("\u2014\u00a0", None),
        ("nul\0code", None),
        ("\ud800aaaaaa", None),
        ("x" * 64, "x" * 64),
        ("x" * 65, None),
        ("x" * 10_000, None),
        ("x" + " " * 10_000, None),
    ],
)
def test_spaces_dashes_and_case_are_nothing(typed: str, canonical: str | None) -> None:
    """A static token loses spaces, dashes, marks that can't be seen and its case; what is then no
    token is none."""
    assert canonical_static(typed) == canonical


async def test_a_token_is_accepted_once(otp: OTP, sessions: Sessions, alice: User) -> None:
    """ASVS 6.5.1: a token is spent when it is accepted; the others are still good."""
    device, (one, two) = await make_static(sessions, alice, None, None)
    assert await otp.verify_token(alice, device.persistent_id, one) == device
    assert await count(sessions) == 1
    assert await otp.verify_token(alice, device.persistent_id, one) is None
    assert (await reload(sessions, device)).throttling_failure_count == 1
    assert await count(sessions) == 1
    async with sessions.begin() as session:
        (await session.get(StaticDevice, device.id)).throttle_reset()
    assert await otp.match_token(alice, two) == device
    assert (await reload(sessions, device)).last_used_at is not None


SPELLINGS = [
    *("01AB-CDEF-GH01-JKMN", "01ab cdef gh01 jkmn", "01abcdefgh01jkmn", "OIab-cdef-gholjkmn"),
    *("01ab\u2013cdef\u2013gh01\u2013jkmn", "\u00a001ab\u2011cdef-gh01-jkmn\t\r\n"),
]


@pytest.mark.parametrize("typed", SPELLINGS)
async def test_a_made_token_as_people_type_it(
    typed: str, otp: OTP, sessions: Sessions, alice: User
) -> None:
    """Capitals, other separators, and letters read for digits are the same token."""
    device, _ = await make_static(sessions, alice)
    await add_token(sessions, device, "01ab-cdef-gh01-jkmn")
    assert await otp.match_token(alice, typed) == device


@pytest.mark.parametrize(
    "token", ["", "short", "1-2-3-4-5", " ", "x" * 65, "x" * 10_000, "nul\0code", "\ud800aaaaaa"]
)
async def test_a_chosen_token_that_is_none(
    token: str, otp: OTP, sessions: Sessions, alice: User
) -> None:
    """Too short, too long or no clean text: a ValueError, and nothing is stored."""
    device, _ = await make_static(sessions, alice)
    with pytest.raises(ValueError, match="6 to 64 characters"):
        await add_token(sessions, device, token)
    assert await count(sessions) == 0
    assert (await reload(sessions, device)).token_shape == "made"


async def test_a_token_added_twice_is_one_token(otp: OTP, sessions: Sessions, alice: User) -> None:
    """The same chosen token in two spellings is stored once and accepted once."""
    device, _ = await make_static(sessions, alice, "Chosen Code", "chosen-code")
    assert await count(sessions) == 1
    assert await otp.match_token(alice, "CHOSENCODE") == device
    assert await otp.match_token(alice, "chosencode") is None


async def test_tokens_are_their_devices_only(
    otp: OTP, sessions: Sessions, alice: User, bob: User
) -> None:
    """ASVS 6.5.2: stored as digests under the device's secret, which copied to another device's
    row are useless."""
    device, (token,) = await make_static(sessions, alice, None)
    other, _ = await make_static(sessions, bob)
    async with sessions.begin() as session:
        row = await session.scalar(select(StaticToken))
        session.add(StaticToken(device_id=other.id, digest=row.digest))
    assert token.replace("-", "") not in row.digest
    assert await otp.match_token(bob, token) is None
    assert await otp.verify_token(bob, device.persistent_id, token) is None
    assert await count(sessions) == 2
    assert await otp.match_token(alice, token) == device


SHAPES = {
    "made": ([None], {"123456": False, "secret-code": False, "0000-0000-0000-0000": True}),
    "chosen": (["pass-phrase"], {"123456": False, "secret-code": True, "12345678": False}),
    "digits": (
        ["12345678", None],
        {"123456": False, "87654321": True, "O7654321": True, "secret-code": False, "nul\0": False},
    ),
    "digits of two lengths": (
        ["12345678", "123456", "1234 5678"],
        {"654321": True, "1234567": False, "87654321": True, "123456789": False},
    ),
    "digits, then chosen": (
        ["12345678", "pass-phrase"],
        {"123456": False, "87654321": True, "secret-code": True},
    ),
    "chosen, then digits": (
        ["pass-phrase", "1234567"],
        {"123456": False, "7654321": True, "secret-code": True},
    ),
}


@pytest.mark.parametrize(("tokens", "asked"), list(SHAPES.values()), ids=list(SHAPES))
async def test_which_tokens_a_static_device_is_asked_for(
    tokens: list[str | None],
    asked: dict[str, bool],
    otp: OTP,
    sessions: Sessions,
    alice: User,
) -> None:
    """match_token asks, and counts, only where a token can look like that: six digits are no
    recovery code, unless someone chose such a one."""
    device, _ = await make_static(sessions, alice, *tokens)
    for token, is_asked in asked.items():
        assert await otp.match_token(alice, token) is None
        async with sessions.begin() as session:
            own = await session.get(StaticDevice, device.id)
            assert own.throttling_failure_count == is_asked, token
            own.throttle_reset()


async def test_wrong_app_tokens_leave_recovery_codes_of_digits_alone(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """Six wrong digits count nothing with a device whose codes have eight: it is no less a way
    back in."""
    static, (code,) = await make_static(sessions, alice, "12345678")
    await make_totp(sessions, alice)
    for _ in range(3):
        assert await otp.match_token(alice, "000000") is None
    assert await otp.match_token(alice, code) == static


async def test_codes_added_at_once_are_all_asked_for(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """Of tokens added by several transactions at once each one's look is remembered."""
    static, _ = await make_static(sessions, alice)
    tokens = ["123456", "1234567", "pass-phrase", "12345678", "other-phrase"]
    await asyncio.gather(*(add_token(sessions, static, token) for token in tokens))
    row = await reload(sessions, static)
    assert (row.token_shape, row.digit_lengths) == ("any", "6 7 8")
    for token in tokens:
        assert await otp.match_token(alice, token) == static


async def test_a_device_of_before_is_asked_for_all_lengths(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """A row whose lengths were never noted stays open to digits of any length, also when more are
    added."""
    static, _ = await make_static(sessions, alice, "12345678", "pass-phrase")
    async with sessions.begin() as session:
        (await session.get_one(StaticDevice, static.id)).digit_lengths = None
    await add_token(sessions, static, "123456")
    row = await reload(sessions, static)
    assert (row.digit_lengths, row.accepts("1234567")) == (None, True)
    assert await otp.match_token(alice, "12345678") == static


async def test_the_first_chosen_token_is_good_after_many_guesses(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """Guesses at made tokens do not stop a device that is given a chosen one, as the command
    line's way back in."""
    static, _ = await make_static(sessions, alice)
    async with sessions.begin() as session:
        (await session.get_one(StaticDevice, static.id)).throttling_failure_count = 500
    await otp.add_static_token(alice, "way-back-in")
    assert await otp.match_token(alice, "way-back-in") == static


async def test_a_good_totp_token_leaves_the_recovery_codes_alone(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """A log-in with the app counts no failure with the recovery device, whichever is older."""
    static, _ = await make_static(sessions, alice, None)
    device = await make_totp(sessions, alice)
    assert await otp.match_token(alice, totp_token()) == device
    assert (await reload(sessions, static)).throttling_failure_count == 0


async def test_a_token_costs_one_indexed_statement(
    otp: OTP, sessions: Sessions, engine: Any, alice: User
) -> None:
    """Lock, delete, write back: verifying reads no list of tokens."""
    device, tokens = await make_static(sessions, alice, *[None] * 5)
    statements = Statements(engine)
    assert await otp.match_token(alice, tokens[3]) == device
    assert [s.split()[0] for s in statements] == ["SELECT", "DELETE", "UPDATE"]


async def test_add_token_wants_a_device_in_a_session(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """A device of no session can't be given a token; a new one of a session is stored with it."""
    with pytest.raises(TransactionRequired):
        await StaticDevice(user_id=alice.id).add_token()
    device = await add(sessions, StaticDevice(user_id=alice.id))
    with pytest.raises(TransactionRequired):
        await device.add_token()


async def test_a_token_of_a_caller_who_rolls_back_is_none(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """The caller commits: a token added in a transaction that rolls back is not accepted."""
    device, _ = await make_static(sessions, alice)
    async with sessions() as session:
        own = await session.get(StaticDevice, device.id)
        token = await own.add_token()
        await session.rollback()
    assert await otp.match_token(alice, token) is None
