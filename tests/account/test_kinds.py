"""Kinds with a challenge: mail, and what a third party declares."""

import re
from email.message import EmailMessage
from typing import Any

import pytest
import time_machine
from sqlalchemy import String
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Mapped, mapped_column

from starlette_otp import OTP, ConfigurationError
from starlette_otp.devices import SideChannelDeviceMixin
from starlette_otp.models import EmailDevice, User
from tests.account.pages import enter, follow, heading, press, visit, words
from tests.support import Sessions, make_totp, make_user, verified_by
from tests.third_party import application, pager, password_of_the_day

ADD = "/account/devices/add?kind=email"


class Outbox(list[EmailMessage]):
    """A mailer that keeps what it is given; `broken` fails."""

    sender = "no-reply@site.example"
    broken = False

    async def send(self, message: EmailMessage) -> None:
        if self.broken:
            raise OSError("no route")
        self.append(message)

    @property
    def code(self) -> str:
        found = re.search(r"\b\d{6}\b", self[-1].get_content())
        assert found
        return found[0]


@pytest.fixture
def outbox(monkeypatch: pytest.MonkeyPatch) -> Outbox:
    outbox = Outbox()
    monkeypatch.setattr(EmailDevice, "mailer", outbox)
    return outbox


@pytest.fixture
async def carol(sessions: Sessions) -> User:
    return await make_user(sessions, "carol", email="carol@home.example")


async def test_codes_by_mail(otp: OTP, carol: User, outbox: Outbox) -> None:
    """To the account's address or another one; the code that came confirms it."""
    browser = await enter(otp, carol)
    page = await visit(browser, ADD)
    assert 'value="carol@home.example"' in page.text
    page = await press(browser, page, email="carol@work.example")
    assert outbox[-1]["To"] == "carol@work.example"
    assert "carol@work.example" in words(page)
    # Come back to, it is the same one, and nothing is sent again.
    page = await visit(browser, ADD)
    assert "A code was sent to carol@work.example" in words(page)
    page = await press(browser, page, otp_token=outbox.code, name="Office")
    assert heading(page) == "Save your recovery codes"
    [device] = await otp.devices_for_user(carol)
    assert (device.email, device.name) == ("carol@work.example", "Office")
    assert await browser.state() == verified_by(device)
    assert len(outbox) == 1


async def test_two_clicks_send_one_code(otp: OTP, carol: User, outbox: Outbox) -> None:
    """The second, of a browser that has not seen the first one's answer, goes on with the same."""
    browser = await enter(otp, carol)
    page = await visit(browser, ADD)
    before = dict(browser.cookies)
    await press(browser, page, email="carol@home.example")
    browser.cookies.clear()
    browser.cookies.update(before)
    page = await follow(browser, await press(browser, page, email="carol@home.example"))
    assert "A code was sent to carol@home.example" in words(page)
    assert heading(await press(browser, page, otp_token=outbox.code)).startswith("Save")
    assert len(outbox) == len(await otp.devices_for_user(carol)) == 1


async def test_a_new_code_can_be_asked_for(otp: OTP, carol: User, outbox: Outbox) -> None:
    """After the wait; before, the page says when."""
    with time_machine.travel("2031-05-04T12:00Z", tick=False) as clock:
        browser = await enter(otp, carol)
        page = await press(browser, await visit(browser, ADD), email="carol@home.example")
        page = await press(browser, page, otp_challenge="Send a new code")
        assert "in 60 seconds" in words(page)
        clock.shift(61)
        page = await press(browser, page, otp_challenge="Send a new code")
        assert len(outbox) == 2
        page = await press(browser, page, otp_token=outbox.code)
        assert heading(page) == "Save your recovery codes"


async def test_a_mail_that_does_not_go_out(otp: OTP, carol: User, outbox: Outbox) -> None:
    """The page says so, and the button tries again at once."""
    outbox.broken = True
    browser = await enter(otp, carol)
    page = await press(browser, await visit(browser, ADD), email="carol@home.example")
    assert "could not be sent" in words(page)
    outbox.broken = False
    page = await press(browser, page, otp_challenge="Send me a code")
    assert len(outbox) == 1
    assert heading(await press(browser, page, otp_token=outbox.code)).startswith("Save")


@pytest.mark.parametrize("address", ["", "no address", "a@b.example, c@d.example", "a" * 300])
async def test_no_address(otp: OTP, carol: User, outbox: Outbox, address: str) -> None:
    """What is no address, or not exactly one, is said at the field."""
    browser = await enter(otp, carol)
    page = await press(browser, await visit(browser, ADD), email=address)
    assert 'aria-invalid="true"' in page.text
    assert await otp.devices_for_user(carol, confirmed=None) == []
    assert outbox == []


