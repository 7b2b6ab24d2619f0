"""Sessions: their rows found, begun, renewed and ended, by the token that the client holds."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, delete, insert, inspect, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstanceState

from starlette_otp import clock
from starlette_otp.devices.base import DeviceMixin
from starlette_otp.devices.owner import table_of
from starlette_otp.devices.sessions import MAX_USER_AGENT
from starlette_otp.devices.users import is_active, password_hash
from starlette_otp.exceptions import DeviceRejected
from starlette_otp.keyring import Keyring
from starlette_otp.service.transactions import Transactions

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)


@dataclass(slots=True)
class Found:
    """What a session's row says: the user, the device that verified them, and when.

    `own` says that the user object is this request's alone.
    """

    user: Any
    device: Any | None
    verified_at: datetime | None
    session_id: int | None
    own: bool = False


@dataclass(slots=True)
class Begun:
    """A session that has just begun or been renewed: its new token, its row, when verified."""

    token: str
    session_id: int
    verified_at: datetime | None


class Sessions:
    """The rows of `otp_session`.

    Args:
        transactions: over the host's sessionmaker.
        device_model: the class that mixes in DeviceMixin.
        keyring: for the digests.
    """

    def __init__(
        self, transactions: Transactions, device_model: type[Any], keyring: Keyring
    ) -> None:
        self._transactions = transactions
        self._keyring = keyring
        self._device_model = device_model
        self.model: type[Any] = device_model.__session_model__

    async def find(
        self,
        token: object,
        load_user: Callable[[Any], Awaitable[Any]],
        user: Any | None = None,
    ) -> Found | None:
        """What the row of a session says, in one SELECT; None without such a row.

        Args:
            token: what the client holds; one of the wrong shape costs no SQL.
            load_user: gives the user of a key, for users who live elsewhere.
            user: the user whom another backend found: the session has to be theirs.
        """
        digests = self._digests(token)
        if not digests:
            return None
        sessions, devices = self.model, self._device_model
        users = devices.__user_model__
        its_device = and_(
            devices.id == sessions.device_id,
            devices.user_id == sessions.user_id,
            devices.confirmed,
            devices.kind.in_(devices.kinds()),
        )
        query: Select[*tuple[Any, ...]] = select(sessions, devices).outerjoin(devices, its_device)
        if user is None and users is not None:
            its_user = inspect(users).primary_key[0] == sessions.user_id
            query = query.add_columns(users).join(users, its_user)
        query = query.where(sessions.token_digest.in_(digests), sessions.expires_at > clock.now())
        if user is not None:
            query = query.where(sessions.user_id == devices.user_key(user))

        async def work(session: AsyncSession) -> Any:
            return (await session.execute(query)).first()

        row = await self._transactions.read(work)
        if row is None:
            return None
        is_own = user is None and users is not None
        if is_own:
            user = row[2]
        elif user is None:
            user = await load_user(row[0].user_id)
        if user is None or not is_active(user):
            return None
        fingerprint = row[0].password_fingerprint
        if not self._keyring.digest_matches("password", password_hash(user), fingerprint):
            return None
        verified_at = row[0].verified_at if row[1] is not None else None
        return Found(user, row[1], verified_at, row[0].id, is_own)

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
        former = self._row_of(former_token, former_id)

        async def work(session: AsyncSession) -> int:
            await self._complete(session, user, device, row)
            if former is not None:
                await session.execute(delete(self.model).where(former))
            made = await session.execute(insert(self.model).values(row).returning(self.model.id))
            return int(made.scalar_one())

        return Begun(token, await self._write(work, device), row["verified_at"])

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
        # By its old token, too: a log-out or another log-in has ended or renewed it meanwhile.
        digests = self._digests(former_token)
        mine = self.model.id == session_id, self.model.token_digest.in_(digests)
        changes = {name: value for name, value in row.items() if name != "created_at"}

        async def work(session: AsyncSession) -> int:
            await self._complete(session, user, device, changes)
            query = update(self.model).where(*mine).values(changes).returning(self.model.id)
            renewed = await session.scalar(query)
            if renewed is None:
                raise DeviceRejected(device, "The session has ended meanwhile.")
            return int(renewed)

        return Begun(token, await self._write(work, device), row["verified_at"])

    async def end(self, token: object, session_id: int | None = None) -> None:
        """Delete the session's row, so that a copied token is worth nothing (ASVS 7.4.1)."""
        ended = self._row_of(token, session_id)
        if ended is not None:

            async def work(session: AsyncSession) -> None:
                await session.execute(delete(self.model).where(ended))

            await self._transactions.write(work)

    async def revoke(self, device_or_user: object) -> None:
        """`OTP.revoke_sessions`."""
        model = self.model
        statement: Any
        if isinstance(device_or_user, DeviceMixin):
            mine = model.device_id == device_or_user.id
            statement = update(model).where(mine).values(device_id=None, verified_at=None)
        else:
            key = self._device_model.user_key(device_or_user)
            if key is None:
                return
            statement = delete(model).where(model.user_id == key)

        async def work(session: AsyncSession) -> None:
            await session.execute(statement)

        await self._transactions.write(work)

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
        max_age = self.model.max_age
        lifetime = max_age if isinstance(max_age, timedelta) else timedelta(seconds=max_age)
        now = clock.now()
        token = secrets.token_urlsafe(32)
        return token, {
            "token_digest": self._keyring.digests("session", token)[0],
            "user_id": key,
            "device_id": None,
            "created_at": now,
            "verified_at": None if device is None else verified_at or now,
            "expires_at": now + lifetime,
            "user_agent": user_agent.replace("\0", "")[:MAX_USER_AGENT],
        }

    async def _complete(
        self, session: AsyncSession, user: Any, device: Any | None, row: dict[str, Any]
    ) -> None:
        """Add the device, if it may verify the user, and the fingerprint of the password.

        Both may be instances that a commit has expired: what decides is read from the database.
        """
        if device is not None:
            row["device_id"] = await self._accepted_id(session, device, row["user_id"])
        state = inspect(user, raiseerr=False)
        if isinstance(state, InstanceState) and state.expired_attributes:
            user = await session.get(type(user), state.identity)
        row["password_fingerprint"] = self._keyring.digests("password", password_hash(user))[0]

    async def _accepted_id(self, session: AsyncSession, device: Any, user_key: Any) -> int:
        model = self._device_model
        identity = inspect(device).identity if isinstance(device, model) else None
        if identity is None:
            raise DeviceRejected(device, "This device is not the user's.")
        columns = table_of(model).c
        query = select(columns.user_id, columns.confirmed).where(columns.id == identity[0])
        found = (await session.execute(query)).first()
        if found is None:
            raise DeviceRejected(device, "This device has gone meanwhile.")
        if found.user_id != user_key:
            raise DeviceRejected(device, "This device is not the user's.")
        if not found.confirmed:
            raise DeviceRejected(device, "This device is not confirmed.")
        return int(identity[0])

    async def _write(self, work: Callable[[AsyncSession], Awaitable[int]], device: Any) -> int:
        try:
            return await self._transactions.write(work)
        except IntegrityError as exc:
            raise DeviceRejected(device, "The device or its user has gone meanwhile.") from exc
