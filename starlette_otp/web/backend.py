"""SessionAuthBackend: who is it, by the row of their session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette._utils import get_route_path
from starlette.authentication import AuthCredentials, AuthenticationBackend
from starlette.requests import HTTPConnection

from starlette_otp.exceptions import ConfigurationError, DatabaseUnavailable, is_away
from starlette_otp.service.sessions import Found
from starlette_otp.web.bearer import BEARER, bearer_token
from starlette_otp.web.site import Site
from starlette_otp.web.verdict import Verdict

FOUND = "starlette_otp.found"
"""Where the ASGI scope has what SessionAuthBackend found: whose OTP, and Found or an error."""


_TRANSPORTS = ({"cookie"}, {"bearer"}, {"cookie", "bearer"})


async def find_session(
    otp: Site,
    conn: HTTPConnection,
    user: Any | None = None,
    session_id: int | None = None,
    token: str | None = None,
) -> Found | None:
    """What the row of this request's session says; None without such a row.

    Args:
        otp: the application's.
        conn: the request.
        user: the user whom another backend found: the session has to be theirs.
        session_id: the row itself, found before, whatever its token is now.
        token: what the request brings, where it has been looked at already.
    """

    async def load(key: Any) -> Any | None:
        return await otp.users.load(conn, key)

    token = otp.cookie.token(conn) if token is None else token
    return await otp.sessions.find(token, load, user, session_id)


async def look_up(conn: HTTPConnection, verdict: Verdict, user: Any) -> None:
    """Put into the verdict what our session says of a user whom another backend found."""
    otp = verdict.otp
    if otp.device_model.user_key(user) is None:
        return
    try:
        found = await find_session(otp, conn, user, token=verdict.bearer)
    except Exception as exc:
        if not is_away(exc):
            raise
        verdict.away = True
        return
    found = found or Found(user, None, None, None)
    # Whom another backend knows need no trust to be known.
    found.agent_id = verdict.seen_agent = None
    verdict.take(found)


class SessionAuthBackend(AuthenticationBackend):
    """Starlette's authentication by our session rows: for Middleware(AuthenticationMiddleware).

    It never raises for a database that is away: the request goes on as anonymous, and every guard
    answers 503.

    Args:
        otp: the application's OTP.
        exclude: paths that need nobody, as "/static", and all below them: they cost no SQL, and
            everybody is anonymous there.
        transports: how clients bring their token: "cookie", or "bearer", in `Authorization`
            (RFC 6750). With both, a request that has that header is asked for no cookie. "bearer"
            alone needs no SessionMiddleware.

    Raises:
        ConfigurationError: users can't be loaded, a path does not begin with a slash, or there is
            no such transport.
    """

    def __init__(
        self, otp: Site, exclude: Sequence[str] = (), transports: Sequence[str] = ("cookie",)
    ) -> None:
        if not otp.users.can_be_loaded:
            raise ConfigurationError(
                "SessionAuthBackend needs OTP(load_user=), since there is no user model."
            )
        if isinstance(exclude, str) or not all(path.startswith("/") for path in exclude):
            raise ConfigurationError(
                'SessionAuthBackend(exclude=) takes paths, as exclude=("/static", "/healthz").'
            )
        if isinstance(transports, str) or set(transports) not in _TRANSPORTS:
            raise ConfigurationError(
                'SessionAuthBackend(transports=) takes ("cookie",), ("bearer",) or both.'
            )
        self.otp = otp
        self._takes_cookies, self._takes_bearer = "cookie" in transports, "bearer" in transports
        self.exclude = tuple(path.rstrip("/") for path in exclude)

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, Any] | None:
        """The session's user with the scope "authenticated", or None."""
        if self._takes_cookies and "session" not in conn.scope:
            raise ConfigurationError(
                "SessionAuthBackend needs SessionMiddleware, installed before "
                "AuthenticationMiddleware (with add_middleware after it: what is added last comes "
                "first)."
            )
        given_token = bearer_token(conn) if self._takes_bearer else None
        if given_token is not None or not self._takes_cookies:
            conn.scope[BEARER] = given_token or ""
        if self.exclude and self._is_excluded(conn):
            return None
        token = conn.scope[BEARER] if BEARER in conn.scope else self.otp.cookie.token(conn)
        if not token:
            conn.scope[FOUND] = self.otp, None
            return None
        try:
            found = await find_session(self.otp, conn, token=token)
        except Exception as exc:
            if not is_away(exc):
                raise
            conn.scope[FOUND] = self.otp, DatabaseUnavailable()
            return None
        conn.scope[FOUND] = self.otp, found
        return (AuthCredentials(["authenticated"]), found.user) if found else None

    def _is_excluded(self, conn: HTTPConnection) -> bool:
        path = get_route_path(conn.scope)
        return any(path == excluded or path.startswith(excluded + "/") for excluded in self.exclude)
