"""A token put to devices that are locked: which accepts it, what is counted, why none was asked."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ARRAY, func, inspect, literal, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.attributes import set_committed_value

from starlette_otp import clock
from starlette_otp.devices.base import DeviceMixin
from starlette_otp.devices.owner import table_of
from starlette_otp.devices.static import StaticDeviceMixin, spend
from starlette_otp.exceptions import SecretUnreadable

logger = logging.getLogger("starlette_otp")

CLICK_AGE = timedelta(seconds=10)
"""How long a click that was accepted is known again."""
UNREADABLE = {"error_message": "This device can't be used now. Please use another one."}


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of a token.

    Attributes:
        device: the device that accepted it, or None.
        refusal: why no device was asked, as `verify_is_allowed` says it, or None.
        chosen: the one device that was to be asked, or None when it was any.
        newly_confirmed: the device was unconfirmed before.
        is_repeated: it is the click that a device accepted moments ago, sent again: it verifies
            nothing, and is not counted.
    """

    device: Any | None = None
    refusal: dict[str, Any] | None = None
    chosen: Any | None = None
    newly_confirmed: bool = False
    is_repeated: bool = False


def is_repeated(device: DeviceMixin, marks: Sequence[str]) -> bool:
    """Whether this is the click whose token the device accepted moments ago (RFC 6238 section 5.2
    refuses the second use; its sender need not be told that it was wrong).

    Args:
        device: as its row is.
        marks: the digests of the token and of the browser session that sent it.
    """
    accepted, at = device.accepted_digest, device.last_used_at
    if accepted is None or at is None or abs(clock.now() - at) > CLICK_AGE:
        return False
    return any(hmac.compare_digest(accepted, mark) for mark in marks)


async def ask_one(
    device: DeviceMixin, *tokens: str, confirming: bool = False, marks: Sequence[str] = ()
) -> Attempt:
    """Put a token to one device, or two consecutive ones to an HOTP device.

    Args:
        device: locked.
        tokens: what the user typed.
        confirming: an unconfirmed device is asked, too, and confirmed if it accepts.
        marks: as `is_repeated` takes them.
    """
    if is_repeated(device, marks):
        return Attempt(chosen=device, is_repeated=True)
    was_confirmed = device.confirmed
    device.confirmed = confirming or was_confirmed
    allowed, refusal = await device.verify_is_allowed()
    if allowed:
        try:
            accepted = await _check(device, *tokens)
        except SecretUnreadable as exc:
            refusal = _unreadable(exc)
        else:
            device.record(accepted)
            if accepted:
                device.accepted_digest = marks[0] if marks else None
                return Attempt(device, None, device, newly_confirmed=not was_confirmed)
    device.confirmed = was_confirmed
    return Attempt(refusal=refusal, chosen=device)


async def _check(device: Any, *tokens: str) -> bool:
    check = device.check_token if len(tokens) == 1 else device.check_consecutive
    accepted: bool = await check(*tokens)
    return accepted


async def ask_all(
    session: AsyncSession, devices: Sequence[DeviceMixin], token: str, marks: Sequence[str] = ()
) -> Attempt:
    """Put a token to devices in their order, until one accepts.

    On success only that device changes; else each that was asked counts one failure. Devices that
    are locked, or whose tokens can't look like that, are not asked.
    """
    for device in devices:
        if is_repeated(device, marks):
            return Attempt(is_repeated=True)
    able: list[DeviceMixin] = []
    refusal = None
    for device in devices:
        if device.accepts(token):
            allowed, why = await device.verify_is_allowed()
            able += [device] if allowed else []
            refusal = refusal or why
    asked: list[DeviceMixin] = []
    static = [d for d in able if isinstance(d, StaticDeviceMixin) and _is_readable(d)]
    for device in able:
        found: DeviceMixin | None = None
        if not isinstance(device, StaticDeviceMixin):
            found = await _accepting(device, token, asked)
        elif static:
            # One statement finds the token among those of all static devices.
            found = await spend(static, token)
            asked += static
            static = []
        if found is not None:
            found.record(True)
            found.accepted_digest = marks[0] if marks else None
            # On success only that device changes, whatever the others made of the token.
            for other in asked:
                if other is not found:
                    session.expunge(other)
            return Attempt(found)
    if asked:
        await _count_failures(session, asked)
    return Attempt(refusal=None if asked else refusal)


async def _count_failures(session: AsyncSession, asked: Sequence[DeviceMixin]) -> None:
    """Count a failure of each in one UPDATE, where the ORM's flush would send one for each row."""
    for device in asked:
        device.record(False)
    model = type(asked[0])
    table = table_of(model)
    names = ("id", "throttling_failure_count", "throttling_failure_timestamp")
    columns = [
        literal([getattr(device, name) for device in asked], ARRAY(table.c[name].type))
        for name in names
    ]
    counted = func.unnest(*columns).table_valued(*names, name="counted").render_derived()
    query = update(table).where(table.c.id == counted.c.id)
    query = query.values({name: counted.c[name] for name in names[1:]})
    await session.execute(query, bind_arguments={"mapper": inspect(model)})
    for device in asked:
        for name in names[1:]:
            set_committed_value(device, name, getattr(device, name))


async def _accepting(
    device: DeviceMixin, token: str, asked: list[DeviceMixin]
) -> DeviceMixin | None:
    try:
        accepted = await device.check_token(token)
    except SecretUnreadable as exc:
        _unreadable(exc)
        return None
    asked.append(device)
    return device if accepted else None


def _is_readable(device: DeviceMixin) -> bool:
    try:
        return bool(device.secret)
    except SecretUnreadable as exc:
        _unreadable(exc)
        return False


def _unreadable(exc: SecretUnreadable) -> dict[str, Any]:
    # No failure of the user's, and no token: the operator has to know.
    logger.error("%s", exc)
    return UNREADABLE
