"""Users: a user by name and password, by name, or by key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from inspect import isawaitable, iscoroutine
from typing import Any

from pwdlib.hashers import HasherProtocol
from sqlalchemy import Select, inspect, or_, select
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstanceState, undefer
from sqlalchemy.orm.exc import DetachedInstanceError

from starlette_otp.devices.owner import convert_key, table_of
from starlette_otp.devices.users import (
    MAX_USERNAME_LENGTH,
    is_plausible,
    names_of,
    normal_name,
    password_hash,
    with_hash,
)
from starlette_otp.exceptions import ConfigurationError, DatabaseUnavailable, is_away
from starlette_otp.service.old_passwords import MAX_BROUGHT_LENGTH, BroughtPasswords
from starlette_otp.service.passwords import PasswordQueue, Place, is_right
from starlette_otp.service.transactions import Transactions

# The first argument is the host's request, which nothing in this room looks into.
Authenticate = Callable[[Any, str, str], Awaitable[Any]]
LoadUser = Callable[[Any, Any], Awaitable[Any]]


class Users:
    """Finds users in the device model's user model, or where the host's functions find them."""

    def __init__(
        self,
        transactions: Transactions,
        device_model: type[Any],
        authenticate: Authenticate | None,
        load_user: LoadUser | None,
        queue: PasswordQueue,
        hashers: Sequence[HasherProtocol] = (),
    ) -> None:
        self.model: type[Any] | None = device_model.__user_model__
        self._transactions = transactions
        self._key_column = table_of(device_model).c.user_id
        self._authenticate = authenticate
        self._load = load_user
        self._queue = queue
        self._brought: BroughtPasswords | None = None
        if hashers:
            if self.has_own_check or self.model is None or not self.has_passwords:
                raise ConfigurationError(
                    "OTP(password_hashers=) is for users with username and password_hash whose "
                    "passwords OTP looks at itself, without authenticate=."
                )
            self._brought = BroughtPasswords(transactions, self.model, hashers, queue)

    @property
    def can_be_loaded(self) -> bool:
        """Whether users can be loaded by their key."""
        return self._load is not None or self.model is not None

    @property
    def has_own_check(self) -> bool:
        """Whether the host checks names and passwords itself."""
        return self._authenticate is not None

    @property
    def has_passwords(self) -> bool:
        """Whether anybody checks passwords: the host, or we those of the user model."""
        names = "username", "password_hash"
        return self.has_own_check or all(hasattr(self.model, name) for name in names)

    async def ask_host(self, request: Any, username: str, password: str) -> Any | None:
        """What the host's own `authenticate` gives."""
        assert self._authenticate is not None  # noqa: S101
        return await of_host(self._authenticate(request, username, password))

    def may_be_password(self, password: str) -> bool:
        """Whether a text can be anybody's password, and is worth to be looked at."""
        if self._brought is None:
            return is_plausible(password)
        return is_plausible(password, MAX_BROUGHT_LENGTH)

    async def check(
        self, user: Any | None, password: str, place: Place, *, renews: bool = False
    ) -> Any | None:
        """That user, if it is their password and they are active; nobody takes as long.

        Args:
            user: as found; None for an unknown name.
            password: one that may be one.
            place: in the queue for Argon2.
            renews: a hash of another library is replaced, which ends the user's sessions.

        Raises:
            TooBusy: too many others wait for their turn.
            DatabaseUnavailable: it is away.
        """
        known = await loaded(self._transactions, user)
        if self._brought is not None:
            return await self._brought.check(known, password, place, renews=renews)
        return user if await is_right(known, password, self._queue, place) else None

    async def find(self, username: str) -> Any | None:
        """The user with that name in the user model, as typed or in its normal form, or None.

        Nobody has a name in a model without `username`.

        Raises:
            ConfigurationError: there is no user model.
        """
        model = self.model
        if model is None:
            raise ConfigurationError("There is no user model to look up a name in.")
        names = names_of(username) if hasattr(model, "username") else []
        if not names:
            return None
        query = select(model).where(or_(*(model.username == name for name in names)))
        query = query.options(*with_hash(model))
        if len(names) > 1:
            # Who is stored exactly as it was typed goes first.
            query = query.order_by(model.username != username).limit(1)

        async def work(session: AsyncSession) -> Any | None:
            return await session.scalar(query)

        return await self._transactions.read(work)

    async def add(self, username: str, password: str, *, is_staff: bool = False) -> Any:
        """Make a user of the user model.

        Args:
            username: a name that nobody has.
            password: for the model's `set_password`.
            is_staff: whether the admin site may let them in.

        Raises:
            ConfigurationError: the user model is not like UserMixin, or there is none.
            ValueError: the name is taken, or can't be one, or the password can't.
        """
        model = self.model
        values = {"username": username, **({"is_staff": True} if is_staff else {})}
        missing = [name for name in (*values, "set_password") if not hasattr(model, name)]
        if model is None or missing:
            raise ConfigurationError(f"There is no user model with {' and '.join(missing)}.")
        if not normal_name(username) or not names_of(username):
            raise ValueError(f"A username is 1 to {MAX_USERNAME_LENGTH} characters, without NUL.")
        if await self.find(username) is not None:
            raise ValueError(f"There is a user named {username!r} already.")
        user = model(**values)
        await asyncio.to_thread(user.set_password, password)

        async def work(session: AsyncSession) -> None:
            session.add(user)

        await self._transactions.write(work)
        return user

    async def write_password(
        self, key: Any, password: str, place: Place, is_allowed: Select[Any] | None
    ) -> Any | None:
        """Give a user a new password, hashed in a thread by their class's own `set_password`.

        Args:
            key: the user's.
            password: for `set_password`.
            place: in the queue for Argon2.
            is_allowed: finds and locks a row, or else nothing is written.

        Returns:
            The user as loaded anew; None if it was not allowed, or the user has gone.

        Raises:
            ConfigurationError: the users have no `set_password`, or it changes nothing.
            ValueError: the password can't be one.
            DatabaseUnavailable: it is away, or a rival was in the way; nothing is written.
            TooBusy: too many others wait for their turn.
        """
        model = self.model
        if model is None or not hasattr(model, "set_password"):
            raise ConfigurationError("There is no user model with set_password.")

        async def load(session: AsyncSession) -> Any | None:
            return await session.get(model, key, options=[undefer("*")])

        # Nothing is locked while Argon2 takes its time.
        user = await self._transactions.read(load)
        if user is None:
            return None
        answer = await self._queue.run(place, user.set_password, password)
        if isawaitable(answer):
            if iscoroutine(answer):
                answer.close()
            raise ConfigurationError(f"{model.__name__}.set_password has to be no async function.")

        async def work(session: AsyncSession) -> bool:
            if is_allowed is not None and (await session.execute(is_allowed)).first() is None:
                return False
            # With whatever the host's method has changed besides, in rows of other tables, too.
            session.add(user)
            if not session.dirty and not session.new:
                raise ConfigurationError(f"{model.__name__}.set_password has changed nothing.")
            return True

        written = await self._transactions.write(work)
        return await self._transactions.read(load) if written else None

    async def load(self, conn: Any, key: object) -> Any | None:
        """The user with that key, from the user model or by the host's `load_user`; or None."""
        if self._load is None:
            return await self.get(key)
        key = convert_key(key, self._key_column)
        return None if key is None else await of_host(self._load(conn, key))

    async def get(self, key: object) -> Any | None:
        """The user with that key in the user model, or None.

        Raises:
            ConfigurationError: there is no user model.
        """
        model, key = self.model, convert_key(key, self._key_column)
        if model is None:
            raise ConfigurationError("OTP needs load_user=, since there is no user model.")
        if key is None:
            return None

        async def work(session: AsyncSession) -> Any | None:
            return await session.get(model, key, options=with_hash(model))

        return await self._transactions.read(work)


async def loaded(transactions: Transactions, user: Any) -> Any:
    """The user, loaded anew where a commit has expired it, or its hash was never loaded."""
    # What a request has may be a proxy of it.
    state = inspect(getattr(user, "__wrapped__", user), raiseerr=False)
    if not isinstance(state, InstanceState) or not (state.expired_attributes or _lacks_hash(user)):
        return user
    model, identity = state.class_, state.identity

    async def work(session: AsyncSession) -> Any:
        # All columns: the hash may be a property of any of them.
        return await session.get(model, identity, options=[undefer("*")])

    return await transactions.read(work)


def _lacks_hash(user: Any) -> bool:
    try:
        password_hash(user)
    except (DetachedInstanceError, InvalidRequestError):
        return True
    return False


async def of_host(answer: Awaitable[Any]) -> Any:
    """What a function of the host's finds; where it looks may be away, too."""
    try:
        return await answer
    except Exception as exc:
        if not is_away(exc):
            raise
        raise DatabaseUnavailable() from exc
