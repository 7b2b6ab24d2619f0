"""RecoveryCodes: how many a user has left, and made anew."""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp import signals
from starlette_otp.devices.locking import locked
from starlette_otp.exceptions import DatabaseUnavailable
from starlette_otp.service.enrolment import RECOVERY_CODES, static_model, static_models, take_turn
from starlette_otp.service.transactions import Transactions

logger = logging.getLogger("starlette_otp")

NUMBER, MAX_NUMBER = 10, 100
"""Codes of a set."""


class RecoveryCodes:
    """The tokens of a user's static devices.

    Args:
        transactions: over the host's sessionmaker.
        device_model: the class that mixes in DeviceMixin.
        sender: whom the signals name.
    """

    def __init__(self, transactions: Transactions, device_model: type[Any], sender: object) -> None:
        self._transactions = transactions
        self._device_model = device_model
        self._sender = sender

    async def left(self, user: object) -> int:
        """`OTP.recovery_codes_left`."""
        return (await self.left_since(user))[0]

    async def left_since(self, user: object) -> tuple[int, datetime | None]:
        """How many codes the user has left, and when they were made, the newest of them.

        Raises:
            ConfigurationError: there is no static device's class.
        """
        query = self._left_since(user)

        async def work(session: AsyncSession) -> tuple[int, datetime | None]:
            left, since = (await session.execute(query)).one()
            return left, since

        return await self._transactions.read(work)

    async def renew(self, user: object, number: int = NUMBER) -> list[str]:
        """`OTP.new_recovery_codes`."""
        return await self._renew(user, number)

    async def make_first(self, user: object) -> list[str] | None:
        """Make codes for who has none left, which count at once; None for who has some.

        Of several who ask at once, one gets them: codes shown to the others would be worth nothing.

        Raises:
            ConfigurationError: there is no static device's class.
            ValueError: the user is nobody.
        """
        return await self._renew(user, NUMBER, if_none=True) or None

    async def _renew(self, user: object, number: int, if_none: bool = False) -> list[str]:
        model, key = self._somebodys(user)
        if not 1 <= number <= MAX_NUMBER:
            raise ValueError(f"A set has 1 to {MAX_NUMBER} recovery codes.")
        query = locked(self._devices_of(user))
        made_tokens: list[str] = []

        async def work(session: AsyncSession) -> tuple[Any, bool] | None:
            await take_turn(session, self._device_model, "recovery codes", key)
            if if_none and (await session.execute(self._left_since(user))).one()[0]:
                return None
            devices = list(await session.scalars(query))
            is_new = not devices
            if is_new:
                devices = [model(user_id=key, name=RECOVERY_CODES)]
                session.add_all(devices)
            first, *others = devices
            made_tokens[:] = await first.replace_tokens(number)
            for other in others:
                # It stays, since it may verify a session, but what it had is worth nothing.
                await other.replace_tokens(0)
            return first, is_new

        made = await self._transactions.write(work)
        if made is None:
            return []
        await self._tell_renewed(user, *made, number)
        return made_tokens

    async def prepare(self, user: object, number: int = NUMBER) -> tuple[Any, list[str]]:
        """Make codes that count once the user says that they are saved, by `keep`.

        They wait on an unconfirmed device of their own, in place of codes that waited before; what
        the user had goes on working meanwhile.

        Returns:
            The device they wait on, and the codes, shown this once.

        Raises:
            ConfigurationError: there is no static device's class.
            ValueError: the user is nobody.
        """
        model, key = self._somebodys(user)
        query = locked(model.devices_for_user(user, confirmed=False))
        made_tokens: list[str] = []

        async def work(session: AsyncSession) -> Any:
            await take_turn(session, self._device_model, "recovery codes", key)
            for former in await session.scalars(query):
                if former.is_pending and former.name == RECOVERY_CODES:
                    await session.delete(former)
            device = model(user_id=key, name=RECOVERY_CODES, confirmed=False)
            session.add(device)
            made_tokens[:] = await device.replace_tokens(number)
            return device

        return await self._transactions.write(work), made_tokens

    async def keep(self, user: object, device_id: str) -> Any | None:
        """Let codes that were prepared count, in place of all that the user had.

        They move to the device that the user has for codes, which may verify a session.

        Args:
            user: whose they have to be.
            device_id: of the device they wait on.

        Returns:
            The device that has them now, or None: they have waited for too long, newer ones were
            prepared, or they count already.

        Raises:
            ConfigurationError: there is no static device's class.
            ValueError: the user is nobody.
        """
        model, key = self._somebodys(user)
        tokens: Any = model.__static_token_model__
        query = locked(self._devices_of(user, confirmed=None))

        async def work(session: AsyncSession) -> tuple[Any, bool, int] | None:
            await take_turn(session, self._device_model, "recovery codes", key)
            devices = list(await session.scalars(query))
            waiting = [one for one in devices if one.is_pending and not one.pending_expired]
            kept = next((one for one in waiting if one.persistent_id == device_id), None)
            if kept is None:
                return None
            count = select(func.count(tokens.id)).where(tokens.device_id == kept.id)
            number = await session.scalar(count) or 0
            confirmed = [one for one in devices if one.confirmed]
            if not confirmed:
                kept.confirmed = True
                return kept, True, number
            for device in confirmed:
                await device.replace_tokens(0)
            first = confirmed[0]
            # The digests are under it. A session that this device verified stays verified.
            first.secret = kept.secret
            first.throttle_reset()
            moving = update(tokens).where(tokens.device_id == kept.id).values(device_id=first.id)
            await session.execute(moving, execution_options={"synchronize_session": False})
            await session.delete(kept)
            return first, False, number

        found = await self._transactions.write(work)
        if found is None:
            return None
        await self._tell_renewed(user, *found)
        return found[0]

    def _left_since(self, user: object) -> Any:
        model = self._device_model
        tokens: Any = static_model(model).__static_token_model__
        its_device = tokens.device_id == model.id
        codes = self._devices_of(user).order_by(None).join(tokens, its_device)
        # Those of before there was that column are as old as their device, at most.
        made_at = func.max(func.coalesce(tokens.created_at, model.created_at))
        return codes.with_only_columns(func.count(tokens.id), made_at)

    def _somebodys(self, user: object) -> tuple[Any, Any]:
        model, key = static_model(self._device_model), self._device_model.user_key(user)
        if key is None:
            raise ValueError("Recovery codes need an authenticated user.")
        return model, key

    async def _tell_renewed(self, user: object, device: Any, is_new: bool, number: int) -> None:
        key = self._device_model.user_key(user)
        logger.info("Recovery codes of user %r were made anew (%s).", key, device)
        await self._tell(user, device, "renewed", number)
        if is_new:
            await signals.send(signals.otp_device_added, self._sender, user=user, device=device)

    def _devices_of(self, user: object, confirmed: bool | None = True) -> Select[Any]:
        """The user's devices that hold codes, of whatever kind."""
        model = self._device_model
        kinds = [kind.__kind__ for kind in static_models(model)]
        query: Select[Any] = model.devices_for_user(user, confirmed)
        return query.where(model.kind.in_(kinds))

    async def tell_of_use(self, user: object, device: Any) -> None:
        """Tell that a code of that device was used, and how many are left, if anybody listens."""
        if not signals.otp_recovery_codes.has_receivers_for(self._sender):
            return
        # That it was used is committed: nothing that goes wrong now may say otherwise.
        with suppress(DatabaseUnavailable):
            await self._tell(user, device, "used", await self.left(user))

    async def _tell(self, user: object, device: Any, reason: str, left: int) -> None:
        told = {"device": device, "reason": reason, "left": left}
        await signals.send(signals.otp_recovery_codes, self._sender, user=user, **told)
