"""TOTP devices: the window, replay, drift, what a token looks like, and the QR code's URL."""

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import time_machine

from starlette_otp import OTP, oath
from starlette_otp.models import Device, TOTPDevice, User
from tests.hosts import make_host
from tests.support import SECRET, SECRET_KEY, Sessions, make_totp, reload, totp_token
from tests.test_oath import LONGER, RFC_6238_TIMES, RFC_6238_TOKENS

NOW = datetime(2030, 1, 1, tzinfo=UTC)
STEP = oath.time_step(NOW.timestamp())


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


async def verify(sessions: Sessions, device: TOTPDevice, token: str) -> bool:
    """What `device.verify_token` says, on the row locked and committed; waits do not matter."""
    async with sessions.begin() as session:
        own = await TOTPDevice.from_persistent_id(session, device.persistent_id, for_verify=True)
        assert own
        own.throttle_reset()
        return await own.verify_token(token)


@pytest.mark.parametrize("algorithm", list(RFC_6238_TOKENS))
async def test_a_device_accepts_the_tokens_of_rfc_6238(
    algorithm: str, otp: OTP, sessions: Sessions, alice: User
) -> None:
    """RFC 6238 appendix B, through the device: each token, and none of another algorithm's."""
    device = await make_totp(
        sessions, alice, secret=LONGER[algorithm], algorithm=algorithm, digits=8, tolerance=0
    )
    for row, at in enumerate(RFC_6238_TIMES):
        with time_machine.travel(at, tick=False):
            for other, tokens in RFC_6238_TOKENS.items():
                if other != algorithm:
                    assert not await verify(sessions, device, tokens[row])
            assert await verify(sessions, device, RFC_6238_TOKENS[algorithm][row])
            assert not await verify(sessions, device, RFC_6238_TOKENS[algorithm][row])


@pytest.mark.parametrize(
    ("tolerance", "accepted"), [(0, [0]), (1, [-1, 0, 1]), (2, [-2, -1, 0, 1, 2])]
)
async def test_the_window_is_the_tolerance(
    tolerance: int, accepted: list[int], clock: time_machine.Traveller
) -> None:
    """RFC 6238 section 5.2: tokens of `tolerance` steps before and after the present, no others."""
    found = []
    for offset in range(-4, 5):
        device = TOTPDevice(secret=SECRET, tolerance=tolerance)
        if await device.check_token(totp_token(offset=offset)):
            found.append(offset)
    assert found == accepted


@pytest.mark.parametrize("ahead", [-1, 0, 1])
async def test_a_token_is_accepted_once(
    ahead: int, otp: OTP, sessions: Sessions, alice: User, clock: time_machine.Traveller
) -> None:
    """RFC 6238 section 5.2, CVE-2015-7225: not again, now or in any later step of the window."""
    device = await make_totp(sessions, alice)
    token = totp_token(offset=ahead)
    assert await verify(sessions, device, token)
    for _ in range(5):
        assert not await verify(sessions, device, token)
        clock.shift(15)


async def test_an_older_step_after_a_newer_one_is_refused(
    otp: OTP, sessions: Sessions, alice: User, clock: time_machine.Traveller
) -> None:
    """RFC 4226 section 7.2: the counter moves forward only, although the older token is unused."""
    device = await make_totp(sessions, alice)
    assert await verify(sessions, device, totp_token())
    assert not await verify(sessions, device, totp_token(offset=-1))
    assert await verify(sessions, device, totp_token(offset=1))
    assert not await verify(sessions, device, totp_token())
    assert (await reload(sessions, device)).last_t == STEP + 1


async def test_the_drift_follows_the_provers_clock(
    otp: OTP, sessions: Sessions, alice: User, clock: time_machine.Traveller
) -> None:
    """RFC 6238 section 6: with sync each match moves the window, at most ten steps either way."""
    device = await make_totp(sessions, alice)
    drifts = []
    for ahead in range(1, 13):
        assert await verify(sessions, device, totp_token(offset=ahead)) is (ahead <= 11), ahead
        drifts.append((await reload(sessions, device)).drift)
    assert drifts == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10], "a match beyond leaves it there"
    slow = await make_totp(sessions, alice, drift=-10)
    assert await verify(sessions, slow, totp_token(offset=-11))
    assert (await reload(sessions, slow)).drift == -10


