"""The gate: nothing behind it answers who may not enter, and nothing changes without a token."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import quote, urlencode, urlsplit

from python_multipart.exceptions import FormParserError
from sqladmin.templating import Jinja2Templates
from starlette.applications import Starlette
from starlette.datastructures import ImmutableMultiDict, MutableHeaders, URLPath
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from starlette_otp.exceptions import is_away
from starlette_otp.web.body import is_utf8, replay
from starlette_otp.web.forms import LogoutForm
from starlette_otp.web.guards import Wanted, look_again, refuse
from starlette_otp.web.origin import is_own_origin
from starlette_otp.web.problems import problem
from starlette_otp.web.refusals import REVERIFICATION_REQUIRED, REVERIFY_PARAMETER, refusal_problem
from starlette_otp.web.responses import HEADERS, accepts_html, unavailable
from starlette_otp.web.verdict import verdict_of

CSRF_HEADER = "x-csrf-token"
_STATICS = ("/static/", "/statics/")
_OWN_DOORS = ("/login", "/logout")
"""They let everybody in, and their forms check the token themselves."""
_LEADS_TO_CHANGES = re.compile(r"/otp/|/[^/]+/(create$|edit/)")
"""Pages that show a secret, or a form that would be filled in for nothing."""


class AdminSite(Protocol):
    """What the gate asks of OTPAdmin."""

    admin: Starlette
    templates: Jinja2Templates
    max_body_size: int
    max_age: float | None
    accept_trusted_agent: bool

    def has_permission(self, request: Request) -> Any:
        """Whether this request may use the site."""


class Gate:
    """Stands before the whole of an admin site, whatever routes it has.

    Args:
        app: the site's ASGI app.
        site: the OTPAdmin.
    """

    def __init__(self, app: ASGIApp, site: AdminSite) -> None:
        self.app = app
        self.site = site

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """The site's, for a host's `url_for`."""
        return self.site.admin.routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            # sqladmin takes whatever is not GET for a submitted form, and so may a host's view.
            scope, send = {**scope, "method": "GET"}, _bodiless(send)
        scope["router"] = _Names(scope, self.site.admin)
        request = Request(scope, receive)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path.startswith(_STATICS) and request.method == "GET":
            await self.app(scope, receive, send)
            return
        try:
            refusal, receive = await self._check(request, path, receive)
        except Exception as exc:
            if not is_away(exc):
                raise
            refusal = unavailable(request)
        if refusal is not None:
            await refusal(scope, receive, send)
        else:
            await self.app(scope, receive, _private(send))

    async def _check(
        self, request: Request, path: str, receive: Receive
    ) -> tuple[Response | None, Receive]:
        if verdict_of(request).away:
            return unavailable(request), receive
        if path in _OWN_DOORS:
            return None, receive
        if not await allows(self.site, request):
            return _refused(request), receive
        # No other method is safe (RFC 9110 section 9.2.1): a handler need not know that it is.
        if request.method != "GET":
            body = await _body(request, self.site.max_body_size)
            if body is None:
                message = "The request is too large."
                return await self._error(request, 413, "too_large", message), receive
            if not await _is_ours(request, body):
                message = LogoutForm(request).messages()["csrf_failed"]
                return await self._error(request, 403, "csrf_failed", message), receive
            # Who may enter no more may have begun to send long ago.
            await look_again(request)
            if not await allows(self.site, request):
                return _refused(request), receive
            receive = replay(body, receive)
        elif not _LEADS_TO_CHANGES.match(path):
            return None, receive
        stale = await refuse(request, Wanted(max_age=self.site.max_age)) is not None
        return (_ask_again(request, self.site.max_age) if stale else None), receive

    async def _error(self, request: Request, status_code: int, code: str, message: str) -> Response:
        if not accepts_html(request):
            return problem(status_code, code, message, HEADERS)
        context = {"status_code": status_code, "message": message}
        response = await self.site.templates.TemplateResponse(
            request, "sqladmin/error.html", context, status_code
        )
        response.headers.update(HEADERS)
        return response

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        websocket = WebSocket(scope, receive, send)
        if verdict_of(websocket).away:
            await websocket.close(1013)
        elif await allows(self.site, websocket):
            await self.app(scope, receive, send)
        else:
            await websocket.close(1008)


async def allows(site: AdminSite, request: Any) -> bool:
    """What the site's `has_permission` says, sync or async."""
    answer = site.has_permission(request)
    return bool(await answer if inspect.isawaitable(answer) else answer)


