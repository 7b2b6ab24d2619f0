"""SMTPMailer, against real servers."""

import subprocess
import sys
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiosmtplib
import pytest

from starlette_otp import ConfigurationError, SMTPMailer
from starlette_otp.exceptions import install_hint
from tests.smtp import PASSWORD, silent_server, smtp_server, tls_contexts

SENDER = "no-reply@acme.example"
LOGIN = f"{quote('us@r', safe='')}:{quote(PASSWORD, safe='')}@"


def mail(**headers: str) -> EmailMessage:
    message = EmailMessage()
    for name, value in {"To": "alice@home.example", "Subject": "hello", **headers}.items():
        message[name] = value
    message.set_content("a body")
    return message


BAD_URLS = [
    "",
    "localhost:25",
    "http://mail.example",
    "smtp:mail.example",
    "smtp://",
    "smtp://user:word@",
    "smtp://mail.example:port",
    "smtp://mail.example:99999",
    "smtp://mail.example:-1",
    "smtp://[::1",
    "smtp://mail.example/inbox",
    "smtp://mail.example?tls=1",
    "smtp://mail.example#x",
    "smtp://us/er:word@mail.example",
    "smtp://user:w?rd@mail.example",
    "smtp://user:w#rd@mail.example",
    "smtp://user:w/rd@mail.example",
    "smtp://:word@mail.example",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_bad_url_is_one_sentence(url: str) -> None:
    """What is no URL of a mail server is refused when it is set, without its password."""
    with pytest.raises(ConfigurationError) as caught:
        SMTPMailer(url)
    assert "rd@" not in str(caught.value)
    assert str(caught.value).count(".") == 1


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("smtp://mail.example", 25),
        ("smtp+starttls://mail.example", 587),
        ("smtps://mail.example/", 465),
        ("SMTP://mail.example:1025", 1025),
        ("smtp://[::1]:1025", 1025),
    ],
)
async def test_ports(url: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scheme has the port that is usual for it, unless the URL names one."""
    given: dict[str, Any] = {}

    async def send(message: EmailMessage, **settings: Any) -> None:
        given.update(settings)

    monkeypatch.setattr(aiosmtplib, "send", send)
    await SMTPMailer(url).send(mail(From=SENDER))
    assert given["port"] == port


async def test_a_message_without_from_gets_the_sender() -> None:
    """The mailer's sender is the From of messages that have none, and of no others."""
    async with smtp_server() as box:
        mailer = SMTPMailer(f"smtp://127.0.0.1:{box.port}", sender=SENDER)
        await mailer.send(mail())
        await mailer.send(mail(From="other@acme.example"))
    assert [m["From"] for m in box.mails] == [SENDER, "other@acme.example"]
    assert [e.mail_from for e in box.envelopes] == [SENDER, "other@acme.example"]
    assert [e.rcpt_tos for e in box.envelopes] == [["alice@home.example"]] * 2


@pytest.mark.parametrize("scheme", ["smtp", "smtp+starttls"])
async def test_starttls(scheme: str, tmp_path: Path) -> None:
    """STARTTLS is used where it is offered, and the credentials travel inside it, decoded."""
    ours, theirs = tls_contexts(tmp_path)
    async with smtp_server(tls_context=ours, auth_required=True) as box:
        url = f"{scheme}://{LOGIN}127.0.0.1:{box.port}"
        await SMTPMailer(url, sender=SENDER, tls_context=theirs).send(mail())
    assert (box.encrypted, box.users) == ([True], ["us@r"])


async def test_starttls_can_be_insisted_on() -> None:
    """With smtp+starttls a server that does not offer it gets no message."""
    async with smtp_server() as box:
        with pytest.raises(aiosmtplib.SMTPException):
            await SMTPMailer(f"smtp+starttls://127.0.0.1:{box.port}", sender=SENDER).send(mail())
    assert box.mails == []


async def test_tls_from_the_first_byte(tmp_path: Path) -> None:
    """With smtps the connection is encrypted before anything is said."""
    ours, theirs = tls_contexts(tmp_path)
    async with smtp_server(ours, auth_require_tls=False) as box:
        url = f"smtps://{LOGIN}127.0.0.1:{box.port}"
        await SMTPMailer(url, sender=SENDER, tls_context=theirs).send(mail())
    assert (box.encrypted, box.users) == ([True], ["us@r"])


@pytest.mark.parametrize("scheme", ["smtp", "smtp+starttls", "smtps"])
async def test_an_unknown_certificate_is_refused(scheme: str, tmp_path: Path) -> None:
    """A server whose certificate nobody trusts gets no message."""
    ours, _ = tls_contexts(tmp_path)
    implicit = ours if scheme == "smtps" else None
    async with smtp_server(implicit, tls_context=None if implicit else ours) as box:
        mailer = SMTPMailer(f"{scheme}://127.0.0.1:{box.port}", sender=SENDER)
        with pytest.raises((aiosmtplib.SMTPException, OSError)):
            await mailer.send(mail())
    assert box.mails == []


async def test_a_wrong_password_is_an_error() -> None:
    """A server that refuses the credentials gets no message."""
    async with smtp_server(auth_require_tls=False) as box:
        mailer = SMTPMailer(f"smtp://us:wrong@127.0.0.1:{box.port}", sender=SENDER)
        with pytest.raises(aiosmtplib.SMTPAuthenticationError):
            await mailer.send(mail())
    assert box.mails == []


async def test_a_slow_server_is_given_up() -> None:
    """A server that says nothing is waited for as long as `timeout` says."""
    async with silent_server() as port:
        mailer = SMTPMailer(f"smtp://127.0.0.1:{port}", sender=SENDER, timeout=0.05)
        with pytest.raises(aiosmtplib.SMTPTimeoutError):
            await mailer.send(mail())


def test_a_missing_aiosmtplib_names_the_extra() -> None:
    """Without the library the error says which extra to install."""
    script = (
        "import sys; sys.modules['aiosmtplib'] = None\n"
        "from starlette_otp import ConfigurationError, SMTPMailer\n"
        "try: SMTPMailer('smtp://mail.example')\n"
        "except ConfigurationError as exc: print(exc)"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert f"needs aiosmtplib: {install_hint('email')}" in shown.stdout, shown.stderr
