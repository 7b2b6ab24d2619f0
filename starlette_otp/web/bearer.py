"""Bearer tokens: the session's token in `Authorization`, of clients that keep no cookies."""

from __future__ import annotations

from starlette.requests import HTTPConnection

BEARER = "starlette_otp.bearer"
"""Where the ASGI scope has what a client without cookies brings as its token; it may be empty."""


def bearer_token(conn: HTTPConnection) -> str | None:
    """What a request brings in `Authorization` (RFC 6750 section 2.1), unchecked.

    Returns:
        Nothing in a text for another scheme, or for several headers; None without the header.
    """
    # Most requests have none: no need to make Headers of what they have.
    token_headers = [
        header_token for name, header_token in conn.scope["headers"] if name == b"authorization"
    ]
    if not token_headers:
        return None
    scheme, _, token = token_headers[0].decode("latin-1").partition(" ")
    return token.strip() if len(token_headers) == 1 and scheme.lower() == "bearer" else ""
