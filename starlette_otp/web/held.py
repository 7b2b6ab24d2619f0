"""Users who are held back: nobody, until they have the device that they have to have."""

from __future__ import annotations

from starlette.types import Scope

from starlette_otp import clock
from starlette_otp.exceptions import DatabaseUnavailable
from starlette_otp.web.user import unwrapped
from starlette_otp.web.verdict import Verdict, show, show_nobody


async def hold_back(scope: Scope, verdict: Verdict) -> None:
    """Make anonymous who has to have a device, and has not been verified by one.

    Where the password is enough for who has one, that is only who has none. A host's function that
    can't be asked holds back, too.
    """
    if verdict.user is None or verdict.device is not None:
        return
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
