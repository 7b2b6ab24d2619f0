"""RecoveryCodes: how many a user has left, and made anew."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp import signals
from starlette_otp.devices.locking import locked
from starlette_otp.exceptions import DatabaseUnavailable
from starlette_otp.service.enrolment import RECOVERY_CODES, static_model, take_turn
from starlette_otp.service.transactions import Transactions

logger = logging.getLogger("starlette_otp")

NUMBER = 10
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
        model = static_model(self._device_model)
        tokens: Any = model.__static_token_model__
        devices = model.devices_for_user(user, confirmed=True).order_by(None)
        query = select(func.count(tokens.id)).where(
            tokens.device_id.in_(devices.with_only_columns(model.id))
        )

        async def work(session: AsyncSession) -> int:
            return await session.scalar(query) or 0

        return await self._transactions.read(work)

    async def renew(self, user: object, number: int = NUMBER) -> list[str]:
        """`OTP.new_recovery_codes`."""
        model, key = static_model(self._device_model), self._device_model.user_key(user)
        if key is None:
            raise ValueError("Recovery codes need an authenticated user.")
        query = locked(model.devices_for_user(user, confirmed=True))
        made_tokens: list[str] = []

        async def work(session: AsyncSession) -> tuple[Any, bool]:
            await take_turn(session, self._device_model, "recovery codes", key)
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

        device, is_new = await self._transactions.write(work)
        logger.info("Recovery codes of user %r were made anew (%s).", key, device)
        await self._tell(user, device, "renewed", number)
        if is_new:
            await signals.send(signals.otp_device_added, self._sender, user=user, device=device)
        return made_tokens

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
