"""A new password: this session goes on, the others end."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from starlette.requests import Request

from starlette_otp import signals
from starlette_otp.devices.users import password_hash
from starlette_otp.exceptions import DatabaseUnavailable, DeviceRejected
from starlette_otp.service.passwords import Place
from starlette_otp.web.journal import client_of
from starlette_otp.web.login import go_on
from starlette_otp.web.site import Site
from starlette_otp.web.user import unwrapped
from starlette_otp.web.verdict import verdict_of

logger = logging.getLogger("starlette_otp")


async def change_password(otp: Site, request: Request, password: str) -> None:
    """`OTP.change_password`."""
    verdict = verdict_of(request)
    if verdict.away:
        raise DatabaseUnavailable()
    user, device, client = unwrapped(verdict.user), verdict.device, client_of(otp, request)
    key = otp.device_model.user_key(user)
    if key is None:
        raise ValueError("A new password is an authenticated user's.")
    place = Place(str(key), client.address, True)
    changed = await otp.users.write_password(
        key, password, place, otp.sessions.still_there(verdict.session_id, key)
    )
    if changed is None:
        raise DeviceRejected(device, "The session has ended meanwhile.")
    logger.info("User %r has a new password, from %r by %r.", key, client.address, client.agent)
    told: dict[str, Any] = {"address": client.address, "agent": client.agent}
    which = signals.otp_password_changed
    await signals.send(which, otp, user=user, device=device, **told)
    await otp.session_list.end_others(user, verdict.session_id)
    # The session may end right now, too: the password is the new one all the same.
    with suppress(DeviceRejected):
        # Signed with what the backend will find: a user object of the host's own may have no hash.
        is_ours = type(user) is type(changed) or password_hash(user)
        await go_on(request, changed if is_ours else user)
