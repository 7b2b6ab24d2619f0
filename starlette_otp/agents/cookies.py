"""The cookies in which a browser keeps the tokens of the users who trust it, one for each."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from itsdangerous import BadData, URLSafeSerializer
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, cookie_parser
from starlette.responses import Response

from starlette_otp.keyring import Keyring

_MOST = timedelta(days=400)
"""Longer no browser keeps a cookie (RFC 6265bis section 5.5)."""


class AgentCookies:
    """The cookies, as the settings of the class of agents say.

    Args:
        model: the class of agents.
        keyring: signs them.
    """

    def __init__(self, model: Any, keyring: Keyring) -> None:
        self._model = model
        self._keyring = keyring

    def name(self, user_key: object) -> str:
        """Of the cookie of a user: it tells nobody whose it is."""
        return self._names(user_key)[0]

    def _names(self, user_key: object) -> list[str]:
        """The names by each of the keys, the newest first."""
        digests = self._keyring.digests("agent of", str(user_key))
        return [f"{self._model.cookie_name}_{digest[:16]}" for digest in digests]

    def held(self, conn: HTTPConnection, user_key: object) -> list[str]:
        """The names of those that the browser holds for the user, whatever they are worth."""
        cookies = _cookies(conn)
        return [name for name in self._names(user_key) if name in cookies]

    def token(self, conn: HTTPConnection, user_key: object) -> str | None:
        """The token that the browser holds for the user; None for none, or one that is forged."""
        cookies = _cookies(conn)
        for name in self._names(user_key):
            try:
                token = self._serializer().loads(cookies.get(name, ""))
            except BadData:
                continue
            if isinstance(token, str):
                return token
        return None

    def header(
        self, conn: HTTPConnection, name: str, token: str | None, age: timedelta = timedelta(0)
    ) -> str:
        """A Set-Cookie header that lets the browser hold a token, or forget what it has.

        Args:
            conn: the request.
            name: of the cookie.
            token: the token; None to forget.
            age: how long.
        """
        model = self._model
        is_secure = (
            conn.url.scheme == "https" if model.cookie_secure is None else model.cookie_secure
        )
        seconds = max(0, int(min(age, _MOST).total_seconds()))
        carrier = Response()
        carrier.set_cookie(
            name,
            "" if token is None else self._serializer().dumps(token),
            max_age=0 if token is None else seconds,
            path=model.cookie_path,
            domain=model.cookie_domain,
            secure=is_secure,
            httponly=True,
            samesite=model.cookie_samesite.lower(),
        )
        return carrier.headers["set-cookie"]

    def _serializer(self) -> URLSafeSerializer:
        return URLSafeSerializer(self._keyring.agents, salt="agent")


def _cookies(conn: HTTPConnection) -> dict[str, str]:
    # HTTP/2 may part them over several headers (RFC 9113 section 8.2.3).
    return cookie_parser("; ".join(Headers(raw=conn.scope.get("headers", [])).getlist("cookie")))
