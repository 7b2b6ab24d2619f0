"""DjangoHasher: the formats of `django.contrib.auth.hashers`."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any, ClassVar, Literal, Self, get_args

from pwdlib.hashers.argon2 import Argon2Hasher

from starlette_otp.exceptions import ConfigurationError
from starlette_otp.hashers.base import ForeignHasher, check_format
from starlette_otp.hashers.formats import (
    MAX_ITERATIONS,
    Check,
    argon2,
    base64_of,
    bcrypted,
    bytes_of,
    new_bcrypt,
    pbkdf2,
    plain,
    scrypt,
    scrypted,
)

Format = Literal["pbkdf2_sha256", "pbkdf2_sha1", "argon2", "bcrypt_sha256", "bcrypt", "scrypt"]


class DjangoHasher(ForeignHasher):
    """Django's pbkdf2_sha256, pbkdf2_sha1, argon2 (Argon2i, too), bcrypt_sha256, bcrypt, scrypt.

    Unusable passwords (`!...`) and empty ones are nobody's, and so are hashes that would take
    longer than some seconds.

    Args:
        weak: md5 and sha1, too, which whoever has the table guesses in no time.
        format: what most of the site's hashes are. An unknown name takes as long as that.
        iterations: of the site's PBKDF2. A wrong password takes as long where there were fewer.

    Raises:
        ConfigurationError: there is no such format, or so many iterations.
    """

    takes_weak: ClassVar[bool] = False

    def __new__(cls, weak: bool = False, **settings: Any) -> Self:
        """One that takes weak formats is of a class of its own: pwdlib's protocol lets the class
        recognize hashes, and not the instance."""
        if weak and not cls.takes_weak:
            cls = type(cls.__name__, (cls,), {"takes_weak": True, "__doc__": cls.__doc__})
        return super().__new__(cls)

    def __init__(
        self,
        weak: bool = False,
        *,
        format: Format = "pbkdf2_sha256",
        iterations: int = 1_000_000,
    ) -> None:
        check_format(self, format, get_args(Format))
        if not 0 < iterations <= MAX_ITERATIONS:
            raise ConfigurationError(
                f"DjangoHasher(iterations=) is 1 to {MAX_ITERATIONS:,}, not {iterations:,}."
            )
        self._format = format
        self._iterations = iterations

    @classmethod
    def check_of(cls, stored: str) -> Check | None:
        """What checks a password against a hash; None if it is none of these formats."""
        name, _, rest = stored.partition("$")
        match name, rest.split("$"):
            case (("pbkdf2_sha256" | "pbkdf2_sha1"), [iterations, salt, wanted]):
                digest = name.removeprefix("pbkdf2_")
                return pbkdf2(digest, iterations, salt.encode(), bytes_of(wanted))
            case "argon2", _:
                return argon2(f"${rest}")
            case "bcrypt", _:
                return bcrypted(rest)
            case "bcrypt_sha256", _:
                check = bcrypted(rest)
                return check and (lambda secret_bytes: check(_in_hex(secret_bytes)))
            case "scrypt", [n, salt, r, p, wanted]:
                return scrypt(n, salt.encode(), r, p, bytes_of(wanted))
            case (("md5" | "sha1"), [salt, wanted]) if cls.takes_weak:
                return plain(name, salt, wanted)
            case _ if cls.takes_weak and not rest:
                # MD5 without a salt, as in Django's first years.
                return plain("md5", "", stored)
        return None

    def make(self, secret_bytes: bytes, salt: bytes | None) -> str:
        """A new hash, as Django 5.2 makes it."""
        match self._format:
            case "argon2":
                hasher = Argon2Hasher(time_cost=2, memory_cost=102_400, parallelism=8)
                return "argon2" + hasher.hash(secret_bytes, salt=salt)
            case "bcrypt":
                return "bcrypt$" + new_bcrypt(secret_bytes, salt)
            case "bcrypt_sha256":
                return "bcrypt_sha256$" + new_bcrypt(_in_hex(secret_bytes), salt)
        salt = salt or secrets.token_hex(11).encode()
        if self._format == "scrypt":
            digest = scrypted(secret_bytes, 2**14, salt, 8, 5)
            return f"scrypt$16384${salt.decode()}$8$5${base64_of(digest)}"
        name, iterations = self._format.removeprefix("pbkdf2_"), self._iterations
        digest = hashlib.pbkdf2_hmac(name, secret_bytes, salt, iterations)
        return f"{self._format}${iterations}${salt.decode()}${base64_of(digest)}"

    def take_longer(self, stored: str) -> None:
        """Do the iterations that an older hash, or one without any, was made without."""
        name, _, rest = stored.partition("$")
        is_other = name in ("argon2", "bcrypt", "bcrypt_sha256", "scrypt")
        if is_other or not self._format.startswith("pbkdf2"):
            return
        done = int(rest.partition("$")[0]) if name.startswith("pbkdf2") else 0
        if done < self._iterations:
            digest = self._format.removeprefix("pbkdf2_")
            hashlib.pbkdf2_hmac(digest, b"", b"", self._iterations - done)


def _in_hex(secret_bytes: bytes) -> bytes:
    return hashlib.sha256(secret_bytes).hexdigest().encode()
