"""Sessions: found, begun, renewed and ended, by the token that the client holds."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Select, delete, false, inspect, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp import clock
from starlette_otp.devices.owner import table_of
from starlette_otp.devices.sessions import MAX_USER_AGENT, as_timedelta
from starlette_otp.devices.users import is_active
from starlette_otp.exceptions import DeviceRejected, breaks_integrity
from starlette_otp.service.rows import Unit
from starlette_otp.service.session_rows import Held, SessionRows
from starlette_otp.service.transactions import Transactions
from starlette_otp.service.users import loaded

logger = logging.getLogger("starlette_otp")

T = TypeVar("T")

_SEEN_AGE = timedelta(minutes=10)
"""How often it is written when a session was seen, at most."""
_FORMER_AGE = timedelta(seconds=30)
"""How long a token still tells who it is after a verification gave its session another one."""
_GONE = "The device or its user has gone meanwhile."


@dataclass(slots=True)
class Found:
    """What a session's row says: the user, the device that verified them, and when.

    `own` says that the user object is this request's alone, `is_due` that it is to be noted that
    the session was seen; `amr`, `agent_id` and `is_trusted` are as the row has them.
    """

    user: Any
    device: Any | None
    verified_at: datetime | None
    session_id: int | None
    own: bool = False
    is_due: bool = False
    amr: str | None = None
    agent_id: int | None = None
    is_trusted: bool = False


@dataclass(slots=True)
class Begun:
    """A session that has just begun or been renewed: its new token, its row, when verified."""

    token: str = field(repr=False)
    session_id: int
    verified_at: datetime | None


class Sessions:
    """The sessions among the rows of `otp_session`.

    Args:
        transactions: over the host's sessionmaker.
        rows: over the class of the devices.
        sender: whom the signals name.
    """

    def __init__(self, transactions: Transactions, rows: SessionRows, sender: object) -> None:
        self._sender = sender
        self._transactions = transactions
        self._rows = rows
        self._device_model = rows.device_model
        self.model = rows.model
        self._table = rows.table

    async def find(
        self,
        token: object,
        load_user: Callable[[Any], Awaitable[Any]],
        user: Any | None = None,
        session_id: int | None = None,
    ) -> Found | None:
        """What the row of a session says, in one SELECT; None without such a row.

        The answer to a verification may be lost on its way: for 30 seconds the token from before
        it still says who it is, unverified (a second SELECT, where the first found nothing).

        For good a row goes whose user is inactive, and one whose device is unconfirmed, or not the
        user's any more, loses its verification.

        Args:
            token: what the client holds; one of the wrong shape costs no SQL.
            load_user: gives the user of a key, for users who live elsewhere.
            user: the user whom another backend found: the session has to be theirs.
            session_id: the row of a session that was found by its token before, and may have been
                given another one since.
        """
        digests = self._rows.digests(token)
        if not digests and session_id is None:
            return None
        devices, users = self._device_model, self._device_model.__user_model__
        is_own = user is None and users is not None
        models = (devices, users) if is_own else (devices,)
        now = clock.now()
        by_token = self._rows.named(digests)
        given = by_token if session_id is None else {"otp__session": session_id}
        values: dict[str, Any] = {**given, "otp__now": now}
        if user is not None:
            values["otp__owner"] = devices.user_key(user)

        async def find(by: str) -> Sequence[Sequence[Any]]:
            query = self._rows.find(is_own, user is not None, by)

            async def work(unit: Unit) -> Sequence[Sequence[Any]]:
                return await unit.all(query, **values)

            return await self._transactions.run("AUTOCOMMIT", models, work)

        found = await find("token" if session_id is None else "id")
        is_former = not found and session_id is None
        found = await find("former") if is_former else found
        if not found:
            return None
        *row, device = found[0][: len(Held._fields) + 1]
        held = Held(*row)
        if is_own:
            user = found[0][-1]
        elif user is None:
            user = await load_user(held.user_id)
        if not await self._is_good(held, user):
            return None
        is_due = not is_former and self._is_due(held, now)
        found_as = Found(user, None, None, held.id, is_own, is_due, held.amr, held.agent_id)
        if not is_former and await self._is_verified(held, device):
            found_as.device, found_as.verified_at = device, held.verified_at
            found_as.is_trusted = held.is_trusted
        return found_as

    async def _is_good(self, held: Held, user: Any | None) -> bool:
        """Whether a row is the user's; that of an inactive one goes, and does not come back."""
        user = await loaded(self._transactions, user)
        if user is None:
            return False
        if not is_active(user):
            await self._execute(delete(self._table).where(self._table.c.id == held.id))
            agents = self._device_model.__agent_model__
            if agents is not None:
                its = table_of(agents)
                await self._execute(delete(its).where(its.c.user_id == held.user_id))
            return False
        return self._rows.is_of(held, user)

    async def _is_verified(self, held: Held, device: Any | None) -> bool:
        """Whether its device verified a row; one that may not any more does not again."""
        if device is not None:
            return self._rows.is_verified(held)
        if held.device_id is not None and held.kind is None:
            await self._execute(self._rows.unverify(held))
        return False

    def _is_due(self, held: Held, now: datetime) -> bool:
        """Whether it is to be written that a session is seen now."""
        idle = self._idle_age
        age = _SEEN_AGE if idle is None else min(_SEEN_AGE, idle / 4)
        return held.seen_at is None or held.seen_at < now - age

    def still_there(self, session_id: int | None, owner: Any) -> Select[Any] | None:
        """The SELECT that locks a session's row, if it has not ended; None without one of ours."""
        if session_id is None:
            return None
        row = self._table.c
        mine = row.id == session_id, row.user_id == owner, row.expires_at > clock.now()
        return select(row.id).where(*mine).with_for_update()

    async def seen(self, session_id: int) -> None:
        """Note that a session was seen: it ends `idle_age` from now, or when `max_age` is over."""
        now = clock.now()
        end = now + (self._idle_age or self._max_age)
        values = {"otp__session": session_id, "otp__now": now, "otp__expires_at": end}

        async def work(unit: Unit) -> None:
            await unit.all(self._rows.seen, otp__max_age=self._max_age, **values)

        await self._transactions.run("AUTOCOMMIT", (self.model,), work)

    @property
    def _max_age(self) -> timedelta:
        return as_timedelta(self.model.max_age)

    @property
    def _idle_age(self) -> timedelta | None:
        age = self.model.idle_age
        return None if age is None else as_timedelta(age)

    async def begin(
        self,
        user: Any,
        device: Any | None = None,
        *,
        user_agent: str = "",
        former_token: object = None,
        former_id: int | None = None,
        amr: str | None = None,
        since: datetime | None = None,
        agent_id: int | None = None,
        is_trusted: bool = False,
    ) -> Begun:
        """Begin a session; the former one of the same client ends, and the user's tickets do.

        Args:
            user: whose session it is.
            device: what verifies it, or None.
            user_agent: the client's name.
            former_token: what the client held before.
            former_id: the row of that session, where it is known.
            amr: how the user was authenticated, if not by their password.
            since: when that was, if not now.
            agent_id: the trusted browser that stands for a token.
            is_trusted: the user trusts the browser as long as the session lasts, verified.

        Raises:
            ValueError: the user is nobody.
            DeviceRejected: the device is not the user's, not confirmed, or gone.
        """
        verified_at = None if device is None else await self._accepted_at(device)
        token, row = self._new_row(user, device, verified_at, user_agent)
        row["amr"], row["created_at"] = amr, since or row["created_at"]
        row["agent_id"], row["is_trusted"] = agent_id, is_trusted and device is not None
        self._rows.sign(row, await loaded(self._transactions, user))
        owner, former = row["user_id"], self._rows.row_of(former_token, former_id)
        replaced = or_(false() if former is None else former, self._rows.tickets_of(owner))
        accepted = None if device is None else self._rows.accepts(row["device_id"], owner)
        work = self._rows.running(self._rows.insert(row, replaced, accepted))
        # One statement: it needs no transaction around it.
        made = await self._guard(device, self._transactions.read(work))
        if not made:
            await self._reject(device, owner)
            raise DeviceRejected(device, _GONE)
        return Begun(token, made[0][0], row["verified_at"])

    async def renew(
        self,
        user: Any,
        device: Any,
        session_id: int,
        former_token: object,
        user_agent: str = "",
        verified_at: datetime | None = None,
        forget_former: bool = False,
        amr: str | None = None,
        is_trusted: bool = False,
    ) -> Begun:
        """Give a session a new token and the device that has just verified its user (ASVS 7.2.4).

        Args:
            user: whose session it is.
            device: what verified it.
            session_id: its row.
            former_token: what the client holds.
            user_agent: the client's name.
            verified_at: when that was, if it was not its last token: the session goes on, and the
                device has to verify it still.
            forget_former: what the client holds is worth nothing from now on.
            amr: as the row has it.
            is_trusted: the user trusts the browser as long as the session lasts.

        Raises:
            ValueError: the user is nobody.
            DeviceRejected: the device is not the user's, not confirmed, or gone; or the session
                has ended.
        """
        moment = verified_at or await self._accepted_at(device)
        token, row = self._new_row(user, device, moment, user_agent)
        # By its old token, too: a log-out or another log-in has ended or renewed it meanwhile.
        former, now = self._rows.digests(former_token), clock.now()
        row["former_digest"] = former[0] if former and not forget_former else None
        row["former_until"], row["amr"] = now + _FORMER_AGE, amr
        row["agent_id"], row["is_trusted"] = None, is_trusted
        self._rows.sign(row, await loaded(self._transactions, user))
        values = {**self._rows.named(former), **self._rows.renewed(row)}
        values |= {"otp__now": now, "otp__max_age": self._max_age}
        values["otp__still"] = None if verified_at is None else row["device_id"]

        async def work(unit: Unit) -> int | None:
            mine = {"otp__session": session_id, "otp__owner": row["user_id"]}
            renewed = await unit.all(self._rows.renew, **mine, **values)
            return int(renewed[0][0]) if renewed else None

        models = (self.model, self._device_model)
        renewed = await self._guard(device, self._transactions.run("AUTOCOMMIT", models, work))
        if renewed is None:
            await self._reject(device, row["user_id"])
            raise DeviceRejected(device, "The session has ended meanwhile.")
        return Begun(token, renewed, row["verified_at"])

    async def trust(
        self,
        session_id: int,
        token: object,
        device: Any,
        verified_at: datetime,
        is_trusted: bool,
    ) -> bool:
        """Let a verified session's user trust its browser as long as it lasts, or not any more.

        Args:
            session_id: its row.
            token: what the client holds.
            device: what verified it.
            verified_at: when.
            is_trusted: whether they do.

        Returns:
            False if it has ended, or another token, since.
        """
        values: dict[str, Any] = {"is_trusted": is_trusted}
        for digest in self._rows.digests(token):
            values["device_fingerprint"] = self._rows.fingerprint(
                digest, self._id_of(device), verified_at, is_trusted
            )
            query = self._rows.trust(session_id, digest, values)
            # An ended verification has no fingerprint, and gets none.
            query = query.where(self._table.c.verified_at == verified_at)
            if await self._execute(query):
                return True
        return False

    async def end(
        self,
        token: object,
        session_id: int | None = None,
        user: object = None,
        ticket_token: object = None,
    ) -> None:
        """Delete the session's row, so that a copied token is worth nothing (ASVS 7.4.1).

        The tickets of its user end, too, wherever they are.

        Args:
            token: what the client holds.
            session_id: the row of its session, where it is known.
            user: whose session it is, where that is known.
            ticket_token: of the ticket that the client holds.
        """
        rows = self._rows.row_of(token, session_id), self._rows.ticket_of(ticket_token)
        ended = [row for row in rows if row is not None]
        key = self._device_model.user_key(user)
        if ended or key is not None:
            await self._execute(self._rows.end(ended, key))

    async def clear(self, batch: int = 1000) -> int:
        """`OTP.clear_sessions`; tickets go, too, and are not counted."""
        row = self._table.c
        expired = select(row.id).where(row.expires_at <= clock.now()).limit(batch)
        query = delete(self._table).where(row.id.in_(expired.with_for_update(skip_locked=True)))
        total = 0
        while deleted := await self._execute(query.returning(row.is_ticket)):
            total += sum(not is_ticket for (is_ticket,) in deleted)
        return total

    async def _execute(self, query: Any) -> Sequence[Any]:
        """Run one statement that changes rows; what it returns."""
        return await self._transactions.write(self._rows.running(query))

    async def _select_first(self, query: Select[Any]) -> Any:
        async def work(session: AsyncSession) -> Any:
            return (await session.execute(query)).first()

        return await self._transactions.read(work)

    def _new_row(
        self, user: Any, device: Any | None, verified_at: datetime | None, user_agent: str
    ) -> tuple[str, dict[str, Any]]:
        key = self._device_model.user_key(user)
        if key is None:
            raise ValueError("log_in needs an authenticated user.")
        now = clock.now()
        token = secrets.token_urlsafe(32)
        return token, {
            "token_digest": self._rows.digest(token),
            "user_id": key,
            "device_id": None if device is None else self._id_of(device),
            "created_at": now,
            "verified_at": verified_at,
            "expires_at": now + min(self._max_age, self._idle_age or self._max_age),
            "seen_at": now,
            "user_agent": user_agent.replace("\0", "")[:MAX_USER_AGENT],
            "is_ticket": False,
        }

    async def _accepted_at(self, device: Any) -> datetime:
        """When a device accepted its last token; of one that has not yet, when it was made.

        So a device that was not asked makes nothing fresh.
        """
        # As far as it is loaded: an instance that a commit has expired may have no session.
        known = vars(device) if isinstance(device, self._device_model) else {}
        if not {"last_used_at", "created_at"} <= known.keys():
            columns = table_of(self._device_model).c
            query = select(columns.last_used_at, columns.created_at)
            found = await self._select_first(query.where(columns.id == self._id_of(device)))
            known = {} if found is None else found._mapping
        now = clock.now()
        return min(now, known.get("last_used_at") or known.get("created_at") or now)

    def _id_of(self, device: Any) -> int:
        """The device's id, which an instance expired by a commit still knows; 0 for no device."""
        identity = inspect(device).identity if isinstance(device, self._device_model) else None
        return int(identity[0]) if identity else 0

    async def _reject(self, device: Any, user_key: Any) -> None:
        """Say why a device may not verify the user, if it may not."""
        columns = table_of(self._device_model).c
        query = select(columns.user_id, columns.confirmed).where(columns.id == self._id_of(device))

        found = await self._select_first(query)
        if found is None and self._id_of(device):
            raise DeviceRejected(device, "This device has gone meanwhile.")
        if found is None or found.user_id != user_key:
            raise DeviceRejected(device, "This device is not the user's.")
        if not found.confirmed:
            raise DeviceRejected(device, "This device is not confirmed.")

    async def _guard(self, device: Any, writing: Awaitable[T]) -> T:
        try:
            return await writing
        except Exception as exc:
            if not breaks_integrity(exc):
                raise
            raise DeviceRejected(device, _GONE) from exc
