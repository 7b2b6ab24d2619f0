"""Whose device: users' keys as values of a column."""

import uuid
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, Integer, SmallInteger, String, Uuid
from starlette.authentication import UnauthenticatedUser

from starlette_otp import OTP
from starlette_otp.devices.owner import convert_key, is_clean_text
from starlette_otp.models import Device, User
from starlette_otp.web.user import attach
from tests.hosts import Subject, make_host, uuid_users
from tests.support import Sessions, make_totp

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


@pytest.mark.parametrize(
    "nobody",
    [
        None,
        UnauthenticatedUser(),
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