class _Names:
    """Finds the names that sqladmin gives its routes, wherever the site is mounted, as what.

    sqladmin's templates ask for "admin:..." at the outermost router.
    """

    def __init__(self, scope: Scope, admin: Starlette) -> None:
        folder = scope.get("root_path", "").removeprefix(scope.get("app_root_path", ""))
        self._mount = Mount(folder, routes=admin.routes, name="admin")
        self._outer = scope.get("router") or scope.get("app")

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        if name.startswith("admin:") or self._outer is None:
            return self._mount.url_path_for(name, **path_params)
        path: URLPath = self._outer.url_path_for(name, **path_params)
        return path


def _refused(request: Request) -> Response:
    """The log-in for browsers, 401 or 403 for programs."""
    verdict = verdict_of(request)
    if not accepts_html(request):
        known = verdict.user is not None
        headers = {**HEADERS, "Vary": "Accept"}
        detail = "This site is for verified staff."
        return problem(403 if known else 401, "not_permitted", detail, headers)
    return RedirectResponse(_login_url(request), 303, {**HEADERS, "Vary": "Accept"})


def _ask_again(request: Request, max_age: float | None) -> Response:
    """The log-in that asks for a token alone; scripts and programs read where it is."""
    url = _login_url(request, {REVERIFY_PARAMETER: "1"})
    headers = {**HEADERS, "Vary": f"Accept, {CSRF_HEADER}"}
    if accepts_html(request) and CSRF_HEADER not in request.headers:
        return RedirectResponse(url, 303, headers)
    headers["Location"] = url
    return refusal_problem(verdict_of(request), REVERIFICATION_REQUIRED, max_age, headers)


def _login_url(request: Request, more: dict[str, str] | None = None) -> str:
    """The site's log-in, with the way back: to this page, or to the one that sent a form."""
    folder = quote(request.scope.get("root_path", ""))
    back = _came_from(request, folder) or f"{folder}/"
    if request.method == "GET":
        back = quote(request.scope["path"]) + (f"?{request.url.query}" if request.url.query else "")
    return f"{folder}/login?{urlencode({'next': back, **(more or {})})}"


def _came_from(request: Request, folder: str) -> str | None:
    """The page of this site that the request was sent from, by its Referer."""
    try:
        url = urlsplit(request.headers.get("referer", ""))
    except ValueError:
        return None
    is_own = is_own_origin(request, f"{url.scheme}://{url.netloc}", ())
    if not is_own or not url.path.startswith(f"{folder}/"):
        return None
    return url.path + (f"?{url.query}" if url.query else "")


async def _body(request: Request, limit: int) -> bytes | None:
    """The whole body, or None if it is longer than `limit`."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


async def _is_ours(request: Request, body: bytes) -> bool:
    """Whether one of our pages sent this: by its header, else by its form's field."""
    token = request.headers.get(CSRF_HEADER)
    if token is None:
        token = await _field(request.scope, body)
    if not token.isascii():
        return False
    form = LogoutForm(request, formdata=ImmutableMultiDict({"csrf_token": token}))
    return await form.validate()


async def _field(scope: Scope, body: bytes) -> str:
    request = Request(scope, replay(body))
    if not is_utf8(request):
        return ""
    try:
        async with request.form() as form:
            token = form.get("csrf_token")
    except (HTTPException, MultiPartException, FormParserError):
        return ""
    return token if isinstance(token, str) else ""


def _private(send: Send) -> Send:
    """Every page of the site is for one person: never stored, never framed."""

    async def send_private(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return send_private


def _bodiless(send: Send) -> Send:
    """The answer to a GET as one to HEAD (RFC 9110 section 9.3.2)."""

    async def send_head(message: Message) -> None:
        if message["type"] in ("http.response.body", "http.response.pathsend"):
            more = message.get("more_body", False)
            message = {"type": "http.response.body", "body": b"", "more_body": more}
        await send(message)

    return send_head


def csrf_token(request: Request) -> str:
    """The token for the forms and scripts of this request's page."""
    token: str = LogoutForm(request).csrf_token.current_token
    return token
