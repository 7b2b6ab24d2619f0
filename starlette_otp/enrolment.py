"""Devices given to users and taken from them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp import signals
from starlette_otp.devices.base import locked, parse_persistent_id
from starlette_otp.devices.static import StaticDeviceMixin
from starlette_otp.exceptions import ConfigurationError
from starlette_otp.lookup import UserLookup


class Enrolment(UserLookup):
    """The calls of OTP that give devices to users and take them away, and tell of it."""

    async def add_device(self, user: object, device: Any) -> Any:
        """Give the user a device: it is saved as theirs.

        Returns:
            The device. A confirmed one is told as `otp_device_added`, an unconfirmed one when
            `confirm_device` confirms it.

        Raises:
            ValueError: the user is nobody.
        """
        device.user_id = self._somebody(user)

        async def work(session: AsyncSession) -> None:
            session.add(device)

        await self.write(work)
        if device.confirmed:
            await signals.send(signals.otp_device_added, self, user=user, device=device)
        return device

    async def remove_device(self, user: object, device_id: str) -> Any | None:
        """Take a device from the user; what sessions it verified are unverified from now on.

        Returns:
            The device that was, or None if the user has no such device.
        """
        query = self._device(user, device_id, confirmed=None)

        async def work(session: AsyncSession) -> Any | None:
            device = await session.scalar(locked(query))
            if device is not None:
                await session.delete(device)
            return device

        device = await self.write(work)
        if device is not None:
            await signals.send(signals.otp_device_removed, self, user=user, device=device)
        return device

    async def add_static_token(self, user: object, token: str | None = None) -> str:
        """Add a token to the user's first static device, which is made if there is none.

        Returns:
            The plain token, shown this once.

        Raises:
            ConfigurationError: the host has no static devices.
            ValueError: the user is nobody, or the chosen token can't be one.
        """
        key = self._somebody(user)
        kinds = self.device_model.kinds().values()
        model = next((kind for kind in kinds if issubclass(kind, StaticDeviceMixin)), None)
        if model is None:
            raise ConfigurationError("This application has no static devices.")
        query = model.devices_for_user(user, confirmed=True).limit(1)

        async def work(session: AsyncSession) -> tuple[Any, str, bool]:
            device = await session.scalar(locked(query))
            is_new = device is None
            if device is None:
                device = model(user_id=key, name="Recovery codes")
                session.add(device)
            return device, await device.add_token(token), is_new

        device, plain, is_new = await self.write(work)
        if is_new:
            await signals.send(signals.otp_device_added, self, user=user, device=device)
        return plain

    def _key(self, user: object) -> Any:
        return self.device_model.user_key(user)

    def _somebody(self, user: object) -> Any:
        key = self._key(user)
        if key is None:
            raise ValueError("A device needs an authenticated user.")
        return key

    def _device(self, user: object, device_id: str, confirmed: bool | None = True) -> Select[Any]:
        """The device of that id, if it is the user's; none for any other id, None included."""
        query: Select[Any] = self.device_model.devices_for_user(user, confirmed)
        kind, number = parse_persistent_id(device_id)
        return query.where(self.device_model.id == number, self.device_model.kind == kind)