async def test_without_sync_the_window_stays(
    otp: OTP,
    sessions: Sessions,
    alice: User,
    clock: time_machine.Traveller,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With sync off a match moves no window."""
    monkeypatch.setattr(TOTPDevice, "sync", False)
    device = await make_totp(sessions, alice)
    assert await verify(sessions, device, totp_token(offset=1))
    assert (await reload(sessions, device)).drift == 0
    assert not await verify(sessions, device, totp_token(offset=2))


async def test_step_and_t0_are_the_devices_own(
    otp: OTP, sessions: Sessions, alice: User, clock: time_machine.Traveller
) -> None:
    """RFC 6238 section 4.1: X and T0 are parameters; before T0 no token exists."""
    t0 = int(NOW.timestamp()) - 130
    device = await make_totp(sessions, alice, step=60, t0=t0)
    assert await verify(sessions, device, oath.hotp(SECRET, 2))
    assert (await reload(sessions, device)).last_t == 2
    early = await make_totp(sessions, alice, t0=t0 + 10_000)
    assert not await verify(sessions, early, oath.hotp(SECRET, 0))


TYPED = {
    "123 456": True,
    " 123-456 ": True,
    "\u200e123\u00a0456\n": True,
    "1_23456": False,
    "+123456": False,
    "１２３４５６": False,  # noqa: RUF001 (full-width digits are the point)
    "1" * 10_000: False,
    "123456\0": False,
    "": False,
    "12345": False,
    "1234567": False,
    "abcdef": False,
    "\ud800": False,
}


@pytest.mark.parametrize(("typed", "accepted"), list(TYPED.items()), ids=range(len(TYPED)))
async def test_what_the_user_typed(typed: str, accepted: bool) -> None:
    """Spaces and dashes are nothing; whatever else is not six ASCII digits is a wrong token that
    counts one failure and changes nothing else."""
    device = TOTPDevice(secret=SECRET)
    with time_machine.travel(_time_of("123456"), tick=False):
        assert await device.verify_token(typed) is accepted
    assert device.throttling_failure_count == (0 if accepted else 1)
    assert (device.last_t == -1) is not accepted


@cache
def _time_of(token: str) -> float:
    """A time at which this is the token."""
    step = oath.match(SECRET, token, range(10**7))
    assert step is not None
    return 30.0 * step


@pytest.mark.parametrize("digits", [6, 7, 8, 10])
async def test_a_device_wants_its_own_number_of_digits(
    digits: int, clock: time_machine.Traveller
) -> None:
    """A token has exactly the device's digits: a longer device's token is not cut to fit."""
    device = TOTPDevice(secret=SECRET, digits=digits)
    for other in {6, 7, 8, 10} - {digits}:
        assert not await device.check_token(totp_token(digits=other))
    assert await device.check_token(totp_token(digits=digits))


@pytest.mark.parametrize(
    "values",
    [
        {"digits": 5},
        {"digits": 11},
        {"digits": "6"},
        {"algorithm": "MD5"},
        {"step": 0},
        {"step": 3601},
        {"tolerance": -1},
        {"tolerance": 101},
    ],
)
def test_parameters_that_make_no_device(values: dict[str, Any]) -> None:
    """RFC 4226 section 5.3 and the limits of the others: refused when set."""
    with pytest.raises(ValueError, match=next(iter(values))):
        TOTPDevice(**values)


URLS = {
    "plain": (None, "alice", "/alice", None),
    "issuer": ("Acme", "alice", "/Acme:alice", "Acme"),
    "encoded": ("Acme & Söhne/1", "a b@x.example", "/Acme%20%26%20S%C3%B6hne%2F1:a%20b%40x.example",
                "Acme & Söhne/1"),
    "colons": ("A:cme", "al:ice", "/Acme:alice", "Acme"),
    "control characters": ("Ac\r\nme\0", "al\u2028ice\x7f", "/Acme:alice", "Acme"),
    "surrogate": ("Acme", "al\ud800ice", "/Acme:alice", "Acme"),
    "function": (lambda device: f"Acme {device.digits}", "alice", "/Acme%206:alice", "Acme 6"),
    "function of nothing": (lambda device: None, "alice", "/alice", None),
}  # fmt: skip


def test_the_site_is_the_issuer_of_a_kind_without_one(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `OTP(site_name=)` says is what people's apps show, unless the kind says something."""
    device = TOTPDevice(user_id=1, secret=SECRET)
    OTP(sessions, Device, secret_key=SECRET_KEY, site_name="Acme: Ltd")
    assert "/Acme%20Ltd:alice?" in device.config_url("alice")
    monkeypatch.setattr(TOTPDevice, "issuer", lambda device: "Acme Staff")
    assert "/Acme%20Staff:alice?" in device.config_url("alice")
    OTP(sessions, Device, secret_key=SECRET_KEY)
    monkeypatch.setattr(TOTPDevice, "issuer", None)
    assert "/alice?" in device.config_url("alice")


@pytest.mark.parametrize(("issuer", "name", "path", "shown"), list(URLS.values()), ids=list(URLS))
def test_the_url_for_the_qr_code(
    issuer: Any, name: str, path: str, shown: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """otpauth://totp/: issuer and name quoted each, a literal colon between, no colons or control
    characters in them."""
    monkeypatch.setattr(TOTPDevice, "issuer", issuer)
    monkeypatch.setattr(Device, "__site_name__", "")
    url = urlsplit(TOTPDevice(secret=SECRET).config_url(name))
    assert (url.scheme, url.netloc, url.path, url.fragment) == ("otpauth", "totp", path, "")
    expected = {
        "secret": ["GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"],
        "algorithm": ["SHA1"],
        "digits": ["6"],
        "period": ["30"],
    }
    assert parse_qs(url.query, strict_parsing=True) == {
        **expected,
        **({"issuer": [shown]} if shown else {}),
    }
    assert "+" not in url.query, "readers take a plus for a plus"


@pytest.mark.parametrize(
    "image", ["https://acme.example/a b.png?x=1&y=2", lambda device: "https://acme.example/é.png"]
)
def test_the_url_names_the_image(image: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image is a text or a function of the device, percent-encoded as a whole."""
    monkeypatch.setattr(TOTPDevice, "image", image)
    device = TOTPDevice(secret=SECRET, digits=8, step=60, algorithm="SHA256")
    query = urlsplit(device.config_url("alice")).query
    address = image if isinstance(image, str) else image(device)
    given = parse_qs(query, strict_parsing=True)
    assert given["image"] == [address]
    assert (given["digits"], given["period"], given["algorithm"]) == (["8"], ["60"], ["SHA256"])
    assert unquote(query).count(address) == 1


def test_the_url_of_a_kind_of_another_name() -> None:
    """An app reads otpauth://totp/ whatever the host calls its kind of device."""

    class Backup(make_host().TOTPDevice):
        __kind__ = "backup"

    assert Backup(secret=SECRET).config_url("alice").startswith("otpauth://totp/alice?")
