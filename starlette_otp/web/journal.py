"""The journal of log-ins (OWASP ASVS 16.3.1): a line in the log and a signal for each."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from blinker import NamedSignal
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from starlette_otp import signals
from starlette_otp.web.site import Site
from starlette_otp.web.user import unwrapped

logger = logging.getLogger("starlette_otp")

_MAX_AGENT = 255


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks: an address and the name that a browser or program gives itself."""

    address: str
    agent: str


def peer(conn: HTTPConnection) -> str | None:
    """The address of the connection: `request.client.host`."""
    return conn.client.host if conn.client else None


def client_of(otp: Site, conn: HTTPConnection) -> Client:
    """The client of a request, its address as `OTP(client_address=)` tells it."""
    agent = Headers(raw=conn.scope.get("headers", [])).get("user-agent", "")
    return Client(otp.client_address(conn) or "", agent[:_MAX_AGENT])


async def logged_in(otp: Site, conn: HTTPConnection, user: Any, device: Any | None) -> None:
    """A session began, by the password alone or by a device."""
    words = "User %r logged in (%s), from %r by %r."
    reason = "password" if device is None else device.persistent_id
    await _tell(otp, conn, signals.otp_logged_in, words, user, device, reason)


async def new_browser(otp: Site, conn: HTTPConnection, user: Any, device: Any) -> None:
    """A device verified its user in a browser that is new to their account."""
    client, user = client_of(otp, conn), unwrapped(user)
    key = otp.device_model.user_key(user)
    logger.info(
        "User %r verified in a new browser, from %r by %r.", key, client.address, client.agent
    )
    told = {"address": client.address, "agent": client.agent}
    await signals.send(signals.otp_new_browser, otp, user=user, device=device, **told)


async def logged_out(
    otp: Site, conn: HTTPConnection, user: Any, device: Any | None, reason: str
) -> None:
    """A session ended."""
    words = "A session of user %r ended (%s), from %r by %r."
    await _tell(otp, conn, signals.otp_logged_out, words, user, device, reason)


async def login_failed(otp: Site, conn: HTTPConnection, user: Any | None, reason: str) -> None:
    """A password was refused, or not even tried. What was typed for a name may be a password."""
    words = "A log-in of user %r was refused (%s), from %r by %r."
    await _tell(otp, conn, signals.otp_login_failed, words, user, None, reason)


async def _tell(
    otp: Site,
    conn: HTTPConnection,
    which: NamedSignal,
    words: str,
    user: Any | None,
    device: Any | None,
    reason: str,
) -> None:
    client, user = client_of(otp, conn), unwrapped(user)
    key = None if user is None else otp.device_model.user_key(user)
    level = logging.WARNING if which is signals.otp_login_failed else logging.INFO
    logger.log(level, words, key, reason, client.address, client.agent)
    more = {"reason": reason, "address": client.address, "agent": client.agent}
    await signals.send(which, otp, user=user, device=device, **more)
