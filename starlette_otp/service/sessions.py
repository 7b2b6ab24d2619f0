"""Sessions: their rows found, begun, renewed and ended, by the token that the client holds."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Interval,
    Select,
    and_,
    bindparam,
    delete,
    func,
    inspect,
    literal,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstanceState

from starlette_otp import clock, signals
from starlette_otp.devices.base import DeviceMixin
from starlette_otp.devices.owner import table_of, user_key_column
from starlette_otp.devices.sessions import MAX_USER_AGENT, as_timedelta
from starlette_otp.devices.users import is_active, password_hash
from starlette_otp.exceptions import DeviceRejected, breaks_integrity
from starlette_otp.keyring import Keyring
from starlette_otp.service.rows import Statement, Unit
from starlette_otp.service.transactions import Transactions

logger = logging.getLogger("starlette_otp")

T = TypeVar("T")

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_RENEWED = (
    "token_digest",
    "device_id",
    "verified_at",
    "expires_at",
    "user_agent",
    "password_fingerprint",
    "former_digest",
    "former_until",
)
_SEEN_AGE = timedelta(minutes=10)
"""How often it is written when a session was seen, at most."""
_FORMER_AGE = timedelta(seconds=30)
"""How long a token still tells who it is after a verification gave its session another one."""
_GONE = "The device or its user has gone meanwhile."


@dataclass(slots=True)
class Found:
    """What a session's row says: the user, the device that verified them, and when.

    `own` says that the user object is this request's alone, `is_due` that it is to be noted that
    the session was seen.
    """

    user: Any
    device: Any | None
    verified_at: datetime | None
    session_id: int | None
    own: bool = False
    is_due: bool = False


@dataclass(slots=True)
class Begun:
    """A session that has just begun or been renewed: its new token, its row, when verified."""

    token: str = field(repr=False)
    session_id: int
    verified_at: datetime | None


class Sessions:
    """The rows of `otp_session`.

    Args:
        transactions: over the host's sessionmaker.
        device_model: the class that mixes in DeviceMixin.
        keyring: for the digests.
        sender: whom the signals name.
    """

    def __init__(
        self,
        transactions: Transactions,
        device_model: type[Any],
        keyring: Keyring,
        sender: object,
    ) -> None:
        self._sender = sender
        self._transactions = transactions
        self._keyring = keyring
        self._device_model = device_model
        self.model: type[Any] = device_model.__session_model__
        self._columns: Any = inspect(self.model).columns
        self._finds: dict[tuple[bool, bool, str], Statement] = {}

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

        Args:
            token: what the client holds; one of the wrong shape costs no SQL.
            load_user: gives the user of a key, for users who live elsewhere.
            user: the user whom another backend found: the session has to be theirs.
            session_id: the row of a session that was found by its token before, and may have been
                given another one since.
        """
        digests = self._digests(token)
        if not digests and session_id is None:
            return None
        devices, users = self._device_model, self._device_model.__user_model__
        is_own = user is None and users is not None
        models = (devices, users) if is_own else (devices,)
        now = clock.now()
        held = self._named(digests) if session_id is None else {"otp__session": session_id}
        values: dict[str, Any] = {**held, "otp__now": now}
        if user is not None:
            values["otp__owner"] = devices.user_key(user)

        async def find(by: str) -> Sequence[Sequence[Any]]:
            query = self._find(is_own, user is not None, by)

            async def work(unit: Unit) -> Sequence[Sequence[Any]]:
                return await unit.all(query, **values)

            return await self._transactions.run("AUTOCOMMIT", models, work)

        rows = await find("token" if session_id is None else "id")
        is_former = not rows and session_id is None
        rows = await find("former") if is_former else rows
        if not rows:
            return None
        session_id, user_key, verified_at, fingerprint, created_at, expires_at, device = rows[0][:7]
        device = None if is_former else device
        if is_own:
            user = rows[0][7]
        elif user is None:
            user = await load_user(user_key)
        if user is None or not is_active(user):
            return None
        if not self._keyring.digest_matches("password", password_hash(user), fingerprint):
            return None
        is_due = not is_former and self._is_due(created_at, expires_at, now)
        return Found(user, device, verified_at if device else None, session_id, is_own, is_due)

    def _is_due(self, created_at: datetime, expires_at: datetime, now: datetime) -> bool:
        """Whether a session, seen now, would end later than its row says, by what is worth it."""
        idle = self._idle_age
        if idle is None or expires_at >= now + idle - min(_SEEN_AGE, idle / 4):
            return False
        return expires_at < created_at + self._max_age

    async def seen(self, session_id: int) -> None:
        """Note that a session was seen: it ends `idle_age` from now, or when `max_age` is over."""
        now = clock.now()
        end = now + (self._idle_age or self._max_age)
        values = {"otp__session": session_id, "otp__now": now, "otp__expires_at": end}

        async def work(unit: Unit) -> None:
            await unit.all(self._seen, otp__max_age=self._max_age, **values)

        await self._transactions.run("AUTOCOMMIT", (self.model,), work)

    @cached_property
    def _seen(self) -> Statement:
        row = self._columns
        # One that has ended meanwhile stays so.
        mine = row.id == bindparam("otp__session"), row.expires_at > bindparam("otp__now")
        query = update(table_of(self.model)).where(*mine).values({row.expires_at: self._end()})
        return Statement(lambda *what: query.returning(*what), row.id)

    def _end(self) -> ColumnElement[Any]:
        """When a session ends that is seen now, as a part of its UPDATE."""
        created_at = self._columns.created_at
        latest = created_at + bindparam("otp__max_age", type_=Interval)
        return func.least(latest, bindparam("otp__expires_at", type_=created_at.type))

    @property
    def _max_age(self) -> timedelta:
        return as_timedelta(self.model.max_age)

    @property
    def _idle_age(self) -> timedelta | None:
        age = self.model.idle_age
        return None if age is None else as_timedelta(age)

    def _find(self, *which: Any) -> Statement:
        if which not in self._finds:
            self._finds[which] = self._make_find(*which)
        return self._finds[which]

    def _make_find(self, with_user: bool, of_user: bool, by: str) -> Statement:
        """The SELECT of a session, its device, and their user where they are in the database."""
        devices, users = self._device_model, self._device_model.__user_model__
        row, device = self._columns, table_of(devices).c
        its_device = [device.id == row.device_id, device.user_id == row.user_id, device.confirmed]
        held = {
            "token": self._is_held(row.token_digest),
            "former": self._is_former(row),
            "id": row.id == bindparam("otp__session"),
        }
        mine = [held[by], row.expires_at > bindparam("otp__now")]
        mine += [row.user_id == bindparam("otp__owner")] if of_user else []

        def make(*what: Any) -> Select[Any]:
            found = table_of(self.model).outerjoin(table_of(devices), and_(*its_device))
            if with_user:
                found = found.join(table_of(users), user_key_column(users) == row.user_id)
            return select(*what).select_from(found).where(*mine)

        def for_session(*what: Any) -> Select[Any]:
            # Entities, which may be more than one table each; and a session can't load rows of a
            # kind that this host does not declare.
            known = device.kind.in_(devices.kinds())
            query = select(*what).select_from(self.model)
            query = query.outerjoin(devices, and_(*its_device, known))
            if with_user:
                query = query.join(users, user_key_column(users) == row.user_id)
            return query.where(*mine)

        own = [row.id, row.user_id, row.verified_at, row.password_fingerprint]
        own += [row.created_at, row.expires_at]
        models = [devices, users] if with_user else [devices]
        return Statement(make, *own, *models, for_session=for_session)

    async def begin(
        self,
        user: Any,
        device: Any | None = None,
        *,
        verified_at: datetime | None = None,
        user_agent: str = "",
        former_token: object = None,
        former_id: int | None = None,
    ) -> Begun:
        """Begin a session; the former one of the same client ends.

        Args:
            user: whose session it is.
            device: what verifies it, or None.
            verified_at: when that was; now unless given.
            user_agent: the client's name.
            former_token: what the client held before.
            former_id: the row of that session, where it is known.

        Raises:
            ValueError: the user is nobody.
            DeviceRejected: the device is not the user's, not confirmed, or gone.
        """
        token, row = self._new_row(user, device, verified_at, user_agent)
        row["password_fingerprint"] = await self._fingerprint(user)
        query = self._insert(row, device, self._row_of(former_token, former_id))

        async def work(session: AsyncSession) -> int | None:
            made: int | None = await session.scalar(query)
            return made

        # One statement: it needs no transaction around it.
        made = await self._guard(device, self._transactions.read(work))
        if made is None:
            await self._reject(device, row["user_id"])
            raise DeviceRejected(device, _GONE)
        return Begun(token, made, row["verified_at"])

    def _insert(
        self, row: dict[str, Any], device: Any | None, former: ColumnElement[bool] | None
    ) -> Any:
        """The new row, if its device may verify its user, in place of the former one."""
        table = table_of(self.model)
        accepted: ColumnElement[bool] = true()
        if device is not None:
            its = table_of(self._device_model).c
            mine = its.id == self._id_of(device), its.user_id == row["user_id"]
            accepted = select(its.id).where(*mine, its.confirmed).exists()
            row["device_id"] = self._id_of(device)
        columns = {self._columns[name]: value for name, value in row.items()}
        values = [literal(value, column.type) for column, value in columns.items()]
        query = insert(table).from_select(list(columns), select(*values).where(accepted))
        # Done again after a connection broke, it may find its own row: nobody else has its token.
        own = self._columns.token_digest
        query = query.on_conflict_do_update(
            index_elements=[own], set_={own.name: row["token_digest"]}
        )
        if former is not None:
            query = query.add_cte(delete(table).where(former, accepted).cte("former"))
        return query.returning(self._columns.id)

    async def renew(
        self, user: Any, device: Any, session_id: int, former_token: object, user_agent: str = ""
    ) -> Begun:
        """Give a session a new token and the device that has just verified its user (ASVS 7.2.4).

        Raises:
            ValueError: the user is nobody.
            DeviceRejected: the device is not the user's, not confirmed, or gone; or the session
                has ended.
        """
        token, row = self._new_row(user, device, None, user_agent)
        row["password_fingerprint"] = await self._fingerprint(user)
        row["device_id"] = self._id_of(device)
        # By its old token, too: a log-out or another log-in has ended or renewed it meanwhile.
        former, now = self._digests(former_token), clock.now()
        row["former_digest"] = former[0] if former else None
        row["former_until"] = now + _FORMER_AGE
        values = {f"otp__{name}": row[name] for name in _RENEWED}
        values |= {"otp__now": now, "otp__max_age": self._max_age}

        async def work(unit: Unit) -> int | None:
            mine = {"otp__session": session_id, "otp__owner": row["user_id"]}
            renewed = await unit.all(self._renew, **mine, **self._named(former), **values)
            return int(renewed[0][0]) if renewed else None

        models = (self.model, self._device_model)
        renewed = await self._guard(device, self._transactions.run("AUTOCOMMIT", models, work))
        if renewed is None:
            await self._reject(device, row["user_id"])
            raise DeviceRejected(device, "The session has ended meanwhile.")
        return Begun(token, renewed, row["verified_at"])

    @cached_property
    def _renew(self) -> Statement:
        """The UPDATE of a session; that its device may verify its user is a part of it."""
        row, device = self._columns, table_of(self._device_model).c
        held = or_(self._is_held(row.token_digest), self._is_former(row))
        mine = row.id == bindparam("otp__session"), held
        its_device = device.id == bindparam("otp__device_id"), device.confirmed
        owner: Any = bindparam("otp__owner")
        values: Any = {row[name]: bindparam(f"otp__{name}") for name in _RENEWED}
        values[row.expires_at] = self._end()
        query = update(table_of(self.model)).where(*mine, row.user_id == owner)
        query = query.where(*its_device, device.user_id == row.user_id).values(values)
        return Statement(lambda *what: query.returning(*what), row.id)

    async def end(self, token: object, session_id: int | None = None) -> None:
        """Delete the session's row, so that a copied token is worth nothing (ASVS 7.4.1)."""
        ended = self._row_of(token, session_id)
        if ended is not None:

            async def work(session: AsyncSession) -> None:
                await session.execute(delete(self.model).where(ended))

            await self._transactions.write(work)

    async def revoke(self, device_or_user: object) -> None:
        """`OTP.revoke_sessions`."""
        if isinstance(device_or_user, DeviceMixin):
            await self._unverify(device_or_user)
        else:
            if isinstance(device_or_user, str | int | type):
                name = type(device_or_user).__name__
                raise TypeError(f"revoke_sessions takes a device or a user, not {name}.")
            await self._end_all(device_or_user)

    async def _unverify(self, device: DeviceMixin) -> None:
        model = self.model
        mine = update(model).where(model.device_id == device.id)

        async def work(session: AsyncSession) -> None:
            await session.execute(mine.values(device_id=None, verified_at=None))

        await self._transactions.write(work)
        logger.info("Sessions that %s verified are verified no longer.", device)

    async def _end_all(self, user: object) -> None:
        """End the user's sessions, and tell of each, with the browser that it knew."""
        model = self.model
        key = self._device_model.user_key(user)
        if key is None:
            return
        query = delete(model).where(model.user_id == key).returning(model.user_agent)

        async def work(session: AsyncSession) -> Sequence[str]:
            return (await session.scalars(query)).all()

        for agent in await self._transactions.write(work):
            logger.info("A session of user %r ended (revoked), from %r by %r.", key, "", agent)
            told = {"reason": "revoked", "address": "", "agent": agent}
            await signals.send(signals.otp_logged_out, self._sender, user=user, device=None, **told)

    async def clear(self, batch: int = 1000) -> int:
        """`OTP.clear_sessions`."""
        model = self.model
        expired = select(model.id).where(model.expires_at <= clock.now()).limit(batch)
        query = delete(model).where(model.id.in_(expired.with_for_update(skip_locked=True)))

        async def work(session: AsyncSession) -> int:
            return len((await session.execute(query.returning(model.id))).all())

        total = 0
        while deleted := await self._transactions.write(work):
            total += deleted
        return total

    def _digests(self, token: object) -> Sequence[str]:
        """The digests under which a token may be stored; none for what can be no token."""
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            return []
        return self._keyring.digests("session", token)

    def _is_held(self, column: Any) -> ColumnElement[bool]:
        """Whether a column has one of the digests, each a parameter: there is one for each key."""
        names = [f"otp__digest_{number}" for number in range(self._keyring.number)]
        found: ColumnElement[bool] = column.in_([bindparam(name) for name in names])
        return found

    def _is_former(self, row: Any) -> ColumnElement[bool]:
        """Whether a row had one of the digests until its last verification, moments ago."""
        return and_(self._is_held(row.former_digest), row.former_until > bindparam("otp__now"))

    def _named(self, digests: Sequence[str]) -> dict[str, str]:
        """Those parameters; a token of no digest is nobody's."""
        return {
            f"otp__digest_{number}": digests[number] if digests else ""
            for number in range(self._keyring.number)
        }

    def _row_of(self, token: object, session_id: int | None) -> ColumnElement[bool] | None:
        """The row of a session: by its id, too, since a verification renews the token."""
        digests = self._digests(token)
        if session_id is None:
            return self.model.token_digest.in_(digests) if digests else None
        return or_(self.model.id == session_id, self.model.token_digest.in_(digests))

    def _new_row(
        self, user: Any, device: Any | None, verified_at: datetime | None, user_agent: str
    ) -> tuple[str, dict[str, Any]]:
        key = self._device_model.user_key(user)
        if key is None:
            raise ValueError("log_in needs an authenticated user.")
        now = clock.now()
        token = secrets.token_urlsafe(32)
        return token, {
            "token_digest": self._keyring.digests("session", token)[0],
            "user_id": key,
            "device_id": None,
            "created_at": now,
            "verified_at": None if device is None else verified_at or now,
            "expires_at": now + min(self._max_age, self._idle_age or self._max_age),
            "user_agent": user_agent.replace("\0", "")[:MAX_USER_AGENT],
        }

    async def _fingerprint(self, user: Any) -> str:
        state = inspect(user, raiseerr=False)
        if isinstance(state, InstanceState) and state.expired_attributes:
            model, identity = type(user), state.identity

            async def work(session: AsyncSession) -> Any:
                return await session.get(model, identity)

            user = await self._transactions.read(work)
        return self._keyring.digests("password", password_hash(user))[0]

    def _id_of(self, device: Any) -> int:
        """The device's id, which an instance expired by a commit still knows; 0 for no device."""
        identity = inspect(device).identity if isinstance(device, self._device_model) else None
        return int(identity[0]) if identity else 0

    async def _reject(self, device: Any, user_key: Any) -> None:
        """Say why a device may not verify the user, if it may not."""
        columns = table_of(self._device_model).c
        query = select(columns.user_id, columns.confirmed).where(columns.id == self._id_of(device))

        async def work(session: AsyncSession) -> Any:
            return (await session.execute(query)).first()

        found = await self._transactions.read(work)
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
