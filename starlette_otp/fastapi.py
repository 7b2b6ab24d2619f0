"""requires_otp as a dependency: `user: Annotated[User, Depends(otp_required())]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from starlette_otp.exceptions import ConfigurationError
from starlette_otp.web.guards import refuse
from starlette_otp.web.refusals import close_code, refusal_response


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
        response = refusal_response(
            conn, refusal, self.redirect_field_name, self.login_url, self.max_age
        )
        # What answers HTTPExceptions would make another shape of it, unless the host has said so.
        handlers, _ = conn.scope.get("starlette.exception_handlers", ({}, {}))
        handlers.setdefault(Refused, _answer)
        raise Refused(response)


class Refused(HTTPException):
    """A request may not pass.

    Attributes:
        response: the answer, as `requires_otp` gives it.
    """

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code, headers=dict(response.headers))
        self.response = response


def _answer(request: Request, exc: Refused) -> Response:
    return exc.response


def otp_required(
    conn: Any = None,
    *,
    redirect_field_name: str = "next",
    login_url: str | None = None,
    if_configured: bool = False,
    max_age: float | None = None,
) -> OTPRequired:
    """A FastAPI dependency that gives `request.user` if a device verified it.

    Its arguments and refusals are those of `requires_otp`. It serves routes and websockets, single
    ones and whole routers. With equal arguments it is one dependency: it runs once a request, and a
    host's tests override it by `app.dependency_overrides[otp_required()]`.

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
