"""The rest of an account by JSON: recovery codes, sessions, the password."""

from __future__ import annotations

from typing import Any

from starlette_otp.account.base import can_ask_password
from starlette_otp.account.password import has_password
from starlette_otp.account.recovery_codes import has_codes
from starlette_otp.account.sessions import number
from starlette_otp.api import models
from starlette_otp.api.call import Call, Guarded, Refused, invalid
from starlette_otp.api.shown import session_of
from starlette_otp.exceptions import DeviceRejected
from starlette_otp.web.login import log_out
from starlette_otp.web.new_password import change_password
from starlette_otp.web.password import authenticate
from starlette_otp.web.refusals import ENROLMENT_REQUIRED


async def show_codes(call: Call) -> models.RecoveryCodes:
    """How many recovery codes are left."""
    await call.let_through(changes=False)
    _refuse_without_codes(call)
    remaining, created_at = await call.otp.recovery_codes.left_since(call.user)
    return models.RecoveryCodes(remaining=remaining, created_at=created_at)


async def new_codes(call: Call) -> models.NewCodes:
    """Recovery codes in place of all earlier ones; they count at once.

    With `?lost=true` those may be in wrong hands, and trust in all browsers ends.
    """
    await call.let_through()
    _refuse_without_codes(call)
    if call.verdict.device is None:
        # Alone they would be all that lets the user in.
        raise Guarded(ENROLMENT_REQUIRED)
    made_codes = await call.otp.recovery_codes.renew(call.user)
    if call.otp.agents is not None and call.request.query_params.get("lost") == "true":
        await call.otp.agents.revoke_others(call.user, None)
    return models.NewCodes(codes=made_codes)


def _refuse_without_codes(call: Call) -> None:
    if not has_codes(call.request):
        raise Refused(404, "no_recovery_codes", "There are no recovery codes here.")


async def list_sessions(call: Call) -> models.Sessions:
    """Where the user is signed in, the last seen first."""
    await call.let_through()
    rows = await call.otp.session_list.of_user(call.user)
    devices = await call.otp.enrolment.devices_for_user(call.user)
    ids = {device.id: device.persistent_id for device in devices}
    return models.Sessions(sessions=[_listed(call, row, ids) for row in rows])


def _listed(call: Call, row: Any, ids: dict[int, str]) -> models.SessionListed:
    by = ids.get(row.device_id)
    return models.SessionListed(
        id=row.id,
        current=row.id == call.verdict.session_id,
        user_agent=row.user_agent,
        created_at=row.created_at,
        seen_at=row.seen_at or row.created_at,
        expires_at=row.expires_at,
        verified_at=None if by is None else row.verified_at,
        device=None if row.verified_at is None else by,
    )


async def end_session(call: Call) -> None:
    """End one of the user's sessions; this one, too."""
    await call.let_through()
    wanted = number(call.request.path_params["id"])
    if wanted == call.verdict.session_id:
        await log_out(call.request)
    elif not await call.otp.session_list.end(call.user, wanted):
        raise Refused(404, "no_such_session", "There is no such session.")


async def end_other_sessions(call: Call) -> None:
    """End all of the user's sessions but this one."""
    await call.let_through()
    if call.request.query_params.get("others") != "true":
        raise invalid("others", "required")
    await call.otp.session_list.end_others(call.user, call.verdict.session_id)


async def new_password(call: Call) -> models.Session:
    """Change the password; this session goes on under a new token, all others end."""
    await call.let_through(asks_password=True)
    if not has_password(call.request):
        raise Refused(404, "no_password", "Passwords are not changed here.")
    body = await call.body(models.NewPassword)
    if not body.password:
        raise invalid("password", "required")
    if call.verdict.device is None and can_ask_password(call.request):
        await _check_current(call, body.current_password or "")
    try:
        await change_password(call.otp, call.request, body.password)
    except ValueError as exc:
        raise invalid("password", detail=str(exc)) from None
    except DeviceRejected:
        raise Refused(401, "session_expired", "The session has ended meanwhile.") from None
    if call.verdict.token is None:
        # Another change of it, or a log-out, was faster.
        detail = "The password was changed, but the session has ended meanwhile."
        raise Refused(401, "session_expired", detail)
    return await session_of(call)


async def _check_current(call: Call, password: str) -> None:
    if not password:
        raise invalid("current_password", "required")
    found = await authenticate(call.otp, call.request, call.user.username, password)
    key = call.otp.device_model.user_key
    if found is None or key(found) != key(call.user):
        raise Refused(400, "wrong_password", "That is not your password.")
