"""FlaskSecurityHasher: hashes that look like anybody's, of an HMAC of the password."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Literal, get_args

from pwdlib.hashers.argon2 import Argon2Hasher

from starlette_otp.exceptions import ConfigurationError
from starlette_otp.hashers.base import ForeignHasher, NormalForm, check_format
from starlette_otp.hashers.formats import (
    Check,
    argon2,
    base64_of,
    bcrypted,
    bytes_of,
    new_bcrypt,
    pbkdf2,
)

Format = Literal["argon2", "bcrypt", "pbkdf2_sha512", "pbkdf2_sha256"]


class FlaskSecurityHasher(ForeignHasher):
    """Flask-Security's argon2, bcrypt, pbkdf2_sha512 and pbkdf2_sha256.

    What they are of is the HMAC of the password under the site's salt. A plain password that was
    stored as it is is nobody's.

    Args:
        salt: the site's SECURITY_PASSWORD_SALT.
        format: the site's SECURITY_PASSWORD_HASH. An unknown name takes as long as that.
        normal_form: the site's SECURITY_PASSWORD_NORMALIZE_FORM.

    Raises:
        ConfigurationError: there is no salt, or no such format.
    """

    def __init__(
        self,
        salt: str | bytes,
        *,
        format: Format = "argon2",
        normal_form: NormalForm | None = "NFKD",
    ) -> None:
        # An error tracker sends locals, and scrubs those whose names it knows.
        secret_salt, salt = salt, ""
        if not secret_salt:
            raise ConfigurationError(
                "FlaskSecurityHasher takes the site's SECURITY_PASSWORD_SALT, which is not empty."
            )
        check_format(self, format, get_args(Format))
        self._secret_salt = secret_salt.encode() if isinstance(secret_salt, str) else secret_salt
        self._format = format
        self.normal_form = normal_form

    def secrets_of(self, password: str | bytes) -> list[bytes]:
        """The HMACs, in base 64, of what may have been typed."""
        return [
            base64.b64encode(hmac.digest(self._secret_salt, secret_bytes, "sha512"))
            for secret_bytes in super().secrets_of(password)
        ]

    @classmethod
    def check_of(cls, stored: str) -> Check | None:
        """What checks a password against a hash; None if it is none of these formats."""
        match stored.split("$"):
            case ["", ("pbkdf2-sha512" | "pbkdf2-sha256") as name, iterations, salt, wanted]:
                salt_bytes, digest = _bytes_of(salt), name.removeprefix("pbkdf2-")
                if salt_bytes is None:
                    return None
                return pbkdf2(digest, iterations, salt_bytes, _bytes_of(wanted))
        return argon2(stored) or bcrypted(stored)

    def make(self, secret_bytes: bytes, salt: bytes | None) -> str:
        """A new hash, with passlib's costs."""
        if self._format == "argon2":
            return Argon2Hasher().hash(secret_bytes, salt=salt)
        if self._format == "bcrypt":
            return new_bcrypt(secret_bytes, salt)
        name, salt = self._format.removeprefix("pbkdf2_"), salt or secrets.token_bytes(16)
        iterations = 25_000 if name == "sha512" else 29_000
        digest = hashlib.pbkdf2_hmac(name, secret_bytes, salt, iterations)
        return f"$pbkdf2-{name}${iterations}${_in_base64(salt)}${_in_base64(digest)}"


# Base 64 as passlib has it: with a dot for the plus, and without padding.


def _in_base64(digest: bytes) -> str:
    return base64_of(digest).rstrip("=").replace("+", ".")


def _bytes_of(text: str) -> bytes | None:
    return bytes_of(text.replace(".", "+") + "=" * (-len(text) % 4))
