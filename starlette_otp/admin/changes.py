"""Changes: what staff do to other people's devices, each told by a signal and a line in the log."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import Request

from starlette_otp import signals
from starlette_otp.devices.locking import locked
from starlette_otp.devices.static import StaticDeviceMixin
from starlette_otp.web.verdict import verdict_of

logger = logging.getLogger("starlette_otp.admin")

ADDED = "device added"
CONFIRMED = "device confirmed"
REMOVED = "device removed"
RESET = "throttling reset"
REVOKED = "sessions revoked"
AGENT_REVOKED = "trusted browser revoked"
TOKENS_REPLACED = "static tokens replaced"
SECRET_SHOWN = "secret shown"  # noqa: S105  # the name of an action
STATIC_TOKENS = 10


class Changes:
    """The changes of one request, made by who asked for it."""

    def __init__(self, request: Request) -> None:
        verdict = verdict_of(request)
        self.otp, self.by = verdict.otp, verdict.user

    async def tell(self, action: str, user: Any, device: Any | None = None) -> None:
        """Log who did what to whom, and send the signal."""
        key = self.otp.device_model.user_key
        logger.info(
            "Staff %s: %s, user %s (%s).", key(self.by), action, key(user), device or "no device"
        )
        await signals.send(
            signals.otp_admin_action,
            self.otp,
            user=user,
            device=device,
            by=self.by,
            action=action,
        )

    async def add(
        self, user: Any, device: Any, unless: ColumnElement[bool] | None = None
    ) -> tuple[Any, list[str]] | None:
        """Give the user a device, unless there is one like that.

        Returns:
            The device, or the one that is there already; and the tokens of a static one, shown
            this once. None if the user has gone meanwhile.
        """
        try:
            added = await self.otp.enrolment.add_device(user, device, unless)
        except IntegrityError:
            return None
        if added is not device:
            return added, []
        tokens = []
        if isinstance(device, StaticDeviceMixin):
            tokens = await self._make_tokens(device) or []
        await self.tell(ADDED, user, device)
        return device, tokens

    async def remove(self, user: Any, device: Any) -> None:
        """Take the device from the user."""
        if await self.otp.enrolment.remove_device(user, device.persistent_id) is not None:
            await self.tell(REMOVED, user, device)

    async def reset(self, user: Any, device: Any) -> None:
        """Forget the device's failures, so that it verifies again at once."""
        device = await self._change(device, lambda row: row.reset())
        if device is not None:
            await self.tell(RESET, user, device)

    async def confirm(self, user: Any, device: Any) -> None:
        """Let the device verify."""
        was_confirmed = []

        def change(row: Any) -> None:
            was_confirmed.append(row.confirmed)
            row.confirmed = True

        changed = await self._change(device, change)
        if changed is None:
            return
        if not was_confirmed[-1]:
            await signals.send(signals.otp_device_added, self.otp, user=user, device=changed)
        await self.tell(CONFIRMED, user, changed)

    async def revoke(self, user: Any, device: Any | None = None) -> None:
        """Unverify the device's sessions, or end all of the user's."""
        await self.otp.revoke_sessions(device or user)
        await self.tell(REVOKED, user, device)

    async def end_agent(self, user: Any, agent_id: int) -> None:
        """End the user's trust in one browser."""
        if self.otp.agents is not None and await self.otp.agents.revoke(user, agent_id):
            await self.tell(AGENT_REVOKED, user)

    async def replace_tokens(self, user: Any, device: Any) -> list[str] | None:
        """New tokens in place of all that the static device has.

        Returns:
            The tokens, shown this once; None if the device has gone meanwhile.
        """
        tokens = await self._make_tokens(device)
        if tokens is not None:
            await self.tell(TOKENS_REPLACED, user, device)
        return tokens

    async def _make_tokens(self, device: Any) -> list[str] | None:
        async def work(session: AsyncSession) -> list[str] | None:
            row = await session.scalar(_by_id(device))
            return None if row is None else await row.replace_tokens(STATIC_TOKENS)

        return await self.otp.transactions.write(work)

    async def _change(self, device: Any, change: Any) -> Any | None:
        async def work(session: AsyncSession) -> Any | None:
            row = await session.scalar(_by_id(device))
            if row is not None:
                change(row)
            return row

        return await self.otp.transactions.write(work)


def _by_id(device: Any) -> Any:
    model = type(device)
    return locked(select(model).where(model.id == device.id))
