"""Rewrites device secrets under the first of an application's keys."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import and_, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp.devices.owner import table_of
from starlette_otp.devices.sealing import digest_of
from starlette_otp.exceptions import SecretUnreadable
from starlette_otp.keyring import Keyring
from starlette_otp.service.transactions import Transactions

logger = logging.getLogger("starlette_otp")


class Sealed(Protocol):
    """An OTP, as far as its secrets go."""

    device_model: type[Any]
    keyring: Keyring
    transactions: Transactions


@dataclass(slots=True)
class Batch:
    """What became of some rows: how many there were, and which devices could not be read."""

    last_id: int
    rows: int
    unreadable: list[str]


async def count_secrets(otp: Sealed) -> int:
    """How many device secrets there are."""
    devices = table_of(otp.device_model)
    query = select(func.count()).where(devices.c.sealed_secret.is_not(None))

    async def work(session: AsyncSession) -> int:
        return await session.scalar(query) or 0

    return await otp.transactions.read(work)


async def rotate_keys(otp: Sealed, size: int = 100) -> AsyncIterator[Batch]:
    """Rewrite every secret, and its digest, that is not under the first key, `size` rows a
    transaction.

    It may be stopped and started again at any time, and the application may go on meanwhile: rows
    are locked by batches, those of one secret of a user's together, and those that are done are
    passed over. Rows of kinds that the host does not declare are rewritten, too.
    """
    last_id = 0
    while True:
        batch = await _rotate_batch(otp, last_id, size)
        if batch is None:
            return
        yield batch
        last_id = batch.last_id


async def _rotate_batch(otp: Sealed, after: int, size: int) -> Batch | None:
    devices = table_of(otp.device_model)
    names = ("id", "kind", "user_id", "sealed_secret", "secret_id", "secret_digest")
    columns = [devices.c[name] for name in names]
    ahead = select(devices.c.id).where(devices.c.id > after, devices.c.sealed_secret.is_not(None))
    ahead = ahead.order_by(devices.c.id).limit(size)
    mine, other = devices.alias(), devices.alias()
    is_twin = and_(*(other.c[name] == mine.c[name] for name in ("user_id", "secret_digest")))
    twins = select(other.c.id).join(mine, is_twin)

    async def work(session: AsyncSession) -> Batch | None:
        # Rows that were deleted while we waited for their locks are no sign that there are no more.
        ids = (await session.scalars(ahead)).all()
        if not ids:
            return None
        # Between two batches one secret of a user's would have two digests.
        together = {*ids, *await session.scalars(twins.where(mine.c.id.in_(ids)))}
        rows = select(*columns).where(devices.c.id.in_(together))
        rows = rows.where(devices.c.sealed_secret.is_not(None))
        batch = Batch(ids[-1], len(ids), [])
        for row in await session.execute(rows.order_by(devices.c.id).with_for_update()):
            sealed = _reseal(otp, row)
            if sealed is None:
                if row.id in ids:
                    batch.unreadable.append(f"{row.kind}/{row.id}")
            elif sealed != (row.sealed_secret, row.secret_digest):
                change = update(devices).where(devices.c.id == row.id)
                values = dict(zip(("sealed_secret", "secret_digest"), sealed, strict=True))
                await session.execute(change.values(values))
        return batch

    return await otp.transactions.write(work)


def _reseal(otp: Sealed, row: Any) -> tuple[str, str] | None:
    """The secret and its digest under the first key; None if it can't be read."""
    owner = str(row.user_id)
    label = {"kind": row.kind, "owner": owner, "secret_id": row.secret_id}
    secret = otp.keyring.open(row.sealed_secret, **label)
    sealed = otp.keyring.reseal(row.sealed_secret, **label)
    if secret is None or sealed is None:
        logger.error("%s", SecretUnreadable(f"{row.kind}/{row.id}"))
        return None
    return sealed, digest_of(otp.keyring, secret, owner)
