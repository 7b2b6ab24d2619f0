"""The words of the account pages, and what they say without their extra."""

import logging
import sys
import time
from datetime import timedelta

import pytest

from starlette_otp import OTP, clock
from starlette_otp.account.words import ago, browsers, in_sentence, label
from starlette_otp.models import EmailDevice, StaticDevice, TOTPDevice, User
from tests.account.pages import ADD_TOTP, app_token, enter, heading, key_of, press, visit, words

FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0"


@pytest.mark.parametrize(
    ("age", "said"),
    [
        ({"seconds": -30}, "just now"),
        ({"seconds": 59}, "just now"),
        ({"seconds": 61}, "1 minute ago"),
        ({"minutes": 59.9}, "59 minutes ago"),
        ({"hours": 23.5}, "23 hours ago"),
        ({"days": 1.1}, "1 day ago"),
        ({"days": 29.9}, "29 days ago"),
    ],
)
def test_how_long_ago(age: dict[str, float], said: str) -> None:
    """In the largest unit that is full."""
    assert ago(clock.now() - timedelta(**age)) == said


def test_long_ago() -> None:
    """After a month it is the day."""
    moment = clock.now() - timedelta(days=400)
    assert ago(moment) == f"on {moment.day} {moment:%B} {moment.year}"


def test_what_devices_are_called() -> None:
    """By their kind, and the name that their owner has given them, if it says more."""
    assert label(TOTPDevice(), None) == "Authenticator app"
    assert label(TOTPDevice(name="Authenticator app"), None) == "Authenticator app"
    assert label(TOTPDevice(name="Phone"), None) == "Authenticator app · Phone"
    assert label(StaticDevice(name="Recovery codes"), None) == "Recovery code"
    assert label(EmailDevice(email="zoe@home.example"), None) == "Email to z…@home.example"
    assert in_sentence(EmailDevice.kind_name) == "email"
    assert in_sentence("SMS") == "SMS"


async def test_browsers() -> None:
    """By browser and system; what is neither is as it calls itself."""
    given = [FIREFOX, "my own program 1.0", ""]
    assert await browsers(given) == ["Firefox on Windows", "my own program 1.0", "Unknown browser"]


async def test_without_segno(
    otp: OTP, alice: User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says what to install, and the key is there to type."""
    monkeypatch.setitem(sys.modules, "segno", None)
    monkeypatch.setattr("starlette_otp.account.qr.find_spec", {}.get)
    with caplog.at_level(logging.WARNING):
        browser = await enter(otp, alice)
    assert "show a key without its QR code and don't name browsers: pip install" in caplog.text
    page = await visit(browser, ADD_TOTP)
    assert "<svg" not in page.text
    assert "type this key" in words(page)
    page = await press(browser, page, otp_token=app_token(key_of(page), time.time()))
    assert heading(page) == "Save your recovery codes"
