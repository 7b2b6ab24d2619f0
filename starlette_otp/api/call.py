"""Call: one request to the JSON routes, looked at before its operation runs."""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.authentication import UnauthenticatedUser
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from starlette_otp import clock
from starlette_otp.account.base import account_refusal
from starlette_otp.exceptions import ConfigurationError, DatabaseUnavailable
from starlette_otp.web.base_form import CSRF_KEY, asking_browser
from starlette_otp.web.body import MAX_BODY, is_text
from starlette_otp.web.guards import look_again
from starlette_otp.web.held import let_in
from starlette_otp.web.journal import Client, client_of
from starlette_otp.web.origin import is_cross_site
from starlette_otp.web.problems import problem
from starlette_otp.web.refusals import (
    DETAILS,
    REVERIFICATION_REQUIRED,
    SESSION_EXPIRED,
    STATUS,
    authenticate,
    refusal_problem,
)
from starlette_otp.web.ticket import TICKET_KEY
from starlette_otp.web.user import unwrapped
from starlette_otp.web.verdict import VERDICT, Verdict, show_nobody, verdict_of

Transport = Literal["cookie", "bearer"]
B = TypeVar("B", bound=BaseModel)
_SAFE = ("GET", "HEAD")


class Refused(Exception):
    """A request is refused: the answer is a problem.

    Args:
        status: of the answer.
        code: what is wrong, for programs.
        detail: the same for people.
        secret_more: members of the problem; a moment until which to wait makes Retry-After, too.
    """

    def __init__(self, status: int, code: str, detail: str, **secret_more: Any) -> None:
        super().__init__(code)
        self.status, self.code, self.detail, self.secret_more = status, code, detail, secret_more

    def response(self, verdict: Verdict) -> Response:
        """The answer."""
        secret_more, headers = dict(self.secret_more), {}
        until = secret_more.get("locked_until") or secret_more.get("next_at")
        if isinstance(until, datetime):
            seconds = (until - clock.now()).total_seconds()
            secret_more["retry_after"] = max(1, math.ceil(seconds))
        if secret_more.get("retry_after") is not None:
            headers["Retry-After"] = str(secret_more["retry_after"])
        if self.status == 401:
            headers["WWW-Authenticate"] = authenticate(verdict, self.code)
        secret_ready = {name: _ready(secret_or_not) for name, secret_or_not in secret_more.items()}
        return problem(self.status, self.code, self.detail, headers, **secret_ready)


class Guarded(Exception):
    """A request is refused as guards refuse it."""

    def __init__(self, refusal: str, max_age: float | None = None) -> None:
        super().__init__(refusal)
        self.refusal, self.max_age = refusal, max_age

    def response(self, verdict: Verdict) -> Response:
        """The answer."""
        return refusal_problem(verdict, self.refusal, self.max_age)


def invalid(field: str, code: str = "invalid", detail: str | None = None) -> Refused:
    """400 for one field."""
    return _invalid([{"field": field, "code": code, **({"detail": detail} if detail else {})}])


def _invalid(errors: Sequence[dict[str, str]]) -> Refused:
    fields = ", ".join(error["field"] for error in errors)
    return Refused(400, "invalid_request", f"Please check: {fields}.", errors=errors)


class Call:
    """A request, who it is by these routes' transport, and what it brings.

    Args:
        request: behind OTPMiddleware.
        transport: of the routes.

    Raises:
        Refused: it comes by the other transport, from another site, or with a dead token.
        DatabaseUnavailable: the database is away.
    """

    def __init__(self, request: Request, transport: Transport) -> None:
        self.request = _by_transport(request, transport)
        self.transport = transport
        self._secret_body: bytes | None = None
        self.verdict = verdict_of(self.request)
        self.otp = self.verdict.otp
        if self.verdict.away:
            raise DatabaseUnavailable()
        if transport == "cookie" and request.method not in _SAFE:
            _refuse_cross_site(self.request, self.otp.allowed_origins)
        let_in(self.request.scope, self.verdict)

    @property
    def user(self) -> Any:
        """The host's own user object; None for nobody."""
        return None if self.verdict.user is None else unwrapped(self.verdict.user)

    @property
    def client(self) -> Client:
        """Who asks."""
        return client_of(self.otp, self.request)

    def refuse_expired(self) -> None:
        """Refuse a token that is dead.

        Raises:
            Refused: it is.
        """
        if self.verdict.is_expired:
            raise Refused(STATUS[SESSION_EXPIRED], SESSION_EXPIRED, DETAILS[SESSION_EXPIRED])

    async def let_through(
        self, changes: bool = True, enrols: bool = False, asks_password: bool = False
    ) -> None:
        """The rule of the account pages, with their words.

        Raises:
            Guarded: it refuses.
        """
        if self.request.method not in _SAFE and await self._read():
            # It is judged once all of it is there, which may be long after it began.
            await look_again(self.request)
        refusal = await account_refusal(self.request, changes, enrols, asks_password)
        if refusal is not None:
            is_stale = refusal == REVERIFICATION_REQUIRED
            raise Guarded(refusal, self.otp.reauthenticate_after if is_stale else None)

    async def _read(self) -> bytes:
        """All of the body, as it was sent."""
        if self._secret_body is None:
            self._secret_body = await _whole(self.request)
        return self._secret_body

    async def body(self, model: type[B]) -> B:
        """What was sent.

        Raises:
            Refused: it is no JSON object, or not one of these; or too large.
        """
        secret_data = _json(self.request, await self._read())
        # What can't be encoded again is no text, and not nothing either, which may be left out.
        secret_data = {
            name: 0 if _is_broken(secret_or_text) else secret_or_text
            for name, secret_or_text in secret_data.items()
        }
        try:
            return model.model_validate(secret_data)
        except ValidationError as exc:
            errors = [(str(e["loc"][0]) if e["loc"] else "", e["type"]) for e in exc.errors()]
        if ("token", "missing") in errors:
            raise Refused(400, "token_required", "Please enter the code.")
        named = [
            {"field": name[:64], "code": "required" if kind == "missing" else "invalid"}
            for name, kind in errors
        ]
        raise _invalid(named)

    @property
    def asking_browser(self) -> str:
        """What tells this client from others: a code that it asked for is good here only.

        A browser's is as on the pages; a bearer's is its token, or else its log-in.
        """
        session, token = self.request.session, self.verdict.bearer
        if token is not None:
            secret = token or str(session.get(TICKET_KEY, ""))
            return hashlib.sha256(secret.encode()).hexdigest()
        if CSRF_KEY not in session:
            session[CSRF_KEY] = secrets.token_hex(20)
        return asking_browser(self.request) or ""


