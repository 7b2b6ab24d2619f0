"""Verified clients, and devices with a known secret."""

from __future__ import annotations

import copy
from datetime import datetime
from email.message import Message
from types import SimpleNamespace
from typing import Any, TypeVar
from urllib.request import Request

from anyio.from_thread import start_blocking_portal
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import Headers
from starlette.middleware.sessions import SessionMiddleware

from starlette_otp import clock, oath
from starlette_otp.devices.hotp import HOTPDeviceMixin
from starlette_otp.devices.totp import TOTPDeviceMixin
from starlette_otp.exceptions import ConfigurationError, DeviceRejected
from starlette_otp.otp import OTP
from starlette_otp.web.cookie import SESSION_KEY
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
    """A new session of the user's, verified by the device, as what `request.session` holds.

    Args:
        otp: the application's.
        user: the user.
        device: a confirmed device of theirs; the first one unless given.

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
    return {SESSION_KEY: begun.token}


async def averify(
    client: Any, otp: OTP, user: Any, device: Any | None = None, *, app: Any | None = None
) -> None:
    """Give an httpx AsyncClient a verified session of the user's.

    Args:
        client: over an ASGITransport of the application.
        otp: the application's.
        user: the user.
        device: a confirmed device of theirs; the first one unless given.
        app: the application with SessionMiddleware, where the client does not show it.

    Raises:
        ConfigurationError: there is no device, no SessionMiddleware, or its cookie is not one for
            the client's `base_url`.
        DeviceRejected: the device is not the user's, or not confirmed.
    """
    layer = _session_layer(app or getattr(getattr(client, "_transport", None), "app", None))
    _keep(client, layer, await _set_cookie(layer, otp, user, device))


def verify(
    client: Any, otp: OTP, user: Any, device: Any | None = None, *, app: Any | None = None
) -> None:
    """Give a TestClient a verified session of the user's.

    Inside `with TestClient(app) as client:` it runs in the application's event loop, and so does
    `client.portal.call(make_device, otp, user, TOTPDevice)`. Outside it the engine has to be one
    that keeps no connection (NullPool), as for any other request.

    Args and errors are those of `averify`; the client is Starlette's or FastAPI's.
    """
    layer = _session_layer(app or client.app)
    if client.portal is not None:
        header = client.portal.call(_set_cookie, layer, otp, user, device)
    else:
        with start_blocking_portal(**client.async_backend) as portal:
            header = portal.call(_set_cookie, layer, otp, user, device)
    _keep(client, layer, header)


def _session_layer(app: Any) -> SessionMiddleware:
    """The SessionMiddleware of an application, or of the one that it is wrapped around."""
    while app is not None:
        if isinstance(app, SessionMiddleware):
            return app
        for layer in getattr(app, "user_middleware", ()):
            if isinstance(layer.cls, type) and issubclass(layer.cls, SessionMiddleware):
                made: SessionMiddleware = layer.cls(app, *layer.args, **layer.kwargs)
                return made
        app = getattr(app, "app", None)
    raise ConfigurationError(
        "The client shows no application with a SessionMiddleware: pass the one that has it as app."
    )


async def _set_cookie(layer: SessionMiddleware, otp: OTP, user: Any, device: Any | None) -> str:
    """The header with which that middleware would set the cookie of a verified session."""
    session, sent = await verified_session(otp, user, device), Headers()

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        scope["session"].update(session)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        nonlocal sent
        sent = Headers(raw=message["headers"])

    own: Any = copy.copy(layer)
    own.app = answer
    await own({"type": "http", "headers": []}, None, send)
    return sent["set-cookie"]


def _keep(client: Any, layer: SessionMiddleware, header: str) -> None:
    """Let the client's jar take the cookie as it takes the application's, which then replace it."""
    answer, jar = Message(), client.cookies.jar
    answer["Set-Cookie"] = header
    url = str(client.base_url.join(layer.path))
    jar.extract_cookies(SimpleNamespace(info=lambda: answer), Request(url))  # noqa: S310
    again = Request(url)  # noqa: S310
    jar.add_cookie_header(again)
    if f"{layer.session_cookie}=" not in (again.get_header("Cookie") or ""):
        raise ConfigurationError(
            f"The session's cookie is not sent to {client.base_url}: the client needs a base_url "
            "of the cookie's domain, with https if it is https_only."
        )
