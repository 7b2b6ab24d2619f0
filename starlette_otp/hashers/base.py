"""What the hashers have in common, as pwdlib's have it."""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from starlette_otp.exceptions import ConfigurationError
from starlette_otp.hashers.formats import Check

NormalForm = Literal["NFC", "NFD", "NFKC", "NFKD"]


class ForeignHasher(ABC):
    """A hasher of pwdlib's for hashes of another library, of several formats.

    A subclass says how a stored hash is checked, how a new one is made, and of what bytes.
    """

    normal_form: NormalForm | None = "NFC"

    @classmethod
    def identify(cls, hash: str | bytes) -> bool:
        """Whether it is a hash of one of these formats that costs no more than is bearable."""
        return cls.check_of(_text(hash)) is not None

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        """A hash as the other library makes it, in the format that the hasher was made with.

        Args:
            password: any text.
            salt: for tests; without, a new one.
        """
        return self.make(self.secrets_of(password)[-1], salt)

    def verify(self, password: str | bytes, hash: str | bytes) -> bool:
        """Whether it is the password of that hash, as it was typed or in its normal form.

        It takes as long as that format does: call it in a thread.
        """
        stored = _text(hash)
        check = self.check_of(stored)
        if check is None:
            return False
        if any(check(secret_bytes) for secret_bytes in self.secrets_of(password)):
            return True
        self.take_longer(stored)
        return False

    def check_needs_rehash(self, hash: str | bytes) -> bool:
        """True: each of them is to become one of Argon2id."""
        return True

    def secrets_of(self, password: str | bytes) -> list[bytes]:
        """What may have been hashed for a password, in its normal form last."""
        if isinstance(password, bytes):
            return [password]
        secret_texts = {password: None}
        if self.normal_form is not None:
            secret_texts[unicodedata.normalize(self.normal_form, password)] = None
        return [secret_text.encode() for secret_text in secret_texts]

    @classmethod
    @abstractmethod
    def check_of(cls, stored: str) -> Check | None:
        """What checks a password against a hash; None if it is none of these formats."""

    @abstractmethod
    def make(self, secret_bytes: bytes, salt: bytes | None) -> str:
        """A new hash."""

    def take_longer(self, stored: str) -> None:  # noqa: B027  # most have nothing to spend
        """Spend the time by which a wrong password was known earlier than of a new hash."""


def check_format(hasher: object, format: object, formats: Sequence[str]) -> None:
    """Refuse to make a hasher for a format that there is not.

    Raises:
        ConfigurationError: one sentence that says which there are.
    """
    if format not in formats:
        raise ConfigurationError(
            f"{type(hasher).__name__}(format=) is one of {', '.join(formats)}, not {format!r}."
        )


def _text(stored: str | bytes) -> str:
    # What is no text is no hash, either.
    return stored.decode("utf-8", "replace") if isinstance(stored, bytes) else stored
