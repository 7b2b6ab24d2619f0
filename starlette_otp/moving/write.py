"""Writing a batch of brought users: each whole or not at all, in one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import func, insert, inspect, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp import clock
from starlette_otp.devices.owner import table_of, user_key_column
from starlette_otp.devices.sealing import seal
from starlette_otp.devices.static import StaticDeviceMixin, make_token
from starlette_otp.moving.brought import BroughtUser
from starlette_otp.moving.catch_up import catch_up
from starlette_otp.moving.columns import values_of
from starlette_otp.moving.options import Options
from starlette_otp.moving.plan import Plan, Planned
from starlette_otp.moving.record import CODES, INACTIVE, WAITING
from starlette_otp.moving.rules import ALREADY, IMPORTED, PARTLY, Judged
from starlette_otp.service.enrolment import RECOVERY_CODES, static_model
from starlette_otp.service.recovery_codes import NUMBER


class Writer:
    """Writes what a plan says.

    Args:
        device_model: the host's.
        plan: of the batches.
        options: the operator's choices.
        users_table: of the old site.
        keep_codes: is given an unprotected user and their new recovery codes, before they count.
    """

    def __init__(
        self,
        device_model: type[Any],
        plan: Plan,
        options: Options,
        users_table: str,
        keep_codes: Callable[[BroughtUser, Sequence[str]], None] | None,
    ) -> None:
        self._device_model = device_model
        self._plan = plan
        self._options = options
        self._users_table = users_table
        self._keep_codes = keep_codes

    async def batch(self, session: AsyncSession, users: Sequence[BroughtUser]) -> list[Planned]:
        """Write a batch in the session's transaction, by a plan that is made within it."""
        await self._plan.record.wait(session)
        planned = await self._plan.of(session, users)
        if self._options.unprotected == "stop":
            # Of these nobody knew when everything was looked over.
            for one in planned:
                if one.is_unprotected:
                    one.leave_out()
        kept = [one for one in planned if one.target.refusal is None and not one.is_left_out]
        noted = await self._write_users(session, kept)
        noted += await self._deactivate(session, [one for one in kept if one.is_unprotected])
        moved = [(judged, one.target.key) for one in kept for judged in one.devices]
        new = [pair for pair in moved if pair[0].outcome in (IMPORTED, PARTLY)]
        await self._write_devices(session, new)
        for judged, key in new:
            brought = judged.brought
            table = brought.table if brought.confirmed else WAITING.format(brought.table)
            noted.append((table, brought.id, judged.device_id, key))
        noted += await self._give_codes(session, kept)
        await self._plan.record.add(session, noted)
        if self._options.catch_up:
            there = [pair[0] for pair in moved if pair[0].outcome == ALREADY and pair[0].device_id]
            await catch_up(session, self._device_model, there)
        return planned

    async def _write_users(self, session: AsyncSession, kept: Sequence[Planned]) -> list[Any]:
        """Make users who are to be made."""
        new = [one for one in kept if one.target.is_new]
        session.add_all([one.target.row for one in new])
        await session.flush()
        for one in new:
            one.target.key = inspect(one.target.row).identity[0]
        return [(self._users_table, str(one.user.key), None, one.target.key) for one in new]

    async def _deactivate(self, session: AsyncSession, unprotected: Sequence[Planned]) -> list[Any]:
        """Let none in who would be unprotected, if the operator wants that."""
        if self._options.unprotected != "deactivate":
            return []
        model = self._plan.people.model
        unprotected = await self._not_yet(session, INACTIVE, unprotected)
        keys = [one.target.key for one in unprotected]
        if keys:
            mine = user_key_column(model).in_(keys)
            query = update(model).where(mine).values(is_active=False)
            await session.execute(query, execution_options={"synchronize_session": False})
        return [(INACTIVE, str(one.user.key), None, one.target.key) for one in unprotected]

    async def _not_yet(
        self, session: AsyncSession, what: str, unprotected: Sequence[Planned]
    ) -> list[Planned]:
        """For whom an earlier run has not done this: what became of it since is the host's."""
        rows = [(what, str(one.user.key)) for one in unprotected]
        done = await self._plan.record.known(session, rows)
        return [one for one in unprotected if (what, str(one.user.key)) not in done]

    async def _write_devices(
        self, session: AsyncSession, new: Sequence[tuple[Judged, Any]]
    ) -> None:
        """Insert devices and their tokens."""
        table = table_of(self._device_model)
        ids = await self._new_ids(session, len(new))
        rows: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        tokens: list[dict[str, Any]] = []
        for (judged, key), device_id in zip(new, ids, strict=True):
            device = judged.device
            device.user_id, judged.device_id = key, device_id
            tokens += token_rows(device, device_id, judged.tokens)
            seal(device)
            row = _row_of(device, device_id)
            rows[tuple(row)].append(row)
        for alike in rows.values():
            await self._insert(session, table, alike)
        if tokens:
            await self._insert(session, table_of(self._tokens), tokens)

    @property
    def _tokens(self) -> Any:
        return self._device_model.__static_token_model__

    async def _insert(self, session: AsyncSession, table: Any, rows: Any) -> None:
        mapper = {"mapper": inspect(self._device_model)}
        await session.execute(insert(table), rows, bind_arguments=mapper)

    async def _new_ids(self, session: AsyncSession, number: int) -> Sequence[int]:
        """The next ids of devices: their tokens and the record want to know them."""
        mapper = {"mapper": inspect(self._device_model)}
        connection = await session.connection(bind_arguments=mapper)
        name = connection.dialect.identifier_preparer.format_table(table_of(self._device_model))
        sequence = func.pg_get_serial_sequence(literal(name), "id")
        query = select(func.nextval(sequence)).select_from(func.generate_series(1, number))
        return list(await session.scalars(query, bind_arguments=mapper)) if number else []

    async def _give_codes(self, session: AsyncSession, kept: Sequence[Planned]) -> list[Any]:
        """Give recovery codes to who would be unprotected, if the operator wants that."""
        if self._options.unprotected != "codes" or self._keep_codes is None:
            return []
        noted = []
        unprotected = [one for one in kept if one.is_unprotected]
        unprotected = await self._not_yet(session, CODES, unprotected)
        ids = await self._new_ids(session, len(unprotected))
        for one, device_id in zip(unprotected, ids, strict=True):
            made_tokens = [make_token() for _ in range(NUMBER)]
            model = static_model(self._device_model)
            now = clock.now()
            device: Any = model(user_id=one.target.key, name=RECOVERY_CODES, created_at=now)
            rows = token_rows(device, device_id, made_tokens)
            seal(device)
            table = table_of(self._device_model)
            await self._insert(session, table, [_row_of(device, device_id)])
            await self._insert(session, table_of(self._tokens), rows)
            self._keep_codes(one.user, made_tokens)
            noted.append((CODES, str(one.user.key), device_id, one.target.key))
        return noted


def token_rows(device: Any, device_id: int, tokens: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a static device's tokens; the device is not sealed yet, which takes its time."""
    if not isinstance(device, StaticDeviceMixin):
        return []
    now = clock.now()
    # Of two spellings of one token the second would be refused by the table.
    digests = dict.fromkeys(device.digests(token)[0] for token in tokens)
    return [{"device_id": device_id, "digest": digest, "created_at": now} for digest in digests]


def _row_of(device: Any, device_id: int) -> dict[str, Any]:
    """What of a device is set, by its columns."""
    attributes = inspect(type(device)).column_attrs
    values = {attributes[name].columns[0].key: value for name, value in values_of(device).items()}
    return {**values, "id": device_id}
