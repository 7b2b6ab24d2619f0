"""Users of other libraries' base classes: they sign in, verify, and go with their devices."""

import warnings
from types import ModuleType

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from starlette_otp import OTP
from starlette_otp.testing import make_device, token_at
from tests.examples import sqlmodel_users
from tests.support import (
    ANONYMOUS,
    SECRET_KEY,
    Browser,
    Statements,
    make_app,
    password_hash,
    verified_by,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # its own, of what SQLAlchemy 2.1 dropped
    from tests.examples import advanced_alchemy_users


@pytest.mark.parametrize("example", [sqlmodel_users, advanced_alchemy_users])
async def test_they_sign_in_and_verify(example: ModuleType, empty_engine: AsyncEngine) -> None:
    """By our own page; another's device and a replay are refused; a page is one SELECT; and a user
    who is deleted takes the devices along."""
    async with empty_engine.begin() as connection:
        await connection.run_sync(example.User.metadata.create_all)
    sessions = async_sessionmaker(empty_engine, expire_on_commit=False)
    otp = OTP(sessions, example.Device, secret_key=SECRET_KEY)
    alice, bob = (
        example.User(username=name, password_hash=password_hash()) for name in ("alice", "bob")
    )
    async with sessions.begin() as session:
        session.add_all([alice, bob])
    device = await make_device(otp, alice, example.TOTPDevice)
    token = token_at(device)
    assert await otp.verify_token(bob, device.persistent_id, token) is None
    async with Browser(make_app(otp)) as browser:
        assert (await browser.log_in(token)).status_code == 303
        statements = Statements(empty_engine)
        assert await browser.state() == verified_by(device)
        assert len(statements) == 1
        assert (await browser.get("/vault")).text == "hello alice"
    async with Browser(make_app(otp)) as thief:
        assert (await thief.log_in(token)).status_code == 200
        assert await thief.state() == ANONYMOUS
    async with sessions.begin() as session:
        await session.delete(await session.get_one(example.User, alice.id))
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(example.Device)) == 0
