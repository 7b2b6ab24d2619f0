"""Tickets: rows of `otp_session` that stand for a password until a token follows."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import and_, delete, extract, false, func, literal, or_, select
from sqlalchemy.dialects.postgresql import aggregate_order_by

from starlette_otp import clock
from starlette_otp.devices.owner import table_of
from starlette_otp.devices.users import is_active
from starlette_otp.exceptions import breaks_integrity
from starlette_otp.service.session_rows import SessionRows
from starlette_otp.service.transactions import Transactions
from starlette_otp.service.users import loaded

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
        # Of which devices there are, and when each was used last. A sum or the latest would be as
        # before again when a device goes, or hide a use behind that by a clock that was ahead.
        use = func.concat(devices.id, " ", extract("epoch", devices.last_used_at))
        in_order = aggregate_order_by(literal(","), devices.id)
        uses = func.convert_to(func.string_agg(use, in_order), "UTF8")
        self._uses = select(func.encode(func.sha256(uses), "hex")), devices.user_id

    async def issue(self, user: Any, former_token: object = None) -> str | None:
        """A new ticket for a user whose password was accepted.

        Args:
            user: the user.
            former_token: of the ticket that the client held until now, which ends.

        Returns:
            Its token; None if the user has gone meanwhile.
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
        self._rows.sign(row, await loaded(self._transactions, user), "ticket")
        uses, owner = self._uses
        row["device_fingerprint"] = uses.where(owner == key).scalar_subquery()
        former = self._rows.ticket_of(former_token)
        old = and_(self._rows.tickets_of(key), self._table.expires_at < now)
        query = self._rows.insert(row, or_(old, false() if former is None else former))
        try:
            await self._execute(query)
        except Exception as exc:
            if not breaks_integrity(exc):
                raise
            return None
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
        uses, owner = self._uses
        unused = uses.where(owner == row.user_id).scalar_subquery()
        names = (
            "user_id",
            "token_digest",
            "former_digest",
            "password_fingerprint",
            "amr",
            "agent_id",
        )
        query = select(*(row[name] for name in names)).where(
            held, row.expires_at >= clock.now(), row.device_fingerprint.is_not_distinct_from(unused)
        )
        found = await self._execute(query)
        if not found:
            return None
        (ticket,) = found
        user = await loaded(self._transactions, await load_user(ticket.user_id))
        if user is None:
            return None
        if not is_active(user):
            await self.discard(token)
            return None
        return user if self._rows.is_of(ticket, user, "ticket") else None

    async def discard(self, token: object) -> bool:
        """End a ticket; whether it had not ended before. Of several who end one, one hears so."""
        held = self._rows.ticket_of(token)
        if held is None:
            return False
        query = delete(self._rows.table).where(held).returning(self._table.id)
        return bool(await self._execute(query))

    async def _execute(self, query: Any) -> Sequence[Any]:
        """Run one statement, which needs no transaction around it."""
        return await self._transactions.read(self._rows.running(query))
