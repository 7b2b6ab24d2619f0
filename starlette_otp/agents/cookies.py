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
        digest = self._keyring.digests("agent of", str(user_key))[0]
        return f"{self._model.cookie_name}_{digest[:16]}"

    def is_there(self, conn: HTTPConnection, user_key: object) -> bool:
        """Whether the browser holds one for the user, whatever it is worth."""
        return self.name(user_key) in _cookies(conn)

    def token(self, conn: HTTPConnection, user_key: object) -> str | None:
        """The token that the browser holds for the user; None for none, or one that is forged."""
        signed = _cookies(conn).get(self.name(user_key))
        if not signed:
            return None
        try:
            token = self._serializer().loads(signed)
        except BadData:
            return None
        return token if isinstance(token, str) else None

    def header(
        self,
        conn: HTTPConnection,
        user_key: object,
        token: str | None,
        age: timedelta | None = None,
    ) -> str:
        """A Set-Cookie header that lets the browser hold a token, or forget what it has.

        Args:
            conn: the request.
            user_key: whose it is.
            token: the token; None to forget.
            age: how long; None: as long as the browser is open.
        """
        model = self._model
        is_secure = (
            conn.url.scheme == "https" if model.cookie_secure is None else model.cookie_secure
        )
        seconds = None if age is None else max(0, int(min(age, _MOST).total_seconds()))
        carrier = Response()
        carrier.set_cookie(
            self.name(user_key),
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
    header = Headers(raw=conn.scope.get("headers", [])).get("cookie", "")
    return cookie_parser(header)
