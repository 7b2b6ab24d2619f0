"""Problems: what programs are told of a refusal, as application/problem+json (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse

SCHEME = "Session"
"""A scheme that no browser asks a password for; 401 has to name one (RFC 9110 section 15.5.2)."""


def problem(
    status: int,
    code: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
    **secret_more: Any,
) -> JSONResponse:
    """The answer to a program that is refused; never stored.

    Args:
        status: of the answer.
        code: what is wrong, for programs: "not_verified".
        detail: the same in a sentence for people.
        headers: more of them.
        secret_more: members beside these; what is None is left out.
    """
    secret_body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        **{name: secret for name, secret in secret_more.items() if secret is not None},
    }
    challenge = (
        {"WWW-Authenticate": f'{SCHEME} realm="two-factor"'}
        if status == HTTPStatus.UNAUTHORIZED
        else {}
    )
    headers = {"Cache-Control": "no-store", **challenge, **(headers or {})}
    return JSONResponse(secret_body, status, headers, "application/problem+json")
