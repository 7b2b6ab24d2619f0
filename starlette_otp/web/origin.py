"""Origins: whether a request comes from a page of ours, by what the browser says of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from starlette_otp.exceptions import ConfigurationError

_ORIGIN = re.compile(r"https?://[^/?#@\\\s]+")
_PORTS = {"http": 80, "https": 443}


def checked_origins(allowed: Sequence[str]) -> Sequence[str]:
    """What `OTP(allowed_origins=)` was given.

    Raises:
        ConfigurationError: that is no list of origins.
    """
    if isinstance(allowed, str) or not all(_ORIGIN.fullmatch(origin) for origin in allowed):
        raise ConfigurationError(
            'OTP(allowed_origins=) takes a list of origins, as ["https://app.example"]: '
            "scheme, host and port, without a path."
        )
    return tuple(allowed)


def is_cross_site(conn: HTTPConnection, allowed: Sequence[str]) -> bool:
    """Whether the browser says that another origin's page sent this (OWASP, CSRF prevention).

    Sec-Fetch-Site is believed first: no page can set it, and no proxy changes it, while one may
    change the host. "same-site" is another origin, too, and one that can set cookies for ours.
    What has neither header is no browser: there the CSRF token alone decides.

    Args:
        conn: the request.
        allowed: the origins whose pages may send to this site, too.
    """
    origin = conn.headers.get("origin")
    fetched_from = conn.headers.get("sec-fetch-site")
    if fetched_from == "same-origin":
        return False
    if fetched_from not in (None, "none"):
        return not _is_allowed(_parts(origin or ""), allowed)
    return origin is not None and not is_own_origin(conn, origin, allowed)


def is_own_origin(conn: HTTPConnection, origin: str, allowed: Sequence[str]) -> bool:
    """Whether an Origin header names this site, or one that is allowed beside it.

    This site is the host that the application sees, whatever the scheme: a proxy may have ended
    TLS. Where the application itself sees TLS, an origin without it is another one.

    Args:
        conn: the request or websocket.
        origin: the header; "null" and what is no origin are nobody's (RFC 6454 section 7).
        allowed: more origins, as `https://app.example`.
    """
    given = _parts(origin)
    if given is None:
        return False
    if _is_allowed(given, allowed):
        return True
    scheme, host, port = given
    if scheme == "http" and conn.url.scheme in ("https", "wss"):
        return False
    # Behind a proxy the port of the scheme that we see may not be the one that the browser used.
    seen = _parts(f"{scheme}://{conn.headers.get('host', '')}")
    return seen is not None and seen[1:] == (host, port)


def _is_allowed(given: tuple[str, str, int] | None, allowed: Sequence[str]) -> bool:
    return given is not None and given in map(_parts, allowed)


def _parts(origin: str) -> tuple[str, str, int] | None:
    """Scheme, host and port of an origin, or None if it is none."""
    try:
        url = urlsplit(origin)
        port = _PORTS[url.scheme] if url.port is None else url.port
    except (ValueError, KeyError):
        return None
    if not url.hostname or url.username is not None or url.path.strip("/") or url.query:
        return None
    return url.scheme, url.hostname, port
