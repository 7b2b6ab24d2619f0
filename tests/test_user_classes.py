"""Users of every make, each through all that a user meets."""

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy import String, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, deferred, mapped_column
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starlette_otp import OTP, ConfigurationError, clock, devices
from starlette_otp.devices import UserMixin
from starlette_otp.devices.users import check_password
from tests.hosts import make_host
from tests.support import (
    SECRET,
    SECRET_KEY,
    Browser,
    Statements,
    csrf_of,
    make_app,
    password_hash,
    totp_token,
)
from tests.tour import NAME, tour

MIXINS = [
    devices.UserMixin,
    devices.DeviceMixin,
    devices.StaticTokenMixin,
    devices.OTPSessionMixin,
    devices.ChallengeLimitMixin,
    devices.LoginThrottleMixin,
]


def deferring_users(base: Any) -> type[Any]:
    """Users whose hash is loaded by those alone who ask for it."""

    class Member(UserMixin, base):
        __tablename__ = "members"
        id: Mapped[int] = mapped_column(primary_key=True)
        password_hash: Mapped[str] = mapped_column(String(255), deferred=True)

    return Member


def raising_users(base: Any) -> type[Any]:
    """Users whose hash must not be loaded by accident."""

    class Member(base):
        __tablename__ = "members"
        id: Mapped[int] = mapped_column(primary_key=True)
        username: Mapped[str]
        password_hash: Mapped[str] = deferred(mapped_column(String(255)), raiseload=True)
        is_staff: Mapped[bool]

    return Member


def renaming_users(base: Any) -> type[Any]:
    """Users whose deferred hash has another name, and a property says what it is."""

    class Member(base):
        __tablename__ = "members"
        id: Mapped[int] = mapped_column(primary_key=True)
        username: Mapped[str]
        hashed: Mapped[str] = mapped_column("password_hash", deferred=True)
        is_staff: Mapped[bool] = mapped_column(default=True)

        @property
        def password_hash(self) -> str:
            return self.hashed

        @password_hash.setter
        def password_hash(self, hashed: str) -> None:
            self.hashed = hashed

    return Member


class Base(MappedAsDataclass, DeclarativeBase):
    """The base of an application whose classes are dataclasses."""


class PlainBase(DeclarativeBase):
    """As README says."""

    metadata = Base.metadata


class Dataclass(Base):
    __tablename__ = "members"
    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    username: Mapped[str]
    password_hash: Mapped[str]
    is_staff: Mapped[bool] = mapped_column(default=True)


@pytest.mark.parametrize("users", [deferring_users, raising_users, renaming_users])
async def test_a_user_of_that_class_meets_nothing_strange(
    users: Any, empty_engine: AsyncEngine
) -> None:
    """Log-in on one page and on two, guards, step-up, log-out, the admin site, a new password."""
    models = make_host(users)
    person = models.User(username=NAME, password_hash=password_hash(), is_staff=True)
    await tour(models, person, empty_engine)


async def test_users_who_are_dataclasses(empty_engine: AsyncEngine) -> None:
    """Their devices are on a plain base, in the same metadata."""
    models = make_host(lambda base: Dataclass, PlainBase)
    assert "otp_device" in Base.metadata.tables
    await tour(models, Dataclass(NAME, password_hash()), empty_engine)


def nameless_users(base: Any) -> type[Any]:
    """Users who log in by their address and have no name."""

    class Member(base):
        __tablename__ = "members"
        id: Mapped[int] = mapped_column(primary_key=True)
        address: Mapped[str]
        password_hash: Mapped[str]
        is_staff: Mapped[bool] = mapped_column(default=True)

    return Member


async def test_users_without_a_name(empty_engine: AsyncEngine) -> None:
    """Who they are is for `authenticate` to say; elsewhere they are their keys."""
    models = make_host(nameless_users)

    async def authenticate(request: Request, address: str, password: str) -> Any:
        async with AsyncSession(empty_engine) as session:
            query = select(models.User).where(models.User.address == address)
            found = await session.scalar(query)
        return found if found and check_password(password, found.password_hash) else None

    person = models.User(address=NAME, password_hash=password_hash())
    await tour(models, person, empty_engine, authenticate=authenticate)


async def test_users_without_a_name_need_a_check_of_the_hosts(empty_engine: AsyncEngine) -> None:
    """Nobody is found by a name, and the log-in says what is missing."""
    models = make_host(nameless_users)
    otp = OTP(async_sessionmaker(empty_engine), models.Device, secret_key=SECRET_KEY)
    assert await otp.find_user(NAME) is None
    async with Browser(make_app(otp)) as browser:
        with pytest.raises(ConfigurationError, match="authenticate="):
            await browser.log_in("000000")


@pytest.mark.parametrize("mixin", MIXINS)
def test_a_base_of_dataclasses_is_refused(mixin: type[Any]) -> None:
    """A class of ours can't be a dataclass, and the error says what base it wants."""
    with pytest.raises(ConfigurationError, match=r"Refused .* metadata = Base\.metadata"):

        class Refused(mixin, Base):  # type: ignore[misc, valid-type]
            pass


async def test_a_deferred_hash_comes_along(empty_engine: AsyncEngine) -> None:
    """A guarded page costs one SELECT, as with any other users; a new password ends no session but
    others."""

    async def change(request: Request) -> Response:
        await otp.change_password(request, "another good password")
        return PlainTextResponse("changed")

    models = make_host(deferring_users)
    await models.create_tables(empty_engine)
    sessions = async_sessionmaker(empty_engine)
    otp = OTP(sessions, models.Device, secret_key=SECRET_KEY)
    async with sessions.begin() as session:
        person = models.User(username=NAME, password_hash=password_hash())
        session.add(person)
        await session.flush()
        device = models.TOTPDevice(user_id=person.id, secret=SECRET)
        session.add(device)
    async with Browser(make_app(otp, Route("/change", change))) as browser:
        await browser.log_in(totp_token())
        statements = Statements(empty_engine)
        assert (await browser.get("/vault")).text == "hello alice"
        assert len(statements) == 1
        assert (await browser.get("/change")).text == "changed"
        assert (await browser.get("/vault")).text == "hello alice"


async def test_a_ticket_for_a_user_whom_a_commit_has_expired(empty_engine: AsyncEngine) -> None:
    """A host's own check may note in the user's row that they were here, and commit that."""
    models = make_host()
    await models.create_tables(empty_engine)
    sessions = async_sessionmaker(empty_engine)

    async def authenticate(request: Request, username: str, password: str) -> Any:
        async with sessions.begin() as session:
            person = await session.scalar(select(models.User))
            person.email = "seen@site.example"
        return person

    otp = OTP(sessions, models.Device, secret_key=SECRET_KEY, authenticate=authenticate)
    async with sessions.begin() as session:
        person = models.User(username=NAME)
        session.add(person)
        await session.flush()
        session.add(models.TOTPDevice(user_id=person.id, secret=SECRET))
    async with Browser(make_app(otp)) as browser:
        asked = await browser.log_in("000000")
        with time_machine.travel(clock.now() + timedelta(minutes=1)):
            fields = {"csrf_token": csrf_of(asked), "username": NAME, "otp_token": totp_token()}
            entered = await browser.post("/account/login", data=fields)
        assert entered.status_code == 303, entered.text
