"""A device's secret: readable in Python, encrypted in its row, for its owner and kind alone."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import Connection, String, Text, event, inspect, select
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.orm.attributes import get_history

from starlette_otp.devices.bases import TableMixin
from starlette_otp.devices.endings import end_tickets, unverify
from starlette_otp.devices.owner import convert_key, table_of
from starlette_otp.exceptions import ConfigurationError, SecretUnreadable
from starlette_otp.keyring import Keyring
from starlette_otp.oath import MIN_SECRET_BYTES, SECRET_BYTES

_ID_BYTES = 15
_ID_LENGTH = 20
"""Of its text: base 64."""


class _Unsealed(str):
    """Stands in `sealed_secret` for a secret that a flush will seal; never written, it is empty."""

    secret: bytes


class SealedSecretMixin(TableMixin):
    """The secret of a device, whose columns `id`, `kind` and `user_id` say whose it is."""

    __keyring__: ClassVar[Keyring | None] = None

    if TYPE_CHECKING:
        id: Any
        kind: Any
        user_id: Any

    sealed_secret: Mapped[str | None] = mapped_column(Text)
    secret_id: Mapped[str | None] = mapped_column(String(_ID_LENGTH))
    secret_digest: Mapped[str | None] = mapped_column(String(64))
    """By which two devices of a user that have one secret know each other."""

    @property
    def secret(self) -> bytes:
        """The secret: 16 bytes or more, 20 random ones unless set; encrypted in the row.

        Raises:
            ValueError: a short secret was set, or one that is not bytes.
            ConfigurationError: no OTP has been made over this model, so there are no keys.
            SecretUnreadable: the row's secret does not decrypt.
        """
        if self.sealed_secret is None and not inspect(self).has_identity:
            self.secret = secrets.token_bytes(SECRET_BYTES)
        sealed = self.sealed_secret
        return sealed.secret if isinstance(sealed, _Unsealed) else self._unseal(self.user_id)

    @secret.setter
    def secret(self, secret: bytes) -> None:
        if not isinstance(secret, bytes) or len(secret) < MIN_SECRET_BYTES:  # type: ignore[redundant-expr]
            raise ValueError(
                f"A secret is bytes, {MIN_SECRET_BYTES} bytes or more (RFC 4226, R6); "
                "secret_from_base32(text) makes them of base 32."
            )
        # In the mapped attribute, so that a flush sees it change and a rollback takes it back.
        self.sealed_secret = _Unsealed()
        self.sealed_secret.secret = secret

    @classmethod
    def _owner(cls, user_id: Any) -> str:
        # A UUID may have been given as a text of another spelling than its row's.
        key = convert_key(user_id, table_of(cls).c.user_id)
        return str(user_id if key is None else key)

    def _unseal(self, user_id: Any) -> bytes:
        sealed = self.sealed_secret or ""
        owner = self._owner(user_id)
        secret = self.keyring().open(sealed, kind=self.kind, owner=owner, secret_id=self.secret_id)
        if secret is None:
            raise SecretUnreadable(f"{self.kind}/{self.id}")
        return secret

    def _seal(self, connection: Connection | None = None) -> None:
        """Encrypt a secret that was set, or that has to name a new owner."""
        sealed = self.sealed_secret
        if isinstance(sealed, _Unsealed):
            secret = sealed.secret
            # A new one for each secret: a ciphertext from before is worth nothing in this row.
            self.secret_id = secrets.token_urlsafe(_ID_BYTES)
        else:
            owners = get_history(self, "user_id")
            if connection is None or not sealed or not owners.added:
                return
            # An instance that had expired does not know whose it was.
            table = table_of(type(self))
            query = select(table.c.user_id).where(table.c.id == self.id)
            secret = self._unseal((owners.deleted or [connection.scalar(query)])[0])
        owner = self._owner(self.user_id)
        self.sealed_secret = self.keyring().seal(
            secret, kind=self.kind, owner=owner, secret_id=self.secret_id
        )
        self.secret_digest = digest_of(self.keyring(), secret, owner)

    @classmethod
    def keyring(cls) -> Keyring:
        """The keys that OTP handed to this model."""
        if cls.__keyring__ is None:
            raise ConfigurationError(
                f"{cls.__name__} has no keys: make an OTP(...) over its device model first."
            )
        return cls.__keyring__


def digest_of(keyring: Keyring, secret: bytes, owner: str) -> str:
    """What `secret_digest` holds for a secret of this owner's, under the newest key."""
    return digests_of(keyring, secret, owner)[0]


def digests_of(keyring: Keyring, secret: bytes, owner: str) -> list[str]:
    """What `secret_digest` may hold for it, under each key."""
    return keyring.digests("device secret", f"{owner}\0{secret.hex()}")


def seal(device: SealedSecretMixin) -> None:
    """Encrypt the secret of a new device, which says whose it is; one without gets one."""
    if device.sealed_secret is None:
        _ = device.secret  # draws one
    device._seal()


@event.listens_for(SealedSecretMixin, "before_insert", propagate=True)
def _seal_new(mapper: object, connection: object, device: SealedSecretMixin) -> None:
    seal(device)


@event.listens_for(SealedSecretMixin, "before_update", propagate=True)
def _seal_changed(mapper: object, connection: Connection, device: SealedSecretMixin) -> None:
    # In the one listener: with a second one a flush would be no plain UPDATE.
    device._seal(connection)
    unverify(connection, device)


@event.listens_for(SealedSecretMixin, "before_delete", propagate=True)
def _end_tickets(mapper: object, connection: Connection, device: SealedSecretMixin) -> None:
    end_tickets(connection, device)
