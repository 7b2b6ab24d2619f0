"""Users, devices and verified sessions in the databases of `ours` and `bare`.

Everyone's device has the same secret and everyone has the same password. Of more users than
`MAX_ACTIVE`, only some, evenly spread, are ever asked for; the others are rows that make the tables
as large as they are, copied in SQL.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from pwdlib import PasswordHash
from sqlalchemy import Table, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from starlette_otp import OTP, models
from starlette_otp.keyring import Keyring
from starlette_otp.service.session_rows import SessionRows
from starlette_otp.web.browser import signed
from tests.benchmark import database
from tests.benchmark.common import PASSWORD, SECRET, SECRET_KEY, starlette_cookie

MAX_ACTIVE = 50_000
"""Users that requests are made of."""
BATCH = 5_000


@dataclass(frozen=True)
class Size:
    """How much there is in a database."""

    users: int
    devices_per_user: int

    def active(self) -> Sequence[int]:
        """The keys, 1 to `users`, of the users that requests are made of."""
        count = min(self.users, MAX_ACTIVE)
        return [1 + number * self.users // count for number in range(count)]


@dataclass(frozen=True)
class Person:
    """A user that requests are made of: name, device, the Cookie header of their session, and its
    token where a site takes that as a bearer's."""

    username: str
    device: str
    cookie: str
    bearer: str = ""


@dataclass(frozen=True)
class Data:
    """What was put into a database: people, and the statements that undo a window's changes."""

    people: list[Person]
    reset: list[str]


def ours_cookie(keyring: Keyring, token: str, key: int) -> str:
    """The Cookie header of a session of starlette-otp with this token, in the browser in which its
    user has logged in: the one place that knows."""
    mine = keyring.digests("login name of", str(key))[0][:32]
    return f"otp_session={token}; otp_browser={signed(keyring, secrets.token_urlsafe(16), [mine])}"


def seed_ours(url: str, size: Size) -> Data:
    """Fill the ready-made tables of starlette-otp."""
    people = asyncio.run(_seed_ours(url, size))
    users, devices = models.User.__table__.name, models.Device.__table__.name
    sessions = models.OTPSession.__table__.name
    reset = [
        f"UPDATE {devices} SET last_t = -1, drift = 0, throttling_failure_count = 0, "
        "throttling_failure_timestamp = NULL "
        "WHERE (last_t, drift, throttling_failure_count) <> (-1, 0, 0)",
        f"VACUUM {devices}",
        *database.keep_rows(url, sessions, "token_digest"),
        f"UPDATE {sessions} SET seen_at = now() WHERE seen_at < now() - interval '2 minutes'",
        f"VACUUM {sessions}",
    ]
    database.tune(url, users, devices, sessions)
    return Data(people, reset)


