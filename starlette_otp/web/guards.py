"""requires_otp: only verified users get through."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, overload
from urllib.parse import quote, urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.websockets import WebSocket

from starlette_otp import clock
from starlette_otp.exceptions import ConfigurationError, DatabaseUnavailable
from starlette_otp.web.responses import UNAVAILABLE, accepts_html, is_local, local_url, unavailable
from starlette_otp.web.verdict import Verdict, verdict_of

F = TypeVar("F", bound=Callable[..., Any])

NOT_AUTHENTICATED = "not_authenticated"
NOT_VERIFIED = "not_verified"
REVERIFICATION_REQUIRED = "reverification_required"
REVERIFY_PARAMETER = "reverify"
"""In the query of the login URL: the verified user is asked for a token again."""

DETAILS = {
    UNAVAILABLE: DatabaseUnavailable().detail,
    NOT_AUTHENTICATED: "Please log in.",
    NOT_VERIFIED: "Please verify with a one-time password.",
    REVERIFICATION_REQUIRED: "Please verify with a one-time password again.",
}
_LEEWAY = timedelta(seconds=5)
"""How far ahead of ours the clock of the server may be that verified the session."""
_PATH_CHARACTERS = "/:@!$&'()*+,;=~"
_QUERY_CHARACTERS = _PATH_CHARACTERS + "?%[]"
STATUS = {UNAVAILABLE: 503, NOT_AUTHENTICATED: 401, NOT_VERIFIED: 403, REVERIFICATION_REQUIRED: 403}


@overload
def requires_otp(func: F) -> F: ...


@overload
def requires_otp(
    func: None = None,
    *,
    redirect_field_name: str = "next",
    login_url: str | None = None,
    if_configured: bool = False,
    max_age: float | None = None,
) -> Callable[[F], F]: ...


def requires_otp(
    func: Callable[..., Any] | None = None,
    *,
    redirect_field_name: str = "next",
    login_url: str | None = None,
    if_configured: bool = False,
    max_age: float | None = None,
) -> Any:
    """Let only verified users through; on functions, endpoint methods and websockets.

    A browser is sent to the login URL (303) and comes back; anything else gets 401 or 403 as
    JSON; a websocket is closed with 1008 before it is accepted. A database that is away: 503.

    Args:
        func: the endpoint, sync or async; its argument is named `request` or `websocket`.
        redirect_field_name: the query parameter that carries the way back.
        login_url: instead of the OTP's.
        if_configured: let an authenticated user pass who has no confirmed device, of any kind,
            whether this process declares it or not.
        max_age: seconds; who was verified longer ago verifies again (step-up, ASVS 7.5.3).

    Raises:
        ConfigurationError: the endpoint has no such argument.
    """
    if func is None:
        return functools.partial(
            requires_otp,
            redirect_field_name=redirect_field_name,
            login_url=login_url,
            if_configured=if_configured,
            max_age=max_age,
        )
    parameters = list(inspect.signature(func).parameters)
    name = next((name for name in parameters if name in ("request", "websocket")), None)
    if name is None:
        raise ConfigurationError(
            f"requires_otp found no argument named request or websocket on {func!r}."
        )
    position = parameters.index(name)

    def connection(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return kwargs[name] if name in kwargs else args[position]

    if name == "websocket":

        @functools.wraps(func)
        async def guarded_websocket(*args: Any, **kwargs: Any) -> None:
            websocket: WebSocket = connection(args, kwargs)
            refusal = await refuse(websocket, if_configured=if_configured, max_age=max_age)
            if refusal is None:
                await func(*args, **kwargs)
            else:
                # 1013 is "try again later", 1008 a policy (RFC 6455 section 7.4.1, and IANA).
                code = 1013 if refusal == UNAVAILABLE else 1008
                await websocket.close(code, reason=refusal)

        return guarded_websocket

    is_async = _is_async(func)

    @functools.wraps(func)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        request: Request = connection(args, kwargs)
        refusal = await refuse(request, if_configured=if_configured, max_age=max_age)
        if refusal is not None:
            return refusal_response(request, refusal, redirect_field_name, login_url)
        if is_async:
            return await func(*args, **kwargs)
        return await run_in_threadpool(func, *args, **kwargs)

    return guarded


def _is_async(func: Any) -> bool:
    while isinstance(func, functools.partial):
        func = func.func
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(type(func).__call__)


async def refuse(
    conn: HTTPConnection, *, if_configured: bool = False, max_age: float | None = None
) -> str | None:
    """Why this request may not pass, as one of the codes above, or None: the guards' one rule."""
    verdict = verdict_of(conn)
    if verdict.away:
        return UNAVAILABLE
    if verdict.user is None:
        return NOT_AUTHENTICATED
    if verdict.device is None:
        if not if_configured:
            return NOT_VERIFIED
        try:
            has_device = await verdict.otp.enrolment.user_has_device(verdict.user)
        except DatabaseUnavailable:
            return UNAVAILABLE
        return NOT_VERIFIED if has_device else None
    return REVERIFICATION_REQUIRED if _is_stale(verdict, max_age) else None


def _is_stale(verdict: Verdict, max_age: float | None) -> bool:
    if max_age is None:
        return False
    if verdict.verified_at is None:
        return True
    age = clock.now() - verdict.verified_at
    return not -_LEEWAY <= age <= timedelta(seconds=max_age)


def refusal_response(
    request: Request, refusal: str, redirect_field_name: str, login_url: str | None
) -> Response:
    """The answer to a request that may not pass: a redirect for browsers, else JSON."""
    headers = {"Cache-Control": "no-store", "Vary": "Accept"}
    if refusal == UNAVAILABLE:
        verdict = verdict_of(request)
        ours = local_url(verdict, verdict.otp.login_url).partition("?")[0]
        return unavailable(request, ours.rpartition("/")[0])
    if accepts_html(request):
        url = login_redirect(request, refusal, redirect_field_name, login_url)
        return RedirectResponse(url, 303, headers)
    body = {"detail": DETAILS[refusal], "code": refusal}
    return JSONResponse(body, STATUS[refusal], headers)


def login_redirect(
    request: Request, refusal: str, redirect_field_name: str, login_url: str | None
) -> str:
    """The login URL with the way back in its query."""
    verdict = verdict_of(request)
    wanted = login_url or verdict.otp.login_url
    url = local_url(verdict, wanted)
    # The scope has the path decoded; what was %25 or %3F has to come back as such.
    path = quote(request.scope["path"], safe=_PATH_CHARACTERS)
    # Not request.url: it does not take a query that is not ASCII, which some servers let through.
    if request.scope["query_string"]:
        path += "?" + quote(request.scope["query_string"], safe=_QUERY_CHARACTERS)
    origin = f"{request.base_url.scheme}://{request.base_url.netloc}"
    query = {redirect_field_name: path if is_local(wanted) else origin + path}
    if refusal == REVERIFICATION_REQUIRED:
        query[REVERIFY_PARAMETER] = "1"
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"
