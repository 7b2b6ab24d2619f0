"""Users whom no device has verified: let in by trust in their browser, or held back."""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.types import Scope

from starlette_otp import clock
from starlette_otp.exceptions import DatabaseUnavailable
from starlette_otp.web.trust import weigh_trust
from starlette_otp.web.user import unwrapped
from starlette_otp.web.verdict import Verdict, show, show_nobody


async def judge(scope: Scope, verdict: Verdict) -> None:
    """Let a user in by trust, or make them anonymous, whom no device has verified.

    A session that began by trust is nobody's without it. Who has to have a device is held back
    until one verifies them; where the password is enough for who has one, that is only who has
    none. A host's function that can't be asked holds back, too.
    """
    if verdict.user is None or verdict.device is not None:
        return
    try:
        await weigh_trust(HTTPConnection(scope), verdict)
    except DatabaseUnavailable:
        verdict.be_nobody()
        verdict.away = True
    if verdict.user is None:
        show_nobody(scope)
        return
    if verdict.by_trust:
        show(scope, verdict, scope["auth"].scopes)
    elif verdict.otp.requirement.is_set:
        await _hold_back(scope, verdict)


async def _hold_back(scope: Scope, verdict: Verdict) -> None:
    try:
        is_held = await _has_to_wait(verdict)
    except DatabaseUnavailable:
        verdict.away, is_held = True, True
    if is_held:
        verdict.held, verdict.user = verdict.user, None
        show_nobody(scope)


def let_in(scope: Scope, verdict: Verdict) -> None:
    """Give a user who is held back to our own pages, which know what to do with them."""
    if verdict.held is not None:
        verdict.user, verdict.held = verdict.held, None
        show(scope, verdict, ["authenticated"])


async def _has_to_wait(verdict: Verdict) -> bool:
    otp, user = verdict.otp, unwrapped(verdict.user)
    since = await otp.requirement.since(user)
    if since is None:
        return False
    if await otp.enrolment.user_has_device(user):
        return not otp.password_is_enough
    verdict.device_due = since
    return since <= clock.now()
