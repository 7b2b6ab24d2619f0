"""The ways a statement can go: the driver's connection, the engine's, a session; told apart by
what a host has made of its engine, its sessions and its mappings, and all the same to its users."""

import asyncio
import logging
import secrets
import uuid
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import JSON, ForeignKey, Numeric, String, TypeDecorator, event, inspect, text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_object_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from starlette_otp import OTP
from starlette_otp.devices import TOTPDeviceMixin, UserMixin
from starlette_otp.models import Device, TOTPDevice, User
from starlette_otp.service.plain import on_driver, plain_engine
from starlette_otp.service.transactions import Transactions
from starlette_otp.testing import make_device, token_at
from tests.devices import test_races
from tests.devices.race_process import race
from tests.hosts import devices_of, int_users, keep, new_base, sessions_of, totp_of

# What is to hold on every way, as it stands elsewhere.
from tests.service.test_rewritten_sessions import test_what_is_bound_is_told  # noqa: F401
from tests.service.test_session_endings import *  # noqa: F403
from tests.service.test_session_ends import *  # noqa: F403
from tests.service.test_sessions import *  # noqa: F403
from tests.service.test_twins import *  # noqa: F403
from tests.support import (
    SECRET_KEY,
    Browser,
    Sessions,
    door,
    make_app,
    make_totp,
    make_user,
    password_hash,
    reload,
    verified_by,
)

test_tokens_of_different_windows_race = test_races.test_tokens_of_different_windows_race


