"""Tickets: rows of `otp_session` that stand for a password until a token follows."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import and_, delete, false, func, or_, select

from starlette_otp import clock
from starlette_otp.devices.owner import table_of
from starlette_otp.devices.users import is_active
from starlette_otp.service.session_rows import SessionRows
from starlette_otp.service.transactions import Transactions

MAX_AGE = 300
"""Seconds from the password."""


class Tickets:
    """The tickets among the rows of `otp_session`.

    A ticket is dead when its time is over, when its user logged in, verified a session or logged
    out, anywhere, when one of their devices was used or removed, and after a new password.

    Args:
        transactions: over the host's sessionmaker.
        rows: over the class of the devices.
    """

    def __init__(self, transactions: Transactions, rows: SessionRows) -> None:
        self._transactions = transactions
        self._rows = rows
        self._table = rows.table.c
        devices = table_of(rows.device_model).c
        self._last_use = select(func.max(devices.last_used_at)), devices.user_id

    async def issue(self, user: Any, former_token: object = None) -> str:
        """A new ticket for a user whose password was accepted.

        Args:
            user: the user.
            former_token: of the ticket that the client held until now, which ends.

        Returns:
            Its token.
        """
        key = self._rows.device_model.user_key(user)
        token, now = secrets.token_urlsafe(32), clock.now()
        row: dict[str, Any] = {
            "token_digest": self._rows.digest(token, "ticket"),
            "user_id": key,
            "device_id": None,
            "created_at": now,
            "verified_at": None,
            "expires_at": now + timedelta(seconds=MAX_AGE),
            "user_agent": "",
            "is_ticket": True,
        }
        self._rows.sign(row, user, "ticket")
        # Compared with what it is later, and not with our clock: a device may have been used by a
        # clock that was ahead.
        last_use, owner = self._last_use
        row["verified_at"] = last_use.where(owner == key).scalar_subquery()
        former = self._rows.ticket_of(former_token)
        old = and_(self._rows.tickets_of(key), self._table.expires_at < now)
        query = self._rows.insert(row, or_(old, false() if former is None else former))
        await self._execute(query)
        return token

    async def redeem(self, token: object, load_user: Callable[[Any], Awaitable[Any]]) -> Any | None:
        """The user whose password a ticket stands for, or None; it stays good for another try.

        Args:
            token: what the client holds.
            load_user: gives the user of a key.
        """
        held = self._rows.ticket_of(token)
        if held is None:
            return None
        row = self._table
        last_use, owner = self._last_use
        unused = last_use.where(owner == row.user_id).scalar_subquery()
        names = "user_id", "token_digest", "former_digest", "password_fingerprint"
        query = select(*(row[name] for name in names)).where(
            held, row.expires_at >= clock.now(), row.verified_at.is_not_distinct_from(unused)
        )
        found = await self._execute(query)
        if not found:
            return None
        (ticket,) = found
        user = await load_user(ticket.user_id)
        if user is None:
            return None
        if not is_active(user):
            await self.discard(token)
            return None
        return user if self._rows.is_of(ticket, user, "ticket") else None

    async def discard(self, token: object) -> None:
        """End a ticket."""
        held = self._rows.ticket_of(token)
        if held is not None:
            await self._execute(delete(self._rows.table).where(held))

    async def _execute(self, query: Any) -> Sequence[Any]:
        """Run one statement, which needs no transaction around it."""
        return await self._transactions.read(self._rows.running(query))
