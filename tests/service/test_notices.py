"""Notices: what happens to an account reaches its owner, by a real SMTP server or by the host."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import time_machine
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import Mapped, mapped_column

from starlette_otp import OTP, ConfigurationError, Notice, SMTPMailer
from starlette_otp.models import Device, TOTPDevice, User
from tests.account.pages import ADD_TOTP, app_token, key_of, press, visit
from tests.account.pages import enter as at_the_pages
from tests.hosts import make_host
from tests.smtp import Postbox, smtp_server
from tests.support import (
    PASSWORD,
    SECRET_KEY,
    Browser,
    Sessions,
    add,
    csrf_of,
    make_app,
    make_totp,
    make_user,
    totp_token,
)
from tests.web.test_new_password import NEW, app_of, enter

SENDER = "Acme <no-reply@acme.example>"


@pytest.fixture
async def box() -> AsyncIterator[Postbox]:
    async with smtp_server() as box:
        yield box


@pytest.fixture
def otp(sessions: Sessions, box: Postbox) -> OTP:
    mailer = SMTPMailer(f"smtp://127.0.0.1:{box.port}", sender=SENDER)
    return OTP(sessions, Device, secret_key=SECRET_KEY, site_name="Acme", mailer=mailer)


@pytest.fixture
async def alice(sessions: Sessions) -> User:
    return await make_user(sessions, "alice", email="alice@home.example")


def subjects(box: Postbox) -> list[str]:
    return [str(mail["Subject"]) for mail in box.mails]


async def test_devices_more_and_less(otp: OTP, alice: User, bob: User, box: Postbox) -> None:
    """Each is a mail to its owner; a device that waits to be confirmed is none, until it is."""
    device = await otp.add_device(alice, TOTPDevice(name="Phone & <tablet>", confirmed=False))
    await otp.notices.settle()
    assert box.mails == []
    await otp.confirm_device(alice, device.persistent_id, totp_token(device.secret))
    await otp.notices.settle()
    await otp.remove_device(alice, device.persistent_id)
    # Who has no address is told nothing, and nothing goes wrong.
    await otp.add_device(bob, TOTPDevice())
    await otp.notices.settle()
    assert subjects(box) == [
        "A device was added to your account (Acme)",
        "A device was removed from your account (Acme)",
    ]
    assert [(mail["From"], mail["To"]) for mail in box.mails] == [(SENDER, alice.email)] * 2
    text = box.text(0)
    assert text.startswith("Hello alice,\n\nAuthenticator app · Phone & <tablet> can sign in")
    assert "If that was not you" in text


def addressees(base: Any) -> type[Any]:
    """Users who have an address and no name."""

    class Member(base):
        __tablename__ = "members"
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[str]

    return Member


async def test_users_without_a_name(empty_engine: AsyncEngine, box: Postbox) -> None:
    """They are addressed by their address."""
    models = make_host(addressees)
    await models.create_tables(empty_engine)
    sessions = async_sessionmaker(empty_engine, expire_on_commit=False)
    mailer = SMTPMailer(f"smtp://127.0.0.1:{box.port}", sender=SENDER)
    otp = OTP(sessions, models.Device, secret_key=SECRET_KEY, mailer=mailer)
    carol = await add(sessions, models.User(email="carol@mail.example"))
    await otp.add_device(carol, models.TOTPDevice())
    await otp.notices.settle()
    assert box.text(0).startswith("Hello carol@mail.example,\n")


async def test_what_people_do_on_their_pages(otp: OTP, alice: User, box: Postbox) -> None:
    """Says where it was done, too; and the browser of the first device is no second mail."""
    browser = await at_the_pages(otp, alice, base_url="http://site.example")
    browser.headers["user-agent"] = "Test browser"
    page = await visit(browser, ADD_TOTP)
    await press(browser, page, otp_token=app_token(key_of(page), time.time()))
    await otp.notices.settle()
    (device,) = await otp.devices_for_user(alice)
    page = await visit(browser, f"/account/devices/{device.persistent_id}/remove")
    await press(browser, page)
    await otp.notices.settle()
    assert subjects(box) == [
        "A device was added to your account (Acme)",
        "A device was removed from your account (Acme)",
    ]
    for text in map(box.text, (0, 1)):
        assert "From: 127.0.0.1\nBy: Test browser\n" in text


async def test_recovery_codes(otp: OTP, alice: User, box: Postbox) -> None:
    """Made anew, used, and few: three left are a warning."""
    codes = await otp.new_recovery_codes(alice, 5)
    await otp.notices.settle()
    box.mails.clear()
    for code in codes[:2]:
        assert await otp.match_token(alice, code) is not None
        await otp.notices.settle()
    assert await otp.match_token(alice, codes[0]) is None
    await otp.notices.settle()
    assert subjects(box) == ["A recovery code was used (Acme)"] * 2
    assert "You have 4 left." in box.text(0)
    assert "Make new ones" not in box.text(0)
    assert "You have 3 left. Make new ones before they are used up." in box.text(1)
    await otp.new_recovery_codes(alice)
    await otp.notices.settle()
    assert subjects(box)[2:] == ["You have new recovery codes (Acme)"]


async def test_a_new_password(otp: OTP, alice: User, box: Postbox) -> None:
    """With the address and the browser that it came from."""
    browser = await enter(app_of(otp, alice))
    browser.headers["user-agent"] = "Test browser"
    await browser.get("/change", params={"to": NEW})
    await otp.notices.settle()
    assert subjects(box) == ["Your password was changed (Acme)"]
    assert "From: 127.0.0.1\nBy: Test browser\n" in box.text()


async def test_a_new_browser(otp: OTP, sessions: Sessions, alice: User, box: Postbox) -> None:
    """Told once a browser, when a device has verified in it: a password alone is nobody."""
    device = await make_totp(sessions, alice)

    async def sign_in(browser: Browser, token: str) -> int:
        page = await browser.get("/account/login")
        form = {"username": "alice", "password": PASSWORD, "otp_token": token}
        form["csrf_token"] = csrf_of(page)
        return (await browser.post("/account/login", data=form)).status_code

    with time_machine.travel("2031-05-04T12:00Z", tick=False) as clock:
        async with Browser(make_app(otp)) as browser:
            assert await sign_in(browser, "000000") == 200
            await otp.notices.settle()
            assert box.mails == []
            for _ in range(2):
                clock.shift(120)
                assert await sign_in(browser, totp_token(device.secret)) == 303
                await otp.notices.settle()
        clock.shift(120)
        async with Browser(make_app(otp)) as other:
            assert await sign_in(other, totp_token(device.secret)) == 303
            await otp.notices.settle()
    assert subjects(box) == ["A new browser signed in to your account (Acme)"] * 2


async def test_wrong_tokens(otp: OTP, sessions: Sessions, alice: User, box: Postbox) -> None:
    """Five or more before a success are told with it."""
    with time_machine.travel("2031-05-04T12:00Z", tick=False) as clock:
        device = await make_totp(sessions, alice)
        for _ in range(5):
            assert await otp.verify_token(alice, device.persistent_id, "000000") is None
            clock.shift(120)
        await otp.notices.settle()
        assert box.mails == []
        assert await otp.verify_token(alice, device.persistent_id, totp_token(device.secret))
        await otp.notices.settle()
    assert subjects(box) == ["Wrong codes for your account (Acme)"]
    assert "There were 5 wrong codes before you signed in." in box.text()


async def test_a_mail_that_does_not_arrive(
    otp: OTP, alice: User, box: Postbox, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and is in nobody's way."""
    box.answer = "550 no"
    with caplog.at_level(logging.ERROR, "starlette_otp"):
        assert len(await otp.new_recovery_codes(alice)) == 10
        await otp.notices.settle()
    assert "A notice (recovery_codes_renewed) could not be delivered" in caplog.text