def _by_transport(request: Request, transport: Transport) -> Request:
    """The request, without what it brings by another transport."""
    verdict = verdict_of(request)
    if transport == "cookie":
        if verdict.bearer is not None:
            if "authorization" not in request.headers:
                raise _not_read("cookies")
            detail = "These routes are for cookies: send no Authorization."
            raise Refused(400, "invalid_request", detail)
        return request
    if verdict.bearer is not None:
        return request
    if "authorization" in request.headers:
        raise _not_read("bearer tokens")
    root, routes = verdict.root_path, verdict.routes
    nobody = Verdict(verdict.otp, root, routes=routes, bearer="", away=verdict.away)
    scope = {**request.scope, "session": {}, "user": UnauthenticatedUser(), VERDICT: nobody}
    show_nobody(scope)
    return Request(scope, request.receive)


def _not_read(what: str) -> ConfigurationError:
    return ConfigurationError(
        f'These routes are for {what}: SessionAuthBackend(otp, transports=("cookie", "bearer")) '
        "reads them."
    )


def _refuse_cross_site(request: Request, allowed: Sequence[str]) -> None:
    """Refuse what another site's page may have sent (OWASP, CSRF prevention).

    Browsers say where an unsafe request comes from; what does not say so and has a cookie may be
    one that does not.
    """
    says = "origin" in request.headers or "sec-fetch-site" in request.headers
    if is_cross_site(request, allowed) or (not says and "cookie" in request.headers):
        detail = "This was not sent by a page of this site."
        raise Refused(403, "cross_site", detail)


async def _whole(request: Request) -> bytes:
    secret_body = b""
    try:
        async for secret_chunk in request.stream():
            secret_body += secret_chunk
            if len(secret_body) > MAX_BODY:
                raise Refused(413, "too_large", f"The body has at most {MAX_BODY} bytes.")
    except ClientDisconnect:
        raise Refused(400, "malformed_json", "The body is not all there.") from None
    except HTTPException as exc:
        raise Refused(413, "too_large", f"The body has at most {MAX_BODY} bytes.") from exc
    return secret_body


def _json(request: Request, secret_body: bytes) -> dict[str, Any]:
    content_type, _ = parse_options_header(request.headers.get("content-type"))
    if content_type != b"application/json":
        detail = "The body has to be JSON, with Content-Type: application/json."
        raise Refused(415, "unsupported_media_type", detail)
    try:
        secret_data = json.loads(secret_body.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise Refused(400, "malformed_json", "The body is not JSON.") from None
    if not isinstance(secret_data, dict):
        raise Refused(400, "malformed_json", "The body has to be a JSON object.")
    return secret_data


def _refuse_constant(name: str) -> None:
    """NaN and its like are no JSON (RFC 8259 section 6)."""
    raise ValueError(name)


def _is_broken(secret_or_text: object) -> bool:
    return isinstance(secret_or_text, str) and not is_text(secret_or_text)


def _ready(secret_or_not: Any) -> Any:
    """A member of a problem as JSON takes it."""
    if isinstance(secret_or_not, BaseModel):
        return secret_or_not.model_dump(mode="json")
    if isinstance(secret_or_not, list):
        return [_ready(one) for one in secret_or_not]
    return secret_or_not.isoformat() if isinstance(secret_or_not, datetime) else secret_or_not
