"""Whose device: users' keys as values of a column."""

import uuid
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import CHAR, BigInteger, Column, Integer, SmallInteger, String, TypeDecorator, Uuid
from sqlalchemy.dialects.postgresql import UUID
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import UserDefinedType
from starlette.authentication import BaseUser, UnauthenticatedUser

from starlette_otp import OTP
from starlette_otp.devices import UserMixin
from starlette_otp.devices.owner import convert_key, is_clean_text
from starlette_otp.models import Device, User
from starlette_otp.testing import make_device, token_at
from starlette_otp.web.user import attach
from tests.hosts import Subject, make_host, uuid_users
from tests.support import SECRET_KEY, Browser, Sessions, door, make_app, make_totp, verified_by

KEY = uuid.UUID("abcdef78-1234-5678-1234-567812345678")
NOBODY = [None, True, False, 1.0, b"1", "", " 1", "+1", "-1", "1.0", "1_0", "１", "1" * 20, [1]]  # noqa: RUF001


@pytest.mark.parametrize(
    ("column_type", "value", "key"),
    [
        (Integer(), 7, 7),
        (Integer(), "7", 7),
        (Integer(), 2**31 - 1, 2**31 - 1),
        (Integer(), 2**31, None),
        (SmallInteger(), 2**15, None),
        (BigInteger(), 2**31, 2**31),
        (BigInteger(), 2**63, None),
        (BigInteger(), "9" * 19, None),
        (Uuid(), KEY, KEY),
        (Uuid(), str(KEY), KEY),
        (Uuid(), "garbage", None),
        (Uuid(), 7, None),
        (Uuid(as_uuid=False), str(KEY), str(KEY)),
        (Uuid(as_uuid=False), str(KEY).upper(), str(KEY)),
        (Uuid(as_uuid=False), KEY, str(KEY)),
        (Uuid(as_uuid=False), "garbage", None),
        (String(), "oidc|alice", "oidc|alice"),
        (String(), "", None),
        (String(), "nul\0", None),
        (String(), "lone \ud800", None),
        *((String(), f"oidc|{end}x", None) for end in ("\n", "\r", "\u2028", "\x85")),
        (String(), "oidc|alice\n", None),
        (String(), "oidc|alice smith", "oidc|alice smith"),
        *((Integer(), value, None) for value in NOBODY),
    ],
)
def test_keys_convert_to_the_columns_type(column_type: Any, value: object, key: object) -> None:
    """A key is compared as the column's type; one that does not convert is nobody's."""
    converted = convert_key(value, Column("user_id", column_type))
    assert converted == key
    assert type(converted) is type(key)


class AnyGUID(TypeDecorator[uuid.UUID]):
    """As fastapi-users and many hosts have it: texts and UUIDs go in, UUIDs come out."""

    impl = CHAR(36)
    cache_ok = True

    def load_dialect_impl(self, dialect: Any) -> Any:
        return dialect.type_descriptor(UUID() if dialect.name == "postgresql" else CHAR(36))

    def process_bind_param(self, value: Any, dialect: Any) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: Any, dialect: Any) -> uuid.UUID | None:
        return value if value is None or isinstance(value, uuid.UUID) else uuid.UUID(value)


class TextGUID(TypeDecorator[uuid.UUID]):
    """A UUID in a column of 32 characters; nothing else goes in."""

    impl = CHAR(32)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return value.hex

    def process_result_value(self, value: Any, dialect: Any) -> uuid.UUID:
        return uuid.UUID(value)


class Lower(TypeDecorator[str]):
    """Texts of any case are one."""

    impl = String(8)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str:
        return str(value).lower()


