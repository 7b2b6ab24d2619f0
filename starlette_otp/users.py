"""UserMixin, and how a name and a password become a user."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any

from pwdlib import PasswordHash
from pwdlib.exceptions import UnknownHashError
from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from starlette_otp.devices.owner import is_clean_text, raw_user_key
from starlette_otp.exceptions import TooBusy

if TYPE_CHECKING:
    from starlette_otp.devices.base import DeviceMixin

MAX_PASSWORD_LENGTH = 1024
"""Characters. Longer passwords are refused before Argon2 spends its time on them."""
MAX_USERNAME_LENGTH = 254
"""Characters; a mail address fits."""

_hasher = PasswordHash.recommended()
MAX_WAITING = 32
"""Log-ins that may wait for Argon2; who comes then is told to come back."""
# Argon2 takes a core and 64 MiB a call: two at a time, so that a burst of log-ins starves nobody.
_argon2 = ThreadPoolExecutor(2, thread_name_prefix="argon2")
_turns = BoundedSemaphore(MAX_WAITING)


class UserMixin:
    """A user with a name and a password, for a host that has no user model yet."""

    __allow_unmapped__ = True

    username: Mapped[str] = mapped_column(String(MAX_USERNAME_LENGTH), unique=True)
    email: Mapped[str] = mapped_column(String(254), default="", server_default="")
    password_hash: Mapped[str] = mapped_column(String(255), default="", server_default="")
    is_active: Mapped[bool] = mapped_column(default=True, server_default="true")
    is_staff: Mapped[bool] = mapped_column(default=False, server_default="false")

    otp_device: DeviceMixin | None = None
    """After OTPMiddleware: the device that verified this request's session."""

    def is_verified(self) -> bool:
        """Whether a device verified this request's session."""
        return self.otp_device is not None

    def __getstate__(self) -> dict[str, Any]:
        # A host may keep users for other requests; being verified is this request's alone.
        return {name: value for name, value in vars(self).items() if name != "otp_device"}

    @property
    def is_authenticated(self) -> bool:
        """True: Starlette's word for somebody."""
        return True

    @property
    def display_name(self) -> str:
        """Starlette's word for the name to show."""
        return self.username

    @property
    def identity(self) -> str:
        """Starlette's word for the key, as text."""
        return str(raw_user_key(self, type(self)))

    def set_password(self, raw: str) -> None:
        """Hash `raw` with Argon2id; every session of the user ends at its next request.

        Raises:
            ValueError: empty, over 1,024 characters, or no clean text.
        """
        if not raw or not _is_plausible(raw):
            raise ValueError(f"A password is 1 to {MAX_PASSWORD_LENGTH} characters, without NUL.")
        self.password_hash = _hasher.hash(raw)

    def check_password(self, raw: str) -> bool:
        """Whether `raw` is the password. It takes as long as Argon2 does: call it in a thread."""
        return check_password(raw, self.password_hash)


def check_password(raw: str, password_hash: str) -> bool:
    """Whether `raw` is what `password_hash` was made of; False for anything implausible."""
    if not _is_plausible(raw):
        return False
    try:
        return _hasher.verify(raw, password_hash)
    except UnknownHashError:
        return False


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
    if not _is_plausible(password):
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


def is_active(user: object) -> bool:
    """Whether the user may log in and stay in; one without such an attribute may."""
    return bool(getattr(user, "is_active", True))


def password_hash(user: object) -> str:
    """The hash that a session's fingerprint is of; users without a password have none."""
    return getattr(user, "password_hash", None) or ""


def _fits(password: str, stored: str | None) -> bool:
    # Nobody's hash is made here even if it is not needed: the first call is slow for everyone.
    nobody = _hash_of_nobody()
    if stored and _hasher.current_hasher.identify(stored):
        return check_password(password, stored)
    check_password(password, nobody)
    return False


@cache
def _hash_of_nobody() -> str:
    return _hasher.hash(secrets.token_urlsafe())


def _is_plausible(password: str) -> bool:
    return len(password) <= MAX_PASSWORD_LENGTH and is_clean_text(password)


class RequestUser:
    """A user object of the host's with this request's `otp_device` and `is_verified()`.

    It passes everything else on: the host may share one user object between requests, or have
    frozen it, so nothing is ever written on it.
    """

    __slots__ = ("__wrapped__", "otp_device")

    def __init__(self, user: Any, device: Any | None) -> None:
        object.__setattr__(self, "__wrapped__", user)
        object.__setattr__(self, "otp_device", device)

    def is_verified(self) -> bool:
        return self.otp_device is not None

    @property  # type: ignore[misc]  # typeshed has it settable
    def __class__(self) -> type[Any]:
        # isinstance(request.user, User) goes on being true.
        cls: type[Any] = type(self.__wrapped__)
        return cls

    def __getattr__(self, name: str) -> Any:
        if name in self.__slots__:  # being copied: there is no user yet to ask
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__slots__:
            object.__setattr__(self, name, value)
        else:
            setattr(self.__wrapped__, name, value)

    def __eq__(self, other: object) -> bool:
        return bool(self.__wrapped__ == unwrapped(other))

    def __hash__(self) -> int:
        return hash(self.__wrapped__)

    def __bool__(self) -> bool:
        return bool(self.__wrapped__)

    def __str__(self) -> str:
        return str(self.__wrapped__)

    def __repr__(self) -> str:
        return repr(self.__wrapped__)


def unwrapped(user: Any) -> Any:
    """The host's own user object."""
    return user.__wrapped__ if type(user) is RequestUser else user


def attach(user: Any, device: Any | None, own: bool = False) -> Any:
    """`user` with `otp_device` and `is_verified()`: itself or a proxy.

    Args:
        user: the user.
        device: what verified them, or None.
        own: nobody but this request has this object, so attributes may be set on it.
    """
    if not own:
        return RequestUser(unwrapped(user), device)
    user.otp_device = device
    for name, value in {
        "is_verified": lambda: user.otp_device is not None,
        "is_authenticated": True,
        "display_name": str(getattr(user, "username", "")),
    }.items():
        if not hasattr(type(user), name):
            setattr(user, name, value)
    return user
