"""Mail that can arrive: domains in any script, a mailer that is there, credentials kept to TLS."""

import logging
from email.message import EmailMessage
from typing import Any

import aiosmtplib
import pytest

from starlette_otp import OTP, SMTPMailer
from starlette_otp.models import Device, EmailDevice, User
from tests.smtp import smtp_server
from tests.support import SECRET_KEY, Browser, Sessions, add, codes, make_totp

SENDER = "Acme <no-reply@müller.example>"


class Box:
    """A host's own mailer."""

    def __init__(self, sender: str | None = None) -> None:
        self.sender, self.mails = sender, list[EmailMessage]()

    async def send(self, message: EmailMessage) -> None:
        self.mails.append(message)


@pytest.mark.parametrize(
    ("address", "on_the_wire"),
    [
        ("zoe@bücher.example", "zoe@xn--bcher-kva.example"),
        ("zoe@BÜCHER.example", "zoe@xn--bcher-kva.example"),
        ("zoe@straße.example", "zoe@xn--strae-oqa.example"),
        ("Zoe@Home.example", "Zoe@Home.example"),
    ],
)
async def test_domains_go_out_as_a_labels(
    otp: OTP,
    sessions: Sessions,
    alice: User,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    on_the_wire: str,
) -> None:
    """RFC 5891: a server without SMTPUTF8 takes mail to and from a domain in another script, and
    a sharp s stays one (IDNA 2003 would mail the token to somebody else's domain)."""
    async with smtp_server() as box:
        mailer = SMTPMailer(f"smtp://127.0.0.1:{box.port}", sender=SENDER)
        monkeypatch.setattr(EmailDevice, "mailer", mailer)
        device = await add(sessions, EmailDevice(user_id=alice.id, email=address))
        assert await otp.generate_challenge(alice, device.persistent_id)
    [envelope], [mail] = box.envelopes, box.mails
    assert envelope.rcpt_tos == [on_the_wire]
    assert envelope.mail_from == "no-reply@xn--mller-kva.example"
    assert "SMTPUTF8" not in envelope.mail_options
    assert mail["From"] == "Acme <no-reply@xn--mller-kva.example>"
    assert mail["Message-ID"].endswith("@xn--mller-kva.example>")
    assert device.email == address, "shown as it was typed"


@pytest.mark.parametrize("address", ["zoe@☃☃.-example", f"zoe@{'ü' * 64}.example"])
def test_a_domain_that_can_be_none_is_refused(address: str) -> None:
    """What no A-label can be made of is refused when it is set."""
    with pytest.raises(ValueError, match="exactly one mail address"):
        EmailDevice(email=address)


@pytest.mark.parametrize(
    ("mailer", "missing"),
    [(None, "EmailDevice has no mailer."), (Box(), "EmailDevice has no sender.")],
)
async def test_mail_that_can_not_be_is_not_offered(
    sessions: Sessions,
    alice: User,
    browser: Browser,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    mailer: Any,
    missing: str,
) -> None:
    """Without a mailer or a sender OTP logs one warning when it is made, and the page offers the
    user's other devices only."""
    monkeypatch.setattr(EmailDevice, "mailer", mailer)
    caplog.clear()
    OTP(sessions, Device, secret_key=SECRET_KEY)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings == [f"{missing} These devices are offered to nobody."]
    await make_totp(sessions, alice, name="Phone")
    await add(sessions, EmailDevice(user_id=alice.id))
    page = await browser.log_in("000000")
    assert codes(page) == ["invalid_token"]
    assert "Authenticator app · Phone" in page.text
    assert "Email" not in page.text
    monkeypatch.setattr(EmailDevice, "mailer", Box("no-reply@acme.example"))
    assert "Email" in (await browser.log_in("000000")).text
    caplog.clear()
    OTP(sessions, Device, secret_key=SECRET_KEY)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("url", "start_tls"),
    [
        ("smtp://us:word@mail.example", True),
        ("smtp://us:word@192.0.2.1", True),
        ("smtp://us:word@localhost.example", True),
        ("smtp+starttls://us:word@mail.example", True),
        ("smtps://us:word@mail.example", False),
        ("smtp://mail.example", None),
        ("smtp://us:word@localhost", None),
        ("smtp://us:word@127.0.0.2", None),
        ("smtp://us:word@[::1]", None),
    ],
)
async def test_where_starttls_is_a_must(
    url: str, start_tls: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ASVS 12.3.1: credentials leave this machine encrypted, whatever the scheme."""
    given: dict[str, Any] = {}

    async def send(message: EmailMessage, **settings: Any) -> None:
        given.update(settings)

    monkeypatch.setattr(aiosmtplib, "send", send)
    await SMTPMailer(url, sender="no-reply@acme.example").send(EmailMessage())
    assert given["start_tls"] is start_tls


async def test_credentials_are_not_sent_in_the_clear() -> None:
    """A server that is not known to be this machine and offers no STARTTLS sees no credentials."""
    async with smtp_server(auth_require_tls=False) as box:
        # The resolver's old spelling of 127.0.0.1, which is no loopback to anybody who reads it.
        mailer = SMTPMailer(f"smtp://us:word@127.1:{box.port}", sender="no-reply@acme.example")
        with pytest.raises(aiosmtplib.SMTPException, match="STARTTLS"):
            await mailer.send(EmailMessage())
    assert (box.mails, box.users) == ([], [])
