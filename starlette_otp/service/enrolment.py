"""Enrolment: the devices a user has; devices given to users and taken from them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, false, func, inspect, select
from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp import clock, signals
from starlette_otp.devices.locking import locked, require_read_committed
from starlette_otp.devices.owner import table_of
from starlette_otp.devices.persistent_id import check_device_id, parse_persistent_id
from starlette_otp.devices.static import StaticDeviceMixin
from starlette_otp.devices.words import plain_name
from starlette_otp.exceptions import (
    ConfigurationError,
    LastDevice,
    TooManyPending,
    TransactionRequired,
)
from starlette_otp.service.transactions import Transactions

logger = logging.getLogger("starlette_otp")

_MAX_NAME = 64
RECOVERY_CODES = "Recovery codes"
"""The name of a device that is made to hold them."""


class Enrolment:
    """Lists users' devices, gives them and takes them away, and tells of it.

    Args:
        transactions: over the host's sessionmaker.
        device_model: the class that mixes in DeviceMixin.
        sender: whom the signals name.
    """

    def __init__(self, transactions: Transactions, device_model: type[Any], sender: object) -> None:
        self._transactions = transactions
        self._device_model = device_model
        self._sender = sender

    async def devices_for_user(
        self,
        user: object,
        confirmed: bool | None = True,
        *,
        for_verify: bool = False,
        session: AsyncSession | None = None,
    ) -> list[Any]:
        """`OTP.devices_for_user`."""
        query = self._device_model.devices_for_user(user, confirmed)
        if for_verify:
            if session is None or not session.in_transaction():
                raise TransactionRequired("for_verify needs a session with an open transaction.")
            await require_read_committed(session, self._device_model)
            query = locked(query)
        if session is not None:
            return list(await session.scalars(query))

        async def work(own: AsyncSession) -> list[Any]:
            return list(await own.scalars(query))

        return await self._transactions.read(work)

    async def user_has_device(self, user: object, confirmed: bool | None = True) -> bool:
        """`OTP.user_has_device`."""
        model, key = self._device_model, self._device_model.user_key(user)
        # Of any kind: a guard that passes those without a device must not pass the owner of one
        # whose kind another process of the host's declares.
        query = select(model.id).where(false() if key is None else model.user_id == key)
        if confirmed is not None:
            query = query.where(model.confirmed.is_(confirmed))

        async def work(session: AsyncSession) -> bool:
            return bool(await session.scalar(select(query.exists())))

        return await self._transactions.read(work)

    async def add_device(
        self, user: object, device: Any, unless: ColumnElement[bool] | None = None
    ) -> Any:
        """`OTP.add_device`; the user's device that is like `unless` instead, if there is one.

        Of two that come at the same time with one condition, the second sees the first.
        """
        device.user_id = key = self._somebody(user)

        async def work(session: AsyncSession) -> Any:
            if unless is not None:
                await take_turn(session, self._device_model, "unless", key)
                query = type(device).devices_for_user(user, None).where(unless).limit(1)
                if (there := await session.scalar(query)) is not None:
                    return there
            if not device.confirmed:
                await self._check_pending(session, user, device)
            session.add(device)
            return device

        added = await self._transactions.write(work)
        if added is device and device.confirmed:
            await signals.send(signals.otp_device_added, self._sender, user=user, device=device)
        return added

    async def _check_pending(self, session: AsyncSession, user: object, device: Any) -> None:
        """Refuse an unconfirmed device too many, of several at once, too."""
        limit = device.max_pending
        if limit is None:
            return
        await take_turn(session, self._device_model, "pending", device.user_id)
        found = await session.scalars(self._device_model.devices_for_user(user, confirmed=False))
        if sum(other.is_pending and not other.pending_expired for other in found) >= limit:
            raise TooManyPending(limit)

    async def clear_pending(self, batch: int = 1000) -> int:
        """`OTP.clear_pending`, the devices."""
        kinds = self._device_model.kinds().values()
        expiring = [model for model in kinds if model.pending_max_age is not None]
        return sum([await self._clear_pending(model, batch) for model in expiring])

    async def _clear_pending(self, model: type[Any], batch: int) -> int:
        table = table_of(model)
        since = clock.now() - timedelta(seconds=model.pending_max_age)
        expired = select(table.c.id).where(
            table.c.kind == model.__kind__,
            table.c.confirmed.is_(False),
            table.c.last_used_at.is_(None),
            table.c.created_at <= since,
        )
        expired = expired.limit(batch).with_for_update(skip_locked=True)
        query = delete(table).where(table.c.id.in_(expired)).returning(table.c.id)

        async def work(session: AsyncSession) -> int:
            found = await session.execute(query, bind_arguments={"mapper": inspect(model)})
            return len(found.all())

        total = 0
        while deleted := await self._transactions.write(work):
            total += deleted
        return total

    async def remove_device(
        self,
        user: object,
        device_id: str,
        keeps_one: bool = False,
        address: str = "",
        agent: str = "",
    ) -> Any | None:
        """`OTP.remove_device`; with `keeps_one` not the last one that is more than a spare one.

        Args:
            user: whose device it has to be.
            device_id: its persistent id.
            keeps_one: whether the user has to have one.
            address: of the client, for the signal.
            agent: what the client calls itself, likewise.

        Raises:
            LastDevice: it is.
        """
        query = one_of(self._device_model, user, device_id, confirmed=None)

        async def work(session: AsyncSession) -> Any | None:
            if keeps_one:
                # Of two that go at the same time one is the last.
                await take_turn(
                    session, self._device_model, "remove", self._device_model.user_key(user)
                )
            device = await session.scalar(locked(query))
            if device is not None:
                if keeps_one and await self._is_last(session, user, device):
                    raise LastDevice
                await session.delete(device)
            return device

        device = await self._transactions.write(work)
        if device is not None:
            told: dict[str, Any] = {"user": user, "device": device}
            removed, client = signals.otp_device_removed, {"address": address, "agent": agent}
            await signals.send(removed, self._sender, **told, **client)
        return device

    async def _is_last(self, session: AsyncSession, user: object, device: Any) -> bool:
        found = await session.scalars(self._device_model.devices_for_user(user, confirmed=True))
        full = [one for one in found if not one.is_spare]
        return full == [device]

    async def rename_device(self, user: object, device_id: str, name: str) -> Any | None:
        """`OTP.rename_device`."""
        query = locked(one_of(self._device_model, user, device_id, confirmed=None))
        column: Any = table_of(self._device_model).c.name
        own, longest = plain_name(name), column.type.length or _MAX_NAME
        if not own or len(own) > longest:
            raise ValueError(f"A name is 1 to {longest} characters, all of them visible.")

        async def work(session: AsyncSession) -> Any | None:
            device = await session.scalar(query)
            if device is not None:
                device.name = own
            return device

        return await self._transactions.write(work)

    async def reset_device(self, user: object, device_id: str) -> Any | None:
        """`OTP.reset_device`."""
        query = locked(one_of(self._device_model, user, device_id, confirmed=None))

        async def work(session: AsyncSession) -> Any | None:
            device = await session.scalar(query)
            if device is not None:
                device.reset()
            return device

        device = await self._transactions.write(work)
        if device is not None:
            key = self._device_model.user_key(user)
            logger.info("A device of user %r was reset (%s).", key, device)
        return device

    async def add_static_token(self, user: object, token: str | None = None) -> str:
        """`OTP.add_static_token`."""
        key = self._somebody(user)
        model = static_model(self._device_model)
        query = model.devices_for_user(user, confirmed=True).limit(1)

        made_tokens: list[str] = []

        async def work(session: AsyncSession) -> tuple[Any, bool]:
            device = await session.scalar(locked(query))
            is_new = device is None
            if device is None:
                device = model(user_id=key, name=RECOVERY_CODES)
                session.add(device)
            made_tokens[:] = [await device.add_token(token)]
            return device, is_new

        device, is_new = await self._transactions.write(work)
        if is_new:
            await signals.send(signals.otp_device_added, self._sender, user=user, device=device)
        return made_tokens[0]

    def _somebody(self, user: object) -> Any:
        key = self._device_model.user_key(user)
        if key is None:
            raise ValueError("A device needs an authenticated user.")
        return key


async def take_turn(
    session: AsyncSession, device_model: type[Any], purpose: str, key: object
) -> None:
    """Wait for those who are at the same for the same user, until they have committed."""
    turn = turn_number(device_model, purpose, key)
    mapper = {"mapper": inspect(device_model)}
    await session.execute(select(func.pg_advisory_xact_lock(turn)), bind_arguments=mapper)


def turn_number(device_model: type[Any], purpose: str, key: object) -> int:
    """What names a turn to PostgreSQL."""
    name = f"{table_of(device_model).fullname} {purpose} {key}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)


def static_model(device_model: type[Any]) -> type[Any]:
    """The class of the devices that hold recovery codes.

    Raises:
        ConfigurationError: there is none.
    """
    found = static_models(device_model)
    if not found:
        raise ConfigurationError("This application has no static devices.")
    return found[0]


def static_models(device_model: type[Any]) -> Sequence[type[Any]]:
    """The classes of the devices that hold recovery codes, the first one that of new ones."""
    kinds = device_model.kinds().values()
    return [kind for kind in kinds if issubclass(kind, StaticDeviceMixin)]


def one_of(
    device_model: type[Any], user: object, device_id: str, confirmed: bool | None = True
) -> Select[Any]:
    """A SELECT of the device of that id, if it is the user's; of none for any other id."""
    check_device_id(device_id)
    query: Select[Any] = device_model.devices_for_user(user, confirmed)
    kind, number = parse_persistent_id(device_id)
    return query.where(device_model.id == number, device_model.kind == kind)
