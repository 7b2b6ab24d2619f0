"""A guard above the decorator that makes the route guards nothing: that is an error, not a hole."""

import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute

from starlette_otp import OTP, ConfigurationError, RequiresOTPMiddleware, requires_otp
from starlette_otp.models import Device
from tests.support import SECRET_KEY, Browser, make_app, middleware

JSON = {"accept": "application/json"}


@pytest.fixture
async def nowhere() -> AsyncIterator[OTP]:
    """An OTP without a database: to turn strangers away needs no SQL."""
    engine = create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:1/nothing")
    yield OTP(async_sessionmaker(engine), Device, secret_key=SECRET_KEY)
    await engine.dispose()


def endpoint() -> Callable[..., Any]:
    async def vault(request: Request) -> str:
        return "in"

    return vault


def above_a_route(app: FastAPI) -> Any:
    @requires_otp
    @app.get("/vault")
    async def vault(request: Request) -> str:
        return "in"

    return vault


def above_with_arguments(app: FastAPI) -> Any:
    return requires_otp(max_age=60)(app.post("/vault")(endpoint()))


def above_a_websocket(app: FastAPI) -> Any:
    @requires_otp
    @app.websocket("/feed")
    async def vault(websocket: WebSocket) -> None:
        await websocket.accept()

    return vault


def above_another_decorator(app: FastAPI) -> Any:
    bare = app.get("/vault")(endpoint())

    @functools.wraps(bare)
    async def logged(request: Request) -> Any:
        return await bare(request)

    return requires_otp(logged)


def in_a_router(app: FastAPI) -> Any:
    router, outer = APIRouter(), APIRouter()
    guarded = requires_otp(router.get("/vault")(endpoint()))
    outer.include_router(router, prefix="/inner")
    app.include_router(outer, prefix="/outer")
    return guarded


def in_a_mounted_application(app: FastAPI) -> Any:
    inner = FastAPI()
    guarded = requires_otp(inner.get("/vault")(endpoint()))
    app.mount("/inner", RequiresOTPMiddleware(inner))
    return guarded


def in_a_host(app: FastAPI) -> Any:
    bare = endpoint()
    app.router.routes.append(Host("inner.example", Router([Route("/vault", bare)])))
    return requires_otp(bare)


def above_and_below(app: FastAPI) -> Any:
    """One of two routes is guarded."""
    bare = app.get("/open")(endpoint())
    return app.get("/closed")(requires_otp(bare))


WRONG = [
    above_a_route,
    above_with_arguments,
    above_a_websocket,
    above_another_decorator,
    in_a_router,
    in_a_mounted_application,
    in_a_host,
    above_and_below,
]


@pytest.mark.parametrize("declare", WRONG)
async def test_a_guard_above_the_route_is_refused(
    nowhere: OTP, declare: Callable[[FastAPI], Any]
) -> None:
    """An application with a route past a guard answers no request at all: each is an error that
    names the function and says where the guard goes."""
    app = FastAPI(middleware=list(middleware(nowhere)))
    guarded = declare(app)
    async with Browser(app) as browser:
        for path in ("/vault", "/elsewhere"):
            with pytest.raises(ConfigurationError, match=r"vault.* goes below the decorator"):
                await browser.get(path)
    assert callable(guarded)


async def test_a_guard_below_the_route_is_right(nowhere: OTP) -> None:
    """Below the decorator it guards, under other decorators, twice, and on a function of which
    another guard is routed elsewhere."""
    app = FastAPI(middleware=list(middleware(nowhere)))

    @app.get("/vault")
    @requires_otp
    async def vault(request: Request) -> str:
        return "in"

    @functools.wraps(vault)
    async def logged(request: Request) -> Any:
        return await vault(request)

    app.get("/logged")(logged)
    app.get("/stricter")(requires_otp(max_age=60)(vault))
    async with Browser(app, headers=JSON) as browser:
        for path in ("/vault", "/logged", "/stricter"):
            assert (await browser.get(path)).status_code == 401


async def test_starlettes_own_routes_too(nowhere: OTP) -> None:
    """A bare function in Starlette's routes that has a guard elsewhere is refused alike."""

    async def vault(request: Request) -> Response:
        return PlainTextResponse("in")

    async def feed(websocket: WebSocket) -> None:
        await websocket.accept()

    guards = [requires_otp(vault), requires_otp(feed)]
    for route in (Route("/a", vault), WebSocketRoute("/b", feed)):
        app = make_app(nowhere, Mount("/inner", Starlette(routes=[route])))
        async with Browser(app) as browser:
            with pytest.raises(ConfigurationError, match="routed without"):
                await browser.get("/state")
    routes = [Route("/a", guards[0]), WebSocketRoute("/b", guards[1])]
    async with Browser(make_app(nowhere, *routes)) as browser:
        assert (await browser.get("/state")).status_code == 200
