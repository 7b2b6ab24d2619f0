"""A token put to devices that are locked: which accepts it, what is counted, why none was asked."""

from __future__ import annotations

import hmac
import logging
from collections import defaultdict
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
from starlette_otp.devices.policies import VerificationFailure, VerifyNotAllowed
from starlette_otp.devices.static import StaticDeviceMixin, spend
from starlette_otp.exceptions import SecretUnreadable

logger = logging.getLogger("starlette_otp")

CLICK_AGE = timedelta(seconds=10)
"""How long a click that was accepted is known again."""
MANY_FAILURES = 5
"""Wrong tokens since the last success that its owner is told of."""
UNREADABLE = {"error_message": "This device can't be used now. Please use another one."}


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of a token.

    Attributes:
        device: the device that accepted it, or None.
        refusal: why no device was asked, as `verify_is_allowed` says it, or None.
        reason: why no device accepted it, for the log and the signal; None if one did.
        is_told: it was not even tried, and so was the one before it, of which the signal has told.
        chosen: the one device that was to be asked, or None when it was any.
        newly_confirmed: the device was unconfirmed before.
        is_repeated: it is the click that a device accepted moments ago, sent again: it verifies
            nothing, and is not counted.
        others_failed: others of the user's devices may have counted failures since the last
            success, which are told with this one.
    """

    device: Any | None = None
    refusal: dict[str, Any] | None = None
    reason: VerificationFailure | None = None
    is_told: bool = False
    chosen: Any | None = None
    newly_confirmed: bool = False
    is_repeated: bool = False
    others_failed: bool = False


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


def twins_of(device: DeviceMixin, devices: Sequence[DeviceMixin]) -> list[DeviceMixin]:
    """Those of a user's devices that are of the same kind as this one and have the same secret."""
    digest, kind = device.secret_digest, device.kind
    if digest is None:
        return []
    return [d for d in devices if d.secret_digest == digest and d.kind == kind and d is not device]


def failures_since_success(devices: Sequence[DeviceMixin]) -> int:
    """The wrong tokens since the last success, as the one of these devices that has most counts."""
    used = max((d.last_used_at for d in devices if d.last_used_at), default=None)
    counts = [0]
    for device in devices:
        failed_at = device.throttling_failure_timestamp
        if failed_at is not None and (used is None or failed_at > used):
            counts.append(untold_failures(device))
    return max(counts)


def untold_failures(device: DeviceMixin) -> int:
    """What a device has counted since its user's last success."""
    return (device.throttling_failure_count or 0) - (device.failures_told or 0)


async def ask_one(
    device: DeviceMixin,
    *tokens: str,
    confirming: bool = False,
    marks: Sequence[str] = (),
    twins: Sequence[DeviceMixin] = (),
    failures_before: int = 0,
) -> Attempt:
    """Put a token to one device, or two consecutive ones to an HOTP device.

    Args:
        device: locked.
        tokens: what the user typed.
        confirming: an unconfirmed device is asked, too, and confirmed if it accepts.
        marks: as `is_repeated` takes them.
        twins: as `twins_of` gives them, locked: what one of them has spent is spent.
        failures_before: as `failures_since_success` counts them.
    """
    if is_repeated(device, marks):
        return Attempt(chosen=device, is_repeated=True)
    was_confirmed = device.confirmed
    device.confirmed = confirming or was_confirmed
    allowed, refusal = await device.verify_is_allowed()
    if allowed:
        for twin in twins:
            device.spend_with(twin)
        try:
            accepted = await _check(device, *tokens)
        except SecretUnreadable as exc:
            refusal = _unreadable(exc)
        else:
            if accepted:
                _accept(device, marks, twins, failures_before)
                return Attempt(device, chosen=device, newly_confirmed=not was_confirmed)
            device.record(False)
    device.confirmed = was_confirmed
    if refusal is None:
        is_replay = len(tokens) == 1 and device.is_replay(*tokens)
        return Attempt(chosen=device, reason=_wrong(is_replay))
    is_told = not device.turn_away()
    return Attempt(refusal=refusal, reason=_why(refusal), is_told=is_told, chosen=device)


def _accept(
    device: DeviceMixin,
    marks: Sequence[str],
    twins: Sequence[DeviceMixin],
    failures_before: int,
) -> None:
    device.record(True)
    device.accepted_digest = marks[0] if marks else None
    device.failures_before = failures_before
    for twin in twins:
        twin.spend_with(device)


def _wrong(is_replay: bool) -> VerificationFailure:
    return VerificationFailure.REPLAYED if is_replay else VerificationFailure.WRONG


def _why(refusal: dict[str, Any]) -> VerificationFailure:
    if refusal is UNREADABLE:
        return VerificationFailure.UNREADABLE
    counted = refusal.get("reason") == VerifyNotAllowed.N_FAILED_ATTEMPTS
    is_stopped = counted and refusal.get("locked_until") is None
    return VerificationFailure.STOPPED if is_stopped else VerificationFailure.LOCKED


async def _check(device: Any, *tokens: str) -> bool:
    check = device.check_token if len(tokens) == 1 else device.check_consecutive
    accepted: bool = await check(*tokens)
    return accepted


