"""The notice of wrong tokens: who signs in is told of those since they last did."""

from __future__ import annotations

from typing import Any

from starlette.requests import HTTPConnection

from starlette_otp.service.attempts import MANY_FAILURES
from starlette_otp.web.site import Site
from starlette_otp.web.verdict import VERDICT

NOTICE_KEY = "otp_wrong_tokens"
_SHOWN = "starlette_otp.failures_before"
"""Where the ASGI scope has what this request has been told."""


def note_failures(conn: HTTPConnection, otp: Site, user: Any, device: Any) -> None:
    """Keep for the next page how many wrong tokens there were before `device` accepted one."""
    count = getattr(device, "failures_before", 0)
    if count >= MANY_FAILURES:
        conn.session[NOTICE_KEY] = f"{count} {_owner(otp, user)}"


def failures_before(request: HTTPConnection) -> int:
    """How many wrong tokens came before the user verified, for the host's page to say so, once.

    "7 wrong codes since you last signed in": whoever types tokens has the password. It is told
    to the first page after the verification that asks, a page of ours or one that calls this; for
    later requests it is 0.

    Args:
        request: behind OTPMiddleware, of a verified user.

    Returns:
        5 or more, as the one of the user's devices that had most has counted them; or 0.
    """
    known: int | None = request.scope.get(_SHOWN)
    if known is None:
        known = request.scope[_SHOWN] = _take(request)
    return known


def _take(request: HTTPConnection) -> int:
    verdict = request.scope.get(VERDICT)
    if verdict is None or verdict.device is None or NOTICE_KEY not in request.session:
        return 0
    count, _, owner = str(request.session.pop(NOTICE_KEY)).partition(" ")
    # Behind a backend of the host's, which may leave the session to the next user.
    return int(count) if owner == _owner(verdict.otp, verdict.user) else 0


def _owner(otp: Site, user: Any) -> str:
    return otp.keyring.digests("failures of", str(otp.device_model.user_key(user)))[0][:32]
