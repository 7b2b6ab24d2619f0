"""Passwords that users brought along: right by another library's hash, then hashed anew."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from pwdlib.hashers import HasherProtocol
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import undefer

from starlette_otp.devices.owner import raw_user_key
from starlette_otp.devices.users import (
    check_password,
    hash_password,
    is_active,
    is_argon2,
    password_hash,
)
from starlette_otp.exceptions import ConfigurationError, DatabaseUnavailable, sqlstate_of
from starlette_otp.service.passwords import PasswordQueue, Place
from starlette_otp.service.transactions import Transactions

MAX_BROUGHT_LENGTH = 4096
"""Characters of a password that may be looked at; elsewhere longer ones were accepted."""
_TRIES = 3

logger = logging.getLogger("starlette_otp")


class Formats:
    """Our own hashes and those of a host's `password_hashers`.

    Argon2id is ours; but hashes of others look alike, so whoever recognizes one is asked.

    Args:
        hashers: pwdlib's, or like them.

    Raises:
        ConfigurationError: they are not.
    """

    def __init__(self, hashers: Sequence[HasherProtocol]) -> None:
        for hasher in hashers:
            names = "identify", "hash", "verify"
            if isinstance(hasher, type) or not all(hasattr(hasher, name) for name in names):
                raise ConfigurationError(
                    "OTP(password_hashers=) is a list of pwdlib's hashers, as [DjangoHasher()], "
                    f"not {hasher!r}."
                )
        self._hashers = tuple(hashers)

    def look(self, password: str, stored: str) -> tuple[bool, str | None]:
        """Whether a password is right; and if by a hash of others, what is to be in its place.

        For a thread. A wrong one takes as long as Argon2 and the first of the hashers (or the one
        whose hash it is) do, whosever it is: an unknown name, too, whose `stored` is empty.
        """
        # Made here even if they are not needed: the first call is slow for everyone.
        nobodys_hash, first_hash = self._hashes_of_nobody
        is_ours = is_argon2(stored)
        if is_ours and check_password(password, stored, MAX_BROUGHT_LENGTH):
            return True, None
        known = [hasher for hasher in self._hashers if hasher.identify(stored)]
        if any(_verify(hasher, password, stored) for hasher in known):
            return True, hash_password(password)
        if not is_ours:
            check_password(password, nobodys_hash, MAX_BROUGHT_LENGTH)
        if not known:
            _verify(self._hashers[0], password, first_hash)
        return False, None

    @cached_property
    def _hashes_of_nobody(self) -> tuple[str, str]:
        password = secrets.token_urlsafe()
        return hash_password(password), self._hashers[0].hash(password)


class BroughtPasswords:
    """The check of passwords on a site that has hashes of another library.

    Args:
        transactions: over the host's sessionmaker.
        model: the user model.
        hashers: the host's `password_hashers`.
        queue: for the threads.

    Raises:
        ConfigurationError: no such hashers, or a user model whose hash can't be written.
    """

    def __init__(
        self,
        transactions: Transactions,
        model: type[Any],
        hashers: Sequence[HasherProtocol],
        queue: PasswordQueue,
    ) -> None:
        prop = getattr(model, "password_hash", None)
        if isinstance(prop, property) and prop.fset is None:
            raise ConfigurationError(
                f"OTP(password_hashers=) hashes passwords anew: {model.__name__}.password_hash "
                "needs a setter."
            )
        self._transactions = transactions
        self._model = model
        self._formats = Formats(hashers)
        self._queue = queue

    async def check(
        self, user: Any | None, password: str, place: Place, *, renews: bool
    ) -> Any | None:
        """That user, if it is their password and they are active; nobody takes as long.

        Args:
            user: loaded, with the hash; None for an unknown name.
            password: what was typed.
            place: in the queue.
            renews: a hash of others is replaced by one of Argon2id.

        Returns:
            The user, whose hash is the one that the database has now.

        Raises:
            TooBusy: there is no such place in the queue.
            DatabaseUnavailable: it is away, or rivals were in the way.
        """
        for _ in range(_TRIES):
            stored = password_hash(user) if is_active(user) else ""
            look = self._formats.look
            is_right, new_password_hash = await self._queue.run(place, look, password, stored)
            if not is_right:
                return None
            if new_password_hash is None or not renews:
                return user
            found = await self._renew(user, stored, new_password_hash)
            if found is None or password_hash(found) in (new_password_hash, stored):
                return found if found is not None and is_active(found) else None
            # A rival was faster: another log-in, or a new password, which this one may not be.
            user = found
        raise DatabaseUnavailable()

    async def _renew(self, user: Any, stored: str, new_password_hash: str) -> Any | None:
        """The user with the new hash; as the database has them, if the old one has gone."""
        model, key = self._model, raw_user_key(user, self._model)

        async def work(session: AsyncSession) -> Any | None:
            found = await session.get(
                model,
                key,
                options=[undefer("*")],
                # Not of rows that are loaded along; and others may go on to refer to it.
                with_for_update={"of": model, "key_share": True},
            )
            if found is not None and password_hash(found) == stored:
                found.password_hash = new_password_hash
            return found

        try:
            return await self._transactions.write(work)
        except DBAPIError as exc:
            # A role that may not, a column that is too short: people get in as before.
            logger.warning(
                "The password of user %r could not be hashed anew: %s (%s).",
                key,
                type(getattr(exc.orig, "__cause__", None) or exc.orig).__name__,
                sqlstate_of(exc),
            )
            return user


def _verify(hasher: HasherProtocol, password: str, stored: str) -> bool:
    try:
        return hasher.verify(password, stored)
    except ValueError:
        # As bcrypt 5 says of more than 72 bytes.
        return False