async def test_a_process_that_ends_before(
    sessions: Sessions, alice: User, caplog: pytest.LogCaptureFixture
) -> None:
    """What was on its way is a line in the log, and settling is no error."""
    begun = asyncio.Event()

    async def notify(user: Any, notice: Notice, data: dict[str, Any]) -> None:
        begun.set()
        await asyncio.sleep(3600)

    otp = OTP(sessions, Device, secret_key=SECRET_KEY, notify=notify)
    await otp.new_recovery_codes(alice)
    await begun.wait()
    for task in otp.notices._tasks:
        task.cancel()
    await otp.notices.settle()
    assert "A notice (recovery_codes_renewed) was not delivered" in caplog.text


async def test_the_host_is_told_instead(sessions: Sessions, alice: User) -> None:
    """With the user, what it was, and its data; what goes wrong there is in nobody's way."""
    told: list[Any] = []

    async def notify(user: Any, notice: Notice, data: dict[str, Any]) -> None:
        told.append((user.username, notice, sorted(data)))
        raise LookupError("of the host's")

    otp = OTP(sessions, Device, secret_key=SECRET_KEY, notify=notify)
    other = OTP(sessions, Device, secret_key=SECRET_KEY)
    await other.new_recovery_codes(alice)
    await otp.new_recovery_codes(alice)
    await otp.notices.settle()
    assert told == [
        ("alice", Notice.RECOVERY_CODES_RENEWED, ["are_few", "at", "device", "left"]),
    ]


def test_a_mailer_without_a_sender(sessions: Sessions) -> None:
    """One sentence, when OTP is made."""
    with pytest.raises(ConfigurationError, match="a mailer with a sender"):
        OTP(sessions, Device, secret_key=SECRET_KEY, mailer=SMTPMailer("smtp://127.0.0.1"))


@pytest.mark.parametrize("notice", list(Notice))
def test_every_notice_has_a_text(otp: OTP, notice: Notice) -> None:
    """Its template is in the wheel, where all templates are."""
    otp.templates.env.get_template(f"otp/notice/{notice}.txt")
