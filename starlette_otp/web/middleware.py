"""OTPMiddleware: which device verified this request."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from starlette.authentication import UnauthenticatedUser
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from starlette_otp.exceptions import ConfigurationError, DatabaseUnavailable
from starlette_otp.web.backend import FOUND, look_up
from starlette_otp.web.bearer import BEARER
from starlette_otp.web.cookie import LOOKED
from starlette_otp.web.guards import refuse_open_routes
from starlette_otp.web.held import judge
from starlette_otp.web.routing import routes_of
from starlette_otp.web.site import Site
from starlette_otp.web.user import Anonymous, unwrapped
from starlette_otp.web.verdict import VERDICT, Verdict, show

_NOTHING = (None, None)
_BEFORE = {"session": "SessionMiddleware", "user": "AuthenticationMiddleware"}


class OTPMiddleware:
    """Attach the verified device: `request.user.otp_device`, `is_verified()`, scope "verified".

    It stands after SessionMiddleware and AuthenticationMiddleware. Behind SessionAuthBackend it
    costs no SQL; behind another backend one SELECT for an authenticated user with a session. Its
    answer sets the session's cookie where a log-in, a verification or a log-out changed it.

    The answer to what SessionAuthBackend has found by its transport "bearer" sets no cookie, and
    `request.session` ends with such a request.

    It also refuses an application, with a ConfigurationError for every request, that routes a
    function past the guard which `requires_otp` has given it.

    Args:
        app: the next ASGI app.
        otp: the application's OTP.
    """

    def __init__(self, app: ASGIApp, otp: Site) -> None:
        self.app = app
        self.otp = otp
        self._routes: Sequence[Any] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given_token = scope.get(BEARER)
        if given_token is not None:
            # SessionMiddleware, where there is one, keeps its own.
            scope = {**scope, "session": {}}
        if "session" not in scope or "user" not in scope:
            missing = _BEFORE["user" if "session" in scope else "session"]
            raise ConfigurationError(
                f"OTPMiddleware needs {missing}, installed before it: the order is "
                "SessionMiddleware, AuthenticationMiddleware, OTPMiddleware (with add_middleware "
                "the other way round: what is added last comes first)."
            )
        if self._routes is None:
            # At the first request, when the host has made its routes.
            routes = routes_of(self.app) or routes_of(scope.get("app"))
            refuse_open_routes(routes)
            self._routes = routes
        verdict = scope[VERDICT] = Verdict(self.otp, scope.get("root_path", ""))
        verdict.routes, verdict.bearer = self._routes, given_token
        # Nothing that the scope leads to holds it: with a circle every request were garbage.
        send = partial(_send, scope, verdict, send)
        user = unwrapped(scope["user"])
        owner, known = scope.pop(FOUND, _NOTHING)
        is_nobody = known is None and owner is self.otp and type(user) is UnauthenticatedUser
        if is_nobody and not getattr(scope.get("auth"), "scopes", ()):
            # Most requests of most sites: nobody, with the credentials of nobody.
            scope["user"] = Anonymous()
            if LOOKED in scope and hasattr(scope["session"], "accessed"):
                # From here on no answer leaves but through `_send`, which says it at less cost.
                scope["session"].accessed = False
            await self.app(scope, receive, send)
            return
        if isinstance(known, Exception):
            verdict.away = True
        elif getattr(user, "is_authenticated", True) is not False:
            is_known = owner is self.otp and known is not None and known.user is user
            if is_known:
                verdict.take(known)
            else:
                await look_up(HTTPConnection(scope), verdict, user)
        show(scope, verdict, getattr(scope.get("auth"), "scopes", ()))
        if verdict.device is None:
            await judge(scope, verdict)
        await self.app(scope, receive, send)
        if verdict.is_due and verdict.session_id is not None:
            await self._note_seen(verdict.session_id)

    async def _note_seen(self, session_id: int) -> None:
        """Write that a session was seen, after the answer, for which nobody waits any more."""
        # A database that is away is told of by the next request.
        with suppress(DatabaseUnavailable):
            await self.otp.sessions.seen(session_id)


def _send(scope: Scope, verdict: Verdict, send: Send, cookie_message: Message) -> Awaitable[None]:
    """Send a message of the answer, which takes along the cookies that have changed."""
    if cookie_message["type"] == "http.response.start":
        if LOOKED in scope and not getattr(scope["session"], "accessed", False):
            # Else SessionMiddleware says so.
            _vary(cookie_message)
        verdict.is_answered = True
        if verdict.set_cookie or verdict.browser_cookie or verdict.agent_cookies:
            _set_cookies(cookie_message, verdict)
    return send(cookie_message)


def _set_cookies(cookie_message: Message, verdict: Verdict) -> None:
    cookie_message.setdefault("headers", [])
    headers = MutableHeaders(scope=cookie_message)
    for cookie in (verdict.set_cookie, verdict.browser_cookie, *verdict.agent_cookies.values()):
        if cookie is not None:
            headers.append("set-cookie", cookie)


def _vary(message: Message) -> None:
    """Say that an answer depends on a cookie, in the one header that it may have already."""
    # MutableHeaders.add_vary_header takes a twentieth of what a public page does in all.
    headers = list(message.get("headers", ()))
    for place, (name, value) in enumerate(headers):
        if name == b"vary":
            headers[place] = name, value + b", Cookie"
            break
    else:
        headers.append((b"vary", b"Cookie"))
    message["headers"] = headers
