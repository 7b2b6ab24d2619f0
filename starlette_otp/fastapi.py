"""requires_otp as a dependency: `user: Annotated[User, Depends(otp_required())]`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection, Request

from starlette_otp.exceptions import ConfigurationError, DatabaseUnavailable
from starlette_otp.web.guards import (
    DETAILS,
    STATUS,
    login_redirect,
    refuse,
)
from starlette_otp.web.responses import UNAVAILABLE, accepts_html


def otp_required(
    conn: Any = None,
    *,
    redirect_field_name: str = "next",
    login_url: str | None = None,
    if_configured: bool = False,
    max_age: float | None = None,
) -> Callable[[HTTPConnection], Awaitable[Any]]:
    """A FastAPI dependency that gives `request.user` if a device verified it.

    Its arguments and refusals are those of `requires_otp`; the refusal's code is in
    `detail.code`. It serves routes and websockets, single ones and whole routers.

    Args:
        conn: nothing. FastAPI fills it when the parentheses are missing, and gets an error: it
            would take the other arguments from the query.

    Raises:
        ConfigurationError: it was written `Depends(otp_required)`.
    """
    if conn is not None:
        raise ConfigurationError("Write Depends(otp_required()), with parentheses.")

    async def verified_user(conn: HTTPConnection) -> Any:
        refusal = await refuse(conn, if_configured=if_configured, max_age=max_age)
        if refusal is None:
            return conn.user
        if not isinstance(conn, Request):
            raise WebSocketException(1013 if refusal == UNAVAILABLE else 1008, refusal)
        detail: Any = {"message": DETAILS[refusal], "code": refusal}
        if refusal == UNAVAILABLE:
            away = DatabaseUnavailable()
            away.detail = detail
            raise away
        if accepts_html(conn):
            url = login_redirect(conn, refusal, redirect_field_name, login_url)
            raise HTTPException(303, headers={"Location": url, "Cache-Control": "no-store"})
        raise HTTPException(STATUS[refusal], detail, {"Cache-Control": "no-store"})

    # FastAPI reads annotations at run time, where those of this module are strings.
    verified_user.__annotations__["conn"] = HTTPConnection
    return verified_user


otp_required.__annotations__["conn"] = HTTPConnection
