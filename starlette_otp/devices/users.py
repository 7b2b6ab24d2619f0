"""UserMixin: a user with a name and a password, and how the password is hashed."""

from __future__ import annotations

import unicodedata
from contextlib import suppress
from typing import Any, ClassVar

from pwdlib import PasswordHash
from pwdlib.exceptions import UnknownHashError
from sqlalchemy import String, inspect
from sqlalchemy.orm import Mapped, mapped_column, undefer, validates

from starlette_otp.devices.base import DeviceMixin
from starlette_otp.devices.bases import TableMixin
from starlette_otp.devices.owner import is_clean_text, raw_user_key

MAX_PASSWORD_LENGTH = 1024
"""Characters. Longer passwords are refused before Argon2 spends its time on them."""
MAX_USERNAME_LENGTH = 254
"""Characters; a mail address fits."""

_hasher = PasswordHash.recommended()


def called(user: object) -> str:
    """What people call a user of whatever class: by name, by display name, or by address."""
    for name in ("username", "display_name", "email"):
        with suppress(NotImplementedError):  # what Starlette's BaseUser says for want of one
            if known := getattr(user, name, None):
                return str(known)
    return ""


class UserMixin(TableMixin):
    """A user with a name and a password, for a host that has no user model yet."""

    __allow_unmapped__ = True

    username: Mapped[str] = mapped_column(String(MAX_USERNAME_LENGTH), unique=True)
    email: Mapped[str] = mapped_column(String(254), default="", server_default="")
    password_hash: Mapped[str] = mapped_column(String(255), default="", server_default="")
    is_active: Mapped[bool] = mapped_column(default=True, server_default="true")
    is_staff: Mapped[bool] = mapped_column(default=False, server_default="false")

    min_password_length: ClassVar[int] = 8
    """Characters (NIST SP 800-63B-4 section 3.1.1.2, for a password that is one of two factors)."""

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

    @validates("username")
    def _normal_username(self, key: str, username: Any) -> Any:
        return normal_name(username) if isinstance(username, str) else username

    def set_password(self, password: str) -> None:
        """Hash `password` with Argon2id; every session of the user ends at its next request.

        Raises:
            ValueError: under `min_password_length` or over 1,024 characters, no clean text, or
                what `check_new_password` says.
        """
        if not is_plausible(password) or len(normal_password(password)) < self.min_password_length:
            raise ValueError(
                f"A password is {self.min_password_length} to {MAX_PASSWORD_LENGTH} characters "
                "of text."
            )
        self.check_new_password(password)
        self.password_hash = hash_password(password)

    def check_new_password(self, password: str) -> None:
        """Refuse a password that is too well known: a host's own list (NIST, the same section).

        Raises:
            ValueError: one sentence why it is refused, for the user.
        """

    def check_password(self, password: str) -> bool:
        """Whether it is theirs. It takes as long as Argon2 does: call it in a thread."""
        return check_password(password, self.password_hash)


def names_of(username: str) -> list[str]:
    """How a name that was typed may be stored: as it is, by who stores it so, and in normal."""
    names = dict.fromkeys([username, normal_name(username)])
    return [name for name in names if len(name) <= MAX_USERNAME_LENGTH and is_clean_text(name)]


def normal_name(username: str) -> str:
    """A name as it is stored: NFKC, without the spaces that a phone's keyboard adds at its ends."""
    return unicodedata.normalize("NFKC", username).strip()


def normal_password(password: str) -> str:
    """A password as it is hashed: in NFC (NIST SP 800-63B-4 section 3.1.1.2), spaces and all."""
    return unicodedata.normalize("NFC", password)


def hash_password(password: str) -> str:
    """The Argon2id hash of a password."""
    return _hasher.hash(normal_password(password))


def is_argon2(stored: str) -> bool:
    """Whether a stored hash is one of ours, which takes as long to check as any other of them."""
    return bool(_hasher.current_hasher.identify(stored))


def check_password(
    password: str, password_hash: str, max_length: int = MAX_PASSWORD_LENGTH
) -> bool:
    """Whether `password` is what `password_hash` was made of; False for anything implausible."""
    if not is_plausible(password, max_length):
        return False
    normal_secret = normal_password(password)
    try:
        # What was hashed elsewhere may have been hashed as it was typed.
        return _hasher.verify(normal_secret, password_hash) or (
            normal_secret != password and _hasher.verify(password, password_hash)
        )
    except UnknownHashError:
        return False


def is_active(user: object) -> bool:
    """Whether the user may log in and stay in; one without such an attribute may."""
    return bool(getattr(user, "is_active", True))


def password_hash(user: object) -> str:
    """The hash that a session's fingerprint is of; users without a password have none."""
    return getattr(user, "password_hash", None) or ""


def with_hash(user_model: type[Any]) -> list[Any]:
    """The options of a SELECT that loads users with their hash, though their mapping defers it."""
    column = inspect(user_model).column_attrs.get("password_hash")
    return [undefer(getattr(user_model, column.key))] if column is not None else []


def is_plausible(password: str, max_length: int = MAX_PASSWORD_LENGTH) -> bool:
    """Whether a text can be a password: not over 1,024 characters, no NUL, no lone surrogate."""
    return len(password) <= max_length and is_clean_text(password)
