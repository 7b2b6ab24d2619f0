"""SessionList: where a user is signed in, to look at and to end."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp import clock, signals
from starlette_otp.devices.base import DeviceMixin
from starlette_otp.devices.endings import UNVERIFIED
from starlette_otp.service.session_rows import SessionRows
from starlette_otp.service.transactions import Transactions
from starlette_otp.service.users import loaded

logger = logging.getLogger("starlette_otp")


class SessionList:
    """The sessions of users and of devices, tickets aside.

    Args:
        transactions: over the host's sessionmaker.
        rows: over the class of the devices.
        sender: whom the signals name.
    """

    def __init__(self, transactions: Transactions, rows: SessionRows, sender: object) -> None:
        self._transactions = transactions
        self._rows = rows
        self._sender = sender

    async def of_user(self, user: object) -> list[Any]:
        """`OTP.sessions_for_user`."""
        model, key = self._rows.model, self._rows.device_model.user_key(user)
        if key is None:
            return []
        query = select(model).where(
            model.user_id == key, ~model.is_ticket, model.expires_at > clock.now()
        )
        query = query.order_by(model.seen_at.desc().nulls_last(), model.id.desc())
        agents = self._rows.device_model.__agent_model__
        if agents is not None:
            # One that began by a trusted browser is over with the trust.
            its_agent = agents.id == model.agent_id, agents.user_id == key
            query = query.where(or_(model.agent_id.is_(None), select(1).where(*its_agent).exists()))

        async def work(session: AsyncSession) -> list[Any]:
            return list((await session.scalars(query)).unique())

        rows, user = await self._transactions.read(work), await loaded(self._transactions, user)
        # One from before a new password is nobody's, and is cleared away in time.
        return [row for row in rows if self._rows.is_of(row, user)]

    async def span(self, session_id: int) -> tuple[datetime, datetime] | None:
        """When a session began, its user's password accepted, and when it ends; None if it has."""
        row = self._rows.table.c
        query = select(row.created_at, row.expires_at).where(row.id == session_id)
        found = await self._transactions.read(self._rows.running(query))
        return tuple(found[0]) if found else None

    async def end(self, user: object, session_id: int) -> bool:
        """`OTP.end_session`."""
        if type(session_id) is not int or not 0 < session_id < 2**63:
            return False
        return await self._end(user, self._rows.table.c.id == session_id) > 0

    async def end_others(self, user: object, session_id: int | None) -> int:
        """End the user's sessions but this one, and all their tickets; how many sessions."""
        row = self._rows.table.c
        return await self._end(user, true() if session_id is None else row.id != session_id)

    async def revoke(self, device_or_user: object) -> None:
        """`OTP.revoke_sessions`."""
        if isinstance(device_or_user, DeviceMixin):
            await self._unverify(device_or_user)
        else:
            if isinstance(device_or_user, str | int | type):
                name = type(device_or_user).__name__
                raise TypeError(f"revoke_sessions takes a device or a user, not {name}.")
            await self.end_others(device_or_user, None)

    async def _unverify(self, device: DeviceMixin) -> None:
        mine = update(self._rows.table).where(self._rows.table.c.device_id == device.id)
        await self._transactions.write(self._rows.running(mine.values(UNVERIFIED)))
        logger.info("Sessions that %s verified are verified no longer.", device)

    async def _end(self, user: object, which: ColumnElement[bool]) -> int:
        """End those of the user's rows, and tell of each session, with its browser."""
        key, row = self._rows.device_model.user_key(user), self._rows.table.c
        if key is None:
            return 0
        mine = delete(self._rows.table).where(row.user_id == key, which)
        query = mine.returning(row.user_agent, row.is_ticket)
        ended = await self._transactions.write(self._rows.running(query))
        agents = [agent for agent, is_ticket in ended if not is_ticket]
        for agent in agents:
            logger.info("A session of user %r ended (revoked), from %r by %r.", key, "", agent)
            told = {"reason": "revoked", "address": "", "agent": agent}
            await signals.send(signals.otp_logged_out, self._sender, user=user, device=None, **told)
        return len(agents)
