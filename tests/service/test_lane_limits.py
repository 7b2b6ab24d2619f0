"""What attackers found on the short ways that statements take, each where it went wrong."""

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest
from sqlalchemy import ForeignKey, Numeric, String, event, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.pool import NullPool
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, UnauthenticatedUser, requires
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starlette_otp import OTP, DatabaseUnavailable, OTPMiddleware, SessionAuthBackend
from starlette_otp.devices import DeviceMixin, HOTPDeviceMixin, OTPSessionMixin, UserMixin
from starlette_otp.models import Device, HOTPDevice, TOTPDevice, User
from starlette_otp.service.rows import Shape
from starlette_otp.testing import make_device, token_at
from tests.hosts import devices_of, int_users, keep, new_base, sessions_of, totp_of
from tests.support import SECRET_KEY, Browser, Sessions, add, make_totp, reload


async def nobody(key: Any) -> None:
    return None


@pytest.mark.parametrize("moment", ["connect", "checkout"])
@pytest.mark.parametrize("pool", [{}, {"poolclass": NullPool}])
async def test_a_listener_of_the_pools_that_runs_sql(
    database_url: str, sessions: Sessions, alice: User, moment: str, pool: dict[str, Any]
) -> None:
    """What a listener runs on a new or a borrowed connection begins a transaction of SQLAlchemy's;
    what is written afterwards is there all the same, and a token is accepted once."""
    engine = create_async_engine(database_url, **pool)

    def run(connection: Any, *rest: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("SET statement_timeout = 5000")
        cursor.close()

    event.listen(engine.sync_engine, moment, run)
    otp = OTP(async_sessionmaker(engine), Device, secret_key=SECRET_KEY)
    device = await make_totp(sessions, alice)
    token = token_at(device)
    verified = [await otp.verify_token(alice, device.persistent_id, token) for _ in range(3)]
    assert verified == [device, None, None]
    begun = await otp.sessions.begin(alice, device)
    renewed = await otp.sessions.renew(alice, device, begun.session_id, begun.token)
    found = await otp.sessions.find(renewed.token, nobody)
    assert found is not None
    assert found.device == device
    await engine.dispose()


async def test_users_in_more_than_one_table(empty_engine: AsyncEngine) -> None:
    """A session of a user whose class has subclasses with tables of their own is theirs."""
    base = new_base()

    class Person(UserMixin, base):  # type: ignore[misc]
        __tablename__ = "persons"
        id: Mapped[int] = mapped_column(primary_key=True)
        type: Mapped[str] = mapped_column(String(16))
        __mapper_args__ = {"polymorphic_on": "type", "polymorphic_identity": "person"}

    class Employee(Person):
        __tablename__ = "employees"
        id: Mapped[int] = mapped_column(ForeignKey("persons.id"), primary_key=True)
        is_superuser: Mapped[bool] = mapped_column(default=False)
        __mapper_args__ = {"polymorphic_identity": "employee", "polymorphic_load": "inline"}

    device_model = devices_of(base, Person)
    totp_of(device_model)
    keep(sessions_of(base, device_model))
    async with empty_engine.begin() as connection:
        await connection.run_sync(base.metadata.create_all)
    maker = async_sessionmaker(empty_engine, expire_on_commit=False)
    otp = OTP(maker, device_model, secret_key=SECRET_KEY)
    root = Employee(username="root", is_superuser=True)
    alice, carol = Employee(username="alice"), Person(username="carol")
    async with maker.begin() as session:
        session.add_all([root, alice, carol])
    for user in (root, alice, carol):
        begun = await otp.sessions.begin(user)
        found = await otp.sessions.find(begun.token, nobody)
        assert found is not None
        assert (found.user.username, found.user.id) == (user.username, user.id)
        assert getattr(found.user, "is_superuser", False) is (user is root)


async def test_a_sessionmaker_that_chooses(
    engine: AsyncEngine, empty_engine: AsyncEngine, alice: User
) -> None:
    """A sessionmaker of the host's own class chooses the engine for every statement of ours."""
    tenant: ContextVar[AsyncEngine] = ContextVar("tenant")

    class Tenants(async_sessionmaker[Any]):
        def __call__(self, **options: Any) -> Any:
            return super().__call__(**{"bind": tenant.get(), **options})

    async with empty_engine.begin() as connection:
        await connection.run_sync(Device.metadata.create_all)
    otp = OTP(Tenants(engine), Device, secret_key=SECRET_KEY)
    tenant.set(engine)
    device = await make_device(otp, alice, TOTPDevice)
    begun = await otp.sessions.begin(alice, device)
    tenant.set(empty_engine)
    assert await otp.verify_token(alice, device.persistent_id, token_at(device)) is None
    assert await otp.sessions.find(begun.token, nobody) is None
    tenant.set(engine)
    assert await otp.verify_token(alice, device.persistent_id, token_at(device)) == device
    assert await otp.sessions.find(begun.token, nobody) is not None


async def test_kinds_that_are_declared_later(empty_engine: AsyncEngine) -> None:
    """A kind that is declared after the first request is found from then on, with its columns."""
    base = new_base()
    user_model = int_users(base)
    device_model = devices_of(base, user_model)
    totp_of(device_model)
    keep(sessions_of(base, device_model))
    maker = async_sessionmaker(empty_engine, expire_on_commit=False)
    async with empty_engine.begin() as connection:
        await connection.run_sync(base.metadata.create_all)
    otp = OTP(maker, device_model, secret_key=SECRET_KEY)
    async with maker.begin() as session:
        user = user_model(username="alice")
        session.add(user)
    begun = await otp.sessions.begin(user)
    assert await otp.sessions.find(begun.token, nobody) is not None

    @keep
    class Meter(HOTPDeviceMixin, device_model):  # type: ignore[misc]
        __kind__ = "meter"
        reading: Mapped[Any] = mapped_column(Numeric(10, 2), nullable=True)

    async with empty_engine.begin() as connection:
        await connection.run_sync(base.metadata.drop_all)
        await connection.run_sync(base.metadata.create_all)
    async with maker.begin() as session:
        user = user_model(username="alice")
        session.add(user)
    device = await make_device(otp, user, Meter, reading=2)
    assert await otp.verify_token(user, device.persistent_id, token_at(device)) == device
    begun = await otp.sessions.begin(user, device)
    found = await otp.sessions.find(begun.token, nobody)
    assert found is not None
    assert (found.device, found.device.reading) == (device, 2)


async def test_a_default_that_asks_for_the_other_values(empty_engine: AsyncEngine) -> None:
    """A column of the host's on its sessions whose default reads the values of the row has them,
    in tickets' rows, too; one that is set anew by every update is, when a session is renewed."""
    base = new_base()
    user_model = int_users(base)
    device_model = devices_of(base, user_model)
    totp_model = totp_of(device_model)

    def describe(context: Any) -> str:
        row = context.get_current_parameters()
        return f"{row['user_id']} {row['user_agent'] or '-'} {row['verified_at']}"

    class Session(OTPSessionMixin, base):  # type: ignore[misc]
        __device_model__ = device_model
        about: Mapped[str] = mapped_column(default=describe)
        version: Mapped[int] = mapped_column(default=lambda: 1, onupdate=lambda: 2)

    async with empty_engine.begin() as connection:
        await connection.run_sync(base.metadata.create_all)
    maker = async_sessionmaker(empty_engine, expire_on_commit=False)
    otp = OTP(maker, device_model, secret_key=SECRET_KEY)
    user = await add(maker, user_model(username="alice"))
    await otp.tickets.issue(user)
    async with maker() as session:
        assert await session.scalar(select(Session.about)) == f"{user.id} - None"
    begun = await otp.sessions.begin(user, user_agent="a browser")
    begun = await otp.sessions.begin(user, user_agent="a browser", former_token=begun.token)
    async with maker() as session:
        assert await session.scalar(select(Session.about)) == f"{user.id} a browser None"
    device = await make_device(otp, user, totp_model)
    await otp.sessions.renew(user, device, begun.session_id, begun.token)
    async with maker() as session:
        assert (await session.scalars(select(Session.version))).all() == [2]


def test_an_otp_of_one_kind() -> None:
    """A device of a kind beside an OTP's own verifies no session for it."""
    base = new_base()
    user_model = int_users(base)

    class Own(DeviceMixin, base):  # type: ignore[misc]
        __user_model__ = user_model

    class Session(OTPSessionMixin, base):  # type: ignore[misc]
        __device_model__ = Own

    @keep
    class Hardware(HOTPDeviceMixin, Own):
        pass

    strong = totp_of(Own)
    shape = Shape(strong, 0)
    columns = list(Own.__table__.c)
    record: list[Any] = [None] * len(columns)
    record[columns.index(Own.__table__.c.id)] = 1
    record[columns.index(Own.__table__.c.kind)] = "hotp"
    assert shape.instance(record) is None
    assert Shape(Own, 0).instance(record) is not None


async def test_who_waits_for_a_database_that_is_away_waits_once(
    sessions: Sessions, database_url: str, alice: User
) -> None:
    """Attempts that queue for one device fail together when the first of them finds the database
    away, and not each after a time-out of its own."""
    device = await make_totp(sessions, alice)
    engine = create_async_engine(database_url, pool_size=1, max_overflow=0, pool_timeout=0.2)
    otp = OTP(async_sessionmaker(engine), Device, secret_key=SECRET_KEY)
    tries: list[float] = []
    event.listen(engine.sync_engine, "checkout", lambda *args: tries.append(0))
    async with engine.connect():
        attempts = [otp.verify_token(alice, device.persistent_id, "000000") for _ in range(20)]
        answers = await asyncio.wait_for(
            asyncio.gather(*attempts, return_exceptions=True), 20 * 0.2 / 2
        )
    assert {type(answer) for answer in answers} == {DatabaseUnavailable}
    await engine.dispose()


async def test_an_anonymous_requests_scopes(otp: OTP) -> None:
    """What a host's backend gives to nobody never says "verified", and is not handed on itself."""
    shared = AuthCredentials(["guest", "verified"])

    class Guests(SessionAuthBackend):
        async def authenticate(self, conn: Any) -> Any:
            return await super().authenticate(conn) or (shared, UnauthenticatedUser())

    @requires("verified")
    async def vault(request: Request) -> Response:
        return PlainTextResponse("in")

    async def scopes(request: Request) -> Response:
        request.auth.scopes.append("mine")
        return PlainTextResponse(" ".join(request.auth.scopes))

    app = Starlette(
        routes=[Route("/vault", vault), Route("/scopes", scopes)],
        middleware=[
            Middleware(SessionMiddleware, secret_key=SECRET_KEY),
            Middleware(AuthenticationMiddleware, backend=Guests(otp)),
            Middleware(OTPMiddleware, otp=otp),
        ],
    )
    async with Browser(app) as browser:
        assert (await browser.get("/vault")).status_code == 403
        for _ in range(2):
            assert (await browser.get("/scopes")).text == "guest mine"
    assert shared.scopes == ["guest", "verified"]


async def test_an_instance_is_left_as_a_session_leaves_it(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """What verify_token hands out has no changes left to write, accepted or not."""
    device = await make_device(otp, alice, HOTPDevice)
    found = await otp.verify_token(alice, device.persistent_id, token_at(device))
    async with sessions() as session:
        merged = await session.merge(found, load=False)
        assert merged is not None
        assert merged.counter == 1
        assert not session.dirty
    assert (await reload(sessions, device)).counter == 1
