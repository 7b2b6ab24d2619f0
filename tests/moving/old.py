"""A small Django site of our own: its tables, as far as a move reads them, and rows for them."""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
from click.testing import Result

Run = Callable[..., Awaitable[Result]]
CREATE = ("--users", "create")
KEY = "3132333435363738393031323334353637383930"
OTHER_KEY = "3938373635343332313039383736353433323130"
TABLES = """
CREATE TABLE {users} (
    id {key} PRIMARY KEY, username varchar(150), password varchar(255) NOT NULL DEFAULT '!x',
    email varchar(254), is_active bool NOT NULL DEFAULT true, is_staff bool NOT NULL DEFAULT false
);
CREATE TABLE otp_totp_totpdevice (
    id int PRIMARY KEY, user_id {key} NOT NULL REFERENCES {users}, name varchar(64) DEFAULT 'Phone',
    confirmed bool NOT NULL DEFAULT true, key varchar(80) NOT NULL, step int DEFAULT 30,
    t0 bigint DEFAULT 0, digits int DEFAULT 6, tolerance int DEFAULT 1, drift int DEFAULT 0,
    last_t bigint DEFAULT -1, throttling_failure_count int DEFAULT 0,
    throttling_failure_timestamp timestamptz, created_at timestamptz, last_used_at timestamptz
);
CREATE TABLE otp_hotp_hotpdevice (
    id int PRIMARY KEY, user_id {key} NOT NULL REFERENCES {users}, name varchar(64) DEFAULT 'Fob',
    confirmed bool NOT NULL DEFAULT true, key varchar(80) NOT NULL, digits int DEFAULT 6,
    tolerance int DEFAULT 5, counter bigint DEFAULT 0
);
CREATE TABLE otp_static_staticdevice (
    id int PRIMARY KEY, user_id {key} NOT NULL REFERENCES {users}, name varchar(64) DEFAULT 'codes',
    confirmed bool NOT NULL DEFAULT true
);
CREATE TABLE otp_static_statictoken (
    id int PRIMARY KEY, device_id int NOT NULL REFERENCES otp_static_staticdevice, token varchar(16)
);
CREATE TABLE otp_email_emaildevice (
    id int PRIMARY KEY, user_id {key} NOT NULL REFERENCES {users}, name varchar(64) DEFAULT 'Mail',
    confirmed bool NOT NULL DEFAULT true, email varchar(254), token varchar(16),
    last_generated_timestamp timestamptz
);
CREATE TABLE otp_yubikey_yubikeydevice (
    id int PRIMARY KEY, user_id {key} NOT NULL REFERENCES {users}, name varchar(64) DEFAULT 'Yubi',
    confirmed bool NOT NULL DEFAULT true
);
CREATE TABLE otp_twilio_twiliosmsdevice (
    id int PRIMARY KEY, user_id {key} NOT NULL REFERENCES {users}, name varchar(64) DEFAULT 'SMS',
    confirmed bool NOT NULL DEFAULT true, number varchar(30)
)
"""


class Old:
    """The old site's database."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url.replace("+asyncpg", "")
        self.report_file = folder / "report"
        self.users = "auth_user"
        self._ids = 0

    async def run(self, statement: str, *values: Any) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            if values:
                await connection.execute(statement, *values)
            else:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def make(self, users: str = "auth_user", key: str = "int") -> None:
        self.users = users
        await self.run(TABLES.format(users=users, key=key))

    async def add(self, table: str, **values: Any) -> int:
        """Insert a row; its id."""
        self._ids += 1
        values = {"id": self._ids, **values}
        names, places = ", ".join(values), ", ".join(f"${n + 1}" for n in range(len(values)))
        await self.run(f"INSERT INTO {table} ({names}) VALUES ({places})", *values.values())
        return int(self._ids) if isinstance(values["id"], int) else 0

    async def user(self, name: str, **values: Any) -> Any:
        values = {"username": name, "email": f"{name}@old.example", **values}
        number = await self.add(self.users, **values)
        return values.get("id", number)

    async def app(self, user: Any, key: str = KEY, **values: Any) -> int:
        return await self.add("otp_totp_totpdevice", user_id=user, key=key, **values)

    async def codes(self, user: Any, *tokens: str | None, **values: Any) -> int:
        device = await self.add("otp_static_staticdevice", user_id=user, **values)
        for token in tokens:
            await self.add("otp_static_statictoken", device_id=device, token=token)
        return device

    def report(self) -> dict[str, dict[str, Any]]:
        lines = map(json.loads, self.report_file.read_text().splitlines())
        return {line["source"]: line for line in lines}

    @property
    def outcomes(self) -> dict[str, str]:
        return {source: line["outcome"] for source, line in self.report().items()}


def at(unix_time: float) -> datetime:
    return datetime.fromtimestamp(unix_time, UTC)
