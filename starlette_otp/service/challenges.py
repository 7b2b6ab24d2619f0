"""Challenges: prepared and committed, then delivered, with nothing locked meanwhile."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp import signals
from starlette_otp.devices.locking import locked
from starlette_otp.devices.policies import CooldownMixin, refusal_in_words
from starlette_otp.devices.words import with_destination
from starlette_otp.exceptions import DeliveryFailed, described
from starlette_otp.service.enrolment import one_of
from starlette_otp.service.limits import Limits
from starlette_otp.service.transactions import Transactions

logger = logging.getLogger("starlette_otp")


@dataclass(frozen=True, slots=True)
class Challenge:
    """What became of a challenge.

    Attributes:
        device: the device that gave it; or that may not now, as `refusal` says; None if there is
            no such device, or it gives none.
        message: for the user.
        refusal: why there is none now, as `generate_is_allowed` says it.
    """

    device: Any | None = None
    message: str | None = None
    refusal: dict[str, Any] | None = None


class Challenges:
    """Makes users' devices give their challenges.

    Args:
        transactions: over the host's sessionmaker.
        device_model: the class that mixes in DeviceMixin.
        sender: whom the signals name.
    """

    def __init__(self, transactions: Transactions, device_model: type[Any], sender: object) -> None:
        self._transactions = transactions
        self._device_model = device_model
        self._sender = sender
        self._limits = Limits(device_model)

    async def generate(
        self,
        user: object,
        device_id: str,
        browser: str | None = None,
        /,
        *,
        confirming: bool = False,
        **context: Any,
    ) -> str | None:
        """`OTP.generate_challenge`; `browser` as `ask` takes it."""
        given = await self.ask(user, device_id, browser, confirming=confirming, **context)
        return given.message if given.refusal is None else refusal_in_words(given.refusal)

    async def ask(
        self,
        user: object,
        device_id: str,
        browser: str | None = None,
        /,
        *,
        confirming: bool = False,
        **context: Any,
    ) -> Challenge:
        """A challenge of one of the user's devices, delivered; or why there is none.

        Args:
            user: whose device it has to be.
            device_id: its persistent id.
            browser: what tells the browser that asks from others: the token is then accepted in
                attempts of that browser only (ASVS 6.6.2).
            confirming: an unconfirmed device gives one, too.
            context: for the device and its templates.

        Raises:
            DeliveryFailed: it could not be delivered.
        """
        confirmed = None if confirming else True
        query = one_of(self._device_model, user, device_id, confirmed)

        async def work(session: AsyncSession) -> Challenge:
            device = await session.scalar(locked(query))
            if device is None or device.pending_expired or not device.is_interactive():
                return Challenge()
            allowed, why = await device.generate_is_allowed()
            if not allowed:
                return Challenge(device, refusal=why or {})
            counts = await self._limits.lock(session, user, device)
            why = self._limits.refusal(counts, user, device)
            if why is not None:
                return Challenge(device, refusal=why)
            device.asking_browser = browser
            message = await device.generate_challenge(**context)
            if message is None:
                return Challenge(device)
            for count in counts:
                count.note(device.last_generated_timestamp)
            return Challenge(device, with_destination(message, device, user))

        given = await self._transactions.write(work)
        device = given.device
        if device is None or given.message is None:
            return given
        if not await _deliver(device, user):
            await self._retract(user, device)
            raise DeliveryFailed(device)
        device.delivery.clear()  # The token is its owner's alone now.
        key = self._device_model.user_key(user)
        logger.info("A challenge of user %s was sent (%r).", key, device)
        await signals.send(signals.otp_challenge_sent, self._sender, user=user, device=device)
        return given

    async def clear(self, batch: int = 1000) -> None:
        """Delete counts of challenges that count no more, `batch` rows a transaction."""
        await self._limits.clear(self._transactions, batch)

    async def _retract(self, user: object, failed: Any) -> None:
        # Unconfirmed meanwhile or not: its token is dead.
        query = one_of(self._device_model, user, failed.persistent_id, confirmed=None)

        async def work(session: AsyncSession) -> None:
            device = await session.scalar(locked(query))
            if device is not None:
                device.retract_challenge(failed)
                if isinstance(device, CooldownMixin) and await self._limits.give_back(
                    session, user, failed
                ):
                    device.cooldown_return(failed)

        await self._transactions.write(work)


async def _deliver(device: Any, user: object) -> bool:
    try:
        await device.deliver(**{"user": user, **device.delivery})
    except Exception as exc:
        logger.error("The challenge of %r was not delivered: %s.", device, described(exc))
        return False
    return True
