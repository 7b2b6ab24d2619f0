"""SMTPMailer: sends mail through an SMTP server (extra `email`)."""

from __future__ import annotations

import ssl
from email.message import EmailMessage
from typing import Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from starlette_otp.exceptions import ConfigurationError

_PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}


class Mailer(Protocol):
    """What an email device sends with: any object with this method."""

    async def send(self, message: EmailMessage) -> None:
        """Send the message, or raise whatever went wrong."""


class SMTPMailer:
    """Mail through an SMTP server, one connection a message.

    Args:
        url: `smtp://host:port`, which uses STARTTLS if the server offers it;
            `smtp+starttls://...`, which insists on it; or `smtps://...`. Credentials go into the
            URL as `smtps://user:password@host`, percent-encoded.
        sender: the From of messages that have none.
        timeout: seconds for each step of the delivery.
        tls_context: for servers whose certificate no public authority signed; certificates are
            checked also where STARTTLS was only offered.

    Raises:
        ConfigurationError: not such a URL, or aiosmtplib is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        sender: str | None = None,
        timeout: float = 10,
        tls_context: ssl.SSLContext | None = None,
    ) -> None:
        try:
            import aiosmtplib
        except ImportError:
            raise ConfigurationError(
                "SMTPMailer needs aiosmtplib: pip install 'starlette-otp[email]'"
            ) from None
        parts, port = _split(url)
        self.sender = sender
        self._send = aiosmtplib.send
        self._hostname = parts.hostname
        self._port = port
        self._username = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password) if parts.password else None
        self._use_tls = parts.scheme == "smtps"
        self._start_tls = {"smtp": None, "smtp+starttls": True, "smtps": False}[parts.scheme]
        self._timeout = timeout
        self._tls_context = tls_context

    async def send(self, message: EmailMessage) -> None:
        """Send the message; one without a From gets the sender.

        Raises:
            aiosmtplib.SMTPException: the server refused it, or did not answer in time.
            OSError: the server can't be reached.
        """
        if self.sender and "From" not in message:
            message["From"] = self.sender
        await self._send(
            message,
            hostname=self._hostname,
            port=self._port,
            username=self._username,
            password=self._password,
            use_tls=self._use_tls,
            start_tls=self._start_tls,
            timeout=self._timeout,
            tls_context=self._tls_context,
        )


def _split(url: str) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        port = 0
    # A slash, ? or # in credentials that are not percent-encoded would make another host of them.
    if not port or not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigurationError(
            "SMTPMailer takes smtp://, smtp+starttls:// or smtps:// URLs, with what is "
            "before the host percent-encoded."
        )
    if parts.password and not parts.username:
        raise ConfigurationError("SMTPMailer has a password and no username.")
    return parts, port
