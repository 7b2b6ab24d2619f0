"""The browsers that a user trusts, as their owner knows them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starlette.requests import Request

from starlette_otp.account.words import browsers
from starlette_otp.agents.browser import agent
from starlette_otp.web.verdict import verdict_of


@dataclass(frozen=True, slots=True)
class TrustedBrowser:
    """A browser that its owner trusts; `device` vouched for it."""

    id: int
    browser: str
    trusted_at: datetime
    seen_at: datetime
    until: datetime | None
    is_this: bool
    device: Any


async def trusted_of(request: Request, user: Any) -> list[TrustedBrowser]:
    """The browsers that a user trusts, the last seen first; none where the host has none.

    Args:
        request: behind OTPMiddleware; its browser may be one of them.
        user: whose they are.
    """
    otp = verdict_of(request).otp
    rows = [] if otp.agents is None else await otp.agents.of_user(user)
    if not rows:
        return []
    names = await browsers([row.user_agent for row in rows])
    devices = {one.id: one for one in await otp.enrolment.devices_for_user(user)}
    here = (await agent(request)).id
    return [
        TrustedBrowser(
            row.id,
            name,
            row.trusted_at,
            row.last_seen_at,
            row.expires_at(user),
            row.id == here,
            devices.get(row.device_id),
        )
        for row, name in zip(rows, names, strict=True)
    ]
