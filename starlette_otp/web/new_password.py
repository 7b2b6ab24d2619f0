"""A new password: this session goes on, the others end."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy.orm.attributes import set_committed_value
from starlette.requests import Request

from starlette_otp import signals
from starlette_otp.service.passwords import Place
from starlette_otp.web.journal import client_of
from starlette_otp.web.login import log_in
from starlette_otp.web.site import Site
from starlette_otp.web.user import unwrapped
from starlette_otp.web.verdict import verdict_of

logger = logging.getLogger("starlette_otp")


async def change_password(otp: Site, request: Request, password: str) -> None:
    """`OTP.change_password`."""
    verdict = verdict_of(request)
    user = unwrapped(verdict.user)
    key = otp.device_model.user_key(user)
    if key is None:
        raise ValueError("A new password is an authenticated user's.")
    client = client_of(otp, request)
    changed = await otp.users.write_password(key, password, Place(str(key), client.address, True))
    for name, value in changed.items():
        # The session is signed with what the user of this request has now.
        _put(user, name, value)
    await log_in(request, verdict.user)
    await otp.session_list.end_others(user, verdict.session_id)
    logger.info("User %r has a new password, from %r by %r.", key, client.address, client.agent)
    told: dict[str, Any] = {"address": client.address, "agent": client.agent}
    which = signals.otp_password_changed
    await signals.send(which, otp, user=user, device=verdict.device, **told)


def _put(user: Any, name: str, value: Any) -> None:
    if hasattr(user, "_sa_instance_state"):
        set_committed_value(user, name, value)
