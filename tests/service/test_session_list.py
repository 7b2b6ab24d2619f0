"""Where a user is signed in: looked at, ended one by one, or all others at once."""

from typing import Any

import pytest
import time_machine
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from starlette_otp import OTP, otp_logged_out, session_id
from starlette_otp.models import TOTPDevice, User
from tests.support import ANONYMOUS, Browser, Sessions, door, make_app, make_totp, reload

MINUTE = 60


@pytest.fixture
async def device(sessions: Sessions, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice)


def app_of(otp: OTP, user: User, device: TOTPDevice | None = None) -> Any:
    async def mine(request: Request) -> Response:
        return JSONResponse(session_id(request))

    async def end_others(request: Request) -> Response:
        return JSONResponse(await otp.end_other_sessions(request))

    routes = [Route("/mine", mine), Route("/end-others", end_others)]
    return make_app(otp, door(otp, user, device), *routes)


async def enter(app: Any, agent: str) -> Browser:
    browser = Browser(app)
    browser.headers["user-agent"] = agent
    await browser.get("/enter")
    return browser


async def test_they_are_listed_the_last_seen_first(
    otp: OTP, alice: User, bob: User, device: TOTPDevice
) -> None:
    """Each with its browser, its device and its times; nobody else's, and no ticket."""
    with time_machine.travel("2031-05-04T12:00Z", tick=False) as clock:
        phone = await enter(app_of(otp, alice), "Phone")
        clock.shift(MINUTE)
        await enter(app_of(otp, alice, device), "Laptop")
        await enter(app_of(otp, bob), "Elsewhere")
        found = await otp.sessions_for_user(alice)
        assert [row.user_agent for row in found] == ["Laptop", "Phone"]
        assert [row.device_id for row in found] == [device.id, None]
        assert (await phone.get("/mine")).json() == found[1].id
        clock.shift(20 * MINUTE)
        await phone.state()
        found = await otp.sessions_for_user(alice)
        assert [row.user_agent for row in found] == ["Phone", "Laptop"]
        assert [(row.seen_at - row.created_at).seconds for row in found] == [21 * MINUTE, 0]
        clock.shift(15 * 24 * 60 * MINUTE)
        assert await otp.sessions_for_user(alice) == []
    assert await otp.sessions_for_user(None) == []


async def test_one_from_before_a_new_password_is_none(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """It opens nothing any more, so it is not shown either."""
    await enter(app_of(otp, alice), "Phone")
    async with sessions.begin() as session:
        stored = await session.get_one(User, alice.id)
        stored.set_password("another good password")
    assert await otp.sessions_for_user(await reload(sessions, alice)) == []


async def test_one_is_ended(otp: OTP, alice: User, bob: User) -> None:
    """It is anonymous at its next request, the other goes on; ending it again ends nothing."""
    app, told = app_of(otp, alice), []
    phone, laptop = await enter(app, "Phone"), await enter(app, "Laptop")
    number = (await phone.get("/mine")).json()

    def receive(sender: Any, user: Any, device: Any, reason: str, agent: str) -> None:
        told.append((user.id, reason, agent))

    with otp_logged_out.connected_to(receive):
        assert not await otp.end_session(bob, number)
        assert await otp.end_session(alice, number)
        assert not await otp.end_session(alice, number)
        assert not await otp.end_session(None, number)
        for garbage in (0, -1, 2**63, True, "1", None, 1.0):
            assert not await otp.end_session(alice, garbage)  # type: ignore[arg-type]
    assert told == [(alice.id, "revoked", "Phone")]
    assert await phone.state() == ANONYMOUS
    assert (await laptop.state())["authenticated"]


async def test_all_others_are_ended(otp: OTP, alice: User, bob: User) -> None:
    """The request's own goes on, and other users'."""
    app = app_of(otp, alice)
    browsers = [await enter(app, f"Browser {number}") for number in range(3)]
    other = await enter(app_of(otp, bob), "Other")
    assert (await browsers[1].get("/end-others")).json() == 2
    found = [(await browser.state())["authenticated"] for browser in browsers]
    assert found == [False, True, False]
    assert (await other.state())["authenticated"]
    async with Browser(app) as stranger:
        assert (await stranger.get("/end-others")).json() == 0
    assert (await browsers[1].state())["authenticated"]
