"""SMTPMailer: sends mail through an SMTP server (extra `email`)."""

from __future__ import annotations

import ipaddress
import ssl
from email.message import EmailMessage
from typing import Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from starlette_otp.exceptions import ConfigurationError, install_hint, is_missing

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
            URL as `smtps://user:password@host`, percent-encoded; with them `smtp://` insists,
            too, unless the host is this machine (ASVS 12.3.1: nothing falls back to clear text).
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
        except ImportError as exc:
            if not is_missing(exc, "aiosmtplib"):
                raise
            raise ConfigurationError(
                f"SMTPMailer needs aiosmtplib: {install_hint('email')}"
            ) from None
        # An error tracker sends locals, and scrubs those whose names it knows.
        secret_url, url = url, ""
        secret_parts, port = _split(secret_url)
        self.sender = sender
        self._send = aiosmtplib.send
        self._hostname = secret_parts.hostname
        self._port = port
        self._username = unquote(secret_parts.username) if secret_parts.username else None
        self._password = unquote(secret_parts.password) if secret_parts.password else None
        self._use_tls = secret_parts.scheme == "smtps"
        self._start_tls = {"smtp": None, "smtp+starttls": True, "smtps": False}[secret_parts.scheme]
        if self._username and not _is_loopback(secret_parts.hostname or ""):
            # Who is in between could strip the offer and read the credentials.
            self._start_tls = self._start_tls is not False
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


def _split(secret_url: str) -> tuple[SplitResult, int]:
    try:
        secret_parts = urlsplit(secret_url)
        port = secret_parts.port or _PORTS[secret_parts.scheme]
    except (ValueError, KeyError):
        port = 0
    # A slash, ? or # in credentials that are not percent-encoded would make another host of them.
    if (
        not port
        or not secret_parts.hostname
        or any((secret_parts.path.strip("/"), secret_parts.query, secret_parts.fragment))
    ):
        raise ConfigurationError(
            "SMTPMailer takes smtp://, smtp+starttls:// or smtps:// URLs, with what is "
            "before the host percent-encoded."
        )
    if secret_parts.password and not secret_parts.username:
        raise ConfigurationError("SMTPMailer has a password and no username.")
    return secret_parts, port


def _is_loopback(host: str) -> bool:
    if host.removesuffix(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
