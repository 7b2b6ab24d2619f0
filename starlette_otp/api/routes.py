"""The JSON routes: each operation by method and path, and how it is answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from starlette_otp.api import account, agents, devices, models, session
from starlette_otp.api.call import Call, Guarded, Refused, Transport
from starlette_otp.exceptions import ConfigurationError, DatabaseUnavailable, TooManyAttempts
from starlette_otp.web.responses import too_many, unavailable_problem
from starlette_otp.web.verdict import verdict_of

_NO_STORE = {"Cache-Control": "no-store"}
_ONLY_IF_SET = ("access_token", "token_type", "expires_in")
_ALWAYS = (400, 401, 403, 503)
_WITH_BODY = (413, 415)


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        method: HTTP's.
        path: below the mount.
        run: what it does; its docstring is what the document says of it.
        answers: the model of the answer; None for 204.
        takes: the model of the body, or None.
        refuses: the statuses of its problems, besides those of every operation.
        status: of success.
        query: a parameter that it needs, and the value of that.
    """

    method: str
    path: str
    run: Callable[[Call], Awaitable[BaseModel | None]]
    answers: type[BaseModel] | None = None
    takes: type[BaseModel] | None = None
    refuses: tuple[int, ...] = ()
    status: int = 200
    query: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        """Its name, which stays."""
        return self.run.__name__

    @property
    def problems(self) -> list[int]:
        """The statuses of its problems."""
        with_body = () if self.takes is None else _WITH_BODY
        return sorted({*_ALWAYS, *with_body, *self.refuses})

    def answers_by(self, transport: Transport) -> type[BaseModel] | None:
        """The model of the answer, with the token in it for bearers."""
        if transport == "cookie" or self.answers is None:
            return self.answers
        return _FOR_BEARERS.get(self.answers, self.answers)

    def endpoint(self, transport: Transport) -> Callable[[Request], Awaitable[Response]]:
        """What answers a request."""

        async def answer(request: Request) -> Response:
            return await _answer(self, request, transport)

        answer.__name__, answer.__doc__ = self.name, self.run.__doc__
        return answer


_FOR_BEARERS: dict[type[BaseModel], type[BaseModel]] = {
    models.Session: models.BearerSession,
    models.Confirmed: models.BearerConfirmed,
}
_DEVICE = "/devices/{kind}/{id}"
OPERATIONS = (
    Operation("GET", "/session", session.show, models.Session),
    Operation("POST", "/session", session.sign_in, models.Session, models.SignIn, (404, 429)),
    Operation(
        "POST",
        "/session/challenge",
        session.challenge,
        models.Session,
        models.ChallengeWanted,
        (404, 410, 429),
    ),
    Operation(
        "POST", "/session/token", session.verify, models.Session, models.Token, (404, 410, 429)
    ),
    Operation("DELETE", "/session", session.sign_out, status=204),
    Operation("GET", "/devices", devices.list_devices, models.Devices),
    Operation(
        "POST", "/devices", devices.add_device, models.Enrolment, models.NewDevice, (409, 429), 201
    ),
    Operation(
        "POST",
        f"{_DEVICE}/confirm",
        devices.confirm_device,
        models.Confirmed,
        models.Confirmation,
        (404, 409, 410, 429),
    ),
    Operation(
        "POST",
        f"{_DEVICE}/challenge",
        devices.challenge_again,
        models.Enrolment,
        refuses=(404, 409, 410, 429),
    ),
    Operation("PATCH", _DEVICE, devices.rename_device, models.Device, models.NewName, (404,)),
    Operation("DELETE", _DEVICE, devices.remove_device, refuses=(404,), status=204),
    Operation("GET", "/recovery-codes", account.show_codes, models.RecoveryCodes, refuses=(404,)),
    Operation(
        "POST", "/recovery-codes", account.new_codes, models.NewCodes, refuses=(404,), status=201
    ),
    Operation("GET", "/sessions", account.list_sessions, models.Sessions),
    Operation(
        "DELETE",
        "/sessions",
        account.end_other_sessions,
        status=204,
        query=("others", "true"),
    ),
    Operation("DELETE", "/sessions/{id}", account.end_session, refuses=(404,), status=204),
    Operation("GET", "/agents", agents.list_agents, models.Agents),
    Operation("DELETE", "/agents", agents.end_other_agents, status=204, query=("others", "true")),
    Operation("DELETE", "/agents/{id}", agents.end_agent, refuses=(404,), status=204),
    Operation(
        "POST", "/password", account.new_password, models.Session, models.NewPassword, (404, 429)
    ),
)


def routes(transport: Transport = "cookie") -> Sequence[BaseRoute]:
    """The routes, to mount.

    Raises:
        ConfigurationError: there is no such transport.
    """
    check_transport(transport)
    return [
        Route(one.path, one.endpoint(transport), methods=[one.method], name=one.name)
        for one in OPERATIONS
    ]


def check_transport(transport: object) -> None:
    """Refuse what is none.

    Raises:
        ConfigurationError: it is none.
    """
    if transport not in get_args(Transport):
        raise ConfigurationError(f'The transport is "cookie" or "bearer", not {transport!r}.')


async def _answer(operation: Operation, request: Request, transport: Transport) -> Response:
    """The answer, or a problem."""
    verdict = verdict_of(request)
    try:
        call = Call(request, transport)
        verdict = call.verdict
        found = await operation.run(call)
    except (Refused, Guarded) as exc:
        return exc.response(verdict)
    except TooManyAttempts as exc:
        return too_many(exc)
    except DatabaseUnavailable:
        return unavailable_problem()
    if found is None:
        return Response(status_code=204, headers=_NO_STORE)
    return Response(_json(found), operation.status, _NO_STORE, "application/json")


def _json(found: BaseModel) -> str:
    """As JSON; a session has no token in it but when it is new."""
    of_session = getattr(found, "session", found)
    unset = {name for name in _ONLY_IF_SET if getattr(of_session, name, None) is None}
    left_out: Any = unset if of_session is found else {"session": unset}
    return found.model_dump_json(exclude=left_out)
