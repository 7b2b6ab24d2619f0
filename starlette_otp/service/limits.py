"""Limits: how often challenges go out to a user and to an address, whatever becomes of devices."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from sqlalchemy import all_, bindparam, case, delete, func, inspect, literal, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp import clock
from starlette_otp.devices.limits import DAY
from starlette_otp.devices.owner import table_of
from starlette_otp.devices.policies import CooldownMixin
from starlette_otp.service.rows import Statement, Unit
from starlette_otp.service.transactions import Transactions


class Limits:
    """The rows of `otp_challenge_limit`; where the host declares no such table, nothing.

    Rows are locked after the device's, and in the order of their digests, so that nobody waits in
    a circle.

    Args:
        device_model: the class that mixes in DeviceMixin.
    """

    def __init__(self, device_model: type[Any]) -> None:
        self._device_model = device_model
        self._model: type[Any] | None = device_model.__challenge_limit_model__

    async def lock(self, session: AsyncSession, user: object, device: Any) -> Sequence[Any]:
        """The rows that a challenge of the device counts in, locked; made if they were not there.

        Args:
            session: in a READ COMMITTED transaction.
            user: whose device it is.
            device: locked; of one without a cooldown nothing is counted.
        """
        model = self._model
        if model is None or not isinstance(device, CooldownMixin):
            return []
        digests = sorted(self._digests(user, device))
        query = insert(model).values([{"digest": digest} for digest in digests])
        # An update of nothing: it waits for the row's lock and gives what is there then.
        query = query.on_conflict_do_update(
            index_elements=[model.digest], set_={"digest": query.excluded.digest}
        )
        options = {"populate_existing": True}
        found = await session.scalars(query.returning(model), execution_options=options)
        return list(found)

    def refusal(self, rows: Sequence[Any], user: object, device: Any) -> dict[str, Any] | None:
        """Why the device may not send one more now, by these rows; or None."""
        asked = self._digests(user, device) if rows else {}
        refusals = [row.refusal(device) for row in rows if asked[row.digest]]
        found = [refusal for refusal in refusals if refusal is not None]
        return max(found, key=lambda refusal: refusal["next_generation_at"], default=None)

    async def give_back(self, session: AsyncSession, user: object, failed: Any) -> bool:
        """End the wait that a failed delivery began, once until a token is accepted.

        Who hands the mail over and then fails, each time, would send a flood else.

        Returns:
            Whether it was ended.
        """
        rows = await self.lock(session, user, failed)
        its = [row for row in rows if row.waiting_since == failed.last_generated_timestamp]
        if any(row.given_back for row in its):
            return False
        for row in its:
            row.waiting_since, row.given_back = None, True
        return True

    async def answered(
        self, unit: Unit, user: object, device: Any, sent_at: datetime | None
    ) -> None:
        """Take the challenge that a token has answered out of the counts, and no other one.

        Args:
            unit: in the transaction that accepted the token.
            user: whose device it is.
            device: what accepted it.
            sent_at: when the device's last challenge was made, before it accepted.
        """
        if self._model is None or sent_at is None:
            return
        digests = list(self._digests(user, device))
        # A statement of one length for all of them.
        digests += digests[:1] * (3 - len(digests))
        named = {f"digest_{number}": digest for number, digest in enumerate(digests)}
        await unit.all(self._answered, sent_at=sent_at, **named)

    @cached_property
    def _answered(self) -> Statement:
        table: Any = table_of(self._model) if self._model is not None else None
        sent = bindparam("sent_at", type_=table.c.waiting_since.type)
        mine = table.c.digest.in_([bindparam(f"digest_{number}") for number in range(3)])
        locked = select(table.c.digest).where(mine).order_by(table.c.digest).with_for_update()
        held = locked.cte("held")
        is_waiting = case((table.c.waiting_since == sent, None), else_=table.c.waiting_since)
        query = update(table).where(table.c.digest == held.c.digest)
        query = query.values(
            sent_at=func.array_remove(table.c.sent_at, sent),
            waiting_since=is_waiting,
            given_back=False,
        )
        return Statement(lambda *what: query.returning(*what), table.c.digest)

    async def clear(self, transactions: Transactions, batch: int = 1000) -> None:
        """Delete rows of which nothing counts any more, `batch` a transaction."""
        model = self._model
        if model is None:
            return
        before = clock.now() - DAY
        over = literal(before, model.waiting_since.type) > all_(model.sent_at)
        waits = func.coalesce(model.waiting_since, before) <= before
        stale = select(model.digest).where(over, waits).limit(batch)
        query = delete(model).where(model.digest.in_(stale.with_for_update(skip_locked=True)))

        async def work(session: AsyncSession) -> int:
            found = await session.execute(
                query.returning(model.digest), bind_arguments={"mapper": inspect(model)}
            )
            return len(found.all())

        while await transactions.write(work):
            pass

    def _digests(self, user: object, device: Any) -> dict[str, bool]:
        """What a challenge counts as, and whether that may refuse it.

        Strangers can add devices of anybody's address but confirm none: what they have sent there
        keeps no owner of a confirmed device from theirs.
        """
        names = {f"user {device.user_id}": True}
        if (address := device.challenge_destination(user)) is not None:
            names[f"address {address}"] = not device.confirmed
            if device.confirmed:
                names[f"confirmed address {address}"] = True
        keyring = self._device_model.keyring()
        return {keyring.digests("challenges", name)[0]: asked for name, asked in names.items()}