def sms(device: Any) -> type[Any]:
    """A kind as README shows it, which declares what it asks for."""

    class SMSDevice(SideChannelDeviceMixin, device):
        kind_name = "Text message"
        enrolment_fields = ("mobile",)
        mobile: Mapped[str | None] = mapped_column(String(20), use_existing_column=True)
        sent: list[Any] = []

        async def deliver(self, token: str, **context: Any) -> None:
            self.sent.append((self.mobile, token))

    return SMSDevice


async def test_a_third_partys_kind(empty_engine: AsyncEngine) -> None:
    """It is offered by its name, asks what it declares, and is confirmed by its challenge."""
    app = await application(empty_engine, sms)
    browser = await enter(app.otp, app.alice)
    page = await visit(browser, "/account/devices/add")
    assert "Text message" in words(page)
    page = await visit(browser, "/account/devices/add?kind=sms")
    assert "Mobile" in words(page)
    for wrong in ("", "1" * 21):
        page = await press(browser, page, mobile=wrong)
        assert 'aria-invalid="true"' in page.text
    page = await press(browser, page, mobile="+49 170 1")
    ((number, token),) = app.kinds["sms"].sent
    assert number == "+49 170 1"
    assert heading(await press(browser, page, otp_token=token)) == "Save your recovery codes"
    [device] = await app.otp.devices_for_user(app.alice)
    assert (device.kind, device.mobile) == ("sms", "+49 170 1")


async def test_a_challenge_in_its_own_words(empty_engine: AsyncEngine) -> None:
    """What the kind says is shown; one that can't be made is said so, and is no error of ours."""

    def card(device: Any) -> type[Any]:
        class CardDevice(device):
            number: Mapped[str | None] = mapped_column(String(20))
            enrolment_fields = ("number",)

            async def prepare_challenge(self, **context: Any) -> str:
                if self.number == "0":
                    raise LookupError("no such card")
                return f"Please enter cell C4 of card {self.number}."

            async def check_token(self, token: str) -> bool:
                return token == "7"

        return CardDevice

    app = await application(empty_engine, card)
    browser = await enter(app.otp, app.alice)
    page = await visit(browser, "/account/devices/add?kind=card")
    broken = await press(browser, page, number="0")
    assert "could not be sent" in words(broken)
    page = await press(browser, page, number="17")
    assert "Please enter cell C4 of card 17." in words(page)
    assert "was sent" not in words(page)
    assert heading(await press(browser, page, otp_token="7")) == "Save your recovery codes"


@pytest.mark.parametrize("fields", ["number", ("numbr",)])
async def test_fields_that_are_none(empty_engine: AsyncEngine, fields: Any) -> None:
    """One sentence says so when OTP is made."""

    def wrong(device: Any) -> type[Any]:
        kind = sms(device)
        kind.enrolment_fields = fields
        return kind

    with pytest.raises(ConfigurationError, match=r"SMSDevice\.enrolment_fields is a tuple"):
        await application(empty_engine, wrong)


async def test_kinds_that_are_not_offered(empty_engine: AsyncEngine) -> None:
    """One that declares nothing to ask, and one that says that it is not for its users to add."""

    def hidden(device: Any) -> type[Any]:
        kind = sms(device)
        kind.enrollable = False
        return kind

    app = await application(empty_engine, hidden, pager, password_of_the_day)
    browser = await enter(app.otp, app.alice)
    for kind in ("sms", "pager", "word"):
        page = await visit(browser, f"/account/devices/add?kind={kind}")
        assert heading(page) == "Add a device"
        assert kind.capitalize() not in words(page)


async def test_names_of_kinds(otp: OTP, sessions: Sessions, empty_engine: AsyncEngine) -> None:
    """A kind that has none is called by its discriminator."""
    app = await application(empty_engine, pager, sms)
    names = {kind: model.kind_name for kind, model in app.otp.device_model.kinds().items()}
    assert names == {
        "totp": "Authenticator app",
        "static": "Recovery code",
        "pager": "Pager",
        "sms": "Text message",
    }


async def test_rename(otp: OTP, sessions: Sessions, alice: User) -> None:
    """The form has the name of now; an empty name says what a name is."""
    device = await make_totp(sessions, alice, name="Old phone")
    browser = await enter(otp, alice, device)
    page = await visit(browser, f"/account/devices/{device.persistent_id}/rename")
    assert 'value="Old phone"' in page.text
    for wrong in ("", "x" * 65):
        page = await press(browser, page, name=wrong)
        assert "1 to 64 characters" in words(page)
    page = await follow(browser, await press(browser, page, name="<b>New</b>"))
    assert "Authenticator app · <b>New</b>" in words(page)
    assert "<b>New" not in page.text