async def _seed_ours(url: str, size: Size) -> list[Person]:
    engine = create_async_engine(models.database_url(url))
    maker = async_sessionmaker(engine, expire_on_commit=False)
    otp = OTP(maker, models.Device, secret_key=SECRET_KEY)
    async with engine.begin() as connection:
        await connection.run_sync(models.Base.metadata.create_all)
    users, devices = models.User.__table__, models.Device.__table__
    sessions = otp.session_model.__table__

    # The first row of each table is the package's own work; the others are copies of it.
    async with maker.begin() as session:
        user = models.User(username="user1")
        user.set_password(PASSWORD)
        session.add(user)
        await session.flush()
        session.add(models.TOTPDevice(user_id=user.id, secret=SECRET, name="phone"))
    others = f"generate_series(2, {size.users}) n ORDER BY n"
    await _copy(engine, users, {"username": "'user' || n"}, others)
    owners = (
        f"generate_series(1, {size.devices_per_user}) n, {users.name} u "
        "WHERE NOT (n = 1 AND u.id = 1) ORDER BY n, u.id"
    )
    await _copy(engine, devices, {"user_id": "u.id"}, owners)
    first = f"(SELECT user_id, min(id) AS id FROM {devices.name} GROUP BY user_id)"

    active = size.active()
    numbers: dict[int, int] = {}
    for start in range(0, len(active), BATCH):
        batch = active[start : start + BATCH]
        async with maker.begin() as session:
            query = select(models.TOTPDevice).where(models.TOTPDevice.user_id.in_(batch))
            for device in await session.scalars(query.order_by(models.TOTPDevice.id)):
                if device.user_id not in numbers:
                    numbers[device.user_id] = device.id
                    device.secret = SECRET  # sealed for its owner, where a copy was not
    if size.devices_per_user > 1:
        # A secret is sealed for its owner and kind, so an owner's other devices can have it, too.
        await _execute(
            engine,
            f"UPDATE {devices.name} d SET sealed_secret = o.sealed_secret "
            f"FROM {devices.name} o JOIN {first} f ON f.id = o.id "
            "WHERE o.user_id = d.user_id AND o.id <> d.id",
        )

    now, rows = datetime.now(UTC), SessionRows(otp.device_model, otp.keyring)
    async with engine.begin() as connection:
        row = {
            "token_digest": rows.digest("nobody's"),
            "user_id": user.id,
            "device_id": numbers[user.id],
            "created_at": now,
            "verified_at": now,
            # As of people who have just loaded the page on which they do something.
            "seen_at": now,
            "is_trusted": False,
            "expires_at": now + timedelta(days=14),
        }
        rows.sign(row, user)
        await connection.execute(insert(otp.session_model).values(row))
    changes = {
        "user_id": "f.user_id",
        "device_id": "f.id",
        "token_digest": "encode(sha256(f.id::text::bytea), 'hex')",
    }
    await _copy(engine, sessions, changes, f"{first} f WHERE f.user_id <> {user.id}")

    tokens = {key: secrets.token_urlsafe(32) for key in active}
    names = ("user_id", "token_digest", "password_fingerprint", "device_fingerprint")
    made = []
    for key, token in tokens.items():
        row |= {"user_id": key, "device_id": numbers[key], "token_digest": rows.digest(token)}
        rows.sign(row, user)
        made.append([row[name] for name in names])
    connection = await asyncpg.connect(url)
    await connection.execute(
        f"CREATE TEMP TABLE made ({names[0]} bigint, {', '.join(f'{n} text' for n in names[1:])})"
    )
    await connection.copy_records_to_table("made", records=made)
    await connection.execute(
        f"UPDATE {sessions.name} s SET {', '.join(f'{n} = m.{n}' for n in names[1:])} "
        "FROM made m WHERE m.user_id = s.user_id"
    )
    await connection.close()
    await engine.dispose()
    return [
        Person(f"user{key}", f"totp/{device}", ours_cookie(otp.keyring, token, key), token)
        for key, device, token in ((key, numbers[key], tokens[key]) for key in active)
    ]


async def _copy(engine: AsyncEngine, table: Table, changes: dict[str, str], source: str) -> None:
    """Copy the only row of a table, with these changes, once for each row of `source`."""
    names = [column.name for column in table.columns if not column.identity]
    values = ", ".join(changes.get(name, f"t.{name}") for name in names)
    one = f"(SELECT * FROM {table.name} LIMIT 1) t"
    statement = (
        f"INSERT INTO {table.name} ({', '.join(names)}) SELECT {values} FROM {one}, {source}"
    )
    await _execute(engine, statement)


async def _execute(engine: AsyncEngine, statement: str) -> None:
    async with engine.begin() as connection:
        await connection.exec_driver_sql(statement)


def seed_bare(url: str, size: Size) -> Data:
    """Fill the tables of the hand-written site."""
    from tests.benchmark.bare import SCHEMA

    def token(key: int) -> str:
        return hashlib.sha256(f"session {key}".encode()).hexdigest()

    password = PasswordHash.recommended().hash(PASSWORD)
    secret = base64.b32encode(SECRET).decode()
    database.execute(
        url,
        SCHEMA,
        "INSERT INTO users (username, password_hash) "
        f"SELECT 'user' || n, '{password}' FROM generate_series(1, {size.users}) n ORDER BY n",
        f"INSERT INTO devices (user_id, secret) SELECT u.id, '{secret}' FROM users u, "
        f"generate_series(1, {size.devices_per_user}) n ORDER BY n, u.id",
        "INSERT INTO sessions (token, user_id, device_id, verified_at, expires_at) "
        "SELECT encode(sha256(('session ' || user_id)::bytea), 'hex'), user_id, min(id), now(), "
        "now() + interval '14 days' FROM devices GROUP BY user_id ORDER BY user_id",
    )
    reset = [
        "UPDATE devices SET last_t = -1, failures = 0, failed_at = NULL "
        "WHERE (last_t, failures) <> (-1, 0)",
        "VACUUM devices",
        *database.keep_rows(url, "sessions", "token"),
    ]
    database.tune(url, "users", "devices", "sessions")
    query = "SELECT user_id, device_id FROM sessions WHERE user_id = ANY($1::bigint[])"
    numbers: dict[int, Any] = dict(map(tuple, database.fetch(url, query, size.active())))
    people = [
        Person(f"user{key}", f"totp/{numbers[key]}", starlette_cookie({"token": token(key)}))
        for key in size.active()
    ]
    return Data(people, reset)