class Shifted(TypeDecorator[int]):
    """Numbers that are stored as others, and taken from whatever int() takes."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> int:
        return int(value) + 1000

    def process_result_value(self, value: Any, dialect: Any) -> int:
        return int(value) - 1000


@dataclass(frozen=True)
class Number:
    """A key of a class of its own."""

    value: int

    def __str__(self) -> str:
        return f"n{self.value}"


class Numbers(UserDefinedType[Number]):
    """A type that is no TypeDecorator and does not say what its values are, either."""

    cache_ok = True

    def get_col_spec(self, **kwargs: Any) -> str:
        return "integer"

    def bind_processor(self, dialect: Any) -> Any:
        return lambda value: int(str(value).removeprefix("n"))

    def result_processor(self, dialect: Any, coltype: Any) -> Any:
        return Number


@pytest.mark.parametrize(
    ("column_type", "value", "key"),
    [
        (AnyGUID(), KEY, KEY),
        (AnyGUID(), str(KEY), KEY),
        (AnyGUID(), str(KEY).upper(), KEY),
        *((AnyGUID(), value, None) for value in (*NOBODY, 7, "garbage", object())),
        (TextGUID(), KEY, KEY),
        (TextGUID(), str(KEY), KEY),
        *((TextGUID(), value, None) for value in (*NOBODY, 7, "garbage", object())),
        (Lower(), "Alice", "alice"),
        (Lower(), 7, "7"),
        *((Lower(), value, None) for value in (None, True, 1.0, "", "a\0", "a\n", "x" * 9, [1])),
        (Shifted(), 0, 0),
        (Shifted(), "7", 7),
        (Shifted(), "-1", -1),
        *((Shifted(), value, None) for value in (*NOBODY, 2**31 - 1000) if value != "-1"),
        (Numbers(), Number(7), Number(7)),
        (Numbers(), "n7", Number(7)),
        *((Numbers(), value, None) for value in ("7", "garbage", "", None, 7, 7.0, True)),
        (String(36).with_variant(UUID(), "postgresql"), str(KEY), KEY),
        (String(36).with_variant(UUID(), "postgresql"), "garbage", None),
    ],
)
def test_keys_of_a_hosts_own_type(column_type: Any, value: object, key: object) -> None:
    """A key of a type that does not say what its values are is what the type reads back, of a value
    that it has in common with its text; and what it can't store is nobody's."""
    converted = convert_key(value, Column("user_id", column_type))
    assert converted == key
    assert type(converted) is type(key)


@pytest.mark.parametrize("guid", [AnyGUID, TextGUID])
async def test_users_with_a_key_of_a_hosts_own_type(guid: Any, empty_engine: AsyncEngine) -> None:
    """They have devices, verify, log in and are found again, by a text of their key, too."""

    def users(base: Any) -> type[Any]:
        class User(UserMixin, base):
            __tablename__ = "accounts"
            id: Mapped[uuid.UUID] = mapped_column(guid, primary_key=True, default=uuid.uuid4)

        return User

    models = make_host(users)
    await models.create_tables(empty_engine)
    sessions = async_sessionmaker(empty_engine, expire_on_commit=False)
    otp = OTP(sessions, models.Device, secret_key=SECRET_KEY)
    people = [models.User(username=name, password_hash="") for name in ("alice", "bob")]
    async with sessions.begin() as session:
        session.add_all(people)
    alice, bob = people
    device = await make_device(otp, alice, models.TOTPDevice)
    for nobody in (bob, Subject(str(bob.id)), Subject("garbage"), Subject(None)):
        assert await otp.devices_for_user(nobody) == []
        assert await otp.verify_token(nobody, device.persistent_id, token_at(device)) is None
    assert await otp.devices_for_user(Subject(str(alice.id).upper())) == [device]
    assert await otp.verify_token(alice, device.persistent_id, token_at(device)) == device
    async with Browser(make_app(otp, door(otp, alice, device))) as browser:
        await browser.get("/enter")
        assert await browser.state() == verified_by(device)


class Faceless(BaseUser):
    """As Starlette has it: BaseUser's own `identity` raises NotImplementedError."""

    is_authenticated = True


@pytest.mark.parametrize(
    "nobody",
    [
        None,
        UnauthenticatedUser(),
        Faceless(),
        object(),
        Subject("not a number"),
        Subject("1", is_authenticated=False),
        Subject("9" * 30),
        Subject("1\0"),
        User(username="unsaved"),
    ],
    ids=lambda user: type(user).__name__,
)
async def test_nobody_has_no_devices(
    nobody: Any, otp: OTP, sessions: Sessions, alice: User
) -> None:
    """Anonymous, a user without a key and one whose key is no key of ours: no device, no error."""
    device = await make_totp(sessions, alice)
    assert await otp.devices_for_user(nobody, None) == []
    assert not await otp.user_has_device(nobody)
    assert await otp.verify_token(nobody, device.persistent_id, "000000") is None
    assert await otp.match_token(nobody, "000000") is None
    await otp.revoke_sessions(nobody)


async def test_a_key_from_the_model_or_from_identity(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """An instance of the user model, a proxy of it, and an object of the same key are one user."""
    device = await make_totp(sessions, alice)
    for user in (alice, attach(alice, None), Subject(str(alice.id)), Subject(alice.id)):
        assert await otp.devices_for_user(user) == [device]


async def test_an_expired_user_still_has_a_key(otp: OTP, sessions: Sessions, alice: User) -> None:
    """A user whom a commit of the host's expired needs no database to be told apart."""
    async with sessions() as session:
        user = await session.get(User, alice.id)
        session.expire_all()
        assert Device.user_key(user) == alice.id
        assert Device.user_key(attach(user, None)) == alice.id


def test_the_keys_attribute_may_have_another_name_than_its_column() -> None:
    """An unsaved user's key is read from the attribute that the model maps it to."""
    models = make_host(uuid_users)
    assert models.Device.user_key(models.User(key=KEY)) == KEY


@pytest.mark.parametrize(
    ("text", "clean"), [("é", True), ("", True), ("a\0", False), ("\udfff", False)]
)
def test_clean_text_is_what_postgresql_can_store(text: str, clean: bool) -> None:
    """No NUL and no lone surrogate reaches SQL."""
    assert is_clean_text(text) is clean


def test_a_text_longer_than_its_column_is_nobodys() -> None:
    """A key that the column can't hold never reaches SQL."""
    column: Column[Any] = Column(String(36))
    assert convert_key("x" * 36, column) == "x" * 36
    assert convert_key("x" * 37, column) is None
    assert convert_key("x" * 4000, Column(String())) == "x" * 4000
