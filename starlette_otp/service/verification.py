"""Verification: a user's devices are locked, asked, written back; the attempt is told."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp import signals
from starlette_otp.devices.base import locked
from starlette_otp.devices.hotp import HOTPDeviceMixin
from starlette_otp.service.attempts import Attempt, ask_all, ask_one
from starlette_otp.service.enrolment import one_of
from starlette_otp.service.transactions import Transactions

logger = logging.getLogger("starlette_otp")


class Verification:
    """Puts tokens to users' devices, each attempt in a transaction of its own.

    Args:
        transactions: over the host's sessionmaker.
        device_model: the class that mixes in DeviceMixin.
        sender: whom the signals name.
    """

    def __init__(self, transactions: Transactions, device_model: type[Any], sender: object) -> None:
        self._transactions = transactions
        self._device_model = device_model
        self._sender = sender

    async def attempt(
        self, user: object, token: str, device_id: str | None = None, confirming: bool = False
    ) -> Attempt:
        """One attempt to verify, with one device or with all, and why none was asked.

        Args:
            user: whose device it has to be.
            token: what the user typed.
            device_id: the persistent id of the one device to ask; None asks all of them.
            confirming: the device may be unconfirmed, and is confirmed if it accepts.

        Raises:
            TypeError: the token is no str.
        """
        _check_texts(token)
        confirmed = None if confirming else True
        query = self._device_model.devices_for_user(user, confirmed)
        if device_id is not None:
            query = one_of(self._device_model, user, device_id, confirmed)

        async def work(session: AsyncSession) -> Attempt:
            devices = list(await session.scalars(locked(query)))
            if device_id is None:
                return await ask_all(session, devices, token)
            return await ask_one(devices[0], token, confirming=confirming) if devices else Attempt()

        return await self._tell(user, await self._transactions.write(work))

    async def resynchronize(
        self, user: object, device_id: str, first: str, second: str
    ) -> Any | None:
        """`OTP.resynchronize`."""
        _check_texts(first, second)
        query = one_of(self._device_model, user, device_id)
        query = query.where(self._device_model.kind.in_(self._counting()))

        async def work(session: AsyncSession) -> Attempt:
            device = await session.scalar(locked(query))
            return await ask_one(device, first, second) if device is not None else Attempt()

        return (await self._tell(user, await self._transactions.write(work))).device

    def _counting(self) -> list[str]:
        kinds = self._device_model.kinds()
        return [kind for kind, model in kinds.items() if issubclass(model, HOTPDeviceMixin)]

    async def _tell(self, user: object, attempt: Attempt) -> Attempt:
        """Log an attempt with its factor (OWASP ASVS 16.3.1), and send the signals."""
        device, key = attempt.device or attempt.chosen, self._device_model.user_key(user)
        sent: dict[str, Any] = {"user": user, "device": device}
        if attempt.device is None:
            logger.warning("A token of user %s was refused (%s).", key, device or "any device")
            await signals.send(signals.otp_verification_failed, self._sender, **sent)
            return attempt
        logger.info("A token of user %s was accepted (%s).", key, device)
        await signals.send(signals.otp_verified, self._sender, **sent)
        if attempt.newly_confirmed:
            await signals.send(signals.otp_device_added, self._sender, **sent)
        return attempt


def _check_texts(*tokens: object) -> None:
    for token in tokens:
        if not isinstance(token, str):
            raise TypeError(f"A token is a str, not {type(token).__name__}.")
