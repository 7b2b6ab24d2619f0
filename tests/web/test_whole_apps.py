"""RequiresOTPMiddleware: requires_otp around a whole ASGI app."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import time_machine
from fastapi import FastAPI
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from starlette_otp import OTP, ConfigurationError, RequiresOTPMiddleware, requires_otp
from starlette_otp.models import Device, TOTPDevice, User
from tests.support import SECRET_KEY, Browser, Sessions, door, make_app, make_totp, middleware

JSON = {"accept": "application/json"}
NOW = 1_800_000_000


async def page(request: Request) -> Response:
    return PlainTextResponse("in")


async def feed(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("in")
    await websocket.close()


INNER = [Route("/page", page, methods=["GET", "POST", "DELETE"]), WebSocketRoute("/feed", feed)]


def routes(folder: Path) -> list[BaseRoute]:
    (folder / "report.txt").write_text("in")
    here = [Middleware(RequiresOTPMiddleware)]
    return [
        Mount("/files", RequiresOTPMiddleware(StaticFiles(directory=folder))),
        Mount("/app", RequiresOTPMiddleware(Starlette(routes=INNER))),
        Mount("/mount", routes=INNER, middleware=here),
        Route("/route", page, middleware=here),
        Mount("/lenient", RequiresOTPMiddleware(Starlette(routes=INNER), if_configured=True)),
        Mount("/recent", RequiresOTPMiddleware(Starlette(routes=INNER), max_age=60)),
        Mount(
            "/named",
            RequiresOTPMiddleware(
                Starlette(routes=INNER), redirect_field_name="back", login_url="/sso"
            ),
        ),
    ]


PATHS = ["/files/report.txt", "/app/page", "/mount/page", "/route", "/lenient/page", "/recent/page"]


@pytest.fixture
async def device(sessions: Sessions, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice)


@pytest.fixture
async def browser(
    otp: OTP, alice: User, device: TOTPDevice, tmp_path: Path
) -> AsyncIterator[Browser]:
    half, whole = Route("/half", door(otp, alice).endpoint), door(otp, alice, device)
    async with Browser(make_app(otp, half, whole, *routes(tmp_path))) as browser:
        yield browser


async def test_only_the_verified_get_in(browser: Browser) -> None:
    """Files, applications, mounts and routes are closed to strangers, in every method and for
    paths that are not there, and to the password alone; and open to the verified."""
    for path in PATHS:
        answer = await browser.get(f"{path}?a=1")
        assert answer.status_code == 303
        expected = f"/account/login?next={path.replace('/', '%2F')}%3Fa%3D1"
        assert answer.headers["location"] == expected
    for method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PROPFIND"):
        for path in ("/files/report.txt", "/files/none", "/app/page", "/app/none", "/mount/page"):
            answer = await browser.request(method, path, headers=JSON)
            assert answer.status_code == 401, (method, path)
    await browser.get("/half")
    for path in PATHS:
        answer = await browser.get(path, headers=JSON)
        assert (answer.status_code, answer.json()["code"]) == (403, "not_verified")
    await browser.get("/enter")
    for path in PATHS:
        assert (await browser.get(path)).text == "in"
    assert (await browser.get("/files/none")).status_code == 404


async def test_its_arguments_are_those_of_requires_otp(
    browser: Browser, sessions: Sessions, device: TOTPDevice
) -> None:
    """The redirect's field and target, the age of the verification, and users without a device."""
    assert (await browser.get("/named/page")).headers["location"] == "/sso?back=%2Fnamed%2Fpage"
    with time_machine.travel(NOW, tick=False) as time:
        await browser.get("/enter")
        assert (await browser.get("/recent/page")).text == "in"
        time.shift(61)
        answer = await browser.get("/recent/page", headers=JSON)
        assert answer.json()["code"] == "reverification_required"
    async with sessions.begin() as session:
        await session.delete(device)
    await browser.get("/half")
    assert (await browser.get("/lenient/page")).text == "in"
    assert (await browser.get("/app/page", headers=JSON)).status_code == 403
    with pytest.raises(TypeError):
        RequiresOTPMiddleware(Starlette(), maximum_age=60)  # type: ignore[call-arg]


async def test_websockets_are_closed_before_they_are_accepted(
    database_url: str, otp: OTP, alice: User, device: TOTPDevice, tmp_path: Path
) -> None:
    """A websocket of a guarded application is closed with 1008, or opens to the verified."""
    engine = create_async_engine(database_url, poolclass=NullPool)
    own = OTP(async_sessionmaker(engine), Device, secret_key=SECRET_KEY)
    client = TestClient(make_app(own, door(own, alice, device), *routes(tmp_path)))
    for path in ("/app/feed", "/mount/feed"):
        with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect(path):
            pass
        assert (refused.value.code, refused.value.reason) == (1008, "not_authenticated")
    client.get("/enter")
    for path in ("/app/feed", "/mount/feed"):
        with client.websocket_connect(path) as websocket:
            assert websocket.receive_text() == "in"


def test_a_lifespan_passes() -> None:
    """Start-up and shut-down are the application's own."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])
        await Starlette()(scope, receive, send)

    with TestClient(RequiresOTPMiddleware(app)):
        pass
    assert seen == ["lifespan"]


async def test_fastapis_documentation(
    otp: OTP, alice: User, device: TOTPDevice, tmp_path: Path
) -> None:
    """/docs and what it loads are closed like anything else, route by route."""
    app = FastAPI(middleware=list(middleware(otp)))
    for route in app.routes:
        route.app = RequiresOTPMiddleware(route.app)  # type: ignore[attr-defined]
    app.router.routes.append(door(otp, alice, device))
    async with Browser(app) as browser:
        for path in ("/docs", "/redoc", "/openapi.json"):
            assert (await browser.get(path, headers=JSON)).status_code == 401
        await browser.get("/enter")
        for path in ("/docs", "/redoc", "/openapi.json"):
            assert (await browser.get(path)).status_code == 200


@pytest.mark.parametrize("app", [StaticFiles(directory="."), Starlette(), FastAPI()])
def test_requires_otp_names_it(app: Any) -> None:
    """requires_otp around a whole app says what is meant instead."""
    with pytest.raises(ConfigurationError, match=r"write RequiresOTPMiddleware\(app\)"):
        requires_otp(app)
