"""Verified clients, and devices with a known secret."""

from __future__ import annotations

from datetime import datetime
from email.message import Message
from types import SimpleNamespace
from typing import Any, TypeVar
from urllib.request import Request

from anyio.from_thread import start_blocking_portal
from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp import clock, oath
from starlette_otp.devices.hotp import HOTPDeviceMixin
from starlette_otp.devices.totp import TOTPDeviceMixin
from starlette_otp.exceptions import ConfigurationError, DeviceRejected
from starlette_otp.otp import OTP
from starlette_otp.web.user import unwrapped

M = TypeVar("M")

KNOWN_SECRET = b"12345678901234567890"
"""The secret of the test vectors of RFC 4226 and RFC 6238."""


async def make_device(otp: OTP, user: object, model: type[M], **values: Any) -> M:
    """A confirmed device of the user's, in the database, with the known secret.

    Args:
        otp: the application's.
        user: whose device it will be.
        model: the kind, as `TOTPDevice`.
        values: its other columns, as `confirmed=False`, or another `secret`.

    Raises:
        ValueError: the user is nobody.
    """
    key = otp.device_model.user_key(user)
    if key is None:
        raise ValueError("make_device needs an authenticated user.")
    device = model(**{"secret": KNOWN_SECRET, "user_id": key, **values})

    async def work(session: AsyncSession) -> M:
        session.add(device)
        return device

    return await otp.write(work)


def token_at(device: Any, moment: datetime | None = None, steps: int = 0) -> str:
    """The token that the prover of a TOTP or HOTP device shows.

    Args:
        device: TOTP or HOTP, as it was loaded.
        moment: for TOTP, when; now unless given.
        steps: so many steps, or for HOTP counters, later; earlier if negative.

    Raises:
        TypeError: the device is of another kind.
    """
    if isinstance(device, HOTPDeviceMixin):
        counter = device.counter or 0
    elif isinstance(device, TOTPDeviceMixin):
        now = (moment or clock.now()).timestamp()
        counter = oath.time_step(now, device.step or 30, device.t0 or 0)
    else:
        raise TypeError(f"{type(device).__name__} is no TOTP or HOTP device.")
    algorithm = device.algorithm or "SHA1"
    return oath.hotp(device.secret, counter + steps, device.digits or 6, algorithm)


async def verified_session(otp: OTP, user: Any, device: Any | None = None) -> dict[str, str]:
    """A new session of the user's, verified by the device, as the cookie of a client.

    Args:
        otp: the application's.
        user: the user.
        device: a confirmed device of theirs; the first one unless given.

    Returns:
        The cookie's name and value, as for `Client(cookies=...)`.

    Raises:
        ConfigurationError: the user has no confirmed device.
        DeviceRejected: the device is not the user's, or not confirmed.
    """
    devices = await otp.devices_for_user(user)
    if not devices:
        raise ConfigurationError("The user has no confirmed device to be verified by.")
    if device is not None and device not in devices:
        raise DeviceRejected(device, "The device is no confirmed device of the user's.")
    device = device or devices[0]
    begun = await otp.sessions.begin(unwrapped(user), device)
    return {otp.cookie.name: begun.token}


async def averify(client: Any, otp: OTP, user: Any, device: Any | None = None) -> None:
    """Give an httpx AsyncClient a verified session of the user's.

    Args:
        client: of the application.
        otp: the application's.
        user: the user.
        device: a confirmed device of theirs; the first one unless given.

    Raises:
        ConfigurationError: there is no device, or the cookie is not one for the client's
            `base_url`.
        DeviceRejected: the device is not the user's, or not confirmed.
    """
    _keep(client, otp, await verified_session(otp, user, device))


def verify(client: Any, otp: OTP, user: Any, device: Any | None = None) -> None:
    """Give a TestClient a verified session of the user's.

    Inside `with TestClient(app) as client:` it runs in the application's event loop, and so does
    `client.portal.call(make_device, otp, user, TOTPDevice)`. Outside it the engine has to be one
    that keeps no connection (NullPool), as for any other request.

    Args and errors are those of `averify`; the client is Starlette's or FastAPI's.
    """
    if client.portal is not None:
        session = client.portal.call(verified_session, otp, user, device)
    else:
        with start_blocking_portal(**client.async_backend) as portal:
            session = portal.call(verified_session, otp, user, device)
    _keep(client, otp, session)


def _keep(client: Any, otp: OTP, session: dict[str, str]) -> None:
    """Let the client's jar take the cookie as it takes the application's, which then replace it."""
    answer, jar = Message(), client.cookies.jar
    answer["Set-Cookie"] = otp.cookie.header(client.base_url.scheme, session[otp.cookie.name])
    url = str(client.base_url.join(otp.session_model.cookie_path))
    jar.extract_cookies(SimpleNamespace(info=lambda: answer), Request(url))  # noqa: S310
    again = Request(url)  # noqa: S310
    jar.add_cookie_header(again)
    if f"{otp.cookie.name}=" not in (again.get_header("Cookie") or ""):
        raise ConfigurationError(
            f"The session's cookie is not sent to {client.base_url}: the client needs a base_url "
            "of the cookie's domain, with https if it is Secure."
        )
