"""Websockets that are open: from which pages, and for how long."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import time_machine
from fastapi import Depends, FastAPI
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from starlette.routing import Mount, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from starlette_otp import (
    OTP,
    ConfigurationError,
    RequiresOTPMiddleware,
    requires_otp,
    still_verified,
)
from starlette_otp.fastapi import otp_required
from starlette_otp.models import Device, TOTPDevice, User
from tests.support import (
    SECRET_KEY,
    Browser,
    Sessions,
    Statements,
    csrf_of,
    door,
    make_app,
    make_totp,
    middleware,
    totp_token,
)

NOW = 1_800_000_000


@requires_otp
async def feed(websocket: WebSocket) -> None:
    await websocket.accept()


async def bare(websocket: WebSocket) -> None:
    await websocket.accept()


# From which pages.


@pytest.fixture
async def nowhere() -> AsyncIterator[OTP]:
    """An OTP without a database: to turn strangers away needs no SQL."""
    engine = create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:1/nothing")
    yield OTP(
        async_sessionmaker(engine),
        Device,
        secret_key=SECRET_KEY,
        allowed_origins=["https://app.example", "http://localhost:3000"],
    )
    await engine.dispose()


def apps(otp: OTP) -> list[Any]:
    """The three guards."""
    api = FastAPI(middleware=list(middleware(otp)))
    api.websocket("/feed", dependencies=[Depends(otp_required())])(bare)
    whole = RequiresOTPMiddleware(bare_app)
    return [make_app(otp, WebSocketRoute("/feed", feed)), api, make_app(otp, Mount("", whole))]


async def bare_app(scope: Any, receive: Any, send: Any) -> None:
    await bare(WebSocket(scope, receive, send))


@pytest.mark.parametrize(
    ("origin", "is_own"),
    [
        (None, True),
        ("http://site.example", True),
        ("HTTP://SITE.EXAMPLE", True),
        ("http://site.example:80", True),
        ("https://site.example", True),
        ("https://app.example", True),
        ("http://localhost:3000", True),
        ("http://site.example:8000", False),
        ("http://app.example", False),
        ("http://localhost", False),
        ("http://other.site.example", False),
        ("http://site.example.elsewhere", False),
        ("http://elsewhere", False),
        ("http://site.example@elsewhere", False),
        ("http://elsewhere/site.example", False),
        ("http://[", False),
        ("http://site.example:port", False),
        ("ws://site.example", False),
        ("file://", False),
        ("null", False),
        ("", False),
    ],
)
async def test_a_page_of_another_origin_opens_none(
    nowhere: OTP, origin: str | None, is_own: bool
) -> None:
    """A websocket that a page of another origin opens is closed before it is accepted, whoever's
    cookie comes with it, by every guard; this site's own and allowed pages, and programs, which
    send no Origin, are asked who they are."""
    headers = {} if origin is None else {"origin": origin}
    for app in apps(nowhere):
        opened = TestClient(app).websocket_connect("ws://site.example/feed", headers=headers)
        with pytest.raises(WebSocketDisconnect) as refused, opened:
            pass
        reason = "not_authenticated" if is_own else "foreign_origin"
        assert (refused.value.code, refused.value.reason) == (1008, reason)


@pytest.mark.parametrize(
    ("origin", "is_own"),
    [
        ("https://site.example", True),
        ("https://site.example:443", True),
        ("http://site.example", False),
    ],
)
async def test_a_secure_websocket_is_for_secure_pages(
    nowhere: OTP, origin: str, is_own: bool
) -> None:
    """A page that came without TLS may be anybody's, and opens no websocket under TLS."""
    client = TestClient(apps(nowhere)[0])
    opened = client.websocket_connect("wss://site.example/feed", headers={"origin": origin})
    with pytest.raises(WebSocketDisconnect) as refused, opened:
        pass
    assert refused.value.reason == ("not_authenticated" if is_own else "foreign_origin")


@pytest.mark.parametrize(
    "wrong",
    ["https://app.example", ["app.example"], ["https://app.example/"], ["*"], ["null"], [""]],
)
def test_what_is_no_origin_is_refused(wrong: Any) -> None:
    """allowed_origins takes a list of origins, without a path."""
    with pytest.raises(ConfigurationError, match="allowed_origins"):
        OTP(async_sessionmaker(), Device, secret_key=SECRET_KEY, allowed_origins=wrong)


# For how long.


class Socket:
    """A websocket that is open, on the test's own event loop."""

    def __init__(self, app: Any, cookie: str, more_cookies: str = "") -> None:
        self._sent: asyncio.Queue[Any] = asyncio.Queue()
        self._got: asyncio.Queue[Any] = asyncio.Queue()
        cookies = f"otp_session={cookie}; {more_cookies}"
        scope = {
            "type": "websocket",
            "path": "/ask",
            "root_path": "",
            "scheme": "ws",
            "query_string": b"",
            "headers": [(b"host", b"site.example"), (b"cookie", cookies.encode())],
            "subprotocols": [],
        }
        self._sent.put_nowait({"type": "websocket.connect"})
        self._task = asyncio.create_task(app(scope, self._sent.get, self._got.put))

    async def ask(self) -> bool:
        """What still_verified says to a message."""
        self._sent.put_nowait({"type": "websocket.receive", "text": "?"})
        while (message := await self._got.get())["type"] == "websocket.accept":
            pass
        answer: str = message["text"]
        return answer == "True"

    async def refusal(self) -> tuple[int, str]:
        """With what it was closed before it opened."""
        await self._task
        message = await self._got.get()
        return message["code"], message["reason"]

    async def close(self) -> None:
        self._sent.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await self._task