async def ask_all(
    session: AsyncSession, devices: Sequence[DeviceMixin], token: str, marks: Sequence[str] = ()
) -> Attempt:
    """Put a token to the confirmed of a user's devices in their order, until one accepts.

    On success only that device changes, and its twins; else each that was asked counts one failure.
    Devices that are locked, or whose tokens can't look like that, are not asked.

    Args:
        session: which has locked them.
        devices: all of the user's.
        token: what the user typed.
        marks: as `is_repeated` takes them.
    """
    confirmed = [device for device in devices if device.confirmed]
    for device in confirmed:
        if is_repeated(device, marks):
            return Attempt(is_repeated=True)
    able: list[DeviceMixin] = []
    refused: list[tuple[DeviceMixin, dict[str, Any]]] = []
    for device in confirmed:
        if device.accepts(token):
            allowed, why = await device.verify_is_allowed()
            if allowed:
                able.append(device)
            else:
                refused.append((device, why or {}))
    of_secret: defaultdict[str | None, list[DeviceMixin]] = defaultdict(list)
    for device in devices:
        of_secret[device.secret_digest].append(device)
    for device in able:
        for twin in twins_of(device, of_secret[device.secret_digest]):
            device.spend_with(twin)
    found, asked, unreadable = await _first_accepting(able, token)
    if found is not None:
        twins = twins_of(found, of_secret[found.secret_digest])
        await _leave_alone(session, [other for other in asked if other is not found], twins)
        _accept(found, marks, twins, failures_since_success(devices))
        others = [device for device in devices if device is not found]
        return Attempt(found, others_failed=any(map(untold_failures, others)))
    if asked:
        reason = _wrong(any(device.is_replay(token) for device in asked))
        await _count_failures(session, asked)
        return Attempt(reason=reason)
    refusal = refused[0][1] if refused else None
    refused += [(device, UNREADABLE) for device in unreadable]
    if not refused:
        none = VerificationFailure.WRONG if confirmed else VerificationFailure.NO_DEVICE
        return Attempt(reason=none)
    first = [device for device, _ in refused if device.turn_away()]
    await _write(session, first, ("turned_away_at",))
    return Attempt(refusal=refusal, reason=_why(refused[0][1]), is_told=not first)


async def _first_accepting(
    able: Sequence[DeviceMixin], token: str
) -> tuple[DeviceMixin | None, list[DeviceMixin], list[DeviceMixin]]:
    """The device that accepts the token; those that were asked; those that can't be read."""
    asked: list[DeviceMixin] = []
    unreadable: list[DeviceMixin] = []
    static: list[StaticDeviceMixin] | None = None
    for device in able:
        found: DeviceMixin | None = None
        try:
            if not isinstance(device, StaticDeviceMixin):
                found = device if await device.check_token(token) else None
                asked.append(device)
            elif static is None:
                # One statement finds the token among those of all static devices.
                static = [d for d in able if isinstance(d, StaticDeviceMixin)]
                static = [d for d in static if _is_readable(d, unreadable)]
                found = await spend(static, token) if static else None
                asked += static
        except SecretUnreadable as exc:
            _unreadable(exc)
            unreadable.append(device)
        if found is not None:
            return found, asked, unreadable
    return None, asked, unreadable


async def _leave_alone(
    session: AsyncSession, others: Sequence[DeviceMixin], twins: Sequence[DeviceMixin]
) -> None:
    """Forget what the devices that did not accept have made of the token.

    The twins of the one that did are read anew: they have to follow it.
    """
    for other in others:
        if other in twins:
            await session.refresh(other)
        else:
            session.expunge(other)


async def _count_failures(session: AsyncSession, asked: Sequence[DeviceMixin]) -> None:
    for device in asked:
        device.record(False)
    counts = ("throttling_failure_count", "throttling_failure_timestamp", "turned_away_at")
    await _write(session, asked, counts)


async def _write(
    session: AsyncSession, devices: Sequence[DeviceMixin], names: Sequence[str]
) -> None:
    """Write these attributes of all in one UPDATE, where the ORM's flush would send one for each
    row."""
    if not devices:
        return
    model = type(devices[0])
    table = table_of(model)
    columns = [
        literal([getattr(device, name) for device in devices], ARRAY(table.c[name].type))
        for name in ("id", *names)
    ]
    written = func.unnest(*columns).table_valued("id", *names, name="written").render_derived()
    query = update(table).where(table.c.id == written.c.id)
    query = query.values({name: written.c[name] for name in names})
    await session.execute(query, bind_arguments={"mapper": inspect(model)})
    for device in devices:
        for name in names:
            set_committed_value(device, name, getattr(device, name))


def _is_readable(device: DeviceMixin, unreadable: list[DeviceMixin]) -> bool:
    try:
        return bool(device.secret)
    except SecretUnreadable as exc:
        _unreadable(exc)
        unreadable.append(device)
        return False


def _unreadable(exc: SecretUnreadable) -> dict[str, Any]:
    # No failure of the user's, and no token: the operator has to know.
    logger.error("%s", exc)
    return UNREADABLE
