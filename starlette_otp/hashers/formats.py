"""How a stored hash is checked: Argon2, bcrypt, PBKDF2, scrypt, plain digests, and their limits.

Each function takes a hash apart and gives what checks a password, as bytes, against it; None for a
hash that is none, or that costs more than the limits here, so that none holds a worker for long.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable

import bcrypt
from pwdlib.hashers.argon2 import Argon2Hasher

MAX_ITERATIONS = 10_000_000
"""Of PBKDF2; Django 5.2 has a million."""
MAX_ROUNDS = 15
"""Of bcrypt, whose time doubles with each; Django has 12."""
MAX_MEMORY = 2**30
"""Bytes, for Argon2 and scrypt; Django has 100 MiB and 16 MiB."""
MAX_WORK = 2**32
"""Bytes, memory times passes over it, for these two; Django has 200 MiB and 80 MiB."""

Check = Callable[[bytes], bool]

_ARGON2 = re.compile(
    r"\$argon2(?:id|i|d)\$v=\d\d\$m=(\d{1,8}),t=(\d{1,4}),p=(\d{1,2})\$[\w+/]+\$[\w+/]+", re.ASCII
)
_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[\w./]{53}", re.ASCII)


def argon2(stored: str) -> Check | None:
    """For `$argon2id$v=19$m=102400,t=2,p=8$salt$digest`, and Argon2i and Argon2d."""
    found = _ARGON2.fullmatch(stored)
    if found is None:
        return None
    memory, passes, _ = map(int, found.groups())
    if memory * 1024 > MAX_MEMORY or memory * 1024 * passes > MAX_WORK:
        return None
    return lambda secret_bytes: Argon2Hasher().verify(secret_bytes, stored)


def bcrypted(stored: str) -> Check | None:
    """For `$2b$12$` with salt and digest."""
    found = _BCRYPT.fullmatch(stored)
    if found is None or not 4 <= int(found[1]) <= MAX_ROUNDS:
        return None
    return lambda secret_bytes: bcrypt.checkpw(_seen(secret_bytes), stored.encode())


def pbkdf2(name: str, iterations: str, salt: bytes, wanted: bytes | None) -> Check | None:
    """For PBKDF2 with HMAC of the digest `name`."""
    size = hashlib.new(name, usedforsecurity=False).digest_size
    count = _number(iterations)
    if not 0 < count <= MAX_ITERATIONS or wanted is None or len(wanted) != size:
        return None
    return lambda secret_bytes: hmac.compare_digest(
        hashlib.pbkdf2_hmac(name, secret_bytes, salt, count), wanted
    )


def scrypt(n: str, salt: bytes, r: str, p: str, wanted: bytes | None) -> Check | None:
    """For scrypt with N, r and p, and a digest of 64 bytes."""
    cost, size, lanes = map(_number, (n, r, p))
    if cost < 2 or cost & (cost - 1) or not size or not lanes:
        return None
    memory = 128 * cost * size
    if memory > MAX_MEMORY or memory * lanes > MAX_WORK or wanted is None or len(wanted) != 64:
        return None
    return lambda secret_bytes: hmac.compare_digest(
        scrypted(secret_bytes, cost, salt, size, lanes), wanted
    )


def plain(name: str, salt: str, wanted: str) -> Check | None:
    """For the digest `name`, in hex, of salt and password."""
    size = hashlib.new(name, usedforsecurity=False).digest_size
    if re.fullmatch(f"[0-9a-f]{{{2 * size}}}", wanted) is None:
        return None

    def check(secret_bytes: bytes) -> bool:
        made = hashlib.new(name, salt.encode() + secret_bytes, usedforsecurity=False)
        return hmac.compare_digest(made.hexdigest(), wanted)

    return check


def new_bcrypt(secret_bytes: bytes, salt: bytes | None) -> str:
    """A bcrypt hash of twelve rounds."""
    return bcrypt.hashpw(_seen(secret_bytes), salt or bcrypt.gensalt(12)).decode()


def scrypted(secret_bytes: bytes, n: int, salt: bytes, r: int, p: int) -> bytes:
    """The 64 bytes of scrypt."""
    # What OpenSSL needs, which by itself stops at 32 MiB.
    memory = 128 * r * (n + p + 2) + 2**20
    return hashlib.scrypt(secret_bytes, salt=salt, n=n, r=r, p=p, maxmem=memory, dklen=64)


def base64_of(digest: bytes) -> str:
    """Base 64, as text."""
    return base64.b64encode(digest).decode()


def bytes_of(text: str) -> bytes | None:
    """What a text in base 64 is; None for one that is not."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None


def _seen(secret_bytes: bytes) -> bytes:
    # More bcrypt never looked at; its version 5 takes no more.
    return secret_bytes[:72]


def _number(text: str) -> int:
    """A number as a hash has it; 0 for any other text."""
    return int(text) if re.fullmatch("[1-9][0-9]{0,8}", text) else 0
