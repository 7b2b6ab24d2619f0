"""requires_otp: only verified users get through."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar, overload
from weakref import WeakSet

from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from starlette_otp import clock
from starlette_otp.exceptions import ConfigurationError, DatabaseUnavailable, is_away
from starlette_otp.service.sessions import Found
from starlette_otp.web.backend import find_session, look_up
from starlette_otp.web.held import judge
from starlette_otp.web.origin import is_own_origin
from starlette_otp.web.refusals import (
    ENROLMENT_REQUIRED,
    FOREIGN_ORIGIN,
    NOT_AUTHENTICATED,
    NOT_TRUSTED,
    NOT_VERIFIED,
    REVERIFICATION_REQUIRED,
    SESSION_EXPIRED,
    close_code,
    refusal_response,
)
from starlette_otp.web.responses import UNAVAILABLE
from starlette_otp.web.routing import endpoints
from starlette_otp.web.trust import is_trusted, weigh_trust
from starlette_otp.web.user import unwrapped
from starlette_otp.web.verdict import Verdict, show, show_nobody, verdict_of

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a guard asks for: the arguments of `requires_otp` that say who passes.

    Raises:
        ConfigurationError: `accept_amr` is a text; or trust shall stand for a verification of some
            age, which it has none of.
    """

    if_configured: bool = False
    max_age: float | None = None
    accept_amr: Sequence[str] = ()
    accept_trusted_agent: bool = False
    is_trusted: bool = False
    """It is the browser that counts, and no device."""

    def __post_init__(self) -> None:
        if self.accept_trusted_agent and self.max_age is not None:
            raise ConfigurationError(
                "accept_trusted_agent and max_age do not go together: a step-up wants a token."
            )
        if isinstance(self.accept_amr, str):
            raise ConfigurationError('accept_amr takes a list of names, as ("mfa",).')


_LEEWAY = timedelta(seconds=5)
"""How far ahead of ours the clock of the server may be that verified the session."""
_GUARDS: WeakSet[Any] = WeakSet()
_BARE: WeakSet[Any] = WeakSet()
"""The functions that requires_otp has made, and those that it has guarded."""


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
    accept_amr: Sequence[str] = (),
    accept_trusted_agent: bool = False,
) -> Callable[[F], F]: ...


def requires_otp(
    func: Callable[..., Any] | None = None,
    *,
    redirect_field_name: str = "next",
    login_url: str | None = None,
    if_configured: bool = False,
    max_age: float | None = None,
    accept_amr: Sequence[str] = (),
    accept_trusted_agent: bool = False,
) -> Any:
    """Let only verified users through; on functions, endpoint methods and websockets.

    A browser is sent to the login URL (303) and comes back, after a POST to the page that it was
    sent from; anything else gets 401 or 403 as application/problem+json (RFC 9457), with the
    refusal's `code`; a websocket is closed with 1008 before it is
    accepted, one that a page of another origin opens, too. A database that is away: 503.

    Args:
        func: the endpoint, sync or async; its argument is named `request` or `websocket`.
        redirect_field_name: the query parameter that carries the way back.
        login_url: instead of the OTP's.
        if_configured: let an authenticated user pass who has no confirmed device, of any kind,
            whether this process declares it or not.
        max_age: seconds; who was verified longer ago verifies again (step-up, ASVS 7.5.3).
        accept_amr: what may stand for a device: names of RFC 8176, as ("mfa",), of which the
            session began with one, by `log_in(amr=)`. It is as old as the log-in.
        accept_trusted_agent: let a user pass, too, who trusts this browser; not with `max_age`.

    Under a decorator that makes a route it goes last, next to the function: above it the route is
    open. OTPMiddleware refuses all requests to an application that has such a route.

    Raises:
        ConfigurationError: the endpoint has no such argument; or it is called without a connection.
    """
    wanted = Wanted(if_configured, max_age, accept_amr, accept_trusted_agent)
    if func is None:
        return functools.partial(
            requires_otp,
            redirect_field_name=redirect_field_name,
            login_url=login_url,
            if_configured=if_configured,
            max_age=max_age,
            accept_amr=accept_amr,
            accept_trusted_agent=accept_trusted_agent,
        )
    return _guarded(func, wanted, redirect_field_name, login_url)