@requires_otp(max_age=600)
async def ask(websocket: WebSocket) -> None:
    await websocket.accept()
    async for _ in websocket.iter_text():
        await websocket.send_text(str(await still_verified(websocket, max_age=600)))


Change = Callable[[OTP, Sessions, User, TOTPDevice], Awaitable[Any]]


async def unconfirm(otp: OTP, sessions: Sessions, user: User, device: TOTPDevice) -> None:
    async with sessions.begin() as session:
        await session.execute(update(Device).values(confirmed=False))


async def inactivate(otp: OTP, sessions: Sessions, user: User, device: TOTPDevice) -> None:
    async with sessions.begin() as session:
        await session.execute(update(User).values(is_active=False))


async def new_password(otp: OTP, sessions: Sessions, user: User, device: TOTPDevice) -> None:
    async with sessions.begin() as session:
        await session.execute(update(User).values(password_hash="another"))


async def delete_user(otp: OTP, sessions: Sessions, user: User, device: TOTPDevice) -> None:
    async with sessions.begin() as session:
        await session.delete(await session.get(User, user.id))


CHANGES: dict[str, Change] = {
    "the user's sessions are revoked": lambda otp, _, user, device: otp.revoke_sessions(user),
    "the device's sessions are revoked": lambda otp, _, user, device: otp.revoke_sessions(device),
    "the device is removed": lambda otp, _, user, device: otp.remove_device(
        user, device.persistent_id
    ),
    "the device is unconfirmed": unconfirm,
    "the user is made inactive": inactivate,
    "the password is another": new_password,
    "the user is deleted": delete_user,
}


@pytest.fixture
async def device(sessions: Sessions, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice)


@pytest.mark.parametrize("change", CHANGES)
async def test_it_is_asked_again_for_a_message(
    otp: OTP, sessions: Sessions, alice: User, device: TOTPDevice, change: str
) -> None:
    """What takes a session back takes an open websocket back at its next message."""
    app = make_app(otp, door(otp, alice, device), WebSocketRoute("/ask", ask))
    async with Browser(app) as browser:
        await browser.get("/enter")
        socket = Socket(app, browser.cookie)
        assert await socket.ask()
        await CHANGES[change](otp, sessions, alice, device)
        assert not await socket.ask()
        await socket.close()


async def ask_anybody(websocket: WebSocket) -> None:
    await websocket.accept()
    async for _ in websocket.iter_text():
        await websocket.send_text(str(await still_verified(websocket)))


async def test_a_token_from_before_a_verification_stays_unverified(
    otp: OTP, alice: User, device: TOTPDevice
) -> None:
    """A websocket that a copy of the cookie opened, before the verification or in the 30 seconds
    after it, is not verified by its owner's token."""
    app = make_app(otp, door(otp, alice), WebSocketRoute("/ask", ask_anybody))
    async with Browser(app) as browser:
        await browser.get("/enter")
        stolen = browser.cookie
        before = Socket(app, stolen)
        assert not await before.ask()
        answer = await browser.submit("/account/login", otp_token=totp_token())
        assert answer.status_code == 303
        after, owners = Socket(app, stolen), Socket(app, browser.cookie)
        assert [await socket.ask() for socket in (before, after, owners)] == [False, False, True]
        for socket in (before, after, owners):
            await socket.close()


async def test_a_log_out_ends_it_and_a_new_token_does_not(
    otp: OTP, engine: AsyncEngine, alice: User, device: TOTPDevice
) -> None:
    """A verification in another tab gives the session a new token, and the websocket goes on, in
    one SELECT a message; it is too old when its max_age has passed, and ends with the log-out."""
    app = make_app(otp, door(otp, alice, device), WebSocketRoute("/ask", ask))
    with time_machine.travel(NOW, tick=False) as time:
        async with Browser(app) as browser:
            await browser.get("/enter")
            socket = Socket(app, browser.cookie)
            assert await socket.ask()
            statements = Statements(engine)
            time.shift(601)
            assert not await socket.ask()
            assert [statement.split()[0] for statement in statements] == ["SELECT"]
            page = "/account/login?reverify=1"
            answer = await browser.submit(page, otp_token=totp_token())
            assert answer.status_code == 303
            assert await socket.ask()
            await browser.post(
                "/account/logout", data={"csrf_token": csrf_of(await browser.get(page))}
            )
            assert not await socket.ask()
            await socket.close()


@requires_otp(if_configured=True)
async def ask_those_without(websocket: WebSocket) -> None:
    await websocket.accept()
    async for _ in websocket.iter_text():
        await websocket.send_text(str(await still_verified(websocket, if_configured=True)))


async def test_the_day_comes_on_which_one_has_to_have_a_device(
    sessions: Sessions, alice: User
) -> None:
    """Then what is open to who has none is so no longer, and opens no more."""
    day = datetime.fromtimestamp(NOW + 3600, UTC)

    async def rule(user: User) -> datetime:
        return day

    otp = OTP(sessions, Device, secret_key=SECRET_KEY, require_device=rule)
    app = make_app(otp, door(otp, alice), WebSocketRoute("/ask", ask_those_without))
    with time_machine.travel(NOW, tick=False) as time:
        async with Browser(app) as browser:
            await browser.get("/enter")
            socket = Socket(app, browser.cookie)
            assert await socket.ask()
            time.shift(3600)
            assert not await socket.ask()
            await socket.close()
            assert await Socket(app, browser.cookie).refusal() == (1008, "enrolment_required")
