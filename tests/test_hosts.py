"""Applications that bring their own users and their own tables."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import ForeignKey, String, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starlette_otp import OTP, ConfigurationError, log_in, login
from starlette_otp.devices import (
    DeviceMixin,
    OTPSessionMixin,
    StaticTokenMixin,
    TOTPDeviceMixin,
)
from starlette_otp.models import Device, TOTPDevice, User
from tests import hosts
from tests.hosts import Host, Subject, make_host
from tests.support import (
    SECRET,
    SECRET_KEY,
    Browser,
    Sessions,
    add,
    make_app,
    make_totp,
    totp_token,
)


@dataclass
class Application:
    """A host that runs: its classes, tables and two of its users."""

    models: Host
    sessions: Sessions
    otp: OTP
    alice: Any
    bob: Any

    async def totp(self, **values: Any) -> Any:
        return await add(self.sessions, self.models.TOTPDevice(secret=SECRET, **values))

    def key(self, user: Any) -> Any:
        return self.models.Device.user_key(user)


@pytest.fixture(params=[hosts.int_users, hosts.uuid_users, None], ids=["int", "uuid", "opaque"])
async def host(request: pytest.FixtureRequest, empty_engine: AsyncEngine) -> Application:
    models = make_host(request.param)
    await models.create_tables(empty_engine)
    sessions = async_sessionmaker(empty_engine, expire_on_commit=False)
    if request.param is None:
        alice, bob = Subject("oidc|alice"), Subject("oidc|bob", "bob")

        async def load_user(conn: Any, key: str) -> Subject | None:
            return next((user for user in (alice, bob) if user.identity == key), None)

        otp = OTP(sessions, models.Device, secret_key=SECRET_KEY, load_user=load_user)
    else:
        alice, bob = models.User(username="alice"), models.User(username="bob")
        await add(sessions, alice, bob)
        otp = OTP(sessions, models.Device, secret_key=SECRET_KEY)
    return Application(models, sessions, otp, alice, bob)


async def test_devices_belong_to_the_hosts_own_users(host: Application) -> None:
    """Whatever the type of the users' key: a device verifies its own user and nobody else."""
    device = await host.totp(user_id=host.key(host.alice))
    other = await host.totp(user_id=host.key(host.bob))
    assert await host.otp.devices_for_user(host.alice) == [device]
    assert await host.otp.verify_token(host.alice, other.persistent_id, totp_token()) is None
    assert await host.otp.verify_token(host.alice, device.persistent_id, totp_token()) == device
    assert await host.otp.match_token(host.bob, totp_token()) == other
    assert not await host.otp.user_has_device(Subject("nobody", is_authenticated=False))
    assert not await host.otp.user_has_device(Subject("nobody"))


async def test_static_tokens_in_the_hosts_own_table(host: Application) -> None:
    """Static tokens work in a host's own metadata, each once."""
    async with host.sessions.begin() as session:
        device = host.models.StaticDevice(user_id=host.key(host.alice))
        session.add(device)
        token = await device.add_token()
    assert await host.otp.match_token(host.alice, token) == device
    assert await host.otp.match_token(host.alice, token) is None


async def test_a_session_of_the_hosts_own_user(host: Application) -> None:
    """Logging in and verifying writes a row of the host's own, and the next request sees it."""
    device = await host.totp(user_id=host.key(host.alice))

    async def enter(request: Request) -> Response:
        await log_in(request, host.alice)
        await login(request, await host.otp.match_token(request.user, totp_token()))
        return PlainTextResponse("in")

    async with Browser(make_app(host.otp, Route("/enter", enter))) as browser:
        assert (await browser.get("/enter")).text == "in"
        assert (await browser.state())["device"] == device.persistent_id
        assert (await browser.get("/vault")).text == "hello alice"
        await host.otp.revoke_sessions(host.alice)
        assert not (await browser.state())["authenticated"]
    async with host.sessions() as session:
        assert not (await session.scalars(host.models.OTPSession.__table__.select())).all()


