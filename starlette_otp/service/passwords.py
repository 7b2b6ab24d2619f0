"""The default check of a name and a password: one time for everybody, and a queue for Argon2."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any, TypeVar

from starlette_otp.devices.owner import is_clean_text
from starlette_otp.devices.users import (
    MAX_USERNAME_LENGTH,
    check_password,
    hash_password,
    is_active,
    is_argon2,
    is_plausible,
)
from starlette_otp.exceptions import TooBusy

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """For whom a place is taken.

    Attributes:
        name: what stands for the name, or for the known browser of its owner.
        address: the client's.
        is_known: the browser has signed in to this account before.
    """

    name: str = ""
    address: str = ""
    is_known: bool = False


class PasswordQueue:
    """Who may wait for Argon2. Who finds no place is told to come back (503).

    Places are given so that a crowd with one name or from one address leaves some to others, and
    that strangers leave all of theirs to known browsers.

    Args:
        workers: passwords looked at at a time; each takes a core and 64 MiB.
        places: of strangers, those who are being looked at included.
        per_name: of them for one name.
        per_address: of them for one address of a client.
        known_places: of browsers that have signed in to the account before; `per_name` for each.
    """

    def __init__(
        self,
        *,
        workers: int = 2,
        places: int = 32,
        per_name: int = 2,
        per_address: int = 4,
        known_places: int = 16,
    ) -> None:
        self.places, self.per_name, self.per_address = places, per_name, per_address
        self.known_places = known_places
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="argon2")
        self._taken: Counter[tuple[str, str]] = Counter()
        self._lock = Lock()  # event loops of several threads may share a queue

    async def run(self, place: Place, work: Callable[..., T], *password_and_hash: Any) -> T:
        """Run `work` in a thread when it is its turn.

        Raises:
            TooBusy: there is no place.
        """
        with self.taken(place):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._executor, work, *password_and_hash)

    @contextmanager
    def taken(self, place: Place) -> Iterator[None]:
        """A place, taken for as long as this is entered.

        Raises:
            TooBusy: there is none.
        """
        limits = self._limits(place)
        with self._lock:
            if any(self._taken[who] >= limit for who, limit in limits.items()):
                raise TooBusy()
            self._taken.update(list(limits))
        try:
            yield
        finally:
            with self._lock:
                self._taken.subtract(list(limits))
                for who in limits:
                    if not self._taken[who]:
                        del self._taken[who]

    def _limits(self, place: Place) -> dict[tuple[str, str], int]:
        """How many may be there at a time of everybody with whom a place is shared."""
        name = {("name", place.name): self.per_name} if place.name else {}
        if place.is_known:
            return {("known", ""): self.known_places, **name}
        address = {("address", place.address): self.per_address} if place.address else {}
        return {("all", ""): self.places, **name, **address}


QUEUE = PasswordQueue()
"""Where an OTP's log-ins wait that was not given a queue of its own."""


async def authenticate(
    find_user: Callable[[str], Awaitable[Any]], username: str, password: str
) -> Any | None:
    """The default check of a name and a password.

    An unknown name takes as long as a known one, so that the time tells nobody who has an account.

    Args:
        find_user: gives the user of that name, or None.
        username: any text.
        password: any text.

    Returns:
        The active user with that name and password, or None.

    Raises:
        TooBusy: too many others wait for their turn.
    """
    known = len(username) <= MAX_USERNAME_LENGTH and is_clean_text(username)
    user = await find_user(username) if known and is_plausible(password) else None
    return user if await is_right(user, password, QUEUE, Place(username)) else None


async def is_right(user: Any | None, password: str, queue: PasswordQueue, place: Place) -> bool:
    """Whether it is the password of that user, who is active; nobody's takes as long.

    Raises:
        TooBusy: there is no such place in the queue.
    """
    if not is_plausible(password):
        return False
    fits = await queue.run(place, _fits, password, user and user.password_hash)
    return fits and user is not None and is_active(user)


def _fits(password: str, stored: str | None) -> bool:
    # Nobody's hash is made here even if it is not needed: the first call is slow for everyone.
    nobody = _hash_of_nobody()
    if stored and is_argon2(stored):
        return check_password(password, stored)
    check_password(password, nobody)
    return False


@cache
def _hash_of_nobody() -> str:
    return hash_password(secrets.token_urlsafe())
