"""A new password: this session goes on, verified when it was, and all others end."""

import asyncio
from typing import Any

import pytest
import time_machine
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from starlette_otp import (
    OTP,
    ConfigurationError,
    DeviceRejected,
    otp_logged_out,
    otp_password_changed,
)
from starlette_otp.models import Device, TOTPDevice, User
from starlette_otp.service.passwords import PasswordQueue, Place
from starlette_otp.web.verdict import verdict_of
from tests.hosts import make_host
from tests.service.test_not_now import configure
from tests.support import (
    ANONYMOUS,
    PASSWORD,
    SECRET_KEY,
    Browser,
    Sessions,
    door,
    make_app,
    make_totp,
    reload,
    verified_by,
)

NEW = "another good password"


@pytest.fixture
async def device(sessions: Sessions, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice)


def app_of(otp: OTP, user: User, device: TOTPDevice | None = None) -> Any:
    async def change(request: Request) -> Response:
        try:
            await otp.change_password(request, request.query_params["to"])
        except ValueError as exc:
            return JSONResponse(str(exc), 422)
        return JSONResponse(str(verdict_of(request).verified_at))

    async def since(request: Request) -> Response:
        return JSONResponse(str(verdict_of(request).verified_at))

    routes = [Route("/change", change), Route("/since", since)]
    return make_app(otp, door(otp, user, device), *routes)


async def enter(app: Any) -> Browser:
    browser = Browser(app)
    await browser.get("/enter")
    return browser


async def test_this_session_goes_on_and_the_others_end(
    otp: OTP, sessions: Sessions, alice: User, bob: User, device: TOTPDevice
) -> None:
    """Under a new token, verified when it was; the old token, and other sessions, open nothing."""
    told: list[Any] = []

    def changed(sender: Any, user: Any, device: Any, address: str) -> None:
        told.append(("changed", user.id, device, address))

    def ended(sender: Any, user: Any, device: Any, reason: str) -> None:
        told.append(("ended", user.id, device, reason))

    app = app_of(otp, alice, device)
    with time_machine.travel("2031-05-04T12:00Z", tick=False) as clock:
        here, there, elsewhere = await enter(app), await enter(app), await enter(app_of(otp, bob))
        old = here.cookie
        since = (await here.get("/since")).json()
        clock.shift(600)
        with otp_password_changed.connected_to(changed), otp_logged_out.connected_to(ended):
            assert (await here.get("/change", params={"to": NEW})).json() == since
        assert await here.state() == verified_by(device)
        assert (await here.get("/since")).json() == since
        assert await there.state() == ANONYMOUS
        assert (await elsewhere.state())["authenticated"]
        assert here.cookie != old
        async with Browser(app) as copy:
            copy.cookies.set("otp_session", old)
            assert await copy.state() == ANONYMOUS
    stored = await reload(sessions, alice)
    assert stored.check_password(NEW)
    assert not stored.check_password(PASSWORD)
    assert told == [
        ("changed", alice.id, device, "127.0.0.1"),
        ("ended", alice.id, None, "revoked"),
    ]


async def test_a_session_that_no_device_verified(otp: OTP, alice: User) -> None:
    """It goes on as authenticated, and as no more."""
    browser = await enter(app_of(otp, alice))
    assert (await browser.get("/change", params={"to": NEW})).json() == "None"
    state = await browser.state()
    assert (state["authenticated"], state["verified"]) == (True, False)