@pytest.mark.parametrize(
    ("users", "column_type"), [(hosts.int_users, "integer"), (hosts.uuid_users, "uuid")]
)
async def test_devices_and_sessions_go_with_their_user(
    users: Any, column_type: str, empty_engine: AsyncEngine
) -> None:
    """The foreign keys have the type of the user's key, and deleting a user takes all rows."""
    models = make_host(users)
    await models.create_tables(empty_engine)
    sessions = async_sessionmaker(empty_engine)
    OTP(sessions, models.Device, secret_key=SECRET_KEY)
    alice = models.User(username="alice")
    async with sessions.begin() as session:
        device = models.StaticDevice(user=alice)
        session.add(device)
        await device.add_token()
    async with empty_engine.begin() as connection:
        query = text(
            "SELECT data_type FROM information_schema.columns WHERE column_name = 'user_id'"
        )
        assert {*await connection.scalars(query)} == {column_type}
        await connection.execute(text(f"DELETE FROM {models.User.__tablename__}"))
        for table in ("otp_device", "otp_static_token"):
            assert await connection.scalar(text(f"SELECT count(*) FROM {table}")) == 0


async def test_a_device_made_with_a_user_who_has_no_key_yet(empty_engine: AsyncEngine) -> None:
    """Added in one flush with its user, a device is sealed for the key the database gave."""
    models = make_host()
    await models.create_tables(empty_engine)
    sessions = async_sessionmaker(empty_engine, expire_on_commit=False)
    otp = OTP(sessions, models.Device, secret_key=SECRET_KEY)
    alice = models.User(username="alice")
    device = await add(sessions, models.TOTPDevice(secret=SECRET, user=alice))
    assert await otp.match_token(alice, totp_token()) == device


async def test_an_owner_given_as_text(empty_engine: AsyncEngine) -> None:
    """A UUID given as a text in capitals is the same owner: the secret stays readable."""
    models = make_host(hosts.uuid_users)
    await models.create_tables(empty_engine)
    sessions = async_sessionmaker(empty_engine, expire_on_commit=False)
    otp = OTP(sessions, models.Device, secret_key=SECRET_KEY)
    alice = await add(sessions, models.User(username="alice"))
    values = {"user_id": str(alice.key).upper(), "secret": SECRET}
    device = await add(sessions, models.TOTPDevice(**values))
    assert await otp.match_token(alice, totp_token()) == device


def only_device() -> Any:
    base = hosts.new_base()
    return hosts.devices_of(base, hosts.int_users(base))


def no_static_token() -> Any:
    base = hosts.new_base()
    device = hosts.devices_of(base, hosts.int_users(base))
    hosts.static_of(device)
    hosts.sessions_of(base, device)
    return device


def two_of_one_kind() -> Any:
    device = make_host().Device

    @hosts.keep
    class AuthenticatorApp(TOTPDeviceMixin, device):
        pass

    return device


def composite_key() -> Any:
    base = hosts.new_base()
    members = hosts.composite_users(base)

    class Device(DeviceMixin, base):
        __user_model__ = members

    hosts.sessions_of(base, Device)
    return Device


def unnameable_kind() -> Any:
    device = make_host().Device

    @hosts.keep
    class Card(device):
        __kind__ = "Smart card"

    return device


def table_of_its_own() -> Any:
    device = make_host().Device

    @hosts.keep
    class Card(device):
        __tablename__ = "card"
        id: Mapped[int] = mapped_column(ForeignKey(device.__table__.c.id), primary_key=True)

    return device


@pytest.mark.parametrize(
    ("declare", "named"),
    [
        (only_device, "OTPSessionMixin"),
        (no_static_token, "StaticTokenMixin"),
        (two_of_one_kind, "TOTPDevice and AuthenticatorApp are both of kind 'totp'"),
        (composite_key, "Member has a primary key of 2 columns"),
        (unnameable_kind, "Card"),
        (table_of_its_own, "Card has a table of its own"),
        (lambda: hosts.int_users(hosts.new_base()), "DeviceMixin"),
    ],
)
def test_a_host_put_together_wrongly(declare: Callable[[], Any], named: str) -> None:
    """What is missing or there twice is named in one sentence when OTP is made."""
    device_model = declare()
    with pytest.raises(ConfigurationError, match=named) as caught:
        OTP(async_sessionmaker(), device_model, secret_key=SECRET_KEY)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert ". " not in sentence


