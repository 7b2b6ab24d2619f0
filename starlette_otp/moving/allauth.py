"""A django-allauth site: `mfa_authenticator`, an app and a set of recovery codes for each user."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette_otp.exceptions import ConfigurationError
from starlette_otp.moving.brought import NO_KIND, BroughtDevice, BroughtUser
from starlette_otp.moving.django import ALLAUTH as TABLE
from starlette_otp.moving.django import add_foreign, known_and_others, name_column, user_of
from starlette_otp.moving.source import Snapshot
from starlette_otp.oath import secret_from_base32, time_step

_BY_DJANGO = "It is django-otp's, and import-django moves it."
_CODES, _CODE_DIGITS, _CODE_BYTES = 10, 8, 4


class AllauthSite:
    """The tables of a Django site with allauth's two factors, nothing of them encrypted.

    Args:
        old: its database.
        name: what its rows are recorded under.
        username_column: the user model's USERNAME_FIELD.
        settings: MFA_TOTP_DIGITS, MFA_TOTP_PERIOD and MFA_TOTP_TOLERANCE, where they are not
            allauth's own; MFA_RECOVERY_CODE_COUNT and MFA_RECOVERY_CODE_DIGITS likewise.

    Raises:
        ConfigurationError: it has no such table, or no such column; or a setting is no number.
    """

    def __init__(
        self,
        old: Snapshot,
        name: str = "allauth",
        username_column: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._old, self.name = old, name
        found = old.references.get((TABLE, "user_id"))
        if found is None:
            raise ConfigurationError(
                f"This database has no tables of django-allauth's mfa in its schema "
                f"{old.schema!r}; --schema names another."
            )
        old.require(TABLE, ("id", "type", "data"))
        self.users_table, self._key = found
        self._foreign = known_and_others(old, self.users_table, self._key)
        self._username_column = name_column(old, self.users_table, username_column)
        self._settings = settings or {}
        self._digits = self._number("MFA_TOTP_DIGITS", 6, 6, 10)
        self._step = self._number("MFA_TOTP_PERIOD", 30, 1, 3600)
        self._tolerance = self._number("MFA_TOTP_TOLERANCE", 0, 0, 100)
        self._codes = self._number("MFA_RECOVERY_CODE_COUNT", _CODES, 1, 1000)
        self._code_digits = self._number("MFA_RECOVERY_CODE_DIGITS", _CODE_DIGITS, 1, 100)

    def _number(self, name: str, default: int, least: int, most: int) -> int:
        value = self._settings.get(name, default)
        if type(value) is not int or not least <= value <= most:
            raise ConfigurationError(f"--settings: {name} is a number from {least} to {most}.")
        return value

    async def count(self) -> int:
        """How many users there are."""
        return await self._old.count(self.users_table)

    async def users(self, batch: int) -> AsyncIterator[list[BroughtUser]]:
        """All users, `batch` at a time, each with all of their devices."""
        async for rows in self._old.pages(self.users_table, self._key, batch):
            users = {row[self._key]: user_of(row, self._key, self._username_column) for row in rows}
            for row in await self._old.of(TABLE, "user_id", users):
                users[row["user_id"]].devices.append(self._device(row))
            for table in self._foreign:
                await add_foreign(self._old, table, users, _BY_DJANGO)
            yield list(users.values())

    def _device(self, row: Any) -> BroughtDevice:
        # Its first release had no times.
        values = {name: row.get(name) for name in ("created_at", "last_used_at")}
        label = f"mfa.authenticator/{row['id']}"
        device = BroughtDevice(TABLE, str(row["id"]), label, str(row["type"]), values=values)
        data = row["data"]
        secret_data = json.loads(data) if isinstance(data, str) else data
        if row["type"] == "totp":
            self._read_app(device, secret_data)
        elif row["type"] == "recovery_codes":
            device.kind, values["name"] = "static", "Recovery codes"
            self._read_codes(device, secret_data)
        else:
            device.refusal = NO_KIND
        return device

    def _read_app(self, device: BroughtDevice, secret_data: Any) -> None:
        try:
            device.secret = secret_from_base32(secret_data["secret"])
        except (KeyError, TypeError, ValueError, AttributeError):
            device.refusal = "Its key is not in base 32: encrypted, or none."
            return
        used_at = device.values["last_used_at"]
        device.values |= {"digits": self._digits, "step": self._step, "tolerance": self._tolerance}
        # The codes that were used are in the site's cache alone.
        device.values["last_t"] = (
            -1 if used_at is None else time_step(used_at.timestamp(), self._step)
        )

    def _read_codes(self, device: BroughtDevice, secret_data: Any) -> None:
        try:
            if "migrated_codes" in secret_data:
                device.tokens = [str(token) for token in secret_data["migrated_codes"]]
            else:
                device.tokens = self._unused(secret_data["seed"], secret_data["used_mask"])
        except (KeyError, TypeError, ValueError, AttributeError):
            device.refusal = "Its codes can't be read: encrypted, or none."

    def _unused(self, secret_seed: str, used: int) -> list[str]:
        """The codes that follow from a seed, as allauth makes them, less those that were used."""
        digest, unused_codes = hmac.new(secret_seed.encode("ascii"), None, hashlib.sha1), []
        if len(bytes.fromhex(secret_seed)) < 16:
            raise ValueError("The seed is too short.")
        for number in range(self._codes):
            digest.update(f"{number:3},".encode())
            value = int.from_bytes(digest.digest()[:_CODE_BYTES]) % 10**self._code_digits
            if not used >> number & 1:
                unused_codes.append(str(value).zfill(self._code_digits))
        return unused_codes