async def test_a_password_that_can_be_none(
    otp: OTP, sessions: Sessions, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence, and everything is as it was."""

    def refuse(self: User, password: str) -> None:
        raise ValueError(f"{self.username}, this one is on every list.")

    app = app_of(otp, alice)
    here, there = await enter(app), await enter(app)
    answer = await here.get("/change", params={"to": "short"})
    assert (answer.status_code, "8 to 1024 characters" in answer.text) == (422, True)
    monkeypatch.setattr(User, "check_new_password", refuse)
    answer = await here.get("/change", params={"to": "correct horse"})
    assert answer.json() == "alice, this one is on every list."
    for browser in (here, there):
        assert (await browser.state())["authenticated"]
    assert (await reload(sessions, alice)).check_password(PASSWORD)


async def test_a_session_that_ends_meanwhile(
    otp: OTP, sessions: Sessions, alice: User, device: TOTPDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the new one is hashed the owner ends all sessions: nothing is changed any more."""
    loop = asyncio.get_running_loop()

    def meanwhile(self: User, password: str) -> None:
        asyncio.run_coroutine_threadsafe(otp.revoke_sessions(alice), loop).result()

    monkeypatch.setattr(User, "check_new_password", meanwhile)
    for verified_by_it in (device, None):
        browser = await enter(app_of(otp, alice, verified_by_it))
        with pytest.raises(DeviceRejected, match="ended meanwhile"):
            await browser.get("/change", params={"to": NEW})
        assert await browser.state() == ANONYMOUS
    assert (await reload(sessions, alice)).check_password(PASSWORD)


async def test_a_rival_in_the_way(
    otp: OTP, sessions: Sessions, engine: AsyncEngine, alice: User, device: TOTPDevice
) -> None:
    """The loser of a deadlock has changed nothing, and is told to come back."""
    await configure(engine, "deadlock_timeout = '50ms'")
    browser = await enter(app_of(otp, alice, device))
    waiting = text("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
    async with engine.begin() as rival:
        await rival.execute(text("SET LOCAL deadlock_timeout = '10s'"))
        await rival.execute(text(f"SELECT FROM otp_user WHERE id = {alice.id} FOR UPDATE"))
        task = asyncio.create_task(browser.get("/change", params={"to": NEW}))
        while not await rival.scalar(waiting):
            await asyncio.sleep(0.01)
        await rival.execute(text("SELECT FROM otp_session FOR UPDATE"))
    assert (await task).status_code == 503
    assert (await reload(sessions, alice)).check_password(PASSWORD)
    assert await browser.state() == verified_by(device)


async def test_what_sets_no_password_is_named(
    otp: OTP, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An async set_password, or one that changes nothing, is not taken for a change."""

    async def never(self: User, password: str) -> None: ...

    browser = await enter(app_of(otp, alice))
    with monkeypatch.context() as patch:
        patch.setattr(User, "set_password", never)
        with pytest.raises(ConfigurationError, match="no async function"):
            await browser.get("/change", params={"to": NEW})
    monkeypatch.setattr(User, "set_password", lambda self, password: None)
    with pytest.raises(ConfigurationError, match="has changed nothing"):
        await browser.get("/change", params={"to": NEW})
    assert (await browser.state())["authenticated"]


async def test_nobody_has_no_password(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Anonymous can't change one, and who has gone meanwhile can't either."""
    app = app_of(otp, alice)
    async with Browser(app) as stranger:
        answer = await stranger.get("/change", params={"to": NEW})
        assert (answer.status_code, answer.json()) == (
            422,
            "A new password is an authenticated user's.",
        )
    assert (await reload(sessions, alice)).check_password(PASSWORD)


async def test_it_waits_in_the_queue(sessions: Sessions, alice: User) -> None:
    """As a log-in does: where there is no place it is refused, and nothing has changed."""
    otp = OTP(sessions, Device, secret_key=SECRET_KEY, password_queue=PasswordQueue(known_places=0))
    browser = await enter(app_of(otp, alice))
    assert (await browser.get("/change", params={"to": NEW})).status_code == 503
    assert (await reload(sessions, alice)).check_password(PASSWORD)


async def test_users_who_live_elsewhere(sessions: Sessions, alice: User) -> None:
    """Their password is somebody else's business, and one sentence says so."""
    host = make_host(None)

    async def load(conn: Any, key: Any) -> Any:
        return host.User()

    otp = OTP(sessions, host.Device, secret_key=SECRET_KEY, load_user=load)
    with pytest.raises(ConfigurationError, match="no user model with set_password"):
        await otp.users.write_password("1", NEW, Place(), None)
