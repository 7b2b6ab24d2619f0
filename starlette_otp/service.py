"""OTP: the object an application makes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from starlette.datastructures import Secret
from starlette.endpoints import HTTPEndpoint
from starlette.routing import BaseRoute

from starlette_otp import clock, signals
from starlette_otp._resources import Templates, jinja_templates
from starlette_otp.devices.base import DeviceMixin, locked, require_read_committed
from starlette_otp.devices.declared import check_declared
from starlette_otp.devices.hotp import HOTPDeviceMixin
from starlette_otp.devices.policies import CooldownMixin, refusal_in_words
from starlette_otp.enrolment import Enrolment
from starlette_otp.exceptions import DeliveryFailed, TransactionRequired
from starlette_otp.keyring import Keyring
from starlette_otp.lookup import Authenticate, LoadUser
from starlette_otp.verification import Attempt, ask_all, ask_one

logger = logging.getLogger("starlette_otp")


class OTP(Enrolment):
    """One-time passwords over a host's device model.

    Verification owns its transaction: it is committed whatever becomes of the request, so that
    every failure is counted, and it is READ COMMITTED whatever the engine's default is.

    Args:
        sessionmaker: the host's; sessions are made with `expire_on_commit=False` and left alone.
        device_model: the class that mixes in DeviceMixin.
        secret_key: 32 characters or more; of several the first seals and signs, all still open.
        login_url: where guards send people; one leading `/` goes under the app's root path.
        login_redirect_url: where people go after log-in without a `next`.
        authenticate: `async (request, username, password) -> user | None`, instead of the default.
        load_user: `async (conn, key) -> user | None`, for users who live elsewhere.
        templates: a folder, several, or a Jinja2Templates, looked into before the shipped ones.

    Raises:
        ConfigurationError: a short key, or a class that is missing or there twice.
    """

    def __init__(
        self,
        sessionmaker: async_sessionmaker[AsyncSession],
        device_model: type[Any],
        *,
        secret_key: str | Secret | Sequence[str | Secret],
        login_url: str = "/account/login",
        login_redirect_url: str = "/",
        authenticate: Authenticate | None = None,
        load_user: LoadUser | None = None,
        templates: Templates = None,
    ) -> None:
        check_declared(device_model)
        super().__init__(sessionmaker, device_model, authenticate, load_user)
        self.session_model: type[Any] = device_model.__session_model__
        self.keyring = device_model.__keyring__ = Keyring(secret_key)
        self.login_url = login_url
        self.login_redirect_url = login_redirect_url
        self.templates = jinja_templates(templates)
        device_model.__environment__ = self.templates.env

    # Devices.

    async def devices_for_user(
        self,
        user: object,
        confirmed: bool | None = True,
        *,
        for_verify: bool = False,
        session: AsyncSession | None = None,
    ) -> list[Any]:
        """The user's devices by id; none for anonymous.

        Args:
            user: the user.
            confirmed: only the confirmed, only the unconfirmed, or None for all.
            for_verify: lock them, in the order of their ids, in the caller's transaction.
            session: the caller's session; needed with `for_verify`.

        Raises:
            TransactionRequired: `for_verify` without a READ COMMITTED transaction.
        """
        query = self.device_model.devices_for_user(user, confirmed)
        if for_verify:
            if session is None or not session.in_transaction():
                raise TransactionRequired("for_verify needs a session with an open transaction.")
            await require_read_committed(session, self.device_model)
            query = locked(query)
        if session is not None:
            return list(await session.scalars(query))

        async def work(own: AsyncSession) -> list[Any]:
            return list(await own.scalars(query))

        return await self.read(work)

    async def user_has_device(self, user: object, confirmed: bool | None = True) -> bool:
        """Whether the user has such a device (one EXISTS)."""
        query = self.device_model.devices_for_user(user, confirmed).order_by(None)

        async def work(session: AsyncSession) -> bool:
            return bool(await session.scalar(select(query.exists())))

        return await self.read(work)

    # Tokens.

    async def verify_token(self, user: object, device_id: str, token: str) -> Any | None:
        """Verify a token with one of the user's confirmed devices: lock, verify, commit.

        Args:
            user: whose device it has to be.
            device_id: its persistent id; another user's is as good as none.
            token: what the user typed.

        Returns:
            The device, or None.
        """
        # A missing id names no device; None would ask all of them.
        return (await self.attempt(user, token, device_id or "")).device

    async def match_token(self, user: object, token: str) -> Any | None:
        """Verify a token with the first of the user's devices that accepts it.

        Only that device changes. When none accepts, each that was asked counts a failure; locked
        devices are not asked, nor those whose tokens can't look like that.

        Returns:
            The device, or None.
        """
        return (await self.attempt(user, token)).device

    async def confirm_device(self, user: object, device_id: str, token: str) -> Any | None:
        """Confirm the user's own device with one of its tokens, throttled as any; no log-in.

        Returns:
            The device, now confirmed, or None.
        """
        return (await self.attempt(user, token, device_id or "", confirming=True)).device

    async def attempt(
        self, user: object, token: str, device_id: str | None = None, confirming: bool = False
    ) -> Attempt:
        """One attempt to verify, with one device or with all, and why none was asked."""
        _check_texts(token)
        confirmed = None if confirming else True
        query = self.device_model.devices_for_user(user, confirmed)
        if device_id is not None:
            query = self._device(user, device_id, confirmed)

        async def work(session: AsyncSession) -> Attempt:
            devices = list(await session.scalars(locked(query)))
            if device_id is None:
                return await ask_all(session, devices, token)
            return await ask_one(devices[0], token, confirming=confirming) if devices else Attempt()

        return await self._tell(user, await self.write(work))

    async def resynchronize(
        self, user: object, device_id: str, first: str, second: str
    ) -> Any | None:
        """Find an HOTP device's counter again by two consecutive tokens (RFC 4226 section 7.4).

        It looks further ahead than a verification does, as far as `resync_window`; it is
        throttled as any, and verifies no session.

        Returns:
            The device, its counter past the second token, or None.
        """
        _check_texts(first, second)
        query = self._device(user, device_id).where(self.device_model.kind.in_(self._counting()))

        async def work(session: AsyncSession) -> Attempt:
            device = await session.scalar(locked(query))
            return await ask_one(device, first, second) if device is not None else Attempt()

        return (await self._tell(user, await self.write(work))).device

    def _counting(self) -> list[str]:
        kinds = self.device_model.kinds()
        return [kind for kind, model in kinds.items() if issubclass(model, HOTPDeviceMixin)]

    async def _tell(self, user: object, attempt: Attempt) -> Attempt:
        """Log an attempt with its factor (OWASP ASVS 16.3.1), and send the signals."""
        device = attempt.device or attempt.chosen
        if attempt.device is None:
            asked = device or "any device"
            logger.warning("A token of user %s was refused (%s).", self._key(user), asked)
            await signals.send(signals.otp_verification_failed, self, user=user, device=device)
            return attempt
        logger.info("A token of user %s was accepted (%s).", self._key(user), device)
        await signals.send(signals.otp_verified, self, user=user, device=device)
        if attempt.newly_confirmed:
            await signals.send(signals.otp_device_added, self, user=user, device=device)
        return attempt

    async def generate_challenge(
        self, user: object, device_id: str, *, confirming: bool = False, **context: Any
    ) -> str | None:
        """Challenge the user with one of their confirmed devices: prepare, commit, then deliver.

        Nothing is locked while the challenge is on its way. One that does not arrive is dead, and
        the cooldown is given back.

        Args:
            user: whose device it has to be.
            device_id: its persistent id.
            confirming: an unconfirmed device gives a challenge, too, for `confirm_device`.
            context: for the device and its templates.

        Returns:
            The message for the user, which may say why there is no challenge now; None from a
            passive, unknown or another user's device.

        Raises:
            DeliveryFailed: the challenge could not be delivered; the log says why.
        """
        query = self._device(user, device_id, confirmed=None if confirming else True)

        async def work(session: AsyncSession) -> tuple[Any, str | None]:
            device = await session.scalar(locked(query))
            if device is None or not device.is_interactive():
                return None, None
            allowed, why = await device.generate_is_allowed()
            if not allowed:
                return None, refusal_in_words(why)
            return device, await device.generate_challenge(**context)

        device, message = await self.write(work)
        if device is None or message is None:
            return message
        try:
            await device.deliver(**{"user": user, **device.delivery})
        except Exception:
            logger.exception("The challenge of %r could not be delivered.", device)
            await self._retract(user, device)
            raise DeliveryFailed(device) from None
        logger.info("A challenge of user %s was sent (%r).", self._key(user), device)
        await signals.send(signals.otp_challenge_sent, self, user=user, device=device)
        return message

    async def _retract(self, user: object, failed: Any) -> None:
        # Unconfirmed meanwhile or not: its token is dead.
        query = self._device(user, failed.persistent_id, confirmed=None)

        async def work(session: AsyncSession) -> None:
            device = await session.scalar(locked(query))
            if device is not None:
                device.retract_challenge(failed)
                if isinstance(device, CooldownMixin):
                    device.cooldown_return(failed)

        await self.write(work)

    # Sessions.

    async def revoke_sessions(self, device_or_user: object) -> None:
        """Take back what sessions are worth, from their next request on.

        Args:
            device_or_user: sessions of a device become unverified, those of a user are gone.
        """
        model = self.session_model
        statement: Any
        if isinstance(device_or_user, DeviceMixin):
            mine = model.device_id == device_or_user.id
            statement = update(model).where(mine).values(device_id=None, verified_at=None)
        else:
            key = self.device_model.user_key(device_or_user)
            if key is None:
                return
            statement = delete(model).where(model.user_id == key)

        async def work(session: AsyncSession) -> None:
            await session.execute(statement)

        await self.write(work)

    async def clear_sessions(self, batch: int = 1000) -> int:
        """Delete expired sessions, `batch` rows a transaction.

        Returns:
            How many there were.
        """
        model = self.session_model
        expired = select(model.id).where(model.expires_at <= clock.now()).limit(batch)
        query = delete(model).where(model.id.in_(expired.with_for_update(skip_locked=True)))

        async def work(session: AsyncSession) -> int:
            return len((await session.execute(query.returning(model.id))).all())

        total = 0
        while deleted := await self.write(work):
            total += deleted
        return total

    # Pages.

    def routes(self, login_view: type[HTTPEndpoint] | None = None) -> Sequence[BaseRoute]:
        """Log-in, log-out and their stylesheet, to mount: `Mount(..., name="otp")`.

        Args:
            login_view: a subclass of LoginView in its place.
        """
        # The views stand below this module; they are wanted only by who mounts them.
        from starlette_otp import views

        return views.routes(login_view or views.LoginView)


def _check_texts(*tokens: object) -> None:
    for token in tokens:
        if not isinstance(token, str):
            raise TypeError(f"A token is a str, not {type(token).__name__}.")
