"""The cookie in which a client keeps the token of its session, apart from the host's own."""

from __future__ import annotations

from typing import Any

from starlette.requests import HTTPConnection

from starlette_otp.devices.sessions import as_timedelta
from starlette_otp.exceptions import ConfigurationError

HOST_PREFIX = "__Host-"
LOOKED = "starlette_otp.looked"
"""In the ASGI scope: the answer depends on the cookie."""
_SECURE_PREFIX = "__Secure-"


class SessionCookie:
    """The cookie of an OTP's sessions, as the settings of their class say.

    Args:
        model: the class of the sessions.

    Attributes:
        name: the cookie's.
        owner_key: where the host's session says whose it is.
        browser_name: of the cookie by which a browser is known at this OTP.

    Raises:
        ConfigurationError: browsers would not take a cookie of that name (RFC 6265bis section
            4.1.3.2).
    """

    def __init__(self, model: type[Any]) -> None:
        self._model = model
        self.name: str = model.cookie_name
        self.owner_key = f"{self.name}_owner"
        bare = self.name.removeprefix(HOST_PREFIX).removeprefix(_SECURE_PREFIX)
        self.browser_name = f"{bare.removesuffix('_session')}_browser"
        self._raw = self.name.encode()
        if self.name.startswith(HOST_PREFIX) and (model.cookie_domain or model.cookie_path != "/"):
            raise ConfigurationError(
                f"{model.__name__} has the cookie_name {self.name!r}, which browsers take only "
                'with cookie_path = "/" and without a cookie_domain.'
            )

    def token(self, conn: HTTPConnection) -> str | None:
        """What the request brings as the token of its session, unchecked; None if nothing."""
        # The answer depends on it: SessionMiddleware says so (Vary: Cookie), or OTPMiddleware does.
        _ = conn.session
        conn.scope[LOOKED] = True
        for name, value in conn.scope["headers"]:
            # Most requests bring none, and parsing cookies takes longer than this look.
            if name == b"cookie" and self._raw in value:
                return conn.cookies.get(self.name)
        return None

    def header(self, scheme: str, token: str | None) -> str:
        """A Set-Cookie header that lets the client keep a token, or forget what it has.

        Args:
            scheme: the request's; the cookie is Secure on https, and wherever the class says so.
            token: the token; None to forget.
        """
        model = self._model
        max_age = 0 if token is None else int(as_timedelta(model.max_age).total_seconds())
        is_secure = scheme == "https" if model.cookie_secure is None else model.cookie_secure
        is_secure = is_secure or self.name.startswith((HOST_PREFIX, _SECURE_PREFIX))
        return "; ".join(
            [
                f"{self.name}={token or ''}",
                f"Path={model.cookie_path}",
                f"Max-Age={max_age}",
                "HttpOnly",
                f"SameSite={model.cookie_samesite}",
                *(["Secure"] if is_secure else []),
                *([f"Domain={model.cookie_domain}"] if model.cookie_domain else []),
            ]
        )
