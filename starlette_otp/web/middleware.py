"""OTPMiddleware: which device verified this request."""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from starlette_otp.exceptions import ConfigurationError, is_away
from starlette_otp.service.sessions import Found
from starlette_otp.web.backend import FOUND, find_session
from starlette_otp.web.site import Site
from starlette_otp.web.user import unwrapped
from starlette_otp.web.verdict import VERDICT, Verdict, show

_BEFORE = {"session": "SessionMiddleware", "user": "AuthenticationMiddleware"}


class OTPMiddleware:
    """Attach the verified device: `request.user.otp_device`, `is_verified()`, scope "verified".

    It stands after SessionMiddleware and AuthenticationMiddleware. Behind SessionAuthBackend it
    costs no SQL; behind another backend one SELECT for an authenticated user with a session.

    Args:
        app: the next ASGI app.
        otp: the application's OTP.
    """

    def __init__(self, app: ASGIApp, otp: Site) -> None:
        self.app = app
        self.otp = otp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        for key, middleware in _BEFORE.items():
            if key not in scope:
                raise ConfigurationError(
                    f"OTPMiddleware needs {middleware}, installed before it: the order is "
                    "SessionMiddleware, AuthenticationMiddleware, OTPMiddleware."
                )
        conn = HTTPConnection(scope)
        verdict = Verdict(self.otp, scope.get("root_path", ""))
        found = await self._find(conn, verdict)
        if found is not None:
            verdict.user, verdict.device = found.user, found.device
            verdict.verified_at, verdict.session_id = found.verified_at, found.session_id
            verdict.own = found.own
        scope[VERDICT] = verdict
        show(conn, verdict, getattr(scope.get("auth"), "scopes", []))
        await self.app(scope, receive, send)

    async def _find(self, conn: HTTPConnection, verdict: Verdict) -> Found | None:
        owner, known = conn.scope.pop(FOUND, (None, None))
        if isinstance(known, Exception):
            verdict.away = True
            return None
        user = unwrapped(conn.scope["user"])
        if isinstance(known, Found) and owner is self.otp and known.user is user:
            return known
        if self.otp.device_model.user_key(user) is None:
            return None
        try:
            found = await find_session(self.otp, conn, user)
        except Exception as exc:
            if not is_away(exc):
                raise
            verdict.away = True
            return None
        return found or Found(user, None, None, None)
