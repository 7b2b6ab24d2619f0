"""otp_required: the guard as a FastAPI dependency."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
import time_machine
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.requests import Request
from starlette.routing import Mount
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from starlette_otp import OTP, requires_otp
from starlette_otp.fastapi import otp_required
from starlette_otp.models import Device, TOTPDevice, User
from tests.support import (
    SECRET_KEY,
    Browser,
    Sessions,
    door,
    make_totp,
    middleware,
    totp_token,
)

JSON = {"accept": "application/json"}
Verified = Annotated[User, Depends(otp_required())]


def make(otp: OTP) -> FastAPI:
    app = FastAPI(middleware=list(middleware(otp)))
    router = APIRouter(prefix="/team", dependencies=[Depends(otp_required())])

    @app.get("/whoami")
    async def whoami(user: Verified) -> dict[str, str]:
        return {"username": user.username, "device": user.otp_device.persistent_id}

    @app.get("/sync")
    def sync(user: Verified, number: int = 1) -> dict[str, Any]:
        return {"username": user.username, "number": number}

    @app.get("/items/{item}", dependencies=[Depends(otp_required(redirect_field_name="back"))])
    async def items(item: str) -> str:
        return item

    @app.get("/elsewhere", dependencies=[Depends(otp_required(login_url="/sso"))])
    async def elsewhere() -> str:
        return "in"

    @app.get("/lenient", dependencies=[Depends(otp_required(if_configured=True))])
    async def lenient() -> str:
        return "in"

    @app.get("/recent", dependencies=[Depends(otp_required(max_age=60))])
    async def recent() -> str:
        return "in"

    @app.get("/decorated/{item}")
    @requires_otp
    async def decorated(item: int, request: Request) -> int:
        return item

    @router.get("/board")
    async def board() -> str:
        return "in"

    @router.websocket("/feed")
    async def feed(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("in")
        await websocket.close()

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, user: Verified) -> None:
        await websocket.accept()
        await websocket.send_text(user.username)
        await websocket.close()

    app.include_router(router)
    app.router.routes.append(Mount("/account", routes=otp.routes(), name="otp"))
    return app


@pytest.fixture
async def device(sessions: Sessions, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice)


@pytest.fixture
async def browser(otp: OTP, alice: User) -> AsyncIterator[Browser]:
    app = make(otp)
    app.router.routes.append(door(otp, alice))
    async with Browser(app) as browser:
        yield browser


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/whoami", {"username": "alice", "device": "totp/1"}),
        ("/sync?number=2", {"username": "alice", "number": 2}),
        ("/items/seven?x=1", "seven"),
        ("/team/board", "in"),
        ("/elsewhere", "in"),
        ("/lenient", "in"),
        ("/recent", "in"),
        ("/decorated/7", 7),
    ],
)
async def test_routes_open_to_the_verified_alone(
    browser: Browser, device: TOTPDevice, path: str, answer: object
) -> None:
    """A route, or a whole router, is closed to strangers and to the password alone, and open to
    the verified; the dependency gives request.user."""
    refused = await browser.get(path, headers=JSON)
    assert refused.status_code == 401
    await browser.get("/enter")
    refused = await browser.get(path, headers=JSON)
    assert refused.status_code == 403
    redirected = await browser.get(path)
    login_url = redirected.headers["location"]
    assert redirected.status_code == 303
    if path != "/elsewhere":
        back = (await browser.log_in(totp_token(), url=login_url)).headers["location"]
        assert back == ("/" if path.startswith("/items") else path)
    else:
        assert login_url == "/sso?next=%2Felsewhere"
        await browser.log_in(totp_token())
    assert (await browser.get(path)).json() == answer


async def test_refusals_have_their_codes(browser: Browser, sessions: Sessions, alice: User) -> None:
    """Programs find the refusal's code where they do with requires_otp."""

    async def code(path: str) -> str:
        answer = await browser.get(path, headers=JSON)
        assert answer.headers["content-type"] == "application/problem+json"
        return str(answer.json()["code"])

    assert await code("/whoami") == "not_authenticated"
    await browser.get("/enter")
    assert (await browser.get("/lenient", headers=JSON)).json() == "in"
    await make_totp(sessions, alice)
    assert await code("/whoami") == "not_verified"
    assert await code("/lenient") == "not_verified"
    with time_machine.travel(1_800_000_000, tick=False) as time:
        await browser.get("/enter")
        await browser.log_in(totp_token())
        assert (await browser.get("/recent", headers=JSON)).json() == "in"
        time.shift(61)
        assert await code("/recent") == "reverification_required"
        assert (await browser.get("/recent")).headers["location"].endswith("&reverify=1")


async def test_the_redirect_keeps_path_and_query(browser: Browser) -> None:
    """A browser's redirect carries the way back, in the field of one's own."""
    answer = await browser.get("/items/a%20b?x=1&y=%26")
    assert answer.headers["location"] == (
        "/account/login?back=%2Fitems%2Fa%2520b%3Fx%3D1%26y%3D%2526"
    )
    assert answer.headers["cache-control"] == "no-store"


async def test_websockets_are_closed_before_they_are_accepted(
    database_url: str, alice: User, device: TOTPDevice, otp: OTP
) -> None:
    """A websocket, its own or of a guarded router, is closed with 1008 unless it is verified."""
    engine = create_async_engine(database_url, poolclass=NullPool)
    own = OTP(async_sessionmaker(engine), Device, secret_key=SECRET_KEY)
    client = TestClient(make(own))
    for path in ("/socket", "/team/feed"):
        with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect(path):
            pass
        assert (refused.value.code, refused.value.reason) == (1008, "not_authenticated")
    app = make(own)
    app.router.routes.append(door(own, alice, device))
    client = TestClient(app)
    client.get("/enter")
    for path, text in (("/socket", "alice"), ("/team/feed", "in")):
        with client.websocket_connect(path) as websocket:
            assert websocket.receive_text() == text


async def test_the_guard_stays_out_of_the_documentation(otp: OTP) -> None:
    """The dependency adds no parameter to the schema."""
    operation = make(otp).openapi()["paths"]["/whoami"]["get"]
    assert "parameters" not in operation
