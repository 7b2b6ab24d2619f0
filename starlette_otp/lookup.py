"""UserLookup: a user by name and password, by name, or by key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from starlette.requests import HTTPConnection, Request

from starlette_otp import users
from starlette_otp.devices.owner import convert_key, is_clean_text, table_of
from starlette_otp.exceptions import ConfigurationError, DatabaseUnavailable, is_away
from starlette_otp.transactions import Transactions

Authenticate = Callable[[Request, str, str], Awaitable[Any]]
LoadUser = Callable[[HTTPConnection, Any], Awaitable[Any]]


class UserLookup(Transactions):
    """Finds users in the device model's user model, or where the host's functions find them."""

    def __init__(
        self,
        sessionmaker: async_sessionmaker[AsyncSession],
        device_model: type[Any],
        authenticate: Authenticate | None,
        load_user: LoadUser | None,
    ) -> None:
        super().__init__(sessionmaker, device_model)
        self.device_model = device_model
        self.user_model: type[Any] | None = device_model.__user_model__
        self._authenticate = authenticate
        self._load_user = load_user

    @property
    def loads_users(self) -> bool:
        """Whether users can be loaded by their key."""
        return self._load_user is not None or self.user_model is not None

    async def authenticate(self, request: Request, username: str, password: str) -> Any | None:
        """The user with that name and password, or None."""
        if self._authenticate is not None:
            return await _of_host(self._authenticate(request, username, password))
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
        if len(username) > users.MAX_USERNAME_LENGTH or not is_clean_text(username):
            return None
        query = select(model).where(model.username == username)

        async def work(session: AsyncSession) -> Any | None:
            return await session.scalar(query)

        return await self.read(work)

    async def load_user(self, conn: HTTPConnection, key: object) -> Any | None:
        """The user with that key, from the user model or by the host's `load_user`; or None."""
        key = convert_key(key, table_of(self.device_model).c.user_id)
        if key is None:
            return None
        if self._load_user is not None:
            return await _of_host(self._load_user(conn, key))
        model = self.user_model
        if model is None:
            raise ConfigurationError("OTP needs load_user=, since there is no user model.")

        async def work(session: AsyncSession) -> Any | None:
            return await session.get(model, key)

        return await self.read(work)

    async def usage(self, user: object) -> str:
        """A text that differs after a device of the user's accepted a token, or came or went."""
        devices = self.device_model.devices_for_user(user).subquery()
        query = select(func.max(devices.c.last_used_at), func.sum(devices.c.id))

        async def work(session: AsyncSession) -> str:
            return str(tuple((await session.execute(query)).one()))

        return await self.read(work)


async def _of_host(answer: Awaitable[Any]) -> Any:
    """What a function of the host's finds; where it looks may be away, too."""
    try:
        return await answer
    except Exception as exc:
        if not is_away(exc):
            raise
        raise DatabaseUnavailable() from exc
