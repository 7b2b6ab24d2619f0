"""Where a user is signed in: shown, and ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from starlette_otp.account.base import AccountView, site_of, user_of
from starlette_otp.account.forms import ButtonForm
from starlette_otp.account.trusted import trusted_of
from starlette_otp.account.words import browsers, label
from starlette_otp.web.login import log_out
from starlette_otp.web.responses import HEADERS
from starlette_otp.web.urls import folder
from starlette_otp.web.verdict import session_id, verdict_of

_MAX_DIGITS = 19


@dataclass(frozen=True, slots=True)
class Place:
    """A session, as its owner knows it: a browser somewhere."""

    id: int
    browser: str
    created_at: datetime
    seen_at: datetime
    is_this: bool
    verified_by: str | None


async def places_of(request: Request, devices: Sequence[Any]) -> list[Place]:
    """Where the request's user is signed in, this browser first.

    Args:
        request: behind OTPMiddleware.
        devices: the user's, which may have verified a session.
    """
    user = user_of(request)
    rows = await site_of(request).session_list.of_user(user)
    names = {device.id: label(device, user) for device in devices if device.confirmed}
    here, agents = session_id(request), await browsers([row.user_agent for row in rows])
    places = [
        Place(
            row.id,
            browser,
            row.created_at,
            row.seen_at or row.created_at,
            row.id == here,
            names.get(row.device_id) if row.verified_at is not None else None,
        )
        for row, browser in zip(rows, agents, strict=True)
    ]
    return sorted(places, key=lambda place: not place.is_this)


class SessionsView(AccountView):
    """Where the user is signed in, each with a button to end it."""

    async def get(self, request: Request) -> Response:
        """The list."""
        return await show_sessions(self, request, ButtonForm(request))


class EndView(AccountView):
    """End one session; one that has ended already is as good."""

    async def post(self, request: Request) -> Response:
        """303 after success."""
        form = await ButtonForm.from_formdata(request)
        if not await form.validate_on_submit():
            return await show_sessions(self, request, form)
        wanted = number(request.path_params["id"])
        if wanted == session_id(request):
            await log_out(request)
            return RedirectResponse(f"{folder(request)}/login", 303, HEADERS)
        was_there = await site_of(request).session_list.end(user_of(request), wanted)
        return ended(request, "ended") if was_there else self.gone(request, "no_session")


class EndOthersView(AccountView):
    """End all sessions but this one."""

    async def post(self, request: Request) -> Response:
        """303 after success."""
        form = await ButtonForm.from_formdata(request)
        if not await form.validate_on_submit():
            return await show_sessions(self, request, form)
        verdict = verdict_of(request)
        await site_of(request).session_list.end_others(user_of(request), verdict.session_id)
        return ended(request, "others_ended")


async def show_sessions(view: AccountView, request: Request, form: ButtonForm) -> Response:
    """The list of sessions."""
    devices = await site_of(request).enrolment.devices_for_user(user_of(request))
    places, trusted = await places_of(request, devices), await trusted_of(request, user_of(request))
    return view.render(request, "sessions.html", form=form, places=places, trusted=trusted)


class EndAgentView(AccountView):
    """End the trust in one browser; one that has ended already is as good."""

    async def post(self, request: Request) -> Response:
        """303 after success."""
        form = await ButtonForm.from_formdata(request)
        if not await form.validate_on_submit():
            return await show_sessions(self, request, form)
        agents, wanted = site_of(request).agents, number(request.path_params["id"])
        was_there = agents is not None and await agents.revoke(user_of(request), wanted)
        return ended(request, "untrusted") if was_there else self.gone(request, "no_session")


def ended(request: Request, done: str) -> Response:
    """303 to the list, which says what was done."""
    return RedirectResponse(f"{folder(request)}/sessions?done={done}", 303, HEADERS)


def number(text: object) -> int:
    """A row's id, or 0 for what can't be one."""
    is_number = (
        isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
    )
    return int(str(text)) if is_number else 0
