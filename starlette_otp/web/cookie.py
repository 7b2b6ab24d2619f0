"""Where a client keeps the token of its session: in the host's session cookie."""

from __future__ import annotations

from starlette.requests import HTTPConnection

SESSION_KEY = "otp_session"
"""Where the cookie's session holds the token, all that it holds of ours but the forms' own."""


def session_token(conn: HTTPConnection) -> object:
    """What the request brings as the token of its session, unchecked; None if nothing."""
    return conn.session.get(SESSION_KEY)


def keep_token(conn: HTTPConnection, token: str) -> None:
    """Let the client keep a session's new token."""
    conn.session[SESSION_KEY] = token
