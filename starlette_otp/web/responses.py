"""Pages, rendered from the templates; answers that are a page for browsers, else a problem."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from starlette_otp import clock
from starlette_otp.exceptions import RETRY_AFTER_SECONDS, DatabaseUnavailable, TooManyAttempts
from starlette_otp.web.problems import problem
from starlette_otp.web.urls import FOLDER, folder, way
from starlette_otp.web.verdict import verdict_of

UNAVAILABLE = "unavailable"
"""The code of 503."""
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


def page(
    request: Request,
    template: str,
    context: dict[str, Any],
    status_code: int = 200,
    mount: str | None = None,
) -> Response:
    """A page from the templates, never stored and never framed.

    Args:
        request: behind OTPMiddleware.
        template: its name.
        context: for the template, which also gets `otp_urls`, and what the browser is to the user
            as `agent`.
        status_code: the response's.
        mount: where our routes are; of the request itself unless given.
    """
    request.scope[FOLDER] = folder(request) if mount is None else mount
    verdict = verdict_of(request)
    browsers = verdict.otp.browsers
    context = {"agent": browsers and browsers.shown(verdict), **context}
    return verdict.otp.templates.TemplateResponse(request, template, context, status_code, HEADERS)


def to_enrolment(request: Request, wanted: object = None, mount: str | None = None) -> Response:
    """303 to the page where people set up a device, and then on to `wanted` or to `next`.

    Args:
        request: behind OTPMiddleware.
        wanted: a path.
        mount: where our routes are; of the request itself unless given.
    """
    mount = folder(request) if mount is None else mount
    return RedirectResponse(f"{mount}/devices/add{way(request, wanted)}", 303, HEADERS)


def unavailable(request: Request, mount: str | None = None) -> Response:
    """503 as a page for browsers, else as a problem, with Retry-After."""
    if accepts_html(request):
        response = page(request, "otp/unavailable.html", {}, 503, mount)
    else:
        response = unavailable_problem()
    response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    response.headers["Vary"] = "Accept"
    return response


def unavailable_problem() -> Response:
    """503 as a problem, with Retry-After."""
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    detail = DatabaseUnavailable().detail
    return problem(503, UNAVAILABLE, detail, headers, retry_after=RETRY_AFTER_SECONDS)


def too_many(refusal: TooManyAttempts) -> Response:
    """429 for programs, with Retry-After and `locked_until` where they are known."""
    headers = {**HEADERS, "Vary": "Accept", **(refusal.headers or {})}
    if refusal.seconds is None:
        return problem(429, refusal.code, refusal.detail, headers)
    until = (clock.now() + timedelta(seconds=refusal.seconds)).isoformat()
    wait = {"retry_after": int(headers["Retry-After"]), "locked_until": until}
    return problem(429, refusal.code, refusal.detail, headers, **wait)


def accepts_html(request: Request) -> bool:
    """Whether the client says that it takes text/html, as browsers do and programs do not."""
    for accept in request.headers.get("accept", "").lower().split(","):
        media_type, *parameters = (part.strip() for part in accept.split(";"))
        if media_type in ("text/html", "application/xhtml+xml"):
            return not any(p.replace(" ", "") in ("q=0", "q=0.0", "q=0.00") for p in parameters)
    return False
