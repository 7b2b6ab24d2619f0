"""Claims: what a session says of how its user was authenticated, for tokens of the host's own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from starlette.requests import HTTPConnection

from starlette_otp.devices.sessions import MAX_AMR
from starlette_otp.web.verdict import Verdict, verdict_of

PASSWORD = "pwd"  # noqa: S105
MULTI_FACTOR = "mfa"
_VALUE = re.compile(r"[A-Za-z0-9._:/-]{1,64}", re.ASCII)


def joined_amr(amr: Sequence[str] | None) -> str | None:
    """Authentication methods as a session's row has them; None for a password alone.

    Raises:
        ValueError: they are none, too many, or not names as RFC 8176 has them.
    """
    if amr is None:
        return None
    if isinstance(amr, str) or not amr or not all(map(_is_name, amr)):
        raise ValueError('amr is a list of names, as ["pwd", "mfa"] (RFC 8176 section 2).')
    joined = " ".join(dict.fromkeys(amr))
    if len(joined) > MAX_AMR:
        raise ValueError(f"The names in amr have at most {MAX_AMR} characters together.")
    return joined


def _is_name(value: object) -> bool:
    # What a provider has sent.
    return isinstance(value, str) and _VALUE.fullmatch(value) is not None


def first_amr(verdict: Verdict) -> list[str]:
    """How the user was authenticated before any device."""
    return [PASSWORD] if verdict.amr is None else verdict.amr.split()


def amr_of(verdict: Verdict) -> list[str]:
    """How the user was authenticated in all, by the names of RFC 8176."""
    if verdict.known is None:
        return []
    device = verdict.device
    by_device = [] if device is None else [device.amr, MULTI_FACTOR]
    return list(dict.fromkeys([*first_amr(verdict), *by_device]))


def acr_of(verdict: Verdict) -> str | None:
    """ "aal2" of two factors, "aal1" of one (NIST SP 800-63B-4 section 2); None of nobody."""
    if verdict.known is None:
        return None
    return "aal2" if MULTI_FACTOR in amr_of(verdict) else "aal1"


async def session_claims(request: HTTPConnection) -> dict[str, Any]:
    """What a host that mints tokens of its own (JWTs, say) may say in them of this session.

    It costs one SELECT.

    Args:
        request: behind OTPMiddleware, of a user with a session of ours.

    Returns:
        `amr`, a list of names of RFC 8176; `acr`, "aal1" or "aal2"; `auth_time`, when the user
        was verified, else when they logged in, in seconds since 1970 (OpenID Connect Core section
        2); `sid`, the session's id as a text: that of a row of `OTP.sessions_for_user`.

    Raises:
        ValueError: there is no session of ours, or it has ended.
        DatabaseUnavailable: the database is away.
    """
    verdict = verdict_of(request)
    if verdict.session_id is None:
        raise ValueError("There is no session of which anything could be said.")
    span = await verdict.otp.session_list.span(verdict.session_id)
    if span is None:
        raise ValueError("The session has ended meanwhile.")
    moment = verdict.verified_at or span[0]
    return {
        "amr": amr_of(verdict),
        "acr": acr_of(verdict),
        "auth_time": int(moment.timestamp()),
        "sid": str(verdict.session_id),
    }
