"""HOTP devices."""

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import time_machine

from starlette_otp import OTP, clock, oath
from starlette_otp.models import HOTPDevice, User
from tests.support import SECRET, Sessions, add, make_static, make_totp, reload

RFC_4226 = [
    "755224",
    "287082",
    "359152",
    "969429",
    "338314",
    "254676",
    "287922",
    "162583",
    "399871",
    "520489",
]
LARGEST = 2**63 - 1


async def make_hotp(sessions: Sessions, user: User, **values: Any) -> HOTPDevice:
    values = {"user_id": user.id, "secret": SECRET, **values}
    device: HOTPDevice = await add(sessions, HOTPDevice(**values))
    return device


def at(counter: int) -> str:
    return oath.hotp(SECRET, counter)


async def test_the_vectors_of_rfc_4226(otp: OTP, sessions: Sessions, alice: User) -> None:
    """RFC 4226 appendix D: the ten tokens verify one after the other, each once."""
    device = await make_hotp(sessions, alice)
    for token in RFC_4226:
        assert await otp.verify_token(alice, device.persistent_id, token) == device
    assert (await reload(sessions, device)).counter == 10
    assert await otp.verify_token(alice, device.persistent_id, RFC_4226[-1]) is None


@pytest.mark.parametrize(
    ("tolerance", "ahead", "accepted"),
    [(0, 0, True), (0, 1, False), (5, 5, True), (5, 6, False), (100, 100, True)],
)
async def test_the_look_ahead_window(
    otp: OTP, sessions: Sessions, alice: User, tolerance: int, ahead: int, accepted: bool
) -> None:
    """RFC 4226 section 7.2, 7.4: the counter and `tolerance` more are tried, and not one beyond;
    a match moves the counter past itself."""
    device = await make_hotp(sessions, alice, counter=3, tolerance=tolerance)
    assert (await otp.match_token(alice, at(3 + ahead)) is not None) == accepted
    assert (await reload(sessions, device)).counter == (3 + ahead + 1 if accepted else 3)


