"""The default check of a name and a password: one time for everybody, and a queue for Argon2."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import BoundedSemaphore
from typing import Any

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

MAX_WAITING = 32
"""Log-ins that may wait for Argon2; who comes then is told to come back."""
# Argon2 takes a core and 64 MiB a call: two at a time, so that a burst of log-ins starves nobody.
_argon2 = ThreadPoolExecutor(2, thread_name_prefix="argon2")
_turns = BoundedSemaphore(MAX_WAITING)


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
    if not is_plausible(password):
        return None
    known = len(username) <= MAX_USERNAME_LENGTH and is_clean_text(username)
    user = await find_user(username) if known else None
    if not _turns.acquire(blocking=False):
        raise TooBusy()
    try:
        loop = asyncio.get_running_loop()
        fits = await loop.run_in_executor(_argon2, _fits, password, user and user.password_hash)
    finally:
        _turns.release()
    return user if fits and user is not None and is_active(user) else None


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
