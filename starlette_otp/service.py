"""OTP: the object an application makes. Every transaction opens here."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeVar

from sqlalchemy import Select, delete, func, inspect, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from starlette.datastructures import Secret
from starlette.endpoints import HTTPEndpoint
from starlette.requests import HTTPConnection, Request
from starlette.routing import BaseRoute

from starlette_otp import clock, users
from starlette_otp._resources import Templates, jinja_templates
from starlette_otp.devices.base import (
    DeviceMixin,
    locked,
    parse_persistent_id,
    require_read_committed,
)
from starlette_otp.devices.owner import convert_key, is_clean_text, table_of, user_key_column
from starlette_otp.devices.static import StaticDeviceMixin
from starlette_otp.exceptions import (
    ConfigurationError,
    DatabaseUnavailable,
    DeliveryFailed,
    SecretUnreadable,
    TransactionRequired,
)
from starlette_otp.keyring import Keyring

logger = logging.getLogger("starlette_otp")

T = TypeVar("T")
Authenticate = Callable[[Request, str, str], Awaitable[Any]]
LoadUser = Callable[[HTTPConnection, Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of a token: the device that accepted it, or why none was asked."""

    device: Any | None = None
    refusal: dict[str, Any] | None = None


class OTP:
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
        _check_models(device_model)
        self.device_model = device_model
        self.user_model: type[Any] | None = device_model.__user_model__
        self.session_model: type[Any] = device_model.__session_model__
        self.keyring = device_model.__keyring__ = Keyring(secret_key)
        self.login_url = login_url
        self.login_redirect_url = login_redirect_url
        self.templates = jinja_templates(templates)
        self._sessionmaker = sessionmaker
        self._authenticate = authenticate
        self._load_user = load_user

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
            await require_read_committed(session)
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
        return (await self.attempt(user, token, device_id)).device

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
        return (await self.attempt(user, token, device_id, confirming=True)).device

    async def attempt(
        self, user: object, token: str, device_id: str | None = None, confirming: bool = False
    ) -> Attempt:
        """One attempt to verify, with one device or with all, and why none was asked."""
        if not isinstance(token, str):
            raise TypeError(f"A token is a str, not {type(token).__name__}.")
        query = self.device_model.devices_for_user(user, None if confirming else True)
        if device_id is not None:
            query = _only(query, self.device_model, device_id)

        async def work(session: AsyncSession) -> Attempt:
            devices = list(await session.scalars(locked(query)))
            if device_id is None:
                return await _ask_all(devices, token)
            return await _ask_one(devices[0], token, confirming) if devices else Attempt()

        return await self.write(work)

    async def generate_challenge(self, user: object, device_id: str, **context: Any) -> str | None:
        """Challenge the user with one of their confirmed devices: prepare, commit, then deliver.

        Returns:
            The message for the user; None from a passive or unknown device.

        Raises:
            DeliveryFailed: the challenge could not be delivered; the log says why.
        """
        query = _only(self.device_model.devices_for_user(user, True), self.device_model, device_id)

        async def work(session: AsyncSession) -> tuple[Any, str | None]:
            device = await session.scalar(locked(query))
            return device, await device.generate_challenge(**context) if device else None

        device, message = await self.write(work)
        if message is not None:
            try:
                await device.deliver(**context)
            except Exception:
                logger.exception("The challenge of %r could not be delivered.", device)
                raise DeliveryFailed(device) from None
        return message

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

    # Users.

    @property
    def loads_users(self) -> bool:
        """Whether the host gave a `load_user`."""
        return self._load_user is not None

    async def authenticate(self, request: Request, username: str, password: str) -> Any | None:
        """The user with that name and password, or None."""
        if self._authenticate is not None:
            return await self._authenticate(request, username, password)
        if not hasattr(self.user_model, "password_hash"):
            raise ConfigurationError(
                "OTP needs authenticate=, since there is no user model with a password_hash."
            )
        return await users.authenticate(self.find_user, username, password)

    async def find_user(self, username: str) -> Any | None:
        """The user with that name in the user model, or None."""
        model = self.user_model
        if model is None or not hasattr(model, "username"):
            raise ConfigurationError("There is no user model with a username to look up.")
        if not is_clean_text(username):
            return None
        query = select(model).where(model.username == username)

        async def work(session: AsyncSession) -> Any | None:
            user = await session.scalar(query)
            return None if user is None else users.own(user)

        return await self.read(work)

    async def load_user(self, conn: HTTPConnection, key: object) -> Any | None:
        """The user with that key, from the user model or by the host's `load_user`; or None."""
        key = convert_key(key, table_of(self.device_model).c.user_id)
        if key is None:
            return None
        if self._load_user is not None:
            return await self._load_user(conn, key)
        model = self.user_model
        if model is None:
            raise ConfigurationError("OTP needs load_user=, since there is no user model.")

        async def work(session: AsyncSession) -> Any | None:
            user = await session.get(model, key)
            return None if user is None else users.own(user)

        return await self.read(work)

    async def last_used(self, user: object) -> datetime | None:
        """When the user's devices last accepted a token."""
        devices = self.device_model.devices_for_user(user).subquery()
        query = select(func.max(devices.c.last_used_at))

        async def work(session: AsyncSession) -> datetime | None:
            return await session.scalar(query)

        return await self.read(work)

    # Pages.

    def routes(self, login_view: type[HTTPEndpoint] | None = None) -> Sequence[BaseRoute]:
        """Log-in, log-out and their stylesheet, to mount: `Mount(..., name="otp")`.

        Args:
            login_view: a subclass of LoginView in its place.
        """
        # The views stand below this module; they are wanted only by who mounts them.
        from starlette_otp import views

        return views.routes(login_view or views.LoginView)

    # Transactions.

    async def read(self, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Run `work` in a session that only reads: no BEGIN, no ROLLBACK."""
        return await self._run("AUTOCOMMIT", work)

    async def write(self, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Run `work` in a READ COMMITTED transaction of its own and commit.

        Raises:
            DatabaseUnavailable: the database is away; nothing was written that this call knows of.
        """
        return await self._run("READ COMMITTED", work)

    async def _run(
        self,
        isolation: Literal["AUTOCOMMIT", "READ COMMITTED"],
        work: Callable[[AsyncSession], Awaitable[T]],
        retry: bool = True,
    ) -> T:
        committing = False
        try:
            async with self._sessionmaker(expire_on_commit=False, autoflush=False) as session:
                await session.connection(
                    bind_arguments={"mapper": inspect(self.device_model)},
                    execution_options={"isolation_level": isolation},
                )
                result = await work(session)
                committing = True
                await session.commit()
                return result
        except Exception as exc:
            # The pool may hold connections from before the database restarted. Before the commit
            # nothing has happened, so the work can be done again on a new one.
            stale = isinstance(exc, DBAPIError) and exc.connection_invalidated
            if stale and retry and not committing:
                return await self._run(isolation, work, retry=False)
            if is_away(exc):
                logger.warning("The database is away: %s", type(exc).__name__)
                raise DatabaseUnavailable() from exc
            raise


def is_away(exc: BaseException) -> bool:
    """Whether an exception means that the database can't be reached or can't serve now."""
    cause = getattr(exc, "orig", None) or exc
    if isinstance(exc, OSError | PoolTimeout | DatabaseUnavailable) or isinstance(cause, OSError):
        return True
    if isinstance(exc, DBAPIError) and exc.connection_invalidated:
        return True
    # Connection exceptions, insufficient resources, operator intervention (shutting down).
    return str(getattr(cause, "sqlstate", None) or "").startswith(("08", "53", "57P"))


def _only(query: Select[Any], model: type[Any], device_id: str) -> Select[Any]:
    kind, number = parse_persistent_id(device_id)
    return query.where(model.id == number, model.kind == kind)


async def _ask_one(device: DeviceMixin, token: str, confirming: bool = False) -> Attempt:
    was_confirmed = device.confirmed
    device.confirmed = confirming or was_confirmed
    allowed, refusal = await device.verify_is_allowed()
    if allowed:
        accepted = await _check(device, token)
        if accepted is not None:
            device.record(accepted)
        if accepted:
            return Attempt(device)
    device.confirmed = was_confirmed
    return Attempt(refusal=refusal)


async def _ask_all(devices: Sequence[DeviceMixin], token: str) -> Attempt:
    asked, refusal = [], None
    for device in devices:
        if not device.accepts(token):
            continue
        allowed, why = await device.verify_is_allowed()
        if not allowed:
            refusal = refusal or why
            continue
        accepted = await _check(device, token)
        if accepted:
            device.record(True)
            return Attempt(device)
        if accepted is not None:
            asked.append(device)
    for device in asked:
        device.record(False)
    return Attempt(refusal=None if asked else refusal)


async def _check(device: DeviceMixin, token: str) -> bool | None:
    """Whether the device accepts the token; None when its secret can't be read."""
    try:
        return await device.check_token(token)
    except SecretUnreadable as exc:
        # No failure of the user's, and no token: the operator has to know.
        logger.error("%s", exc)
        return None


def _check_models(device_model: type[Any]) -> None:
    if not issubclass(device_model, DeviceMixin):
        raise ConfigurationError(f"{device_model.__name__} does not mix in DeviceMixin.")
    name = device_model.__name__
    seen: dict[str, str] = {}
    for mapper in inspect(device_model).self_and_descendants:
        kind = getattr(mapper.class_, "__kind__", None)
        if kind is None:
            continue
        if parse_persistent_id(f"{kind}/1")[0] != kind:
            raise ConfigurationError(
                f"{mapper.class_.__name__} has the kind {kind!r}; a __kind__ is a letter and up to "
                "31 letters, digits and marks of a-z, 0-9, '_', '.' and '-'."
            )
        if kind in seen:
            raise ConfigurationError(
                f"{seen[kind]} and {mapper.class_.__name__} are both of kind {kind!r}; "
                "give one of them another __kind__."
            )
        seen[kind] = mapper.class_.__name__
    if device_model.__user_model__ is not None:
        user_key_column(device_model.__user_model__)
    if device_model.__session_model__ is None:
        raise ConfigurationError(
            f"There is no session table for {name}: declare a class with OTPSessionMixin "
            f"and __device_model__ = {name}."
        )
    static = [c.__name__ for c in device_model.kinds().values() if issubclass(c, StaticDeviceMixin)]
    if static and device_model.__static_token_model__ is None:
        raise ConfigurationError(
            f"{static[0]} has no table for its tokens: declare a class with StaticTokenMixin "
            f"and __device_model__ = {name}."
        )
