"""A django-otp site: its users, and the devices of every app that made tables for some."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette_otp.exceptions import ConfigurationError
from starlette_otp.moving.brought import NO_KIND, BroughtDevice, BroughtUser
from starlette_otp.moving.options import Into
from starlette_otp.moving.source import Snapshot

TOTP, HOTP = "otp_totp_totpdevice", "otp_hotp_hotpdevice"
STATIC, TOKENS = "otp_static_staticdevice", "otp_static_statictoken"
EMAIL = "otp_email_emaildevice"
ALLAUTH = "mfa_authenticator"
_BY_ALLAUTH = "It is django-allauth's, and import-allauth moves it."
_KINDS = {TOTP: "totp", HOTP: "hotp", STATIC: "static", EMAIL: "email"}
_DEVICE = {"user_id", "name", "confirmed"}
"""The columns that every device of django-otp has, beside its key."""
_OURS = {"kind", "sealed_secret", "accepted_digest"}
"""Columns of our own devices, which may be in the same database."""
_SHARED = (
    "name",
    "created_at",
    "last_used_at",
    "throttling_failure_count",
    "throttling_failure_timestamp",
)
_OWN = {
    TOTP: ("step", "t0", "digits", "tolerance", "drift", "last_t"),
    HOTP: ("digits", "tolerance", "counter"),
    STATIC: (),
    EMAIL: ("email", "last_generated_timestamp"),
}


class DjangoSite:
    """The tables of a Django site with django-otp, of any release and any user model.

    Args:
        old: its database.
        name: what its rows are recorded under.
        username_column: the user model's USERNAME_FIELD.
        into: kinds of the host's for tables that we know none for.

    Raises:
        ConfigurationError: it has no tables of django-otp, or no such column.
    """

    def __init__(
        self,
        old: Snapshot,
        name: str = "django",
        username_column: str | None = None,
        into: Mapping[str, Into] | None = None,
    ) -> None:
        self._old, self.name, self._into = old, name, into or {}
        known = [table for table in _KINDS if table in old.columns]
        references = [old.references.get((table, "user_id")) for table in known]
        found = next((reference for reference in references if reference), None)
        if found is None:
            raise ConfigurationError(
                f"This database has no tables of django-otp in its schema {old.schema!r}, whose "
                "users could be found; --schema names another."
            )
        for table in known:
            old.require(table, _DEVICE | ({"key"} if table in (TOTP, HOTP) else set()))
        if TOKENS in old.columns:
            old.require(TOKENS, ("device_id", "token"))
        self.users_table, self._key = found
        self._username_column = name_column(old, self.users_table, username_column)
        self._tables = [*known, *others(old, self.users_table, self._key)]
        self._has_allauth = old.references.get((ALLAUTH, "user_id")) == found
        for table in self._into:
            if table not in self._tables:
                raise ConfigurationError(f"--kind {table}: there is no such table of devices.")
        for table in (*known, *self._into):
            # Without one of their own, rows could not be told apart when they are recorded.
            old.require(table, (old.keys.get(table, "id"),))

    async def count(self) -> int:
        """How many users there are."""
        return await self._old.count(self.users_table)

    async def users(self, batch: int) -> AsyncIterator[list[BroughtUser]]:
        """All users, `batch` at a time, each with all of their devices."""
        async for rows in self._old.pages(self.users_table, self._key, batch):
            users = {row[self._key]: user_of(row, self._key, self._username_column) for row in rows}
            for table in self._tables:
                await self._add_devices(table, users)
            if self._has_allauth:
                await add_foreign(self._old, ALLAUTH, users, _BY_ALLAUTH)
            yield list(users.values())

    async def _add_devices(self, table: str, users: dict[Any, BroughtUser]) -> None:
        rows = await self._old.of(table, "user_id", users)
        key, owners = self._old.keys.get(table, "id"), {str(key): users[key] for key in users}
        tokens: dict[str, list[str]] = defaultdict(list)
        if table == STATIC and rows and TOKENS in self._old.columns:
            for row in await self._old.of(TOKENS, "device_id", [row[key] for row in rows]):
                tokens[str(row["device_id"])].append(row["token"] or "")
        for row in rows:
            device = self._device(table, row, str(row.get(key, "")))
            if table == STATIC:
                device.tokens = tokens[device.id]
            owners[str(row["user_id"])].devices.append(device)

    def _device(self, table: str, row: Any, old_id: str) -> BroughtDevice:
        app, _, model = table.rpartition("_")
        into = self._into.get(table)
        kind = _KINDS.get(table) or (into.kind if into else model.removesuffix("device"))
        own: Sequence[str] = _OWN.get(table, ())
        values = {name: row[name] for name in (*_SHARED, *own) if name in row}
        label, is_confirmed = f"{app}.{model}/{old_id}", bool(row["confirmed"])
        device = BroughtDevice(table, old_id, label, kind, is_confirmed, values)
        if table in (TOTP, HOTP):
            device.secret, device.refusal = key_of_hex(row["key"])
        elif into is not None:
            values |= {ours: row[theirs] for theirs, ours in into.columns.items() if theirs in row}
        elif table not in _KINDS:
            device.refusal = NO_KIND
        return device


def others(old: Snapshot, users_table: str, key: str) -> list[str]:
    """The tables of devices of other apps; without a constraint, if they are called so."""

    def is_one(table: str, columns: set[str]) -> bool:
        if table in _KINDS or not columns >= _DEVICE or columns >= _OURS:
            return False
        is_called_so = table.endswith("device") and (table, "user_id") not in old.references
        return is_called_so or old.references.get((table, "user_id")) == (users_table, key)

    return sorted(table for table, columns in old.columns.items() if is_one(table, columns))


def known_and_others(old: Snapshot, users_table: str, key: str) -> list[str]:
    """All tables of devices of these users, as django-otp makes them."""
    mine = users_table, key
    known = [table for table in _KINDS if old.references.get((table, "user_id")) == mine]
    return [*known, *others(old, users_table, key)]


async def add_foreign(
    old: Snapshot, table: str, users: Mapping[Any, BroughtUser], refusal: str
) -> None:
    """Add the devices of another library's table, which another command moves: their owners have a
    second factor there."""
    owners, key = {str(number): user for number, user in users.items()}, old.keys.get(table, "id")
    for row in await old.of(table, "user_id", users):
        old_id = str(row.get(key))
        kind = str(row.get("type") or table.rpartition("_")[2].removesuffix("device"))
        is_confirmed = bool(row.get("confirmed", True))
        device = BroughtDevice(table, old_id, f"{table}/{old_id}", kind, is_confirmed)
        device.refusal = refusal
        owners[str(row["user_id"])].devices.append(device)


def key_of_hex(text: str) -> tuple[bytes | None, str | None]:
    """A key that django-otp keeps in hex, or why it is none."""
    if not text:
        # What follows from it anybody can compute.
        return None, "It has no key: this account was open to whoever knew its password."
    try:
        return bytes.fromhex(text), None
    except ValueError:
        return None, "Its key is not in hex: it never verified a token."


def name_column(old: Snapshot, table: str, wanted: str | None) -> str | None:
    """The column in which users have their names.

    Raises:
        ConfigurationError: there is none that is called so.
    """
    columns = old.columns.get(table, set())
    if wanted is not None and wanted not in columns:
        raise ConfigurationError(f"--username-column: {table} has no column {wanted!r}.")
    return wanted or next((name for name in ("username", "email") if name in columns), None)


def user_of(row: Any, key: str, username_column: str | None) -> BroughtUser:
    """A user by their row; what Django calls superuser may use the admin site, too."""
    username = row[username_column] if username_column else None
    is_staff = row.get("is_staff") or row.get("is_superuser")
    is_active = row.get("is_active", row.get("active", True))
    return BroughtUser(
        row[key],
        username=str(username or ""),
        email=str(row.get("email") or ""),
        password_hash=row.get("password") or "",
        is_active=bool(is_active),
        is_staff=bool(is_staff),
    )
