"""AccountView: who may see a page of the account, and how it is shown."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from starlette_otp import clock
from starlette_otp.account.words import ago, in_sentence, label, on_day
from starlette_otp.web.body import replay
from starlette_otp.web.forms import LogoutForm
from starlette_otp.web.guards import Wanted, look_again, refuse
from starlette_otp.web.refusals import (
    ENROLMENT_REQUIRED,
    REVERIFICATION_REQUIRED,
    login_redirect,
    refusal_response,
)
from starlette_otp.web.responses import HEADERS, accepts_html, page, to_enrolment
from starlette_otp.web.site import Site
from starlette_otp.web.urls import folder, safe_path, way
from starlette_otp.web.user import unwrapped
from starlette_otp.web.verdict import verdict_of
from starlette_otp.web.views import OTPEndpoint

DONE = {
    "added": "Your device was added.",
    "renamed": "Your device has its new name.",
    "removed": "The device was removed.",
    "cancelled": "Nothing was added.",
    "codes": "Your recovery codes are in force. Earlier ones are not good any more.",
    "password": "Your password was changed. You were signed out everywhere else.",
    "ended": "That browser was signed out.",
    "others_ended": "You were signed out everywhere else.",
    "untrusted": "That browser is not trusted any more.",
}
"""What the page that follows a change says, by the code in its query."""
OFFERS_TO_END = ("added", "codes", "removed")
"""After these a browser that is signed in elsewhere may be one that should not be."""


class AccountView(OTPEndpoint):
    """A page of the account, for whom `account_refusal` lets see it; the rest is asked before it
    is shown."""

    changes: ClassVar[bool] = True
    """Whether it changes the account, or leads to a change."""
    enrols: ClassVar[bool] = False
    """Whether it is for who has to set up a device before anything else, too."""
    asks_password: ClassVar[bool] = False
    """Whether its form asks for the password where there is no device."""

    async def refusal(self, request: Request) -> Response | None:
        """The way to the log-in, or to the password; None for who may go on."""
        if request.method == "POST":
            # It is judged once all of it is there, which may be long after it began.
            self.receive = replay(await request.body(), self.receive)
            await look_again(request)
        return await self.judge(request)

    async def judge(self, request: Request) -> Response | None:
        """The same by the verdict as it is now."""
        refusal = await account_refusal(request, self.changes, self.enrols, self.asks_password)
        if refusal is None:
            return None
        if refusal == ENROLMENT_REQUIRED and accepts_html(request):
            return to_enrolment(request)
        verdict = verdict_of(request)
        max_age = verdict.otp.reauthenticate_after
        has_no_device = refusal == REVERIFICATION_REQUIRED and verdict.device is None
        if has_no_device and accepts_html(request):
            return self._ask_password(request)
        return refusal_response(request, refusal, self.redirect_field_name, None, max_age)

    def _ask_password(self, request: Request) -> Response:
        ours = folder(request).removeprefix(verdict_of(request).root_path.rstrip("/"))
        url = login_redirect(request, "", self.redirect_field_name, f"{ours}/reauthenticate")
        return RedirectResponse(url, 303, HEADERS)

    def render(
        self, request: Request, template: str, status_code: int = 200, **context: Any
    ) -> Response:
        """A page from `otp/account/`."""
        verdict, done = verdict_of(request), request.query_params.get("done", "")
        user, due = verdict.user, verdict.device_due
        shared = {
            "ago": ago,
            "in_sentence": in_sentence,
            "in_words": clock.in_words,
            "label": partial(label, user=user),
            "on_day": on_day,
            "user": user,
            "due": due,
            "is_due": due is not None and due <= clock.now(),
            "done": DONE.get(done),
            "offers_to_end": done in OFFERS_TO_END,
            "logout_form": LogoutForm(request),
            "way": way(request),
            "here": safe_path(request, request.query_params.get(self.redirect_field_name)),
        }
        return page(request, f"otp/account/{template}", {**shared, **context}, status_code)

    def gone(self, request: Request, reason: str = "gone", status_code: int = 404) -> Response:
        """The page that says why there is nothing to do here, and what to do instead."""
        return self.render(request, "gone.html", status_code, reason=reason)

    def finish(self, request: Request, done: str | None = None) -> Response:
        """303 to `next`, or to the overview, which says what was done."""
        wanted = safe_path(request, request.query_params.get(self.redirect_field_name))
        overview = f"{folder(request)}/" + (f"?done={done}" if done else "")
        return RedirectResponse(wanted or overview, 303, HEADERS)


async def account_refusal(
    request: Request, changes: bool, enrols: bool = False, asks_password: bool = False
) -> str | None:
    """Why a request may not do something with the account of its user, by its code; or None.

    Whoever has a confirmed device has to be verified. What changes the account wants more: a
    verification at most `OTP(reauthenticate_after=)` seconds old, or without a device a password
    as young. A host's own log-in that leaves no session of ours, for users whose password nobody
    here can check, is taken at its word.

    Args:
        request: behind OTPMiddleware.
        changes: whether it changes the account, or leads to a change.
        enrols: whether it is for who has to set up a device before anything else, too.
        asks_password: whether it asks for the password where there is no device.
    """
    verdict = verdict_of(request)
    max_age = verdict.otp.reauthenticate_after if changes else None
    refusal = await refuse(request, Wanted(if_configured=True, max_age=max_age))
    if refusal is not None and not (enrols and refusal == ENROLMENT_REQUIRED):
        return refusal
    if max_age is None or verdict.device is not None:
        return None
    if asks_password and can_ask_password(request):
        return None
    return None if await _is_fresh(request, max_age) else REVERIFICATION_REQUIRED


def site_of(request: Request) -> Site:
    """The OTP of this request."""
    return verdict_of(request).otp


def user_of(request: Request) -> Any:
    """The host's own user object of this request."""
    return unwrapped(verdict_of(request).user)


def can_ask_password(request: Request) -> bool:
    """Whether the user's password can be asked for here."""
    has_name = isinstance(getattr(user_of(request), "username", None), str)
    return has_name and site_of(request).users.has_passwords


async def _is_fresh(request: Request, max_age: float) -> bool:
    """Whether the user's password was accepted no longer ago than that."""
    session_id = verdict_of(request).session_id
    if session_id is None:
        return not can_ask_password(request)
    span = await site_of(request).session_list.span(session_id)
    return span is not None and clock.now() - span[0] <= timedelta(seconds=max_age)
