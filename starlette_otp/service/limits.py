"""Limits: how often challenges go out to a user and to an address, whatever becomes of devices."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import all_, delete, func, inspect, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp import clock
from starlette_otp.devices.limits import DAY
from starlette_otp.devices.owner import table_of
from starlette_otp.devices.policies import CooldownMixin
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
        rows, answered = list(found), await self._answered(session, device)
        for row in rows:
            row.forget(answered)
        return rows

    async def _answered(self, session: AsyncSession, device: Any) -> set[datetime]:
        """When the user's devices sent what was then answered.

        A verification writes its own row only, so that it costs no more than any; what it has
        answered is taken out of the counts here.
        """
        table = table_of(self._device_model)
        answered = table.c.answered_at
        query = select(answered).where(table.c.user_id == device.user_id, answered.is_not(None))
        mapper = {"mapper": inspect(self._device_model)}
        return set(await session.scalars(query, bind_arguments=mapper))

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
