"""Catching up: what was used on the old site since a move is used here, too."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, any_, delete, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp.devices.hotp import HOTPDeviceMixin
from starlette_otp.devices.locking import locked
from starlette_otp.devices.static import StaticDeviceMixin, canonical_static
from starlette_otp.devices.totp import TOTPDeviceMixin
from starlette_otp.moving.rules import REFUSED, Judged

USED = "It was used here since, and stays as it is."
ANEW = "Its codes were made anew there since, and it has none here any more."
MOVED = "What was used there since is used here."
_UNREAD = "Not all of its codes can be read there: which were spent is not known."
_CAUGHT_UP = TOTPDeviceMixin, HOTPDeviceMixin, StaticDeviceMixin


async def catch_up(session: AsyncSession, device_model: type[Any], there: Sequence[Judged]) -> None:
    """Move `last_t` and `counter` forward, and delete tokens spent there; never the other way.

    A device that was used here since is left alone: it knows better.

    Args:
        session: in the transaction of a batch.
        device_model: the host's.
        there: devices that were moved before, with their old rows as they are now.
    """
    ids = [one.device_id for one in there]
    kinds = device_model.kinds()
    is_there = device_model.id == any_(literal(ids, ARRAY(BigInteger)))
    query = select(device_model).where(is_there, device_model.kind.in_(kinds))
    devices = {device.id: device for device in await session.scalars(locked(query))}
    for one in there:
        device, imported_at = devices.get(one.device_id), one.imported_at
        if device is None or imported_at is None:
            continue
        if one.brought.refusal is not None and isinstance(device, _CAUGHT_UP):
            # What can't be read there is not known to be used.
            one.outcome = REFUSED
            one.reasons.append(one.brought.refusal)
            continue
        if not one.brought.is_whole:
            one.reasons.append(_UNREAD)
            continue
        if device.last_used_at is not None and device.last_used_at > imported_at:
            one.reasons.append(USED)
        elif await _move_on(session, device, one, imported_at):
            one.reasons.append(MOVED)
    await session.flush()


async def _move_on(session: AsyncSession, device: Any, one: Judged, imported_at: datetime) -> bool:
    """Whether there was anything to catch up with."""
    values = one.brought.values
    if isinstance(device, TOTPDeviceMixin):
        last_t = values.get("last_t")
        if last_t is not None and last_t > (-1 if device.last_t is None else device.last_t):
            device.last_t = last_t
            return True
    elif isinstance(device, HOTPDeviceMixin):
        counter = values.get("counter")
        if counter is not None and counter > (device.counter or 0):
            device.counter = counter
            return True
    elif isinstance(device, StaticDeviceMixin) and one.brought.tokens is not None:
        return await _forget_spent(session, device, one, imported_at)
    return False


async def _forget_spent(
    session: AsyncSession,
    device: StaticDeviceMixin,
    one: Judged,
    imported_at: datetime,
) -> bool:
    plain_tokens = [
        token for token in one.brought.tokens or () if canonical_static(token) is not None
    ]
    digests = [device.digests(token)[0] for token in plain_tokens]
    tokens: Any = device.__static_token_model__
    # What was made here since was never there.
    brought = tokens.device_id == device.id, tokens.created_at <= imported_at
    query = delete(tokens).where(*brought, tokens.digest.not_in(digests))
    was_spent = bool(list(await session.scalars(query.returning(tokens.id))))
    left = select(tokens.id).where(tokens.device_id == device.id).limit(1)
    if was_spent and digests and await session.scalar(left) is None:
        one.outcome = REFUSED
        one.reasons.append(ANEW)
    return was_spent
