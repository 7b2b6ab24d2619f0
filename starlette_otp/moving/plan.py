"""The plan of a batch: who its users are here, and what becomes of each of their devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp.devices.owner import table_of
from starlette_otp.moving.brought import BroughtUser, OldSite
from starlette_otp.moving.options import Options
from starlette_otp.moving.people import GONE, People, Target
from starlette_otp.moving.record import Record
from starlette_otp.moving.rules import (
    ALREADY,
    IMPORTED,
    PARTLY,
    REFUSED,
    SKIPPED,
    Judged,
    judge,
)

_UNPROTECTED = "None of their devices could be carried over."
_GONE = "It was removed here."


@dataclass(slots=True)
class Planned:
    """What becomes of a user and their devices.

    Attributes:
        user: of the old site.
        target: who they are here.
        devices: each with what becomes of it.
        is_unprotected: they had a second factor there, and would have none here.
        is_left_out: the operator wants no part of them here.
    """

    user: BroughtUser
    target: Target
    devices: list[Judged] = field(default_factory=list)
    is_unprotected: bool = False
    is_left_out: bool = False

    @property
    def outcome(self) -> str:
        """What becomes of the user."""
        if self.is_left_out:
            return SKIPPED
        if self.target.refusal not in (None, GONE):
            return REFUSED
        if not self.target.is_new:
            return ALREADY
        return PARTLY if self.target.reasons else IMPORTED

    @property
    def reasons(self) -> list[str]:
        """Why, and what is not as it was."""
        told = [*([self.target.refusal] if self.target.refusal else []), *self.target.reasons]
        return [*told, *([_UNPROTECTED] if self.is_unprotected else [])]


class Plan:
    """Makes the plan of each batch, by what is in the host's tables now.

    Args:
        device_model: the host's.
        site: the old one.
        options: the operator's choices.
    """

    def __init__(self, device_model: type[Any], site: OldSite, options: Options) -> None:
        self._device_model = device_model
        self._site = site
        self._options = options
        self._kinds: Mapping[str, type[Any]] = device_model.kinds()
        self.record = Record(device_model, site.name)
        self.people = People(device_model, options)

    async def of(self, session: AsyncSession, users: Sequence[BroughtUser]) -> list[Planned]:
        """What becomes of these users."""
        table = self._site.users_table
        rows = [(table, str(user.key)) for user in users]
        rows += [(device.table, device.id) for user in users for device in user.devices]
        known = await self.record.known(session, rows)
        moved = {old_id: row.user_key for (name, old_id), row in known.items() if name == table}
        targets = await self.people.find(session, users, moved)
        there = await self._devices_there(session, known, targets)
        return [
            self._planned(user, target, known, there)
            for user, target in zip(users, targets, strict=True)
        ]

    async def _devices_there(
        self, session: AsyncSession, known: Mapping[Any, Any], targets: Sequence[Target]
    ) -> dict[int, Any]:
        """The devices that an earlier run has made and are there still, and users' own."""
        devices = table_of(self._device_model).c
        ids = [row.device_id for row in known.values() if row.device_id is not None]
        keys = [target.key for target in targets if target.key is not None]
        query = select(devices.id, devices.kind, devices.user_id, devices.confirmed)
        query = query.where(devices.id.in_(ids) | devices.user_id.in_(keys))
        return {row.id: row for row in await session.execute(query)}

    def _planned(
        self,
        user: BroughtUser,
        target: Target,
        known: Mapping[Any, Any],
        there: Mapping[int, Any],
    ) -> Planned:
        planned = Planned(user, target)
        for device in user.devices:
            row = known.get((device.table, device.id))
            if row is not None:
                found = there.get(row.device_id)
                reasons = [] if found is not None else [_GONE]
                judged = Judged(device, ALREADY, reasons)
                judged.device_id = None if found is None else row.device_id
                judged.imported_at = row.imported_at
            elif target.refusal is not None:
                judged = Judged(device, REFUSED, [target.refusal])
            else:
                judged = judge(device, self._kinds, target.email, self._options)
            planned.devices.append(judged)
        self._judge_user(planned, there)
        return planned

    def _judge_user(self, planned: Planned, there: Mapping[int, Any]) -> None:
        key, devices = planned.target.key, planned.devices
        if not planned.user.has_factor or planned.target.refusal is not None:
            return
        has_own = key is not None and any(
            row.user_id == key and row.confirmed for row in there.values()
        )
        moved = [judged for judged in devices if judged.outcome == ALREADY]
        was_moved = any(judged.brought.confirmed for judged in moved)
        planned.is_unprotected = not (
            has_own or was_moved or any(judged.protects for judged in devices)
        )
        if planned.is_unprotected and self._options.unprotected == "skip":
            planned.is_left_out = True
            for judged in devices:
                if judged.outcome in (IMPORTED, PARTLY):
                    judged.outcome = SKIPPED
                    judged.reasons.append("Its owner was left out.")
