"""Tokens by mail, through a real SMTP server."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from starlette_otp import OTP, ConfigurationError, DeliveryFailed, SMTPMailer
from starlette_otp.models import Device, EmailDevice, User
from tests.smtp import Postbox, smtp_server
from tests.support import SECRET_KEY, Sessions, add, make_user, reload

ADDRESS = "Alice.O'Brien+otp@mail.home.example"


@pytest.fixture
async def box(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Postbox]:
    """A mail server that EmailDevice sends through."""
    async with smtp_server() as box:
        mailer = SMTPMailer(f"smtp://127.0.0.1:{box.port}", sender="Acme <no-reply@acme.example>")
        monkeypatch.setattr(EmailDevice, "mailer", mailer)
        yield box


@pytest.fixture
async def device(otp: OTP, sessions: Sessions, alice: User) -> EmailDevice:
    made: EmailDevice = await add(sessions, EmailDevice(user_id=alice.id, email=ADDRESS))
    return made


def set_up(monkeypatch: pytest.MonkeyPatch, **attributes: Any) -> None:
    for name, value in attributes.items():
        monkeypatch.setattr(EmailDevice, name, value)


async def test_a_token_by_mail(
    otp: OTP, alice: User, device: EmailDevice, box: Postbox, sessions: Sessions
) -> None:
    """The mail has the shipped text, subject, sender and one recipient; its token verifies once."""
    message = await otp.generate_challenge(alice, device.persistent_id)
    assert message == "We sent a code to A…@mail.home.example."
    [mail], [envelope] = box.mails, box.envelopes
    assert (mail["From"], mail["To"]) == ("Acme <no-reply@acme.example>", ADDRESS)
    assert (envelope.mail_from, envelope.rcpt_tos) == ("no-reply@acme.example", [ADDRESS])
    assert mail["Subject"] == "Your code"
    assert mail["Message-ID"].endswith("@acme.example>")
    assert mail["Date"]
    assert mail.get_content_type() == "text/plain"
    found = re.match(r"Your code is ([0-9]{6})\n", box.text())
    assert found
    assert "It is good for 5 minutes, and once." in box.text()
    assert await otp.verify_token(alice, device.persistent_id, found[1]) == device
    assert await otp.verify_token(alice, device.persistent_id, found[1]) is None


async def test_without_an_address_it_goes_to_the_users(
    otp: OTP, sessions: Sessions, box: Postbox
) -> None:
    """A device without an address of its own mails to the user's; one with an empty one, too."""
    bob = await make_user(sessions, "bob", email="bob@home.example")
    for email in (None, ""):
        device = await add(sessions, EmailDevice(user_id=bob.id, email=email))
        assert await otp.generate_challenge(bob, device.persistent_id)
        assert box.envelopes[-1].rcpt_tos == ["bob@home.example"]


BAD_ADDRESSES = {
    "two": "a@home.example,b@home.example",
    "two with a space": "a@home.example, b@home.example",
    "two with a semicolon": "a@home.example;b@home.example",
    "two with a blank": "a@home.example b@home.example",
    "with a name": "Alice <a@home.example>",
    "a group": "us:a@home.example;",
    "a comment": "a@home.example(b)",
    "a header": "a@home.example\nBcc: b@home.example",
    "a carriage return": "a@home.example\rBcc: b@home.example",
    "a line end": "a@home.example\n",
    "an encoded word": "=?utf-8?q?b=40evil.example=2C_a?=@home.example",
    "an encoded host": "a@=?utf-8?q?home.example=2C_b=40evil.example?=",
    "NUL": "a\0@home.example",
    "a surrogate": "\ud800@home.example",
    "a line separator": "a\u2028@home.example",
    "C1": "a@home.example\x85",
    "invisible": "a@home\u200b.example",
    "right to left": "\u202ea@home.example",
    "quoted": '"a b"@home.example',
    "escaped": "a\\@b@home.example",
    "two signs": "a@b@home.example",
    "no host": "a@",
    "no name": "@home.example",
    "no sign": "home.example",
    "an address literal": "a@[127.0.0.1]",
    "a dot too many": "a@home..example",
    "a dot at the end": "a@home.example.",
    "long": "a" * 242 + "@home.example",
    "very long": "a" * 10_000 + "@home.example",
    "a number": 5,
}


@pytest.mark.parametrize("address", BAD_ADDRESSES.values(), ids=BAD_ADDRESSES)
def test_a_bad_address_is_refused_when_set(address: Any) -> None:
    """A device takes exactly one mail address."""
    with pytest.raises(ValueError, match="exactly one mail address"):
        EmailDevice(email=address)


@pytest.mark.parametrize(
    "address",
    [
        ADDRESS,
        "a@b",
        "a@localhost",
        "a..b@home.example",
        "ä@ö.example",
        "a" * 241 + "@home.example",
    ],
)
def test_a_good_address_is_taken(address: str) -> None:
    """Up to 254 characters (RFC 5321), in any script."""
    assert EmailDevice(email=address).email == address


