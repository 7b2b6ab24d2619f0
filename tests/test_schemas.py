"""Tables in a schema of the host's: all of them, and everything over them."""

import asyncio
import sys
import types
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from click.testing import CliRunner
from sqlalchemy import CheckConstraint, Connection, MetaData, UniqueConstraint, inspect, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateSchema

from starlette_otp import OTP, clock, devices
from starlette_otp.cli import main
from starlette_otp.service.plain import on_driver, plain_engine
from starlette_otp.testing import make_device, token_at
from tests.devices.race_process import race
from tests.hosts import Host, devices_of, int_users, make_host, new_base, tokens_of
from tests.support import OTHER_KEY, SECRET_KEY, Sessions, add, password_hash, totp_token
from tests.tour import NAME, tour

TABLES = {
    "users",
    "otp_device",
    "otp_static_token",
    "otp_session",
    "otp_login_throttle",
    "otp_challenge_limit",
}


def of_the_metadata() -> type[DeclarativeBase]:
    class Base(DeclarativeBase):
        metadata = MetaData(schema="club")

    return Base


def of_the_base() -> type[DeclarativeBase]:
    class Base(DeclarativeBase):
        __table_args__ = {"schema": "club"}

    return Base


@dataclass
class Club:
    models: Host
    engine: AsyncEngine
    sessions: Sessions


@pytest.fixture(params=[of_the_metadata, of_the_base])
async def club(request: pytest.FixtureRequest, empty_engine: AsyncEngine) -> Club:
    base = request.param()
    models = make_host(base=base)

    class LoginThrottle(devices.LoginThrottleMixin, base):  # type: ignore[misc]
        __device_model__ = models.Device

    class ChallengeLimit(devices.ChallengeLimitMixin, base):  # type: ignore[misc]
        __device_model__ = models.Device

    async with empty_engine.begin() as connection:
        await connection.execute(CreateSchema("club"))
    await models.create_tables(empty_engine)
    return Club(models, empty_engine, async_sessionmaker(empty_engine, expire_on_commit=False))


def facts(connection: Connection) -> dict[str, Any]:
    """What PostgreSQL has of the tables in the schema."""
    found = inspect(connection)
    return {
        "tables": set(found.get_table_names("club")),
        "elsewhere": found.get_table_names("public"),
        "keys": {
            (table, key["referred_schema"], key["referred_table"], key["options"].get("ondelete"))
            for table in found.get_table_names("club")
            for key in found.get_foreign_keys(table, "club")
        },
        "unique": {
            (table, *constraint["column_names"])
            for table in found.get_table_names("club")
            for constraint in found.get_unique_constraints(table, "club")
        },
        "indexed": {
            (table, *index["column_names"])
            for table in found.get_table_names("club")
            for index in found.get_indexes(table, "club")
        },
    }


async def test_the_tables_are_there_with_all_that_belongs_to_them(club: Club) -> None:
    """Constraints, foreign keys and indexes are the same as without a schema, and in it."""
    async with club.engine.connect() as connection:
        found = await connection.run_sync(facts)
    assert (found["tables"], found["elsewhere"]) == (TABLES, [])
    assert found["keys"] == {
        ("otp_device", "club", "users", "CASCADE"),
        ("otp_session", "club", "users", "CASCADE"),
        ("otp_session", "club", "otp_device", "SET NULL"),
        ("otp_static_token", "club", "otp_device", "CASCADE"),
    }
    assert found["unique"] == {
        ("users", "username"),
        ("otp_session", "token_digest"),
        ("otp_static_token", "device_id", "digest"),
    }
    wanted = {
        ("otp_device", "user_id"),
        ("otp_session", "user_id"),
        ("otp_session", "device_id"),
        ("otp_session", "expires_at"),
        ("otp_session", "former_digest"),
        ("otp_login_throttle", "attempted_at"),
    }
    assert wanted <= found["indexed"]


async def test_the_hosts_alembic_finds_nothing_to_change(club: Club) -> None:
    """Autogenerate that looks into schemas sees the tables as they were declared."""

    def changes(connection: Connection) -> Any:
        context = MigrationContext.configure(connection, opts={"include_schemas": True})
        return compare_metadata(context, club.models.Device.metadata)

    async with club.engine.connect() as connection:
        assert await connection.run_sync(changes) == []