async def test_one_of_many_attempts_wins(
    sessions: Sessions, otp: OTP, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of fifty uses of a token at twenty OTPs, as in twenty processes, one wins; of fifty wrong
    ones one is counted, since it locks the device."""
    monkeypatch.setattr(Device, "throttle_factor", 60)  # longer than a slow machine takes
    device = await make_totp(sessions, alice)
    otps = [OTP(sessions, Device, secret_key=SECRET_KEY) for _ in range(20)]
    assert await race(otps, "verify_token", alice, device.persistent_id, token_at(device)) == 1
    await otp.write(lambda session: _forget(session, device.id))
    assert await race(otps, "verify_token", alice, device.persistent_id, "000000") == 0
    assert (await reload(sessions, device)).throttling_failure_count == 1


async def test_attempts_at_one_device_hold_one_connection(
    otp: OTP, engine: AsyncEngine, alice: User, sessions: Sessions
) -> None:
    """Who hammers one device waits in a queue, without taking the pool from everybody else."""
    device, out = await make_totp(sessions, alice), []
    event.listen(engine.sync_engine, "checkout", lambda *args: out.append(engine.pool.checkedout()))
    guesses = [otp.verify_token(alice, device.persistent_id, "000000") for _ in range(30)]
    assert await asyncio.gather(*guesses) == [None] * 30
    assert max(out) == 1


class OwnSession(AsyncSession):
    """A host's class, which could route or change what it is given."""


@pytest.fixture(params=["driver", "connection", "session"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sessions(engine: AsyncEngine, way: str) -> Sessions:
    if way == "connection":
        event.listen(engine.sync_engine, "after_cursor_execute", lambda *args: None)
    if way == "session":
        return async_sessionmaker(engine, expire_on_commit=False, class_=OwnSession)
    return async_sessionmaker(engine, expire_on_commit=False)


def way_of(maker: Any, *models: type[Any]) -> str:
    """Which way statements over these models go for the sessions of this maker."""
    engine = plain_engine(maker)
    plain = engine is not None and Transactions(maker, Device)._are_plain(engine, models, True)
    if engine is None or not plain:
        return "session"
    return "driver" if on_driver(engine) else "connection"


def test_the_way_is_the_one_under_test(sessions: Sessions, way: str) -> None:
    """The fixture above makes what the tests here say it makes."""
    assert way_of(sessions, Device, User) == way


async def test_verifying_writes_the_same_row(
    otp: OTP, sessions: Sessions, alice: User, way: str
) -> None:
    """Accepted or refused, the row and the instance that is handed out say the same."""
    device = await make_totp(sessions, alice)
    assert await otp.verify_token(alice, device.persistent_id, "000000") is None
    stored = await otp.read(lambda session: session.get(TOTPDevice, device.id))
    assert stored.throttling_failure_count == 1
    await otp.write(lambda session: _forget(session, device.id))
    found = await otp.verify_token(alice, device.persistent_id, token_at(device))
    stored = await otp.read(lambda session: session.get(TOTPDevice, device.id))
    assert found is not None
    for name in TOTPDevice.__mapper__.column_attrs.keys():  # noqa: SIM118
        assert getattr(found, name) == getattr(stored, name), name
    assert found.secret == stored.secret
    assert found not in OwnSession()


async def _forget(session: AsyncSession, number: int) -> None:
    row = await session.get_one(TOTPDevice, number)
    row.throttle_reset()


async def test_an_instance_goes_on_living(otp: OTP, sessions: Sessions, alice: User) -> None:
    """What verify_token hands out can be added to a session, changed, and loaded from there."""
    device = await make_totp(sessions, alice)
    found = await otp.verify_token(alice, device.persistent_id, token_at(device))
    async with sessions.begin() as session:
        session.add(found)
        assert not session.is_modified(found)
        found.name = "my phone"
    async with sessions() as session:
        again = await session.get_one(TOTPDevice, device.id)
        assert (again.name, again.last_t) == ("my phone", found.last_t)


# What a host may have made of its engine and its sessions.


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("before_cursor_execute", "connection"),
        ("after_cursor_execute", "connection"),
        ("begin", "connection"),
        ("commit", "connection"),
        ("engine_connect", "connection"),
        ("before_execute", "session"),
        ("after_execute", "session"),
        ("checkout", "driver"),
    ],
)
def test_who_listens_is_heard(engine: AsyncEngine, name: str, expected: str) -> None:
    """A listener on the engine hears what it would hear of any session, from when it listens on."""
    maker = async_sessionmaker(engine)
    assert way_of(maker, Device) == "driver"
    event.listen(engine.sync_engine, name, lambda *args, **kwargs: None)
    assert way_of(maker, Device) == expected


async def test_the_driver_does_what_it_is_chosen_for(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session's read, a verification and a session's renewal need no other way: what fails on the
    driver's would be done again on the engine's, and nobody would notice."""
    maker = async_sessionmaker(engine, expire_on_commit=False)
    otp = OTP(maker, Device, secret_key=SECRET_KEY)
    alice = await make_user(maker, "alice")
    await make_totp(maker, alice)
    [device] = await otp.devices_for_user(alice)
    begun = await otp.sessions.begin(alice, device)

    async def nobody(key: Any) -> None:
        return None

    monkeypatch.setattr(otp.transactions, "_run", None)
    assert await otp.sessions.find(begun.token, nobody) is not None
    assert await otp.verify_token(alice, device.persistent_id, token_at(device)) == device
    renewed = await otp.sessions.renew(alice, device, begun.session_id, begun.token)
    assert await otp.sessions.find(renewed.token, nobody) is not None


def test_other_makers_use_their_sessions(engine: AsyncEngine) -> None:
    """Sessions of another class, with binds, or with options of their own run everything."""
    for maker in [
        async_sessionmaker(engine, class_=OwnSession),
        async_sessionmaker(binds={Device: engine}),
        async_sessionmaker(engine, sync_session_class=type("Own", (Session,), {})),
        async_sessionmaker(engine.execution_options(schema_translate_map={None: "club"})),
    ]:
        assert way_of(maker, Device) == "session"


def test_a_listener_on_sessions_is_heard(engine: AsyncEngine) -> None:
    """Who listens to sessions, as a filter for tenants does, hears every statement of ours."""

    def hear(*args: Any) -> None:
        pass

    event.listen(Session, "do_orm_execute", hear)
    try:
        assert way_of(async_sessionmaker(engine), Device) == "session"
    finally:
        event.remove(Session, "do_orm_execute", hear)
    assert way_of(async_sessionmaker(engine), Device) == "driver"


async def test_a_listener_counts_and_rewrites(
    otp: OTP, engine: AsyncEngine, sessions: Sessions, alice: User
) -> None:
    """A listener that counts and one that rewrites see the session's read, the lock and the
    write-back, and what they rewrite is what runs."""
    device = await make_totp(sessions, alice)
    seen: list[str] = []

    def comment(conn: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> Any:
        return f"{statement} -- by the host", parameters

    event.listen(engine.sync_engine, "before_cursor_execute", comment, retval=True)
    event.listen(
        engine.sync_engine,
        "after_cursor_execute",
        lambda conn, cursor, statement, *rest: seen.append(statement),
    )
    async with Browser(make_app(otp, door(otp, alice, device))) as browser:
        await browser.get("/enter")
        seen.clear()
        assert await browser.state() == verified_by(device)
        assert await otp.verify_token(alice, device.persistent_id, token_at(device)) == device
    assert [statement.split()[0] for statement in seen] == ["SELECT", "SELECT", "UPDATE"]
    assert all(statement.endswith("-- by the host") for statement in seen)


async def test_echo_shows_everything(
    database_url: str, alice: User, sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    """With echo=True the log has every statement."""
    device = await make_totp(sessions, alice)
    engine = create_async_engine(database_url, echo=True)
    otp = OTP(async_sessionmaker(engine), Device, secret_key=SECRET_KEY)
    with caplog.at_level(logging.INFO, "sqlalchemy.engine"):
        assert await otp.verify_token(alice, device.persistent_id, token_at(device)) == device
    await engine.dispose()
    logged = " ".join(record.getMessage() for record in caplog.records)
    assert "FOR UPDATE" in logged
    assert "UPDATE otp_device SET" in logged


# What a host may have made of its mappings.


class Shouting(TypeDecorator[str]):
    """Stored in capitals."""

    impl = String(64)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return value and value.upper()

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        return value and value.lower()


async def life_of(engine: AsyncEngine, base: Any, user_model: Any, **values: Any) -> Any:
    """Log a user of that class in and verify them; what the session's read gave."""
    device_model = devices_of(base, user_model)
    totp_model, session_model = totp_of(device_model), sessions_of(base, device_model)
    keep(session_model)
    async with engine.begin() as connection:
        await connection.run_sync(base.metadata.create_all)
    maker = async_sessionmaker(engine, expire_on_commit=False)
    otp = OTP(maker, device_model, secret_key=SECRET_KEY)
    async with maker.begin() as session:
        user = user_model(username="alice", password_hash=password_hash(), **values)
        session.add(user)
    device = await make_device(otp, user, totp_model)
    assert await otp.verify_token(user, device.persistent_id, token_at(device)) == device
    begun = await otp.sessions.begin(user, device)

    async def nobody(key: Any) -> None:
        return None

    found = await otp.sessions.find(begun.token, nobody)
    assert found is not None
    assert (found.user.username, found.device) == ("alice", device)
    renewed = await otp.sessions.renew(user, device, begun.session_id, begun.token)
    former = await otp.sessions.find(begun.token, nobody)
    assert former is not None
    assert former.device is None
    assert await otp.sessions.find(renewed.token, nobody) is not None
    return found.user, way_of(maker, device_model, user_model), otp


def likes_of(base: Any) -> Any:
    """A table of other rows of the host's, and what makes users load them at once."""

    class Like(base):  # type: ignore[misc]
        __tablename__ = "likes"
        id: Mapped[int] = mapped_column(primary_key=True)
        owner: Mapped[uuid.UUID] = mapped_column(ForeignKey("members.id"))

    return relationship(Like, lazy="joined")


class Members:
    """What a host's users have here."""

    __tablename__ = "members"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)


async def test_types_of_the_hosts(empty_engine: AsyncEngine) -> None:
    """Values of a TypeDecorator and of a JSON column, and a hybrid, are what the ORM makes of them,
    without a session."""
    base = new_base()

    class Member(Members, UserMixin, base):  # type: ignore[misc]
        motto: Mapped[str] = mapped_column(Shouting())
        likes: Mapped[dict[str, Any]] = mapped_column(JSON)

        @hybrid_property
        def greeting(self) -> str:
            return f"{self.username}: {self.motto}"

    values = {"motto": "per aspera", "likes": {"tea": 1}}
    user, way, _ = await life_of(empty_engine, base, Member, **values)
    assert (user.greeting, user.likes, way) == ("alice: per aspera", {"tea": 1}, "driver")
    async with empty_engine.connect() as connection:
        assert await connection.scalar(text("SELECT motto FROM members")) == "PER ASPERA"


async def test_a_joined_collection(empty_engine: AsyncEngine) -> None:
    """A user whose collection is loaded by a join has it."""
    base = new_base()

    class Member(Members, UserMixin, base):  # type: ignore[misc]
        likes = likes_of(base)

    user, way, _ = await life_of(empty_engine, base, Member)
    assert (user.likes, way) == ([], "session")


async def test_a_deferred_column(empty_engine: AsyncEngine) -> None:
    """A user's deferred column stays unloaded, and everything else works."""
    base = new_base()

    class Member(Members, UserMixin, base):  # type: ignore[misc]
        biography: Mapped[str] = mapped_column(default="long", deferred=True)

    user, way, _ = await life_of(empty_engine, base, Member)
    assert ("biography" in inspect(user).unloaded, way) == (True, "session")


async def test_a_numeric_column(empty_engine: AsyncEngine) -> None:
    """A column whose type wants to see the driver's own type is a Decimal, as ever."""
    base = new_base()

    class Member(Members, UserMixin, base):  # type: ignore[misc]
        balance: Mapped[Decimal] = mapped_column(Numeric(10, 2))

    user, way, _ = await life_of(empty_engine, base, Member, balance=Decimal("1.50"))
    assert (user.balance, way) == (Decimal("1.50"), "session")


async def test_a_mapper_event_is_heard(empty_engine: AsyncEngine) -> None:
    """Who listens to loads of users, or to updates of devices, hears them."""
    base = new_base()

    class Member(Members, UserMixin, base):  # type: ignore[misc]
        pass

    loaded: list[Any] = []
    event.listen(Member, "load", lambda target, context: loaded.append(target))
    user, way, otp = await life_of(empty_engine, base, Member)
    assert (user in loaded, way) == (True, "session")
    updated: list[Any] = []
    event.listen(
        otp.device_model,
        "before_update",
        lambda mapper, connection, target: updated.append(target),
        propagate=True,
    )
    (device,) = await otp.devices_for_user(user)
    assert await otp.verify_token(user, device.persistent_id, "000000") is None
    assert updated == [device]


async def test_a_kind_with_methods_of_its_own(empty_engine: AsyncEngine) -> None:
    """A host's kind may use the session of its row while it is asked."""
    base = new_base()
    user_model = int_users(base)
    device_model = devices_of(base, user_model)
    asked: list[Any] = []

    @keep
    class Own(TOTPDeviceMixin, device_model):  # type: ignore[misc]
        async def check_token(self, token: str) -> bool:
            session = async_object_session(self)
            assert session is not None
            asked.append(await session.scalar(text("SELECT 1")))
            return await super().check_token(token)

    keep(sessions_of(base, device_model))
    async with empty_engine.begin() as connection:
        await connection.run_sync(base.metadata.create_all)
    maker = async_sessionmaker(empty_engine, expire_on_commit=False)
    otp = OTP(maker, device_model, secret_key=SECRET_KEY)
    async with maker.begin() as session:
        user = user_model(username="alice")
        session.add(user)
    device = await make_device(otp, user, Own)
    assert await otp.verify_token(user, device.persistent_id, token_at(device)) == device
    assert asked == [1]


# What it costs the server.


@pytest.mark.parametrize("more", [0, 200])
async def test_every_statement_of_the_hot_path_uses_an_index(
    otp: OTP, engine: AsyncEngine, alice: User, more: int
) -> None:
    """Among a hundred thousand devices and sessions no statement reads a table through, also for
    a user with two hundred devices."""
    device = await make_device(otp, alice, TOTPDevice)
    await make_device(otp, alice, TOTPDevice)
    for _ in range(more):
        await make_device(otp, alice, TOTPDevice, secret=secrets.token_bytes(20))
    device, *_ = await otp.devices_for_user(alice)
    begun = await otp.sessions.begin(alice, device)
    async with engine.begin() as connection:
        for statement in BALLAST.split(";"):
            await connection.execute(text(statement))
    async with engine.connect() as connection:
        connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("ANALYZE"))
    seen: list[tuple[str, Any]] = []
    event.listen(
        engine.sync_engine,
        "before_cursor_execute",
        lambda conn, cursor, statement, parameters, *rest: seen.append((statement, parameters)),
    )

    async def nobody(key: Any) -> None:
        return None

    assert await otp.sessions.find(begun.token, nobody) is not None
    assert await otp.verify_token(alice, device.persistent_id, "000000") is None
    await otp.sessions.renew(alice, device, begun.session_id, begun.token)
    verbs = [statement.split()[0] for statement, _ in seen]
    # The second device has the secret of the first, so that both ways to lock are here.
    assert verbs == ["SELECT", "SELECT", "SELECT", "UPDATE", "UPDATE"]
    assert all("FOR UPDATE" in statement for statement, _ in seen[1:3])
    async with engine.connect() as connection:
        for statement, parameters in list(seen):
            plan = await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
            lines = "\n".join(str(row[0]) for row in plan)
            assert "Seq Scan" not in lines, lines
            assert "Index" in lines
        await connection.rollback()


BALLAST = """
    INSERT INTO otp_user (username) SELECT 'user' || n FROM generate_series(1, 100000) n;
    INSERT INTO otp_device (kind, user_id, created_at) SELECT 'totp', id, now() FROM otp_user;
    INSERT INTO otp_session (token_digest, user_id, device_id, created_at, expires_at,
                             password_fingerprint)
        SELECT 'digest' || id, user_id, id, now(), now() + interval '1 day', '' FROM otp_device
        WHERE user_id > 1
"""