@pytest.mark.parametrize(
    "address",
    [
        *(BAD_ADDRESSES[name] for name in ("two", "a header", "an encoded word", "with a name")),
        "",
        None,
    ],
)
@pytest.mark.parametrize("whose", ["the device's", "the user's"])
async def test_a_bad_address_gets_no_mail(
    otp: OTP,
    sessions: Sessions,
    engine: AsyncEngine,
    box: Postbox,
    alice: User,
    address: str | None,
    whose: str,
) -> None:
    """What got past the check into a row is checked again before it is mailed to."""
    device = await add(sessions, EmailDevice(user_id=alice.id))
    table = {"the device's": "otp_device", "the user's": "otp_user"}[whose]
    async with engine.begin() as connection:
        await connection.execute(text(f"UPDATE {table} SET email = :a"), {"a": address or ""})
    alice = (await reload(sessions, alice)) if address is not None else alice
    with pytest.raises(DeliveryFailed):
        await otp.generate_challenge(alice, device.persistent_id)
    assert box.mails == []
    assert (await reload(sessions, device)).token_digest is None


async def test_subject_and_sender_of_the_hosts_own(
    otp: OTP, alice: User, device: EmailDevice, box: Postbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sender` wins over the mailer's, `subject` takes the token and is not escaped."""
    set_up(monkeypatch, sender="otp@acme.example", subject="{token} is O'Brien & Söhne's")
    await otp.generate_challenge(alice, device.persistent_id)
    token = re.findall("[0-9]{6}", box.text())[0]
    assert box.mails[0]["From"] == "otp@acme.example"
    assert box.mails[0]["Subject"] == f"{token} is O'Brien & Söhne's"


TEXT = "{{ token }} {{ user.username }} {{ device.name }} {{ validity }} {{ ip }} {{ place }}"


async def test_templates_as_text(
    otp: OTP, sessions: Sessions, alice: User, box: Postbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raw templates have the token, the user, the device and the caller's context. O'Brien is not
    escaped in the text, and is in the HTML alternative."""
    name = "O'Brien <b>"
    device = await add(sessions, EmailDevice(user_id=alice.id, email="a@b.example", name=name))
    set_up(monkeypatch, body_template=TEXT, body_html_template=f"<p>{TEXT}", token_validity=60)
    await otp.generate_challenge(alice, device.persistent_id, ip="192.0.2.1", place="A & B")
    [mail] = box.mails
    assert mail.get_content_type() == "multipart/alternative"
    token = box.text()[:6]
    assert box.text() == f"{token} alice O'Brien <b> 60 seconds 192.0.2.1 A & B\n"
    escaped = f"{token} alice O&#39;Brien &lt;b&gt; 60 seconds 192.0.2.1 A &amp; B"
    assert box.html() == f"<p>{escaped}\n"
    assert await otp.match_token(alice, token) == device


@pytest.mark.parametrize("overridden", ["otp/email/token.txt", "mine/token.txt"])
async def test_templates_from_files(
    sessions: Sessions,
    alice: User,
    box: Postbox,
    device: EmailDevice,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overridden: str,
) -> None:
    """A host's folder overrides the shipped text, which it may include, and other paths may be
    named; a file that ends in .html is escaped, and so is one that does not."""
    shipped = "{% include 'starlette_otp/otp/email/token.txt' %}"
    for path, content in {
        overridden: f"{{{{ name }}}}\n{shipped}",
        "mine/html": "{{ name }}",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    set_up(monkeypatch, body_template_path=overridden, body_html_template_path="mine/html")
    otp = OTP(sessions, Device, secret_key=SECRET_KEY, templates=tmp_path)
    await otp.generate_challenge(alice, device.persistent_id, name="O'Brien")
    assert box.text().startswith("O'Brien\nYour code is ")
    assert box.html() == "O&#39;Brien\n"


async def test_a_device_without_a_mailer(otp: OTP, alice: User, device: EmailDevice) -> None:
    """Until a host sets a mailer no token is made, and the error says what is missing."""
    with pytest.raises(ConfigurationError, match="EmailDevice has no mailer"):
        await otp.generate_challenge(alice, device.persistent_id)


async def test_a_mailer_without_a_sender(
    otp: OTP,
    alice: User,
    device: EmailDevice,
    box: Postbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without any sender nothing is mailed, and the log says what is missing."""
    set_up(monkeypatch, mailer=SMTPMailer(f"smtp://127.0.0.1:{box.port}"))
    with pytest.raises(DeliveryFailed):
        await otp.generate_challenge(alice, device.persistent_id)
    assert "EmailDevice has no sender" in caplog.text
    assert box.mails == []


@pytest.mark.parametrize("setting", ["subject", "sender"])
async def test_no_header_is_injected(
    otp: OTP,
    alice: User,
    device: EmailDevice,
    box: Postbox,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
) -> None:
    """A line end in a header is refused, never sent."""
    set_up(monkeypatch, **{setting: "x@acme.example\nBcc: b@evil.example"})
    with pytest.raises(DeliveryFailed):
        await otp.generate_challenge(alice, device.persistent_id)
    assert box.mails == []