async def test_a_user_meets_nothing_strange(club: Club) -> None:
    """Log-in, guards, step-up, log-out, the admin site and a new password."""
    person = club.models.User(username=NAME, password_hash=password_hash(), is_staff=True)
    await tour(club.models, person, club.engine)


async def make_alice(club: Club, otp: OTP) -> tuple[Any, Any]:
    alice = await add(club.sessions, club.models.User(username="alice"))
    return alice, await make_device(otp, alice, club.models.TOTPDevice)


async def test_one_of_many_attempts_wins(club: Club) -> None:
    """On the shortest way to the database, too."""
    otps = [OTP(club.sessions, club.models.Device, secret_key=SECRET_KEY) for _ in range(20)]
    models = club.models.Device, club.models.OTPSession
    assert plain_engine(club.sessions) is club.engine
    assert on_driver(club.engine)
    assert otps[0].transactions._are_plain(club.engine, models, True)
    alice, device = await make_alice(club, otps[0])
    assert await race(otps, "verify_token", alice, device.persistent_id, token_at(device)) == 1


async def test_new_keys_and_sweeps(club: Club, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands find the tables: a way in, a sweep, a rotation."""
    otp = OTP(club.sessions, club.models.Device, secret_key=OTHER_KEY)
    alice, device = await make_alice(club, otp)
    async with club.sessions.begin() as session:
        codes = club.models.StaticDevice(user_id=alice.id)
        session.add(codes)
        code = await codes.add_token()
        pending = club.models.TOTPDevice(user_id=alice.id, confirmed=False)
        pending.created_at = clock.now() - timedelta(days=1)
        session.add(pending)
    # A command has an event loop of its own, and so no connection of this one.
    site = types.ModuleType("club_site")
    monkeypatch.setitem(sys.modules, "club_site", site)
    sessions = async_sessionmaker(create_async_engine(club.engine.url, poolclass=NullPool))
    site.otp = OTP(sessions, club.models.Device, secret_key=[SECRET_KEY, OTHER_KEY])  # type: ignore[attr-defined]
    for command, said in [
        (["addstatictoken", "alice", "--token", "open sesame"], "open sesame"),
        (["clearsessions"], "Deleted 1 device never confirmed."),
        (["rotate-keys"], "Every device secret is under the first key."),
    ]:
        arguments = [*command, "--app", "club_site:otp"]
        result = await asyncio.to_thread(CliRunner().invoke, main, arguments)
        assert (result.exit_code, said in result.output) == (0, True), result.output
    otp = OTP(club.sessions, club.models.Device, secret_key=SECRET_KEY)
    assert await otp.verify_token(alice, device.persistent_id, totp_token()) == device
    for token in (code, "open sesame"):
        assert await otp.match_token(alice, token) is not None


async def test_a_session_is_worth_nothing_in_another_schema(club: Club) -> None:
    """The same key over two schemas makes two sites: digests are of the table's full name."""
    here = OTP(club.sessions, club.models.Device, secret_key=SECRET_KEY)
    alice, device = await make_alice(club, here)
    begun = await here.sessions.begin(alice, device)
    assert await here.sessions.find(begun.token, here.users.get) is not None
    there = OTP(club.sessions, make_host().Device, secret_key=SECRET_KEY)
    (digest,) = there.keyring.digests("session", begun.token)
    table = club.models.OTPSession.__table__
    async with club.sessions() as session:
        assert await session.scalar(select(table.c.token_digest)) != digest


def test_a_hosts_own_table_args_are_added_to_ours() -> None:
    """What a host says of a table takes nothing from it that is ours."""
    base = new_base()
    device = devices_of(base, int_users(base))
    plain = {type(c) for c in tokens_of(base, device).__table__.constraints}

    class Codes(devices.StaticTokenMixin, base):  # type: ignore[misc, valid-type]
        __device_model__ = device
        __tablename__ = "codes"
        __table_args__ = (CheckConstraint("id > 0"), {"schema": "club"})

    table = Codes.__table__
    assert table.fullname == "club.codes"
    assert {type(c) for c in table.constraints} == plain | {CheckConstraint}
    (unique,) = [c for c in table.constraints if isinstance(c, UniqueConstraint)]
    assert [column.name for column in unique.columns] == ["device_id", "digest"]
