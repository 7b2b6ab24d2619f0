"""requires_otp as a dependency: `user: Annotated[User, Depends(otp_required())]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection, Request

from starlette_otp.exceptions import ConfigurationError, DatabaseUnavailable
from starlette_otp.web.guards import (
    DETAILS,
    STATUS,
    close_code,
    login_redirect,
    refuse,
)
from starlette_otp.web.responses import UNAVAILABLE, accepts_html


@dataclass(frozen=True)
class OTPRequired:
    """What `otp_required` gives. Equal arguments make equal ones, so FastAPI runs it once a request
    and finds it in `dependency_overrides`."""

    redirect_field_name: str = "next"
    login_url: str | None = None
    if_configured: bool = False
    max_age: float | None = None

    async def __call__(self, conn: HTTPConnection) -> Any:
        """`request.user`, or the refusal as an exception."""
        refusal = await refuse(conn, if_configured=self.if_configured, max_age=self.max_age)
        if refusal is None:
            return conn.user
        if not isinstance(conn, Request):
            raise WebSocketException(close_code(refusal), refusal)
        detail: Any = {"message": DETAILS[refusal], "code": refusal}
        if refusal == UNAVAILABLE:
            away = DatabaseUnavailable()
            away.detail = detail
            raise away
        if accepts_html(conn):
            url = login_redirect(conn, refusal, self.redirect_field_name, self.login_url)
            raise HTTPException(303, headers={"Location": url, "Cache-Control": "no-store"})
        raise HTTPException(STATUS[refusal], detail, {"Cache-Control": "no-store"})


def otp_required(
    conn: Any = None,
    *,
    redirect_field_name: str = "next",
    login_url: str | None = None,
    if_configured: bool = False,
    max_age: float | None = None,
) -> OTPRequired:
    """A FastAPI dependency that gives `request.user` if a device verified it.

    Its arguments and refusals are those of `requires_otp`; the refusal's code is in
    `detail.code`. It serves routes and websockets, single ones and whole routers. With equal
    arguments it is one dependency: it runs once a request, and a host's tests override it by
    `app.dependency_overrides[otp_required()]`.

    Args:
        conn: nothing. FastAPI fills it when the parentheses are missing, and gets an error: it
            would take the other arguments from the query.

    Raises:
        ConfigurationError: it was written `Depends(otp_required)`.
    """
    if conn is not None:
        raise ConfigurationError("Write Depends(otp_required()), with parentheses.")
    return OTPRequired(redirect_field_name, login_url, if_configured, max_age)


# FastAPI reads annotations at run time, where those of this module are strings.
for function in (OTPRequired.__call__, otp_required):
    function.__annotations__["conn"] = HTTPConnection
