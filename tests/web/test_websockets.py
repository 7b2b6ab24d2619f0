"""requires_otp on websockets: refused before they are accepted."""

import functools
from typing import Any

import pytest
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.endpoints import WebSocketEndpoint
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from starlette_otp import OTP, requires_otp
from starlette_otp.models import Device, TOTPDevice, User
from tests.support import SECRET_KEY, Browser, Sessions, door, make_app, make_totp


@requires_otp
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(f"{websocket.user.username} {websocket.user.otp_device.kind}")
    await websocket.close()


@requires_otp(if_configured=True)
async def lenient(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("in")
    await websocket.close()


@requires_otp(max_age=0.000001)
async def recent(websocket: WebSocket) -> None:
    await websocket.accept()


def giving(func: Any) -> Any:
    """A decorator of a host's that gives a function something before its websocket."""

    @functools.wraps(func)
    async def give(websocket: WebSocket) -> None:
        await func("in", websocket)

    return give


@requires_otp
@giving
async def given(text: str, websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(text)
    await websocket.close()


class Endpoint(WebSocketEndpoint):
    encoding = "text"
    received: list[str] = []

    @requires_otp
    async def on_connect(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("in")

    async def on_receive(self, websocket: WebSocket, data: Any) -> None:
        self.received.append(data)


class Late(WebSocketEndpoint):
    encoding = "text"

    @requires_otp
    async def on_receive(self, websocket: WebSocket, data: Any) -> None:
        await websocket.send_text(f"got {data}")


ROUTES = [
    WebSocketRoute("/echo", echo),
    WebSocketRoute("/lenient", lenient),
    WebSocketRoute("/recent", recent),
    WebSocketRoute("/given", given),
    WebSocketRoute("/endpoint", Endpoint),
    WebSocketRoute("/late", Late),
]


@pytest.fixture
async def device(sessions: Sessions, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice)


@pytest.fixture
def client(database_url: str) -> TestClient:
    """The application on an event loop of its own, so no connection may outlive a request."""
    engine = create_async_engine(database_url, poolclass=NullPool)
    own = OTP(async_sessionmaker(engine), Device, secret_key=SECRET_KEY)
    return TestClient(make_app(own, *ROUTES))


async def cookies(otp: OTP, user: User, device: Any = None) -> dict[str, str]:
    """The cookie of a session, made by the same application elsewhere."""
    async with Browser(make_app(otp, door(otp, user, device))) as browser:
        await browser.get("/enter")
        return {"otp_session": browser.cookie}


def closed(client: TestClient, path: str) -> tuple[int, str]:
    """The code and the reason of a websocket that was closed before it was accepted."""
    with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect(path):
        pass
    return refused.value.code, refused.value.reason or ""


def said(client: TestClient, path: str) -> str:
    with client.websocket_connect(path) as websocket:
        return websocket.receive_text()


async def test_a_verified_users_websocket_opens(
    client: TestClient, otp: OTP, alice: User, device: TOTPDevice
) -> None:
    """A verified user's websocket is accepted, on functions and on WebSocketEndpoint."""
    client.cookies.update(await cookies(otp, alice, device))
    assert said(client, "/echo") == "alice totp"
    assert said(client, "/lenient") == said(client, "/given") == "in"
    Endpoint.received.clear()
    with client.websocket_connect("/endpoint") as websocket:
        assert websocket.receive_text() == "in"
        websocket.send_text("hello")
    assert Endpoint.received == ["hello"]
    with client.websocket_connect("/late") as websocket:
        websocket.send_text("hello")
        assert websocket.receive_text() == "got hello"


@pytest.mark.parametrize("path", ["/echo", "/lenient", "/recent", "/given", "/endpoint"])
async def test_an_anonymous_websocket_is_closed_before_it_is_accepted(
    client: TestClient, path: str
) -> None:
    """An anonymous websocket is closed with 1008 (RFC 6455 section 7.4.1) and never accepted."""
    assert closed(client, path) == (1008, "not_authenticated")


async def test_an_unverified_websocket_is_closed_before_it_is_accepted(
    client: TestClient, otp: OTP, sessions: Sessions, alice: User
) -> None:
    """The password alone opens no websocket, but for if_configured of a user without a device."""
    client.cookies.update(await cookies(otp, alice))
    assert closed(client, "/echo") == (1008, "not_verified")
    assert closed(client, "/endpoint") == (1008, "not_verified")
    assert said(client, "/lenient") == "in"
    await make_totp(sessions, alice)
    assert closed(client, "/lenient") == (1008, "not_verified")


async def test_a_websocket_of_long_ago_is_closed(
    client: TestClient, otp: OTP, alice: User, device: TOTPDevice
) -> None:
    """max_age holds for websockets, too."""
    client.cookies.update(await cookies(otp, alice, device))
    assert closed(client, "/recent") == (1008, "reverification_required")


async def test_a_message_can_be_guarded(client: TestClient) -> None:
    """A guard on on_receive closes an accepted websocket at its first message."""
    with client.websocket_connect("/late") as websocket:
        websocket.send_text("hello")
        with pytest.raises(WebSocketDisconnect) as refused:
            websocket.receive_text()
    assert refused.value.code == 1008
