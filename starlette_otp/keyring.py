"""Keys derived from the application's secret: device secrets at rest, digests, tickets, CSRF."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from starlette.datastructures import Secret

from starlette_otp.exceptions import ConfigurationError

MIN_KEY_LENGTH = 32
# A key of decimal digits, drawn at random, has fewer once in millions of times.
_MIN_DIFFERENT = 6


class Keyring:
    """The first of `secret_keys` seals and signs, all of them still open and verify.

    Every purpose has a key of its own (HKDF-SHA256, one label a purpose), so that what was made
    for one is worthless for another.

    Args:
        secret_keys: one key, or several with the newest first; 32 characters or more each.
        name: of the devices' table, so that digests, tickets and browsers' cookies are worth
            nothing at another OTP of the same keys.

    Raises:
        ConfigurationError: no key, a short one, or one of few different characters.
    """

    def __init__(self, secret_keys: str | Secret | Sequence[str | Secret], name: str = "") -> None:
        if isinstance(secret_keys, str | Secret):
            secret_keys = [secret_keys]
        secrets = [str(secret) for secret in secret_keys]
        if not secrets or any(len(secret) < MIN_KEY_LENGTH for secret in secrets):
            raise ConfigurationError(f"secret_key needs {MIN_KEY_LENGTH} characters or more.")
        if any(_is_guessable(secret) for secret in secrets):
            raise ConfigurationError(
                "secret_key is made of few different characters: take one that nobody guesses, "
                "as of secrets.token_urlsafe(32)."
            )
        self.number = len(secrets)
        self._secrets = _fernet(secrets, "secrets")
        self._newest = _fernet(secrets[:1], "secrets")
        self._tickets = _fernet(secrets, f"tickets {name}")
        # Copied for each digest: setting up a key takes longer than the rest.
        derived_secrets = [_derive(secret, f"digests {name}") for secret in secrets]
        self._digests = [hmac.new(secret, None, "sha256") for secret in derived_secrets]
        # itsdangerous wants the oldest first and signs with the last.
        self.csrf = [_derive(secret, "csrf").hex() for secret in reversed(secrets)]
        browsers = f"browsers {name}"
        self.browsers = [_derive(secret, browsers).hex() for secret in reversed(secrets)]
        self.agents = [_derive(secret, f"agents {name}").hex() for secret in reversed(secrets)]

    def seal(self, secret: bytes, *, kind: str, owner: str, secret_id: str | None = None) -> str:
        """Encrypt a device's secret for its row; `open` wants the same kind, owner and id.

        Args:
            secret: what to encrypt.
            kind: of the device.
            owner: the key of its user.
            secret_id: a random id of the secret's own, which its row holds, too; rows from before
                there were any have none.
        """
        return self._secrets.encrypt(_label(kind, owner, secret_id) + secret).decode()

    def open(
        self, sealed: str, *, kind: str, owner: str, secret_id: str | None = None
    ) -> bytes | None:
        """The secret, or None when it does not decrypt or was sealed for another row.

        A ciphertext copied into another user's row opens to a plaintext that names its owner, and
        one that is put back after the secret was replaced to a plaintext that has another id.
        """
        label = _label(kind, owner, secret_id)
        try:
            labelled_secret = self._secrets.decrypt(sealed.encode())
        except (InvalidToken, UnicodeEncodeError):
            return None
        fits = hmac.compare_digest(labelled_secret[: len(label)], label)
        return labelled_secret[len(label) :] if fits else None

    def reseal(
        self, sealed: str, *, kind: str, owner: str, secret_id: str | None = None
    ) -> str | None:
        """`sealed` under the first key, itself if it is already; None when it does not open."""
        secret = self.open(sealed, kind=kind, owner=owner, secret_id=secret_id)
        if secret is None:
            return None
        try:
            self._newest.decrypt(sealed.encode())
        except InvalidToken:
            return self.seal(secret, kind=kind, owner=owner, secret_id=secret_id)
        return sealed

    def digests(self, purpose: str, secret: str) -> list[str]:
        """The keyed digests of `secret` as 64 hex characters each, one a key, the newest first."""
        return list(self._made(purpose, secret))

    def _made(self, purpose: str, secret: str) -> Iterator[str]:
        secret_message = f"{purpose}\0{secret}".encode()
        for keyed in self._digests:
            digest = keyed.copy()
            digest.update(secret_message)
            yield digest.hexdigest()

    def digest_matches(self, purpose: str, secret: str, digest: str) -> bool:
        """Whether `digest` was made of `secret` under any key; compared in constant time."""
        given = digest.encode(errors="replace")
        return any(
            hmac.compare_digest(made.encode(), given) for made in self._made(purpose, secret)
        )

    def make_ticket(self, payload: dict[str, Any], now: datetime) -> str:
        """A signed, unreadable and dated text that stands for `payload`."""
        data = json.dumps(payload).encode()
        return self._tickets.encrypt_at_time(data, int(now.timestamp())).decode()

    def read_ticket(
        self, ticket_token: object, now: datetime, max_age: int
    ) -> dict[str, Any] | None:
        """The payload of a ticket no older than `max_age` seconds, else None."""
        if not isinstance(ticket_token, str):
            return None
        try:
            data = self._tickets.decrypt_at_time(ticket_token, max_age, int(now.timestamp()))
        except (InvalidToken, ValueError):
            return None
        payload: dict[str, Any] = json.loads(data)
        return payload


def _is_guessable(secret_key: str) -> bool:
    """Whether a key has under 6 different characters, or is a short text over and over."""
    return len(set(secret_key)) < _MIN_DIFFERENT or secret_key in (secret_key * 2)[1:-1]


def _derive(secret_key: str, purpose: str) -> bytes:
    info = f"starlette-otp {purpose}".encode()
    derivation = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info)
    return derivation.derive(secret_key.encode())


def _fernet(secret_keys: Sequence[str], purpose: str) -> MultiFernet:
    derived_secrets = [_derive(secret, purpose) for secret in secret_keys]
    return MultiFernet([Fernet(base64.urlsafe_b64encode(secret)) for secret in derived_secrets])


def _label(kind: str, owner: str, secret_id: str | None) -> bytes:
    parts = (kind, owner) if secret_id is None else (kind, owner, secret_id)
    return "".join(f"{part}\0" for part in parts).encode()
