"""Refusals: why a request may not pass, and how that is answered."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, unquote, urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from starlette_otp.exceptions import DatabaseUnavailable
from starlette_otp.web.problems import SCHEME, problem
from starlette_otp.web.responses import UNAVAILABLE, accepts_html, unavailable
from starlette_otp.web.routing import takes_get
from starlette_otp.web.urls import is_local, local_url, our_mount, safe_path
from starlette_otp.web.verdict import Verdict, verdict_of

NOT_AUTHENTICATED = "not_authenticated"
SESSION_EXPIRED = "session_expired"
"""Of a bearer whose token is no session's."""
NOT_VERIFIED = "not_verified"
NOT_TRUSTED = "not_trusted"
FOREIGN_ORIGIN = "foreign_origin"
"""Of a websocket alone."""
ENROLMENT_REQUIRED = "enrolment_required"
"""The user has to have a device (`OTP(require_device=)`), and has none."""
REVERIFICATION_REQUIRED = "reverification_required"
REVERIFY_PARAMETER = "reverify"
"""In the query of the login URL: the verified user is asked for a token again."""
DETAILS = {
    UNAVAILABLE: DatabaseUnavailable().detail,
    NOT_AUTHENTICATED: "Please log in.",
    SESSION_EXPIRED: "Your session has ended. Please log in again.",
    NOT_VERIFIED: "Please verify with a one-time password.",
    NOT_TRUSTED: "Please use a browser that you trust.",
    ENROLMENT_REQUIRED: "Please set up a second factor first.",
    REVERIFICATION_REQUIRED: "Please verify with a one-time password again.",
}
_VARY = {"Vary": "Accept"}
_PATH_CHARACTERS = "/:@!$&'()*+,;=~"
_QUERY_CHARACTERS = _PATH_CHARACTERS + "?%[]"
STATUS = {
    UNAVAILABLE: 503,
    NOT_AUTHENTICATED: 401,
    SESSION_EXPIRED: 401,
    NOT_VERIFIED: 403,
    NOT_TRUSTED: 403,
    ENROLMENT_REQUIRED: 403,
    REVERIFICATION_REQUIRED: 403,
}


def close_code(refusal: str) -> int:
    """The code that a refused websocket is closed with (RFC 6455 section 7.4.1, and IANA)."""
    # 1013 is "try again later", 1008 a policy.
    return 1013 if refusal == UNAVAILABLE else 1008


def refusal_response(
    request: Request,
    refusal: str,
    redirect_field_name: str,
    login_url: str | None,
    max_age: float | None = None,
) -> Response:
    """The answer to a request that may not pass: a redirect for browsers, else a problem.

    Args:
        request: the request.
        refusal: why, by its code.
        redirect_field_name: and the rest: the arguments of `requires_otp`.
    """
    if refusal == UNAVAILABLE:
        return unavailable(request, our_mount(verdict_of(request)))
    verdict = verdict_of(request)
    if accepts_html(request) and verdict.bearer is None:
        url = login_redirect(request, refusal, redirect_field_name, login_url)
        return RedirectResponse(url, 303, {"Cache-Control": "no-store", **_VARY})
    return refusal_problem(verdict, refusal, max_age, _VARY)


def refusal_problem(
    verdict: Verdict,
    refusal: str,
    max_age: float | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A refusal for programs; `max_age` is what a verification that has to be repeated may be.

    A bearer that has to step up is told so by 401, as a browser can't be, which would ask for a
    password (RFC 9470 section 3); both by WWW-Authenticate.
    """
    steps_up = refusal in (NOT_VERIFIED, REVERIFICATION_REQUIRED)
    status = 401 if steps_up and verdict.bearer is not None else STATUS[refusal]
    age = max_age if refusal == REVERIFICATION_REQUIRED else None
    if status == 401 or steps_up:
        challenge = {"WWW-Authenticate": authenticate(verdict, refusal, age)}
        headers = {**challenge, **(headers or {})}
    return problem(status, refusal, DETAILS[refusal], headers, max_age=age)


def authenticate(verdict: Verdict, refusal: str, max_age: float | None = None) -> str:
    """The challenge of WWW-Authenticate: what would let the client through (RFC 6750 section 3)."""
    words = [f'{SCHEME if verdict.bearer is None else "Bearer"} realm="two-factor"']
    if refusal == SESSION_EXPIRED:
        words.append('error="invalid_token"')
    elif refusal in (NOT_VERIFIED, REVERIFICATION_REQUIRED):
        words += ['error="insufficient_user_authentication"', 'acr_values="aal2"']
    if max_age is not None:
        words.append(f'max_age="{max_age:.0f}"')
    return ", ".join(words)


def login_redirect(
    request: Request, refusal: str, redirect_field_name: str, login_url: str | None
) -> str:
    """The login URL with the way back in its query.

    That is the very URL for GET and HEAD, else the page of this site that the request says it was
    sent from, unless that takes no GET.
    """
    verdict = verdict_of(request)
    wanted = login_url or verdict.otp.login_url
    query = {}
    back = _way_back(request, verdict)
    if back is not None:
        origin = f"{request.base_url.scheme}://{request.base_url.netloc}"
        query[redirect_field_name] = back if is_local(wanted) else origin + back
    if refusal == REVERIFICATION_REQUIRED:
        query[REVERIFY_PARAMETER] = "1"
    url = local_url(verdict, wanted)
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}" if query else url


def _way_back(request: Request, verdict: Verdict) -> str | None:
    """Where to go on after log-in; None for the default.

    A browser comes back by GET, so what was sent otherwise has to be sent again, from the page
    that it was sent from (RFC 9110 section 15.4.4).
    """
    if request.method not in ("GET", "HEAD"):
        page = safe_path(request, request.headers.get("referer"))
        path = unquote((page or "").partition("?")[0])
        takes = page and takes_get(verdict.routes, request.scope, path, verdict.root_path)
        return page if takes else None
    # The scope has the path decoded; what was %25 or %3F has to come back as such.
    path = quote(request.scope["path"], safe=_PATH_CHARACTERS)
    # Not request.url: it does not take a query that is not ASCII, which some servers let through.
    if request.scope["query_string"]:
        path += "?" + quote(request.scope["query_string"], safe=_QUERY_CHARACTERS)
    return path
