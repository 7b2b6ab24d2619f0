"""Agents: browsers that users trust, found by their token, replaced, and ended."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, inspect, literal, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp import clock, signals
from starlette_otp.devices.agents import days_of
from starlette_otp.devices.base import DeviceMixin
from starlette_otp.devices.owner import table_of
from starlette_otp.devices.sessions import MAX_USER_AGENT
from starlette_otp.devices.users import is_active, password_hash
from starlette_otp.exceptions import AgentRejected, breaks_integrity
from starlette_otp.keyring import Keyring
from starlette_otp.service.enrolment import take_turn
from starlette_otp.service.transactions import Transactions
from starlette_otp.service.users import loaded

logger = logging.getLogger("starlette_otp")

_FORMER_AGE = timedelta(seconds=60)
"""How long a token is good after the next one was seen: requests come at the same time."""
_ROTATION_AGE = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(slots=True)
class Known:
    """A browser that was found: its row, the device that vouched for it, until when it is trusted.

    `token` is set where it is to hold another from now on; `device` is None where it is of a kind
    that this host does not declare.
    """

    row: Any
    device: Any
    expires_at: datetime | None
    token: str | None = field(default=None, repr=False)


class Agents:
    """The rows of `otp_agent`.

    Args:
        transactions: over the host's sessionmaker.
        device_model: the class that mixes in DeviceMixin; it has a class of agents.
        keyring: for digests and fingerprints.
        sender: whom the signals name.
    """

    def __init__(
        self,
        transactions: Transactions,
        device_model: type[Any],
        keyring: Keyring,
        sender: object,
    ) -> None:
        self.model: Any = device_model.__agent_model__
        self._table = table_of(self.model)
        self._transactions = transactions
        self._device_model = device_model
        self._keyring = keyring
        self._sender = sender

    async def find(
        self,
        user: object,
        token: str,
        is_new_session: bool = False,
        may_rotate: bool = True,
        agent_id: int | None = None,
    ) -> Known | None:
        """The user's browser that holds a token, in one SELECT; None if it is not trusted.

        One whose trust is over goes, and so does one of which a copy turns up: of two browsers
        that hold tokens of one row one has an old one, a minute after the new one was seen.

        Args:
            user: whose browser it has to be.
            token: what it holds.
            is_new_session: it is to have another token.
            may_rotate: it can be told of another token.
            agent_id: of one that this connection was found to be before, whatever its token is now.
        """
        key, agents = self._key(user), self.model
        digests = self._keyring.digests("agent", token)
        columns = agents.token_digest, agents.former_digest, agents.lost_digest
        held = or_(*(column.in_(digests) for column in columns))
        query = self._with_device().where(
            agents.user_id == key, held if agent_id is None else agents.id == agent_id
        )

        async def work(session: AsyncSession) -> Any:
            return (await session.execute(query)).first()

        found = None if key is None else await self._transactions.read(work)
        if found is None:
            return None
        row, its_kind, device = found
        user = await loaded(self._transactions, user)
        now, is_former = clock.now(), row.token_digest not in digests
        is_old = row.former_until is not None and row.former_until < now
        is_copy = row.lost_digest in digests or (is_former and is_old)
        if is_copy and agent_id is None:
            await self._steal(user, row)
            return None
        is_good = its_kind is not None and is_active(user) and not row.is_over(user)
        if not is_good or not self._is_signed(row, user):
            await self._delete(key, self._table.c.id == row.id)
            return None
        known = Known(row, device, None)
        if agent_id is None:
            await self._pass_on(known, user, digests, is_new_session, may_rotate)
        known.expires_at = row.expires_at(user)
        return known

    def _with_device(self) -> Any:
        """The SELECT of browsers, each with its device's kind, if that is confirmed, and device."""
        devices, agents = self._device_model, self.model
        its = table_of(devices).alias()
        mine = its.c.id == agents.device_id, its.c.user_id == agents.user_id, its.c.confirmed
        # Rows of a kind that this host does not declare would be an error when loaded.
        known = devices.id == its.c.id, devices.kind.in_(devices.kinds())
        query = select(agents, its.c.kind, devices).outerjoin(its, and_(*mine))
        return query.outerjoin(devices, and_(*known))

    async def _pass_on(
        self,
        known: Known,
        user: object,
        digests: Sequence[str],
        is_new_session: bool,
        may_rotate: bool,
    ) -> None:
        """Give a browser its next token when that is due, or note that it has come with it."""
        row, now = known.row, clock.now()
        is_due = is_new_session or row.rotated_at < now - self._rotation_age(user)
        if row.token_digest not in digests:
            # The answer that brought the next one may be lost; others were sent at the same time.
            is_lost = row.former_until is None and row.rotated_at < now - _FORMER_AGE
            if may_rotate and is_lost:
                row.lost_digest = row.token_digest
                known.token = await self._rotate(row, user, row.former_digest)
        elif may_rotate and is_due:
            known.token = await self._rotate(row, user, row.token_digest)
        elif row.former_digest is not None and row.former_until is None:
            agents = self._table.c
            seen = update(self._table).where(agents.id == row.id, agents.former_until.is_(None))
            seen = seen.where(agents.token_digest == row.token_digest)
            until = seen.values(former_until=now + _FORMER_AGE).returning(agents.id)
            await self._execute(until)

    async def trust(
        self,
        user: object,
        device: Any,
        *,
        days: float | None = None,
        user_agent: str = "",
        former_token: str | None = None,
        is_allowed: Any = None,
    ) -> Known:
        """Trust a browser, in place of what it held before.

        Args:
            user: whose browser it is.
            device: the one that has verified them there.
            days: how long, at most.
            user_agent: what the browser calls itself.
            former_token: what it held.
            is_allowed: finds and locks a row, or else nothing is written.

        Raises:
            AgentRejected: the user, the device or the session has gone meanwhile.
        """
        key, now, token = self._key(user), clock.now(), secrets.token_urlsafe(32)
        row = self.model(
            token_digest=self._keyring.digests("agent", token)[0],
            user_id=key,
            device_id=device.id,
            trusted_at=now,
            trust_days_given=None if days is None else float(days),
            last_seen_at=now,
            rotated_at=now,
            user_agent=user_agent.replace("\0", "")[:MAX_USER_AGENT],
        )
        owner = await loaded(self._transactions, user)
        row.fingerprint = self._fingerprint(row, owner)
        former = [] if former_token is None else self._keyring.digests("agent", former_token)
        agents = self._table.c
        mine = agents.user_id == key
        latest = (
            select(agents.id).where(mine).order_by(agents.last_seen_at.desc(), agents.id.desc())
        )
        beyond = agents.id.in_(latest.offset(self.model.max_agents - 1).scalar_subquery())
        held = or_(agents.token_digest.in_(former), agents.former_digest.in_(former))
        mapper = {"mapper": inspect(self.model)}
        its = table_of(self._device_model).c
        vouches = select(its.id).where(its.id == device.id, its.user_id == key, its.confirmed)
        needed = [vouches.with_for_update(key_share=True)]
        needed += [] if is_allowed is None else [is_allowed]

        async def work(session: AsyncSession) -> None:
            await take_turn(session, self._device_model, "agents", key)
            for wanted in needed:
                if (await session.execute(wanted, bind_arguments=mapper)).first() is None:
                    raise AgentRejected("The device or the session has gone meanwhile.")
            for gone in (held, beyond):
                query = delete(self._table).where(mine, gone)
                await session.execute(query, bind_arguments=mapper)
            session.add(row)

        try:
            await self._transactions.write(work)
        except Exception as exc:
            if not breaks_integrity(exc):
                raise
            raise AgentRejected("The device or the session has gone meanwhile.") from exc
        logger.info("User %r trusts a browser (%s), by %r.", key, row.id, row.user_agent)
        await signals.send(
            signals.otp_agent_trusted, self._sender, user=user, device=device, agent=row
        )
        return Known(row, device, row.expires_at(owner), token)

    async def forget(self, user: object, token: str) -> int:
        """End the trust in the browser that holds a token; in how many."""
        digests, agents = self._keyring.digests("agent", token), self._table.c
        return await self._revoke(
            user, or_(agents.token_digest.in_(digests), agents.former_digest.in_(digests))
        )

    async def of_user(self, user: object) -> list[Any]:
        """The browsers that the user trusts, the last seen first."""
        key, agents = self._key(user), self.model
        if key is None:
            return []
        query = select(agents).where(agents.user_id == key)
        query = query.order_by(agents.last_seen_at.desc(), agents.id.desc())

        async def work(session: AsyncSession) -> list[Any]:
            return list((await session.scalars(query)).unique())

        rows, user = await self._transactions.read(work), await loaded(self._transactions, user)
        # One from before a new password is trusted by nobody, and goes when it is used.
        return [row for row in rows if self._is_signed(row, user) and not row.is_over(user)]

    async def revoke(self, user: object, agent_id: int) -> bool:
        """End the trust in one of the user's browsers; whether there was one."""
        if type(agent_id) is not int or not 0 < agent_id < 2**63:
            return False
        return await self._revoke(user, self._table.c.id == agent_id) > 0

    async def revoke_others(self, user: object, agent_id: int | None) -> int:
        """End the trust in all of the user's browsers but this one; in how many."""
        row = self._table.c
        return await self._revoke(user, true() if agent_id is None else row.id != agent_id)

    async def revoke_of(self, device_or_user: object) -> None:
        """End the trust that a device has vouched for, or all of a user's."""
        if isinstance(device_or_user, DeviceMixin):
            await self._delete(device_or_user.user_id, self._table.c.device_id == device_or_user.id)
        else:
            await self.revoke_others(device_or_user, None)

    async def clear(self, batch: int = 1000) -> None:
        """Delete browsers whose trust is over for everybody, `batch` rows at a time."""
        row, now = self._table.c, clock.now()
        over = [row.trusted_at + row.trust_days_given * literal(timedelta(days=1)) <= now]
        for days, since in (
            (self.model.trust_days, row.trusted_at),
            (self.model.inactivity_days, row.last_seen_at),
        ):
            limit = None if callable(days) else days_of(days, None)
            if limit is not None:
                over.append(since <= now - timedelta(days=limit))
        expired = select(row.id).where(or_(*over)).limit(batch).with_for_update(skip_locked=True)
        query = delete(self._table).where(row.id.in_(expired)).returning(row.id)
        while await self._execute(query):
            pass

    def _key(self, user: object) -> Any:
        return self._device_model.user_key(user)

    def _rotation_age(self, user: object) -> timedelta:
        """After how much use a browser gets another token, and is noted as seen."""
        idle = days_of(self.model.inactivity_days, user)
        return _ROTATION_AGE if idle is None else min(_ROTATION_AGE, timedelta(days=idle / 4))

    async def _rotate(self, row: Any, user: object, former: str) -> str | None:
        """Another token for a browser, until then good for `former`, too.

        Returns:
            None if one of its other requests was faster.
        """
        token, now, before = secrets.token_urlsafe(32), clock.now(), row.token_digest
        row.token_digest = self._keyring.digests("agent", token)[0]
        # As long as nobody comes with the new one, nobody may have it.
        row.former_digest, row.former_until = former, None
        row.last_seen_at = row.rotated_at = now
        row.fingerprint = self._fingerprint(row, user)
        names = "token_digest", "former_digest", "former_until", "lost_digest", "last_seen_at"
        values = {name: getattr(row, name) for name in (*names, "rotated_at", "fingerprint")}
        agents = self._table.c
        query = update(self._table).where(agents.id == row.id, agents.token_digest == before)
        rotated = await self._execute(query.values(values).returning(agents.id))
        return token if rotated else None

    async def _steal(self, user: Any, row: Any) -> None:
        """Two browsers hold tokens of one row: one is a copy, and nobody knows which."""
        if not await self._delete(row.user_id, self._table.c.id == row.id):
            return
        words = "A copy of the cookie of a trusted browser of user %r was used (%s): it is revoked."
        logger.warning(words, row.user_id, row.id)
        await signals.send(
            signals.otp_agent_stolen, self._sender, user=user, device=None, agent=row
        )

    async def _revoke(self, user: object, which: ColumnElement[bool]) -> int:
        key = self._key(user)
        if key is None:
            return 0
        ended = await self._delete(key, which)
        for (agent_id,) in ended:
            logger.info("User %r trusts a browser no more (%s).", key, agent_id)
            told: dict[str, Any] = {"user": user, "device": None, "agent_id": agent_id}
            await signals.send(signals.otp_agent_revoked, self._sender, **told)
        return len(ended)

    async def _delete(self, key: Any, which: ColumnElement[bool]) -> Sequence[Any]:
        row = self._table.c
        query = delete(self._table).where(row.user_id == key, which).returning(row.id)
        return await self._execute(query)

    async def _execute(self, query: Any) -> Sequence[Any]:
        mapper = {"mapper": inspect(self.model)}

        async def work(session: AsyncSession) -> Sequence[Any]:
            return (await session.execute(query, bind_arguments=mapper)).all()

        return await self._transactions.write(work)

    def _fingerprint(self, row: Any, user: Any) -> str:
        return self._keyring.digests("trusted", _bound(row, user))[0]

    def _is_signed(self, row: Any, user: Any) -> bool:
        """Whether a row is as it was signed for this user and their password."""
        return self._keyring.digest_matches("trusted", _bound(row, user), row.fingerprint)


def _bound(row: Any, user: Any) -> str:
    trusted_at = (row.trusted_at - _EPOCH) // _MICROSECOND
    parts = row.token_digest, row.former_digest, row.lost_digest, row.user_id, row.device_id
    bound_secret = "\0".join(map(str, (*parts, trusted_at, row.trust_days_given)))
    return f"{bound_secret}\0{password_hash(user)}"
