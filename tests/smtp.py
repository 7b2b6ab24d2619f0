"""Real SMTP servers on loopback, in the test's own event loop, and certificates for them."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PASSWORD = "p@ss:w/rd?#% é"


class Postbox:
    """What a server took, and what it makes of the next message.

    Attributes:
        port: where it listens.
        mails: the messages, parsed.
        envelopes: as the server had them, in the same order.
        encrypted: of each, whether it came over TLS.
        users: of each, who had logged in, or None.
        answer: the SMTP answer to a message.
        on_arrival: called before the answer is given.
    """

    def __init__(self) -> None:
        self.port = 0
        self.mails: list[EmailMessage] = []
        self.envelopes: list[Envelope] = []
        self.encrypted: list[bool] = []
        self.users: list[Any] = []
        self.answer = "250 OK"
        self.on_arrival: Callable[[], Awaitable[None]] | None = None

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        if self.on_arrival is not None:
            await self.on_arrival()
        if self.answer.startswith("250"):
            self.envelopes.append(envelope)
            self.mails.append(
                message_from_bytes(envelope.content, EmailMessage, policy=policy.SMTP)
            )
            self.encrypted.append(server.transport.get_extra_info("ssl_object") is not None)
            self.users.append(session.auth_data)
        return self.answer

    def text(self, at: int = -1) -> str:
        """The plain text of a message."""
        body = self.mails[at].get_body(("plain",))
        assert body is not None
        return str(body.get_content()).replace("\r\n", "\n")

    def html(self, at: int = -1) -> str:
        """The HTML alternative of a message."""
        body = self.mails[at].get_body(("html",))
        assert body is not None
        return str(body.get_content()).replace("\r\n", "\n")


def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    assert isinstance(data, LoginPassword)
    right = data.password.decode() == PASSWORD
    return AuthResult(success=right, handled=False, auth_data=data.login.decode())


@asynccontextmanager
async def smtp_server(
    ssl_context: ssl.SSLContext | None = None, **settings: Any
) -> AsyncIterator[Postbox]:
    """A server; `ssl_context` for one that speaks TLS from the first byte."""
    box, loop = Postbox(), asyncio.get_running_loop()

    def make() -> SMTP:
        values = {"hostname": "mail.example", "authenticator": authenticate, **settings}
        return SMTP(box, loop=loop, enable_SMTPUTF8=True, **values)

    server = await loop.create_server(make, "127.0.0.1", 0, ssl=ssl_context)
    box.port = server.sockets[0].getsockname()[1]
    yield box
    server.close()


@asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """A server that takes connections and never says a word; gives its port."""
    open_ones: list[asyncio.StreamWriter] = []

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.append(writer)

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for writer in open_ones:
        writer.close()


@cache
def certificate() -> bytes:
    """A self-signed certificate of 127.0.0.1 with its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = made.add_extension(address, critical=False)
    return made.sign(key, hashes.SHA256()).public_bytes(
        serialization.Encoding.PEM
    ) + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def tls_contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a server with that certificate and of a client that trusts it."""
    path = folder / "certificate.pem"
    path.write_bytes(certificate())
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cafile=str(path))
