"""Stored passwords: which can be carried over as they are."""

from __future__ import annotations

from starlette_otp.devices.users import is_argon2

_MOST = 255
"""Characters of `UserMixin.password_hash`."""
_WEAK = ("md5$", "sha1$", "unsalted_md5$", "unsalted_sha1$")
_KNOWN = (
    "pbkdf2_sha256$",
    "pbkdf2_sha1$",
    "argon2$",
    "bcrypt_sha256$",
    "bcrypt$",
    "scrypt$",
    "$pbkdf2-sha512$",
    "$pbkdf2-sha256$",
    "$2a$",
    "$2b$",
    "$2y$",
)


def carried(stored: str, weak: bool) -> tuple[str, str | None]:
    """The hash to be stored here; or none, and why theirs is left behind, if they have one.

    Args:
        stored: as the old site has it.
        weak: MD5 and SHA-1, too.
    """
    if not stored or stored.startswith("!"):
        return "", None
    if len(stored) > _MOST:
        return "", "Their password is in no known format, and is left behind."
    if stored.startswith(_WEAK) and not weak:
        return "", "Their password is hashed by MD5 or SHA-1, and is left behind."
    if stored.startswith((*_KNOWN, *_WEAK)) or is_argon2(stored):
        return stored, None
    # In plain, it may be.
    return "", "Their password is in no known format, and is left behind."