@overload
def requires_trusted_agent(func: F) -> F: ...


@overload
def requires_trusted_agent(
    func: None = None, *, redirect_field_name: str = "next", login_url: str | None = None
) -> Callable[[F], F]: ...


def requires_trusted_agent(
    func: Callable[..., Any] | None = None,
    *,
    redirect_field_name: str = "next",
    login_url: str | None = None,
) -> Any:
    """Let only users through who trust this browser, verified or not: as `requires_otp` does it.

    Args:
        func: the endpoint, sync or async; its argument is named `request` or `websocket`.
        redirect_field_name: the query parameter that carries the way back.
        login_url: instead of the OTP's.

    Raises:
        ConfigurationError: the endpoint has no such argument; at a request: the host declares no
            class with AgentMixin.
    """
    if func is None:
        return functools.partial(
            requires_trusted_agent, redirect_field_name=redirect_field_name, login_url=login_url
        )
    return _guarded(func, Wanted(is_trusted=True), redirect_field_name, login_url)


def _guarded(
    func: Callable[..., Any], wanted: Wanted, redirect_field_name: str, login_url: str | None
) -> Callable[..., Any]:
    """The endpoint with a guard before it."""
    name, place = _connection_argument(func)
    _remember(func)

    def connection(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # Where it should be, and only then elsewhere: a decorator below shows the signature of what
        # it wraps, and may take other arguments.
        for value in (kwargs.get(name), *args[place : place + 1], *args, *kwargs.values()):
            if isinstance(value, HTTPConnection):
                return value
        raise ConfigurationError(f"{func!r} has a guard, and was called without a {name}.")

    if name == "websocket":

        @functools.wraps(func)
        async def guarded_websocket(*args: Any, **kwargs: Any) -> None:
            websocket: WebSocket = connection(args, kwargs)
            refusal = await refuse(websocket, wanted)
            if refusal is None:
                await func(*args, **kwargs)
            else:
                await websocket.close(close_code(refusal), reason=refusal)

        _GUARDS.add(guarded_websocket)
        return guarded_websocket

    is_async = _is_async(func)

    @functools.wraps(func)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        request: Request = connection(args, kwargs)
        refusal = await refuse(request, wanted)
        if refusal is not None:
            return refusal_response(
                request, refusal, redirect_field_name, login_url, wanted.max_age
            )
        if is_async:
            return await func(*args, **kwargs)
        return await run_in_threadpool(func, *args, **kwargs)

    _GUARDS.add(guarded)
    return guarded


def _connection_argument(func: Any) -> tuple[str, int]:
    """By which argument an endpoint, or a decorator around it, has its connection: name and place.

    Raises:
        ConfigurationError: there is none.
    """
    own = list(inspect.signature(func, follow_wrapped=False).parameters)
    for names in (own, list(inspect.signature(func).parameters)):
        for place, name in enumerate(names):
            if name in ("request", "websocket"):
                return name, place
    if own == ["scope", "receive", "send"] and not inspect.isclass(func):
        raise ConfigurationError(
            f"{func!r} is a whole ASGI app, and requires_otp guards endpoints: "
            "write RequiresOTPMiddleware(app)."
        )
    raise ConfigurationError(
        f"requires_otp found no argument named request or websocket on {func!r}."
    )


class RequiresOTPMiddleware:
    """`requires_otp` for a whole ASGI app: StaticFiles, a mounted application, a Mount or Route.

    It stands behind OTPMiddleware: `Mount("/files", RequiresOTPMiddleware(StaticFiles(...)))`, or
    in the `middleware=` of a Mount or Route. Every HTTP request and websocket is refused as by
    `requires_otp`; a lifespan passes.

    Args:
        app: the ASGI app.
        redirect_field_name: and the rest: the arguments of `requires_otp`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        redirect_field_name: str = "next",
        login_url: str | None = None,
        if_configured: bool = False,
        max_age: float | None = None,
        accept_amr: Sequence[str] = (),
        accept_trusted_agent: bool = False,
    ) -> None:
        self.app = app
        self._redirect = redirect_field_name, login_url
        self._wanted = Wanted(if_configured, max_age, accept_amr, accept_trusted_agent)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope, receive, send)
            refusal = await refuse(request, self._wanted)
            if refusal is not None:
                response = refusal_response(request, refusal, *self._redirect, self._wanted.max_age)
                await response(scope, receive, send)
                return
        elif scope["type"] == "websocket":
            websocket = WebSocket(scope, receive, send)
            refusal = await refuse(websocket, self._wanted)
            if refusal is not None:
                await websocket.close(close_code(refusal), reason=refusal)
                return
        await self.app(scope, receive, send)


def _remember(func: Any) -> None:
    """Note that this function, and what it wraps, is guarded and should not be routed bare."""
    while inspect.isfunction(func) and func not in _GUARDS:
        _BARE.add(func)
        func = getattr(func, "__wrapped__", None)


def refuse_open_routes(routes: Sequence[Any]) -> None:
    """Refuse routes that lead past a guard: to a function that `requires_otp` has guarded, itself.

    A decorator that registers a route, as FastAPI's, routes what is below it: the guard above it
    is never asked.

    Raises:
        ConfigurationError: there is one.
    """
    for endpoint in endpoints(routes):
        if inspect.isfunction(endpoint) and endpoint in _BARE:
            raise ConfigurationError(
                f"{endpoint.__module__}.{endpoint.__qualname__} has a guard, but is routed without "
                "it: @requires_otp goes below the decorator that makes the route, next to the "
                "function, and what is to be open as well needs a function of its own."
            )


def _is_async(func: Any) -> bool:
    while isinstance(func, functools.partial):
        func = func.func
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(type(func).__call__)


async def refuse(conn: HTTPConnection, wanted: Wanted) -> str | None:
    """Why this request may not pass, as one of the codes above, or None: the guards' one rule."""
    verdict = verdict_of(conn)
    if conn.scope["type"] == "websocket" and not _is_from_here(conn, verdict):
        return FOREIGN_ORIGIN
    return await _refusal(conn, verdict, wanted)


async def verified_as(conn: HTTPConnection, user: Any) -> None:
    """Let a request be that of a user whom the host found after OTPMiddleware had seen it."""
    verdict = verdict_of(conn)
    key = verdict.otp.device_model.user_key
    if verdict.away:
        return
    wanted = key(unwrapped(user))
    if wanted is None or verdict.known is None or key(verdict.known) != wanted:
        verdict.held = verdict.device_due = None
        verdict.take(Found(None, None, None, None))
        await look_up(conn, verdict, unwrapped(user))
        show(conn.scope, verdict, ["authenticated"])
        await judge(conn.scope, verdict)


def _is_from_here(websocket: HTTPConnection, verdict: Verdict) -> bool:
    """Whether no page of another site opens this websocket.

    Browsers send cookies with it from any page, and read the answers, too: no CORS stands before
    a websocket (RFC 6455 section 10.2). A program sends no Origin.
    """
    allowed = verdict.otp.allowed_origins
    origins = websocket.headers.getlist("origin")
    return all(is_own_origin(websocket, origin, allowed) for origin in origins)


async def still_verified(
    conn: HTTPConnection,
    *,
    if_configured: bool = False,
    max_age: float | None = None,
    accept_amr: Sequence[str] = (),
    accept_trusted_agent: bool = False,
) -> bool:
    """Whether the guard would let this connection pass now: the database is asked again.

    A websocket is guarded when it opens, and then lives on whatever happens: ask before a message
    that matters. It costs one SELECT. A session that was given a new token meanwhile, by another
    tab, goes on; one that was ended or revoked, or whose user or device is gone or inactive, does
    not, and a verification in another tab verifies nothing that was opened before without one.

    Args:
        conn: a websocket, or a request whose answer takes long, behind OTPMiddleware.
        if_configured: as of the guard that let it pass.
        max_age: as of the guard.
        accept_amr: as of the guard.
        accept_trusted_agent: as of the guard; it costs another SELECT.

    Returns:
        False also where the database is away.
    """
    verdict = verdict_of(conn)
    if verdict.away or verdict.user is None:
        return False
    try:
        now = await _now(verdict, conn)
    except Exception as exc:
        if not is_away(exc):
            raise
        return False
    wanted = Wanted(if_configured, max_age, accept_amr, accept_trusted_agent)
    return now is not None and await _refusal(conn, now, wanted) is None


async def look_again(conn: HTTPConnection) -> None:
    """Let the verdict be what the session's row says now.

    For a change whose body a client may send as slowly as it likes, long after its session, or
    what verified it, has ended. It costs one SELECT.

    Raises:
        DatabaseUnavailable: the database is away.
    """
    verdict = verdict_of(conn)
    if verdict.user is None:
        return
    try:
        now = await _now(verdict, conn)
    except Exception as exc:
        if not is_away(exc):
            raise
        raise DatabaseUnavailable() from exc
    verdict.agent = None
    if now is None:
        verdict.be_nobody()
        show_nobody(conn.scope)
    elif now is not verdict:
        verdict.user, verdict.own = now.user, False
        verdict.device, verdict.verified_at = now.device, now.verified_at
        verdict.by_trust, verdict.trusts_session = now.by_trust, now.trusts_session
        show(conn.scope, verdict, conn.auth.scopes)


async def _now(verdict: Verdict, conn: HTTPConnection) -> Verdict | None:
    """The verdict as the session's row has it now; None if that is gone."""
    if verdict.session_id is None:
        # Another backend's user without a row of ours: nothing verified them, and nothing will.
        return verdict
    users = verdict.otp.users
    user = None if users.can_be_loaded else unwrapped(verdict.user)
    found = await find_session(verdict.otp, conn, user, verdict.session_id)
    if found is None:
        return None
    # What was not verified when it was opened may have come with a token from before the
    # verification, which is worth no more for it (ASVS 7.2.4).
    device = None if verdict.device is None else found.device
    current = replace(verdict, is_answered=True)
    current.take(found)
    current.device = device
    if device is None:
        # Looked at, and no more: a token that is replaced here would not get to the browser.
        await weigh_trust(conn, current)
    return None if current.user is None else current


async def _refusal(conn: HTTPConnection, verdict: Verdict, wanted: Wanted) -> str | None:
    if verdict.away:
        return UNAVAILABLE
    if verdict.held is not None:
        return ENROLMENT_REQUIRED if verdict.device_due is not None else NOT_VERIFIED
    if verdict.user is None:
        return SESSION_EXPIRED if verdict.is_expired else NOT_AUTHENTICATED
    try:
        if wanted.is_trusted:
            return None if await is_trusted(conn, verdict) else NOT_TRUSTED
        if verdict.device is None:
            return await _refusal_without_device(conn, verdict, wanted)
    except DatabaseUnavailable:
        return UNAVAILABLE
    return REVERIFICATION_REQUIRED if is_stale(verdict.verified_at, wanted.max_age) else None


async def _refusal_without_device(
    conn: HTTPConnection, verdict: Verdict, wanted: Wanted
) -> str | None:
    otp, user = verdict.otp, unwrapped(verdict.user)
    if wanted.accept_trusted_agent and await is_trusted(conn, verdict):
        return None
    if verdict.amr and not set(wanted.accept_amr).isdisjoint(verdict.amr.split()):
        # It was no device of ours, and is as old as the session.
        if wanted.max_age is None or verdict.session_id is None:
            return None
        span = await otp.session_list.span(verdict.session_id)
        return None if span and not is_stale(span[0], wanted.max_age) else REVERIFICATION_REQUIRED
    if not wanted.if_configured or await otp.enrolment.user_has_device(user):
        return NOT_VERIFIED
    return ENROLMENT_REQUIRED if await otp.requirement.is_due(user) else None


def is_stale(verified_at: datetime | None, max_age: float | None) -> bool:
    """Whether that was longer ago than `max_age` seconds."""
    if max_age is None:
        return False
    if verified_at is None:
        return True
    age = clock.now() - verified_at
    return not -_LEEWAY <= age <= timedelta(seconds=max_age)
