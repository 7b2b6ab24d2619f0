"""Names and passwords: whoever asks, asked of the limit first, and every refusal told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, TypeVar

from starlette.requests import HTTPConnection

from starlette_otp import clock
from starlette_otp.devices.users import is_active
from starlette_otp.exceptions import ConfigurationError, TooBusy, TooManyAttempts
from starlette_otp.service.passwords import Place
from starlette_otp.service.users import of_host
from starlette_otp.web.browser import browser_of, note_name
from starlette_otp.web.journal import client_of, login_failed
from starlette_otp.web.site import Site
from starlette_otp.web.verdict import VERDICT, Verdict

T = TypeVar("T")

_looked_at: ContextVar[str | None] = ContextVar("starlette_otp_name", default=None)
"""The digest of the name whose password is being looked at."""


def wait_of(exc: TooManyAttempts) -> str:
    """When a password may be tried again, in words."""
    return "later" if exc.seconds is None else f"in {clock.lasting(exc.seconds)}"


async def authenticate(otp: Site, conn: HTTPConnection, username: str, password: str) -> Any | None:
    """`OTP.authenticate`."""
    users = otp.users
    if users.has_own_check:
        return await limited(otp, conn, username, lambda: users.ask_host(conn, username, password))
    if not users.has_passwords:
        raise ConfigurationError(
            "OTP needs authenticate=, since there is no user model with username and password_hash."
        )
    if not users.may_be_password(password):
        # Nobody's: neither looked at nor counted.
        await login_failed(otp, conn, None, "wrong_password")
        return None
    user = await users.find(username)
    reason = "unknown_name" if user is None else "wrong_password"
    if user is not None and not is_active(user):
        reason = "inactive"

    def check(place: Place) -> Awaitable[Any | None]:
        # A new hash would end the session in which its owner is asked for the password.
        is_in = user is not None and _is_in(otp, conn, user)
        return users.check(user, password, place, renews=not is_in)

    return await _limited(otp, conn, username, check, user, reason)


def _is_in(otp: Site, conn: HTTPConnection, user: Any) -> bool:
    """Whether the request has a session of that user."""
    verdict = conn.scope.get(VERDICT)
    if not isinstance(verdict, Verdict) or verdict.session_id is None:
        return False
    key = otp.device_model.user_key
    return bool(key(verdict.known) == key(user))


async def limited(
    otp: Site, conn: HTTPConnection, username: str, check: Callable[[], Awaitable[T | None]]
) -> T | None:
    """`OTP.limited`."""
    return await _limited(otp, conn, username, lambda place: check(), None, "wrong_password")


async def _limited(
    otp: Site,
    conn: HTTPConnection,
    username: str,
    check: Callable[[Place], Awaitable[T | None]],
    user: Any | None,
    reason: str,
) -> T | None:
    name = otp.throttle.digest(username)
    browser = browser_of(otp, conn, name)
    key = name if browser is None else otp.throttle.digest(username, browser)
    place = Place(key, client_of(otp, conn).address, browser is not None)
    if _looked_at.get() == name:
        # A host's own check that asks for the limit, called by us, who have asked already.
        return await check(place)
    outside = _looked_at.set(name)
    try:
        if otp.allow_attempt is not None and not await of_host(otp.allow_attempt(conn, username)):
            raise TooManyAttempts()
        found = await otp.throttle.limited(key, lambda: check(place))
    except (TooManyAttempts, TooBusy) as exc:
        await login_failed(otp, conn, user, exc.code)
        raise
    finally:
        _looked_at.reset(outside)
    if found is None:
        await login_failed(otp, conn, user, reason)
    else:
        note_name(otp, conn, name, found)
    return found
