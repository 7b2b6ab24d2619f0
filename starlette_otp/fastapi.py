"""FastAPI's face: requires_otp as a dependency, and the JSON routes as a router.

`user: Annotated[User, Security(otp_required())]`, and `app.include_router(OTPRouter(otp))`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from inspect import Parameter, Signature
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Security
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.models import APIKey, APIKeyIn, HTTPBearer
from fastapi.openapi.models import SecurityBase as Scheme
from fastapi.security.base import SecurityBase
from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from starlette_otp.account.devices import offered
from starlette_otp.api.call import Transport
from starlette_otp.api.models import NewDevice, OTPProblem
from starlette_otp.api.routes import OPERATIONS, Operation, check_transport
from starlette_otp.exceptions import ConfigurationError
from starlette_otp.web.guards import Wanted, refuse, verified_as
from starlette_otp.web.problems import problem
from starlette_otp.web.refusals import close_code, refusal_response
from starlette_otp.web.site import Site

_COOKIE, _BEARER = "otpSession", "otpBearer"
_PROBLEM = {"schema": {"$ref": f"#/components/schemas/{OTPProblem.__name__}"}}


class _Documented(SecurityBase):
    """A scheme of the document; whether a request has it is asked elsewhere."""

    def __init__(self, scheme_name: str, model: Scheme) -> None:
        self.scheme_name, self.model = scheme_name, model

    async def __call__(self) -> None:
        """Nothing."""


def _cookie(name: str) -> APIKey:
    return APIKey.model_validate({"in": APIKeyIn.cookie, "name": name})


_BEARER_SCHEME = _Documented(_BEARER, HTTPBearer())


@dataclass(frozen=True)
class OTPRequired(SecurityBase):
    """What `otp_required` gives. Equal arguments make equal ones, so FastAPI runs it once a request
    and finds it in `dependency_overrides`."""

    redirect_field_name: str = "next"
    login_url: str | None = None
    if_configured: bool = False
    max_age: float | None = None
    accept_amr: tuple[str, ...] = ()
    current_user: Callable[..., Any] | None = None
    accept_trusted_agent: bool = False
    scheme_name: str = field(default=_COOKIE, init=False, compare=False)
    model: Scheme = field(default_factory=lambda: _cookie("otp_session"), init=False, compare=False)

    def __post_init__(self) -> None:
        wanted = Wanted(
            self.if_configured, self.max_age, self.accept_amr, self.accept_trusted_agent
        )
        object.__setattr__(self, "_wanted", wanted)
        takes = [Parameter("conn", Parameter.POSITIONAL_OR_KEYWORD, annotation=HTTPConnection)]
        asks = {"bearer": _BEARER_SCHEME, "user": self.current_user}
        takes += [
            Parameter(name, Parameter.KEYWORD_ONLY, default=Depends(call), annotation=Any)
            for name, call in asks.items()
            if call is not None
        ]
        # FastAPI reads what a dependency depends on here, and one of two depends on more.
        object.__setattr__(self, "__signature__", Signature(takes))

    async def __call__(self, conn: HTTPConnection, user: Any = None, bearer: None = None) -> Any:
        """`request.user`, or what `current_user` gives; or the refusal as an exception."""
        if self.current_user is not None:
            await verified_as(conn, user)
        refusal = await refuse(conn, self._wanted)  # type: ignore[attr-defined]
        if refusal is None:
            return conn.user if self.current_user is None else user
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
    accept_amr: Sequence[str] = (),
    current_user: Callable[..., Any] | None = None,
    accept_trusted_agent: bool = False,
) -> OTPRequired:
    """A FastAPI dependency that gives `request.user` if a device verified it.

    Its arguments and refusals are those of `requires_otp`. It serves routes and websockets, single
    ones and whole routers, and has its schemes in the document. With equal arguments it is one
    dependency: it runs once a request, and a host's tests override it by
    `app.dependency_overrides[otp_required()]`.

    Args:
        conn: nothing. FastAPI fills it when the parentheses are missing, and gets an error: it
            would take the other arguments from the query.
        redirect_field_name: and the rest: the arguments of `requires_otp`.
        current_user: a dependency that gives the user, as fastapi-users' `current_user()`, where
            no AuthenticationMiddleware does; what verified the request has to be a session of
            theirs. The guard gives what it gives.

    Raises:
        ConfigurationError: it was written `Depends(otp_required)`; or as `requires_otp`.
    """
    if conn is not None:
        raise ConfigurationError("Write Depends(otp_required()), with parentheses.")
    names = accept_amr if isinstance(accept_amr, str) else tuple(accept_amr)
    return OTPRequired(
        redirect_field_name,
        login_url,
        if_configured,
        max_age,
        names,  # type: ignore[arg-type]  # a text is refused in one place
        current_user,
        accept_trusted_agent,
    )


# FastAPI reads annotations at run time, where those of this module are strings.
otp_required.__annotations__["conn"] = HTTPConnection

Verified = Annotated[Any, Security(otp_required())]
"""The user of a request that a device verified: `async def vault(user: Verified)`."""


class OTPRouter(APIRouter):
    """The JSON routes with their document: `app.include_router(OTPRouter(otp), prefix="/auth")`.

    Args:
        otp: the application's OTP.
        transport: "cookie" for pages of this site, "bearer" for programs.
        options: those of APIRouter.

    Raises:
        ConfigurationError: there is no such transport.
    """

    def __init__(self, otp: Site, transport: Transport = "cookie", **options: Any) -> None:
        check_transport(transport)
        super().__init__(**options)
        name = otp.cookie.name
        is_bearer = transport == "bearer"
        self._scheme = _BEARER_SCHEME if is_bearer else _Documented(_COOKIE, _cookie(name))
        self._id = "otp_bearer" if is_bearer else "otp"
        for operation in OPERATIONS:
            self._add(otp, operation, transport)

    def _add(self, otp: Site, operation: Operation, transport: Transport) -> None:
        extra: dict[str, Any] = {"responses": {}, "parameters": _parameters(operation)}
        for status in operation.problems:
            extra["responses"][str(status)] = {"content": {"application/problem+json": _PROBLEM}}
        if operation.takes is not None:
            schema = operation.takes.model_json_schema()
            if operation.takes is NewDevice:
                schema["properties"] |= _fields(otp)
            content = {"application/json": {"schema": schema}}
            extra["requestBody"] = {"required": True, "content": content}
        if operation.path.startswith("/session/") or operation.path == "/session":
            # Who is not signed in yet may do these, too.
            extra["security"] = [{}]
        self.add_api_route(
            operation.path,
            operation.endpoint(transport),
            methods=[operation.method],
            status_code=operation.status,
            response_model=operation.answers_by(transport),
            responses={
                status: {"model": OTPProblem, "description": HTTPStatus(status).phrase}
                for status in operation.problems
            },
            dependencies=[Depends(self._scheme)],
            name=operation.name,
            operation_id=f"{self._id}_{operation.name}",
            openapi_extra=extra,
        )


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    found = [
        {"name": part[1:-1], "in": "path", "required": True, "schema": {"type": "string"}}
        for part in operation.path.split("/")
        if part.startswith("{")
    ]
    if operation.query is not None:
        name, value = operation.query
        schema = {"type": "string", "enum": [value]}
        found.append({"name": name, "in": "query", "required": True, "schema": schema})
    return found


def _fields(otp: Site) -> dict[str, Any]:
    """What the kinds that people may add ask for."""
    kinds = offered(otp.device_model)
    names = dict.fromkeys(name for kind in kinds for name in kind.enrolment_fields)
    return {name: {"type": "string", "title": name.capitalize()} for name in names}


guard_responses: dict[int | str, dict[str, Any]] = {
    status: {"model": OTPProblem, "description": HTTPStatus(status).phrase}
    for status in (401, 403, 503)
}
"""What a guard answers, for a route's or a router's `responses=`."""


def install_problem_handlers(app: FastAPI) -> None:
    """Answer what FastAPI itself raises as problems (RFC 9457), as the guards and JSON routes do.

    That is HTTPException and what does not fit a route's models (422). The document of the
    application then has the guards' answers, too.

    Args:
        app: the application; its own handlers for these are replaced.
    """
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(RequestValidationError, _validation_problem)
    app.add_exception_handler(Refused, _answer)  # type: ignore[arg-type]
    described = app.openapi

    def openapi() -> dict[str, Any]:
        is_new = app.openapi_schema is None
        schema = described()
        if is_new:
            _describe_guards(schema)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _http_problem(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)  # noqa: S101
    if exc.status_code < HTTPStatus.BAD_REQUEST:
        return Response(status_code=exc.status_code, headers=exc.headers)
    phrase = HTTPStatus(exc.status_code).phrase
    given: Any = exc.detail
    said = given if isinstance(given, dict) else {"detail": given}
    code = getattr(exc, "code", None) or said.get("code")
    detail = str(said.get("detail") or said.get("message") or phrase)
    named = str(code or phrase.lower().replace(" ", "_").replace("'", ""))
    return problem(exc.status_code, named, detail, exc.headers)


def _validation_problem(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)  # noqa: S101
    errors = [
        {
            "field": ".".join(map(str, error["loc"])),
            "code": "required" if error["type"] == "missing" else "invalid",
            "detail": error["msg"],
        }
        for error in exc.errors()
    ]
    return problem(422, "invalid_request", "Please check what was sent.", errors=errors)


def _describe_guards(schema: dict[str, Any]) -> None:
    """Add the guards' answers to what they guard."""
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    template = "#/components/schemas/{model}"
    model = OTPProblem.model_json_schema(ref_template=template)
    for name, nested in model.pop("$defs", {}).items():
        schemas.setdefault(name, nested)
    schemas.setdefault(OTPProblem.__name__, model)
    content = {"application/problem+json": _PROBLEM}
    for path in schema.get("paths", {}).values():
        for operation in path.values():
            if any(_COOKIE in one for one in operation.get("security", ())):
                for status in guard_responses:
                    answer = {"description": HTTPStatus(int(status)).phrase, "content": content}
                    operation["responses"].setdefault(str(status), answer)
