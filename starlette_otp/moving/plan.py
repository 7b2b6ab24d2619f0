"""The plan of a batch: who its users are here, and what becomes of each of their devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ARRAY, BigInteger, any_, exists, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp.devices.owner import table_of
from starlette_otp.devices.sealing import digests_of
from starlette_otp.devices.static import StaticDeviceMixin
from starlette_otp.moving.brought import BroughtDevice, BroughtUser, OldSite
from starlette_otp.moving.options import Options
from starlette_otp.moving.people import GONE, People, Target
from starlette_otp.moving.record import CODES, WAITING, Record
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
_UNPROTECTED_NOW = "They have no second factor here any more."
_GONE = "It was removed here."
_OTHER_KEY = "Its key there is no longer that of the one here: one of them was set up anew since."
_WAITS = "It is not confirmed here."
_SOMEBODY_ELSE = "An earlier run made them another user here: was it with another --users?"
_GONE_THERE = "It was removed there since, and is here still."


@dataclass(slots=True)
class Planned:
    """What becomes of a user and their devices.

    Attributes:
        user: of the old site.
        target: who they are here.
        devices: each with what becomes of it.
        is_unprotected: they had a second factor there, and would have none here.
        is_left_out: the operator wants no part of them here.
        is_refused: the database did not take what was planned for them.
    """

    user: BroughtUser
    target: Target
    devices: list[Judged] = field(default_factory=list)
    is_unprotected: bool = False
    is_left_out: bool = False
    is_refused: bool = False

    def leave_out(self) -> None:
        """Carry nothing of them over."""
        self.is_left_out = True
        for judged in self.devices:
            if judged.outcome in (IMPORTED, PARTLY):
                judged.outcome = SKIPPED
                judged.reasons.append("Its owner was left out.")

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
        if self.is_unprotected:
            was_moved = any(judged.imported_at is not None for judged in self.devices)
            told.append(_UNPROTECTED_NOW if was_moved else _UNPROTECTED)
        return told


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
        devices = [device for user in users for device in user.devices]
        rows += [(device.table, device.id) for device in devices]
        rows += [(WAITING.format(device.table), device.id) for device in devices]
        known = await self.record.known(session, rows)
        moved = {old_id: row.user_key for (name, old_id), row in known.items() if name == table}
        targets = await self.people.find(session, users, moved)
        for user, target in zip(users, targets, strict=True):
            _keep_owner(table, user, target, known)
        there = await self._devices_there(session, known, targets)
        planned = [
            self._planned(user, target, known, there)
            for user, target in zip(users, targets, strict=True)
        ]
        await self._add_gone(session, planned, known, there)
        return planned

    async def _add_gone(
        self,
        session: AsyncSession,
        planned: Sequence[Planned],
        known: Mapping[Any, Any],
        there: Mapping[int, Any],
    ) -> None:
        """Tell of devices that were moved, and are here still, and not there any more."""
        owners = {str(one.target.key): one for one in planned if one.target.key is not None}
        kept = {row.device_id for row in known.values()}
        for row in await self.record.of_users(session, owners):
            found = there.get(row.device_id)
            if found is None or row.device_id in kept or row.table == CODES:
                continue
            label = f"{row.table}/{row.old_id}"
            device = BroughtDevice(row.table, row.old_id, label, found.kind, confirmed=False)
            gone = Judged(device, ALREADY, [_GONE_THERE])
            gone.device_id = found.id
            owners[row.user_key].devices.append(gone)

    async def _devices_there(
        self, session: AsyncSession, known: Mapping[Any, Any], targets: Sequence[Target]
    ) -> dict[int, Any]:
        """The devices that an earlier run has made and are there still, and users' own."""
        devices = table_of(self._device_model).c
        ids = [row.device_id for row in known.values() if row.device_id is not None]
        keys = [target.key for target in targets if target.key is not None]
        names = "id", "kind", "user_id", "confirmed", "last_used_at", "secret_digest"
        has_tokens: Any = literal(False)
        if (tokens := getattr(self._device_model, "__static_token_model__", None)) is not None:
            has_tokens = exists().where(tokens.device_id == devices.id)
        query = select(*(devices[name] for name in names), has_tokens.label("has_tokens"))
        is_known = devices.id == any_(literal(ids, ARRAY(BigInteger)))
        query = query.where(is_known | devices.user_id.in_(keys))
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
            waited = known.get((WAITING.format(device.table), device.id))
            if row is None and waited is not None:
                found = there.get(waited.device_id)
                row = None if _is_confirmed_since(device, found) else waited
            if row is not None:
                judged = self._moved(device, row, there.get(row.device_id))
            elif target.refusal is not None:
                judged = Judged(device, REFUSED, [target.refusal])
            else:
                judged = judge(device, self._kinds, target.email, self._options)
            planned.devices.append(judged)
        self._judge_user(planned, there)
        return planned

    def _moved(self, device: BroughtDevice, row: Any, found: Any) -> Judged:
        """What became of a device that an earlier run has dealt with."""
        judged = Judged(device, ALREADY, imported_at=row.imported_at)
        if found is None:
            judged.reasons.append(_GONE)
            return judged
        judged.device_id = found.id
        if device.secret is not None and found.secret_digest is not None:
            keyring, owner = self._device_model.keyring(), str(found.user_id)
            if found.secret_digest not in digests_of(keyring, device.secret, owner):
                judged.outcome = REFUSED
                judged.reasons.append(_OTHER_KEY)
                return judged
        if device.confirmed and not found.confirmed:
            judged.reasons.append(_WAITS)
        return judged

    def _verifies(self, row: Any) -> bool:
        """Whether a device that is here can verify its owner."""
        model = self._kinds.get(row.kind)
        if model is None or not row.confirmed:
            return False
        if issubclass(model, StaticDeviceMixin) and not row.has_tokens:
            return False
        return not self._options.knows_setup or model.missing_setting() is None

    def _judge_user(self, planned: Planned, there: Mapping[int, Any]) -> None:
        key, devices = planned.target.key, planned.devices
        if not planned.user.has_factor or planned.target.refusal is not None:
            return
        has_own = key is not None and any(
            row.user_id == key and self._verifies(row) for row in there.values()
        )
        planned.is_unprotected = not (has_own or any(judged.protects for judged in devices))
        if planned.is_unprotected and self._options.unprotected == "skip":
            planned.leave_out()


def refused(user: BroughtUser, reason: str) -> Planned:
    """A user whom the database does not take, with nothing of theirs written."""
    devices = [Judged(device, REFUSED, [reason]) for device in user.devices]
    return Planned(user, Target(refusal=reason), devices, is_refused=True)


def _keep_owner(
    users_table: str, user: BroughtUser, target: Target, known: Mapping[Any, Any]
) -> None:
    """Refuse who was somebody else here to an earlier run, as one with another --users: what they
    have since would become another person's."""
    rows = [(users_table, str(user.key))]
    for device in user.devices:
        rows += [(device.table, device.id), (WAITING.format(device.table), device.id)]
    owners = {known[row].user_key for row in rows if row in known}
    if target.refusal is None and owners - {str(target.key)}:
        target.key, target.is_new, target.refusal = None, False, _SOMEBODY_ELSE


def _is_confirmed_since(device: BroughtDevice, found: Any) -> bool:
    """Whether a device that waited when it was moved was confirmed there since, and not here."""
    is_waiting = found is None or (not found.confirmed and found.last_used_at is None)
    return device.confirmed and is_waiting
