"""What takes a session's worth away, at its next request: the row is read every time."""

import base64
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import itsdangerous
import pytest
import time_machine
from sqlalchemy import delete, func, insert, select, update

from starlette_otp import OTP, clock
from starlette_otp.models import Device, OTPSession, TOTPDevice, User
from tests.support import (
    ANONYMOUS,
    AUTHENTICATED,
    OTHER_KEY,
    SECRET_KEY,
    Browser,
    Sessions,
    Statements,
    door,
    make_app,
    make_totp,
    reload,
    verified_by,
)


@pytest.fixture
async def device(sessions: Sessions, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice)


@pytest.fixture
async def browser(otp: OTP, alice: User, device: TOTPDevice) -> AsyncIterator[Browser]:
    """Alice's, verified."""
    async with Browser(make_app(otp, door(otp, alice, device))) as browser:
        await browser.get("/enter")
        assert await browser.state() == verified_by(device)
        yield browser


async def execute(sessions: Sessions, statement: Any) -> None:
    async with sessions.begin() as session:
        await session.execute(statement)


@pytest.mark.parametrize("change", ["deleted", "unconfirmed", "moved", "of an unknown kind"])
async def test_a_device_that_is_no_longer_hers_verifies_nothing(
    browser: Browser, sessions: Sessions, device: TOTPDevice, bob: User, change: str
) -> None:
    """A device that is deleted, unconfirmed or moved to another user leaves its sessions
    unverified at their next request (ASVS 6.5.6)."""
    await execute(
        sessions,
        {
            "deleted": delete(Device),
            "unconfirmed": update(Device).values(confirmed=False),
            "moved": update(Device).values(user_id=bob.id),
            "of an unknown kind": update(Device.__table__).values(kind="pigeon"),
        }[change],
    )
    assert await browser.state() == AUTHENTICATED
    assert (await browser.get("/vault")).status_code == 303


async def test_another_device_does_not_stand_in(
    browser: Browser, sessions: Sessions, alice: User
) -> None:
    """The session of a device that is deleted is not verified by another device of the user."""
    other = await make_totp(sessions, alice)
    await execute(sessions, delete(Device).where(Device.id != other.id))
    assert await browser.state() == AUTHENTICATED


async def test_revoking_a_devices_sessions(
    browser: Browser, otp: OTP, sessions: Sessions, device: TOTPDevice, alice: User
) -> None:
    """The sessions of a device are unverified at their next request; other devices' go on
    (ASVS 7.4.3)."""
    other = await make_totp(sessions, alice)
    async with Browser(make_app(otp, door(otp, alice, other))) as elsewhere:
        await elsewhere.get("/enter")
        await otp.revoke_sessions(device)
        assert await browser.state() == AUTHENTICATED
        assert await elsewhere.state() == verified_by(other)
    assert await reload(sessions, device) is not None


async def test_revoking_a_users_sessions(
    browser: Browser, otp: OTP, sessions: Sessions, alice: User, bob: User
) -> None:
    """The sessions of a user are gone at their next request; other users' go on, and nobody has
    none to revoke."""
    async with Browser(make_app(otp, door(otp, bob))) as elsewhere:
        await elsewhere.get("/enter")
        await otp.revoke_sessions(None)
        await otp.revoke_sessions(alice)
        assert await browser.state() == ANONYMOUS
        assert await elsewhere.state() == AUTHENTICATED


@pytest.mark.parametrize("change", ["a new password", "the same password anew", "inactive", "gone"])
async def test_the_users_own_changes_end_the_session(
    browser: Browser, sessions: Sessions, alice: User, change: str
) -> None:
    """A cookie from before a new password, before the user was made inactive or deleted opens
    nothing afterwards."""
    async with sessions.begin() as session:
        user = await session.get(User, alice.id)
        assert user is not None
        if change == "a new password":
            user.set_password("another horse, another battery")
        elif change == "the same password anew":
            user.password_hash += "="
        elif change == "inactive":
            user.is_active = False
        else:
            await session.delete(user)
    assert await browser.state() == ANONYMOUS
    assert (await browser.get("/vault")).status_code == 303