def test_a_device_model_without_users_is_named() -> None:
    """A device model that does not say whose devices they are is refused where it is declared."""
    with pytest.raises(ConfigurationError, match="__user_model__"):

        class Device(DeviceMixin, hosts.new_base()):
            pass


async def test_rows_of_a_kind_that_is_not_declared_are_skipped(
    otp: OTP, sessions: Sessions, engine: AsyncEngine, alice: User
) -> None:
    """Rows of another application's kind in the same table are passed over, never an error."""
    device = await make_totp(sessions, alice)
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO otp_device (kind, user_id, created_at)"
                " SELECT 'pager', user_id, created_at FROM otp_device"
            )
        )
    assert await otp.devices_for_user(alice, None) == [device]
    assert await otp.match_token(alice, "000000") is None
    assert await otp.match_token(alice, totp_token()) is None, "locked by the failure"
    async with sessions() as session:
        number = await session.scalar(text("SELECT id FROM otp_device WHERE kind = 'pager'"))
        for model in (Device, TOTPDevice):
            assert await model.from_persistent_id(session, f"pager/{number}") is None
    assert await otp.verify_token(alice, f"pager/{number}", "000000") is None


@pytest.mark.parametrize("first", [hosts.totp_of, hosts.static_of])
async def test_the_order_of_declaring_kinds_changes_no_default(
    first: Any, empty_engine: AsyncEngine
) -> None:
    """Kinds share columns, but each starts with its own values, whichever came first."""
    base = hosts.new_base()
    device = hosts.devices_of(base, hosts.int_users(base))
    first(device)
    second = hosts.static_of if first is hosts.totp_of else hosts.totp_of
    second(device)
    hosts.tokens_of(base, device)
    hosts.sessions_of(base, device)
    sessions = async_sessionmaker(empty_engine, expire_on_commit=False)
    OTP(sessions, device, secret_key=SECRET_KEY)
    async with empty_engine.begin() as connection:
        await connection.run_sync(base.metadata.create_all)
    alice = device.__user_model__(username="alice")
    await add(sessions, *(kind(user=alice) for kind in device.kinds().values()))
    names = "digits, step, t0, tolerance, drift, last_t, algorithm, token_shape, confirmed"
    async with empty_engine.connect() as connection:
        rows = await connection.execute(text(f"SELECT kind, {names} FROM otp_device"))
        values = {kind: tuple(rest) for kind, *rest in rows}
    assert values == {
        "totp": (6, 30, 0, 1, 0, -1, "SHA1", None, True),
        "static": (None, None, None, None, None, None, None, "made", True),
    }


def test_a_hosts_own_mixins_stand_between() -> None:
    """Intermediate classes of a host's own, abstract kinds and mixins, install nothing."""

    class Base(DeclarativeBase): ...

    class Device(DeviceMixin, Base):
        user_id: Mapped[str] = mapped_column(String(255))

    class Hardware(Device):
        __abstract__ = True

    class YubiDevice(Hardware): ...

    class RSADevice(Hardware): ...

    class Audited(OTPSessionMixin): ...

    class Short(StaticTokenMixin): ...

    class OTPSession(Audited, Base):
        __device_model__ = Device

    otp = OTP(async_sessionmaker(), Device, secret_key=SECRET_KEY)
    assert set(otp.device_model.kinds()) == {"yubi", "rsa"}
    assert otp.session_model is OTPSession


@pytest.mark.parametrize(
    ("identity", "key"),
    [("7", "7"), (7, "7"), (uuid.UUID(int=7), str(uuid.UUID(int=7))), (True, None)],
)
def test_an_opaque_identity_is_compared_as_text(identity: Any, key: str | None) -> None:
    """A number or a UUID as identity is the text that the column holds; True is nobody's."""
    device = make_host(None).Device
    assert device.user_key(SimpleNamespace(identity=identity)) == key


def test_two_hosts_tables_share_no_constraint() -> None:
    """Importing the ready-made models, or another host's, renames nothing of a host's own."""
    tables = [make_host().StaticToken.__table__ for _ in range(2)]
    constraints = [{id(c) for c in table.constraints} for table in tables]
    assert not constraints[0] & constraints[1]
    assert all(constraint.table is table for table in tables for constraint in table.constraints)