async def test_the_default_look_ahead_is_five(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Unless set a new device starts at 0, looks five ahead, and has six digits of SHA1."""
    device = await reload(sessions, await make_hotp(sessions, alice))
    values = (device.counter, device.tolerance, device.digits, device.algorithm)
    assert values == (0, 5, 6, "SHA1")


async def test_the_counter_never_goes_back(otp: OTP, sessions: Sessions, alice: User) -> None:
    """RFC 4226 section 7.2: after a jump ahead the tokens passed over are worth nothing."""
    device = await make_hotp(sessions, alice)
    assert await otp.match_token(alice, at(4)) == device
    with time_machine.travel(clock.now(), tick=False) as traveller:
        for counter in range(5):
            assert await otp.verify_token(alice, device.persistent_id, at(counter)) is None
            traveller.shift(1000)
        row = await reload(sessions, device)
        assert (row.counter, row.throttling_failure_count) == (5, 5)
        assert await otp.verify_token(alice, device.persistent_id, at(5)) == device


@pytest.mark.parametrize("algorithm", ["SHA1", "SHA256", "SHA512"])
@pytest.mark.parametrize("digits", [6, 8])
async def test_digits_and_algorithm(
    otp: OTP, sessions: Sessions, alice: User, algorithm: str, digits: int
) -> None:
    """A device's own digits and algorithm make its token."""
    device = await make_hotp(sessions, alice, algorithm=algorithm, digits=digits)
    assert await otp.match_token(alice, oath.hotp(SECRET, 2, digits, algorithm)) == device


@pytest.mark.parametrize("counter", [-1, 2**63, None, "5", 1.5])
def test_a_counter_that_is_none(counter: Any) -> None:
    """A counter is 0 to 2^63 - 1; anything else is an error when it is set."""
    with pytest.raises(ValueError, match="counter is 0 to"):
        HOTPDevice(counter=counter)


async def test_the_end_of_the_counters(otp: OTP, sessions: Sessions, alice: User) -> None:
    """The last counter is never used up: what the column can't hold is refused without an error."""
    device = await make_hotp(sessions, alice, counter=LARGEST - 1)
    assert await otp.verify_token(alice, device.persistent_id, at(LARGEST - 1)) == device
    assert (await reload(sessions, device)).counter == LARGEST
    assert await otp.verify_token(alice, device.persistent_id, at(LARGEST)) is None
    with time_machine.travel(clock.now(), tick=False) as traveller:
        traveller.shift(1000)
        last = at(LARGEST), at(LARGEST + 1)
        assert await otp.resynchronize(alice, device.persistent_id, *last) is None
    assert (await reload(sessions, device)).counter == LARGEST


async def test_resynchronising_to_the_end(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Two tokens at the very end of the counters still find it."""
    device = await make_hotp(sessions, alice, counter=LARGEST - 5)
    pair = at(LARGEST - 2), at(LARGEST - 1)
    assert await otp.resynchronize(alice, device.persistent_id, *pair) == device
    assert (await reload(sessions, device)).counter == LARGEST


def test_the_url_for_the_prover(otp: OTP, monkeypatch: pytest.MonkeyPatch) -> None:
    """The QR code's URL carries type, issuer, account, secret and the counter to start at."""
    monkeypatch.setattr(HOTPDevice, "issuer", "Acme & Söhne: Ltd")
    url = urlsplit(HOTPDevice(secret=SECRET, counter=7, digits=8).config_url("al:ice@x.example"))
    assert (url.scheme, url.netloc) == ("otpauth", "hotp")
    assert unquote(url.path) == "/Acme & Söhne Ltd:alice@x.example"
    assert url.path.count(":") == 1
    assert {name: values[0] for name, values in parse_qs(url.query).items()} == {
        "secret": "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ",
        "issuer": "Acme & Söhne Ltd",
        "algorithm": "SHA1",
        "digits": "8",
        "counter": "7",
    }


@pytest.mark.parametrize("ahead", [0, 6, 50, 99])
async def test_two_consecutive_tokens_find_the_counter(
    otp: OTP, sessions: Sessions, alice: User, ahead: int
) -> None:
    """RFC 4226 section 7.4: beyond the window two tokens in sequence resynchronise, and are spent;
    as typed, with spaces and dashes."""
    device = await make_hotp(sessions, alice, counter=10)
    one, two = at(10 + ahead), at(11 + ahead)
    typed = f"{one[:3]} {one[3:]}", f" {two[:3]}-{two[3:]} "
    assert await otp.resynchronize(alice, device.persistent_id, *typed) == device
    row = await reload(sessions, device)
    assert (row.counter, row.throttling_failure_count) == (12 + ahead, 0)
    assert row.last_used_at is not None
    assert await otp.resynchronize(alice, device.persistent_id, one, two) is None
    assert (await reload(sessions, device)).counter == 12 + ahead


BAD_PAIRS = {
    "swapped": (at(51), at(50)),
    "repeated": (at(50), at(50)),
    "one left out": (at(50), at(52)),
    "only the first": (at(50), "000000"),
    "only the second": ("000000", at(51)),
    "behind": (at(8), at(9)),
    "half behind": (at(9), at(10)),
    "beyond the window": (at(110), at(111)),
    "joined": (at(50) + at(51), ""),
    "cut elsewhere": (at(50) + at(51)[:1], at(51)[1:]),
    "empty": ("", ""),
    "letters": ("abcdef", "abcdef"),
    "NUL": ("\0", "\ud800"),
    "full-width": ("\uff11" * 6, "\uff11" * 6),
    "long": ("9" * 10_000, "9" * 10_000),
}


@pytest.mark.parametrize("pair", BAD_PAIRS.values(), ids=BAD_PAIRS)
async def test_what_is_no_pair(
    otp: OTP, sessions: Sessions, alice: User, pair: tuple[str, str]
) -> None:
    """Tokens that are not the next two of one place in the window move nothing and count once."""
    device = await make_hotp(sessions, alice, counter=10)
    assert await otp.resynchronize(alice, device.persistent_id, *pair) is None
    row = await reload(sessions, device)
    assert (row.counter, row.throttling_failure_count, row.last_used_at) == (10, 1, None)


async def test_resynchronising_is_throttled(otp: OTP, sessions: Sessions, alice: User) -> None:
    """RFC 4226 section 7.3: a locked device tries no pair and counts none, a stopped one likewise;
    a success forgets the failures."""
    device = await make_hotp(sessions, alice)
    good = at(50), at(51)
    with time_machine.travel(clock.now(), tick=False) as traveller:
        assert await otp.verify_token(alice, device.persistent_id, "000000") is None
        assert await otp.resynchronize(alice, device.persistent_id, *good) is None
        assert (await reload(sessions, device)).throttling_failure_count == 1
        traveller.shift(1)
        assert await otp.resynchronize(alice, device.persistent_id, *good) == device
        assert (await reload(sessions, device)).throttling_failure_count == 0
        async with sessions.begin() as session:
            (await session.get_one(HOTPDevice, device.id)).throttling_failure_count = 100
        traveller.shift(1000)
        assert await otp.resynchronize(alice, device.persistent_id, at(60), at(61)) is None
    assert (await reload(sessions, device)).counter == 52


async def test_resynchronising_is_for_ones_own_hotp_devices(
    otp: OTP, sessions: Sessions, alice: User, bob: User
) -> None:
    """Another user's, an unconfirmed or unknown device, and other kinds are not touched."""
    device = await make_hotp(sessions, alice)
    unconfirmed = await make_hotp(sessions, alice, confirmed=False)
    totp, (static, _) = await make_totp(sessions, alice), await make_static(sessions, alice, None)
    pair = at(50), at(51)
    assert await otp.resynchronize(bob, device.persistent_id, *pair) is None
    for row in (unconfirmed, totp, static):
        assert await otp.resynchronize(alice, row.persistent_id, *pair) is None
    for garbage in ("", "hotp/0", "hotp/x", f"totp/{device.id}", "hotp/999999", "\0"):
        assert await otp.resynchronize(alice, garbage, *pair) is None
    for row in (device, unconfirmed, totp, static):
        assert (await reload(sessions, row)).throttling_failure_count == 0
    assert (await reload(sessions, device)).counter == 0
    assert await otp.resynchronize(alice, device.persistent_id, *pair) == device


async def test_the_resync_window_is_the_kinds(
    otp: OTP, sessions: Sessions, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`resync_window` says how far resynchronising looks."""
    monkeypatch.setattr(HOTPDevice, "resync_window", 3)
    device = await make_hotp(sessions, alice)
    with time_machine.travel(clock.now(), tick=False) as traveller:
        assert await otp.resynchronize(alice, device.persistent_id, at(3), at(4)) is None
        traveller.shift(10)
        assert await otp.resynchronize(alice, device.persistent_id, at(2), at(3)) == device


@pytest.mark.parametrize("pair", [(755224, "287082"), ("755224", None)])
async def test_tokens_to_resynchronise_are_texts(
    otp: OTP, sessions: Sessions, alice: User, pair: Any
) -> None:
    """A number for a token is a programmer's error, as it is for verify_token."""
    device = await make_hotp(sessions, alice)
    with pytest.raises(TypeError, match="A token is a str"):
        await otp.resynchronize(alice, device.persistent_id, *pair)