async def test_what_concerns_no_session_ends_none(
    browser: Browser, sessions: Sessions, device: TOTPDevice
) -> None:
    """A new address or a renamed device ends no session."""
    await execute(sessions, update(User).values(email="alice@site.example"))
    await execute(sessions, update(Device).values(name="phone"))
    assert await browser.state() == verified_by(device)


async def test_a_row_moved_to_another_user_opens_nothing(
    browser: Browser, sessions: Sessions, bob: User
) -> None:
    """A session's row that names another user verifies nobody by the former user's device."""
    await execute(sessions, update(OTPSession).values(user_id=bob.id))
    state = await browser.state()
    assert (state["verified"], state["device"]) == (False, None)


# Time.


@pytest.mark.parametrize("max_age", [timedelta(hours=1), 3600])
async def test_a_session_expires(
    otp: OTP,
    alice: User,
    device: TOTPDevice,
    monkeypatch: pytest.MonkeyPatch,
    max_age: timedelta | float,
) -> None:
    """A session lives for max_age from its log-in, a timedelta or seconds, and not a second
    longer."""
    monkeypatch.setattr(OTPSession, "max_age", max_age)
    with time_machine.travel(1_800_000_000, tick=False) as time:
        async with Browser(make_app(otp, door(otp, alice, device))) as browser:
            await browser.get("/enter")
            time.shift(3599)
            assert await browser.state() == verified_by(device)
            time.shift(1)
            assert await browser.state() == ANONYMOUS


async def test_clear_sessions_deletes_the_expired_in_batches(
    browser: Browser, otp: OTP, sessions: Sessions, engine: Any, alice: User
) -> None:
    """clear_sessions deletes every expired session, a batch a transaction, and no other."""
    now = clock.now()
    old = [
        {
            "token_digest": f"{number}",
            "user_id": alice.id,
            "created_at": now - timedelta(days=15),
            "expires_at": now - timedelta(days=1),
            "password_fingerprint": "",
        }
        for number in range(5)
    ]
    await execute(sessions, insert(OTPSession).values(old))
    statements = Statements(engine)
    assert await otp.clear_sessions(batch=2) == 5
    assert len([sent for sent in statements if "otp_session" in sent]) == 4
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(OTPSession)) == 1
    assert (await browser.state())["verified"]


# Cookies that open nothing.


@pytest.mark.parametrize("forgery", ["changed", "unknown token", "digest", "the host's"])
async def test_a_forged_cookie_opens_nothing(
    browser: Browser, otp: OTP, sessions: Sessions, forgery: str
) -> None:
    """A token that was changed, one of no session, what the database holds, and a token in the
    host's own session open nothing and are no error."""
    token = browser.cookie
    async with sessions() as session:
        digest = await session.scalar(select(OTPSession.token_digest))
    data = base64.b64encode(json.dumps({"otp_session": token}).encode())
    cookies = {
        "changed": {"otp_session": token[:-1] + ("A" if token[-1] != "A" else "B")},
        "unknown token": {"otp_session": "A" * 43},
        "digest": {"otp_session": str(digest)},
        "the host's": {"session": itsdangerous.TimestampSigner(SECRET_KEY).sign(data).decode()},
    }[forgery]
    async with Browser(make_app(otp), cookies=cookies) as thief:
        assert await thief.state() == ANONYMOUS
        assert (await thief.get("/vault")).status_code == 303


async def test_the_token_is_all_the_cookie_holds(browser: Browser) -> None:
    """The cookie is a random token of 256 bits, and names neither user nor device."""
    assert len(base64.urlsafe_b64decode(browser.cookie + "=")) == 32


async def test_a_key_that_was_rotated_still_opens(
    browser: Browser, otp: OTP, sessions: Sessions, device: TOTPDevice
) -> None:
    """Sessions from before a rotation of the secret key go on, and end when their key is gone."""
    cookies = {"otp_session": browser.cookie}
    rotated = OTP(sessions, Device, secret_key=[OTHER_KEY, SECRET_KEY])
    async with Browser(make_app(rotated), cookies=cookies) as later:
        assert await later.state() == verified_by(device)
    without = OTP(sessions, Device, secret_key=OTHER_KEY)
    async with Browser(make_app(without), cookies=cookies) as later:
        assert await later.state() == ANONYMOUS
