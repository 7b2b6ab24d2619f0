"""What ended with a device or a user stays ended when that is undone, whoever wrote the row."""

from typing import Any

import pytest
from sqlalchemy import false, update
from sqlalchemy.ext.asyncio import AsyncEngine

from starlette_otp import OTP
from starlette_otp.models import TOTPDevice, User
from tests.service.test_rewritten_sessions import worth
from tests.support import (
    ANONYMOUS,
    AUTHENTICATED,
    Browser,
    Sessions,
    door,
    make_app,
    make_totp,
    verified_by,
)


@pytest.fixture
async def device(sessions: Sessions, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice)


async def write(sessions: Sessions, by: str, row: Any, name: str, value: Any) -> None:
    """Change a row as the ORM's flush does it, or past it."""
    model = type(row)
    async with sessions.begin() as session:
        if by == "the ORM":
            setattr(await session.get_one(model, row.id), name, value)
        else:
            table: Any = model.__table__
            await session.execute(update(table).where(table.c.id == row.id).values({name: value}))


@pytest.mark.parametrize("by", ["the ORM", "SQL"])
async def test_a_device_that_is_confirmed_again(
    otp: OTP, sessions: Sessions, alice: User, device: TOTPDevice, by: str
) -> None:
    """The sessions of a device that is unconfirmed stay unverified when it is confirmed again: at
    once in the ORM's flush, by the next request past it. Other devices' go on."""
    other = await make_totp(sessions, alice)
    app, elsewhere = make_app(otp, door(otp, alice, device)), make_app(otp, door(otp, alice, other))
    async with Browser(app) as browser, Browser(elsewhere) as others:
        await browser.get("/enter")
        await others.get("/enter")
        await write(sessions, by, device, "confirmed", False)
        if by != "the ORM":
            assert await browser.state() == AUTHENTICATED
        await write(sessions, by, device, "confirmed", True)
        assert await browser.state() == AUTHENTICATED
        assert await others.state() == verified_by(other)


@pytest.mark.parametrize("by", ["the ORM", "SQL"])
async def test_a_user_who_is_active_again(
    otp: OTP, sessions: Sessions, alice: User, bob: User, device: TOTPDevice, by: str
) -> None:
    """The sessions and tickets of a user who is made inactive are gone when they are active again:
    at once in the ORM's flush, when they are met past it. Other users' go on."""
    app, elsewhere = make_app(otp, door(otp, alice, device)), make_app(otp, door(otp, bob))

    async def load(key: Any) -> Any:
        async with sessions() as session:
            return await session.get(User, key)

    async with Browser(app) as browser, Browser(elsewhere) as others:
        await browser.get("/enter")
        await others.get("/enter")
        ticket_token = await otp.tickets.issue(alice)
        assert await otp.tickets.redeem(ticket_token, load) is not None
        await write(sessions, by, alice, "is_active", False)
        if by != "the ORM":
            assert await browser.state() == ANONYMOUS
            assert await otp.tickets.redeem(ticket_token, load) is None
        await write(sessions, by, alice, "is_active", True)
        assert await browser.state() == ANONYMOUS
        assert await otp.tickets.redeem(ticket_token, load) is None
        assert await others.state() == AUTHENTICATED


@pytest.mark.parametrize("name", ["confirmed", "is_active"])
async def test_a_session_that_begins_beside_the_flush(
    otp: OTP, sessions: Sessions, alice: User, device: TOTPDevice, name: str
) -> None:
    """A session that begins between the flush and its commit is of no worth when the change is
    undone, and neither is one that was ended past the ORM and not met since."""
    row: Any = device if name == "confirmed" else alice
    async with sessions() as session:
        setattr(await session.get_one(type(row), row.id), name, False)
        await session.flush()
        begun = await otp.sessions.begin(alice, device)
        await session.commit()
    await write(sessions, "the ORM", row, name, True)
    other = await otp.sessions.begin(alice, device)
    assert await worth(otp, other.token) == (alice.id, device.id)
    expected = (alice.id, None) if name == "confirmed" else None
    assert await worth(otp, begun.token) == expected
    await write(sessions, "SQL", row, name, False)
    await write(sessions, "the ORM", row, name, True)
    assert await worth(otp, other.token) == expected


@pytest.mark.parametrize("name", ["confirmed", "is_active"])
async def test_an_expression(
    otp: OTP, sessions: Sessions, alice: User, device: TOTPDevice, name: str
) -> None:
    """A host may give a row an expression of the database's for a value."""
    row: Any = device if name == "confirmed" else alice
    begun = await otp.sessions.begin(alice, device)
    await write(sessions, "the ORM", row, name, false())
    await write(sessions, "SQL", row, name, True)
    assert await worth(otp, begun.token) == ((alice.id, None) if name == "confirmed" else None)


async def test_other_changes_end_nothing(
    otp: OTP, sessions: Sessions, alice: User, device: TOTPDevice
) -> None:
    """A flush that says again what was so ends no session."""
    async with Browser(make_app(otp, door(otp, alice, device))) as browser:
        await browser.get("/enter")
        await write(sessions, "the ORM", device, "confirmed", True)
        await write(sessions, "the ORM", device, "name", "phone")
        await write(sessions, "the ORM", alice, "email", "alice@site.example")
        assert await browser.state() == verified_by(device)


async def test_a_device_of_a_kind_that_is_not_declared_here(
    otp: OTP, sessions: Sessions, engine: AsyncEngine, alice: User, device: TOTPDevice
) -> None:
    """A process that does not declare the kind of a session's device takes nothing from the
    session, which is verified where the kind is known."""
    async with Browser(make_app(otp, door(otp, alice, device))) as browser:
        await browser.get("/enter")
        await write(sessions, "SQL", device, "kind", "pigeon")
        assert await browser.state() == AUTHENTICATED
        await write(sessions, "SQL", device, "kind", "totp")
        assert await browser.state() == verified_by(device)
