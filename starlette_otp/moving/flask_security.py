"""A Flask-Security site: a user's row holds their key, encrypted, and their recovery codes."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from starlette_otp.exceptions import ConfigurationError
from starlette_otp.moving.brought import NO_KIND, BroughtDevice, BroughtUser
from starlette_otp.moving.django import name_column, user_of
from starlette_otp.moving.options import Into
from starlette_otp.moving.source import Snapshot

_KEY, _CODES = "tf_totp_secret", "mf_recovery_codes"
_WEBAUTHN = {"credential_id", "public_key", "user_id"}
"""Columns of the table of security keys, whatever it is called."""
_MAX_COST = 24
"""Of PBKDF2, as a power of two; passlib takes 14."""


class FlaskSecuritySite:
    """The user table of a Flask-Security site.

    Args:
        old: its database.
        name: what its rows are recorded under.
        username_column: in which users have their names.
        settings: SECURITY_TOTP_SECRETS, which the keys are opened with; and
            SECURITY_MULTI_FACTOR_RECOVERY_CODES_KEYS, if the codes are encrypted.
        into: for "sms", the kind of the host's that has the number.
        table: the users'.

    Raises:
        ConfigurationError: it has no such table; or a setting is missing, or none.
    """

    def __init__(
        self,
        old: Snapshot,
        name: str = "flask-security",
        username_column: str | None = None,
        settings: Mapping[str, Any] | None = None,
        into: Mapping[str, Into] | None = None,
        table: str = "user",
    ) -> None:
        settings = settings or {}
        self._old, self.name, self.users_table = old, name, table
        self._key = old.keys.get(table, "id")
        self._into = into or {}
        if _KEY not in old.columns.get(table, ()):
            raise ConfigurationError(
                f"This database has no table {table!r} of Flask-Security's, with {_KEY}, in its "
                f"schema {old.schema!r}; --table and --schema name others."
            )
        old.require(table, (self._key,))
        owned = {
            other: old.references.get((other, "user_id"), (table, self._key))
            for other, columns in old.columns.items()
            if columns >= _WEBAUTHN
        }
        self._webauthn = {other: key for other, (users, key) in owned.items() if users == table}
        # What people log in by there, unless the site says otherwise.
        by_default = "email" if "email" in old.columns[table] else None
        self._username_column = name_column(old, table, username_column or by_default)
        secrets = settings.get("SECURITY_TOTP_SECRETS")
        if not isinstance(secrets, dict) or not all(isinstance(s, str) for s in secrets.values()):
            raise ConfigurationError(
                "--settings: SECURITY_TOTP_SECRETS is missing: what the keys are opened with."
            )
        self._secrets: Mapping[str, str] = secrets
        self._fernet = _fernet(settings.get("SECURITY_MULTI_FACTOR_RECOVERY_CODES_KEYS") or [])

    async def count(self) -> int:
        """How many users there are."""
        return await self._old.count(self.users_table)

    async def users(self, batch: int) -> AsyncIterator[list[BroughtUser]]:
        """All users, `batch` at a time, each with all of their devices."""
        async for rows in self._old.pages(self.users_table, self._key, batch):
            users = {str(row[self._key]): self._user(row) for row in rows}
            for table, column in self._webauthn.items():
                owners = {str(row[column]): users[str(row[self._key])] for row in rows}
                wanted = [row[column] for row in rows if row[column] is not None]
                for row in await self._old.of(table, "user_id", wanted):
                    owners[str(row["user_id"])].devices.append(self._security_key(table, row))
            yield list(users.values())

    def _user(self, row: Any) -> BroughtUser:
        user = user_of(row, self._key, self._username_column)
        if row.get("tf_primary_method"):
            user.devices.append(self._device(row))
        codes_text = row.get(_CODES)
        if codes_text:
            user.devices.append(self._codes(row, str(codes_text)))
        return user

    def _security_key(self, table: str, row: Any) -> BroughtDevice:
        # One for the first factor was never asked for after a password.
        is_second = row.get("usage") != "first"
        old_id = str(row.get(self._old.keys.get(table, "id")))
        device = BroughtDevice(table, old_id, f"{table}/{old_id}", "webauthn", is_second)
        device.refusal = NO_KIND
        return device

    def _labelled(self, row: Any, column: str, kind: str) -> BroughtDevice:
        label = f"{self.users_table}/{row[self._key]}/{column}"
        table = f"{self.users_table}.{column}"
        if kind not in ("totp", "static"):
            # The row is the same whichever method a user has chosen, but it is another device.
            table += f".{kind}"
        device = BroughtDevice(table, str(row[self._key]), label, kind)
        made_at = row.get("create_datetime")
        device.values["created_at"] = made_at and _utc(made_at)
        return device

    def _device(self, row: Any) -> BroughtDevice:
        method = row["tf_primary_method"]
        if method == "authenticator":
            device = self._labelled(row, _KEY, "totp")
            device.secret, device.refusal = self._open(row[_KEY])
            device.values |= {"digits": 6, "step": 30, "tolerance": 1}
            device.notes.append("Its window there was wider than the step before and after.")
        elif method in ("email", "mail"):
            device = self._labelled(row, _KEY, "email")
        else:
            device = self._labelled(row, _KEY, str(method))
            into = self._into.get(str(method))
            if into is None:
                device.refusal = NO_KIND
            else:
                device.kind = into.kind
                values = {ours: row.get(theirs) for theirs, ours in into.columns.items()}
                device.values |= values
        return device

    def _open(self, sealed: str | None) -> tuple[bytes | None, str | None]:
        """The key that passlib has encrypted, or why there is none."""
        if not sealed:
            return None, "It has no key."
        try:
            secret_key = json.loads(sealed)["enckey"]
            cost, tag = int(secret_key["c"]), str(secret_key["t"])
            if not 0 <= cost <= _MAX_COST or tag not in self._secrets:
                return None, "Its key is encrypted by a secret that --settings does not have."
            salt, text = (_bytes_of(secret_key[name]) for name in ("s", "k"))
            wallet_secret = self._secrets[tag].encode()
            derived_key = hashlib.pbkdf2_hmac("sha256", wallet_secret, salt, 1 << cost, 48)
            opener = Cipher(AES(derived_key[:32]), CTR(derived_key[32:])).decryptor()
            return opener.update(text) + opener.finalize(), None
        except (ValueError, KeyError, TypeError):
            return None, "Its key can't be read."

    def _codes(self, row: Any, codes_text: str) -> BroughtDevice:
        device = self._labelled(row, _CODES, "static")
        device.values["name"] = "Recovery codes"
        stored_codes = [code for code in codes_text.split(",") if code]
        if self._fernet is None:
            device.tokens = stored_codes
            return device
        device.tokens = [code for code in map(self._opened, stored_codes) if code is not None]
        if len(device.tokens) < len(stored_codes):
            # The site, which has keys, takes no plain ones either.
            device.is_whole = False
            device.notes.append("Codes that don't open under the site's keys are gone.")
            if not device.tokens:
                device.refusal = "None of its codes open under the site's keys."
        return device

    def _opened(self, stored_code: str) -> str | None:
        assert self._fernet is not None  # noqa: S101
        try:
            return self._fernet.decrypt(stored_code.encode()).decode()
        except (InvalidToken, ValueError):
            return None


def _fernet(keys: Sequence[str]) -> MultiFernet | None:
    try:
        return MultiFernet([Fernet(key) for key in keys]) if keys else None
    except (ValueError, TypeError):
        raise ConfigurationError(
            "--settings: SECURITY_MULTI_FACTOR_RECOVERY_CODES_KEYS is a list of Fernet's keys."
        ) from None


def _bytes_of(text: str) -> bytes:
    return base64.b32decode(text + "=" * (-len(text) % 8))


def _utc(moment: datetime) -> datetime:
    """A moment of which Flask-Security keeps no zone."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
