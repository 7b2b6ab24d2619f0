"""The way back after a guarded POST: never a 405, never another site."""

from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import time_machine
from fastapi import APIRouter, Depends, FastAPI
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from starlette_otp import OTP, OTPMiddleware, requires_otp
from starlette_otp.fastapi import otp_required
from starlette_otp.models import Device, User
from tests.support import (
    SECRET_KEY,
    Browser,
    Sessions,
    csrf_of,
    make_app,
    make_totp,
    middleware,
    totp_token,
)

SITE = "http://site.example"


@requires_otp
async def transfer(request: Request) -> Response:
    return PlainTextResponse("sent")


async def form(request: Request) -> Response:
    return PlainTextResponse("a form")


class Both(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("a form")

    @requires_otp
    async def post(self, request: Request) -> Response:
        return PlainTextResponse("sent")


class Sent(HTTPEndpoint):
    @requires_otp
    async def post(self, request: Request) -> Response:
        return PlainTextResponse("sent")


ROUTES: list[BaseRoute] = [
    Route("/transfer", transfer, methods=["POST", "PUT", "DELETE"]),
    Route("/form", form),
    Route("/both", Both),
    Route("/sent", Sent),
    Route("/two", form, methods=["GET"]),
    Route("/two", transfer, methods=["POST"]),
    Mount("/shop", routes=[Route("/basket", form), Route("/pay", transfer, methods=["POST"])]),
    Mount("/files", StaticFiles(directory="templates")),
]


def fastapi_app(otp: OTP) -> FastAPI:
    app = FastAPI(middleware=list(middleware(otp)))
    guard = [Depends(otp_required())]
    shop = APIRouter()

    async def answer() -> str:
        return "in"

    for path in ("/transfer", "/two", "/both"):
        app.add_api_route(path, answer, methods=["POST", "PUT", "DELETE"], dependencies=guard)
    for path in ("/form", "/two", "/both"):
        app.add_api_route(path, answer, methods=["GET"])
    app.add_api_route("/sent", answer, methods=["POST"])
    shop.add_api_route("/basket", answer, methods=["GET"])
    shop.add_api_route("/pay", answer, methods=["POST"], dependencies=guard)
    app.include_router(shop, prefix="/shop")
    app.mount("/files", StaticFiles(directory="templates"))
    app.router.routes.append(Mount("/account", routes=otp.routes(), name="otp"))
    return app


MAKERS: dict[str, Callable[[OTP], Any]] = {
    "starlette": lambda otp: make_app(otp, *ROUTES),
    "fastapi": fastapi_app,
}


@pytest.fixture
async def nowhere() -> AsyncIterator[OTP]:
    """An OTP without a database: to turn strangers away needs no SQL."""
    engine = create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:1/nothing")
    yield OTP(async_sessionmaker(engine), Device, secret_key=SECRET_KEY)
    await engine.dispose()


def back(location: str) -> str | None:
    """The way back in a redirect to log in."""
    found = urlsplit(location)
    assert found.path == "/account/login"
    return parse_qs(found.query).get("next", [None])[0]


@pytest.mark.parametrize("kind", MAKERS)
async def test_a_post_comes_back_to_its_page(
    kind: str, otp: OTP, sessions: Sessions, alice: User
) -> None:
    """Whose POST was refused logs in and is shown the page that it was sent from."""
    await make_totp(sessions, alice)
    async with Browser(MAKERS[kind](otp)) as browser:
        page = f"{SITE}/form?to=bob"
        answer = await browser.post("/transfer", headers={"referer": page})
        assert answer.status_code == 303
        assert back(answer.headers["location"]) == "/form?to=bob"
        answer = await browser.log_in(totp_token(), answer.headers["location"])
        assert (await browser.get(answer.headers["location"])).status_code == 200


@pytest.mark.parametrize(
    ("referer", "expected"),
    [
        (None, None),
        ("", None),
        (f"{SITE}/form", "/form"),
        (f"{SITE}/form?a=1&b=%26", "/form?a=1&b=%26"),
        (f"{SITE}/both", "/both"),
        (f"{SITE}/two", "/two"),
        (f"{SITE}/shop/basket", "/shop/basket"),
        (f"{SITE}/files/otp/base.html", "/files/otp/base.html"),
        (f"{SITE}/not/ours", "/not/ours"),
        (f"{SITE}/transfer", None),
        (f"{SITE}/%74ransfer", None),
        (f"{SITE}/transfer?a=1", None),
        (f"{SITE}/sent", None),
        (f"{SITE}/shop/pay", None),
        (f"{SITE}/" + "a" * 3000, None),
        ("http://elsewhere.example/form", None),
        ("https://site.example:8443/form", None),
        (f"{SITE}//elsewhere.example/", None),
        ("javascript:alert(1)", None),
        ("http://[", None),
    ],
)
@pytest.mark.parametrize("kind", MAKERS)
async def test_the_page_it_was_sent_from(
    nowhere: OTP, kind: str, referer: str | None, expected: str | None
) -> None:
    """The way back is the Referer if it is a page of this site that takes GET, else the default:
    no URL that takes POST alone."""
    async with Browser(MAKERS[kind](nowhere)) as browser:
        headers = {} if referer is None else {"referer": referer}
        for method in ("POST", "PUT", "DELETE"):
            answer = await browser.request(method, "/transfer", headers=headers)
            assert answer.status_code == 303
            assert back(answer.headers["location"]) == expected


async def test_get_and_head_come_back_to_themselves(nowhere: OTP) -> None:
    """GET and HEAD have no need of a Referer, and do not look at it."""
    async with Browser(make_app(nowhere)) as browser:
        for method in ("GET", "HEAD"):
            headers = {"referer": f"{SITE}/state"}
            answer = await browser.request(method, "/vault?a=1", headers=headers)
            assert back(answer.headers["location"]) == "/vault?a=1"


async def test_below_a_root_path(nowhere: OTP) -> None:
    """In an application that is mounted its own routes are looked at, below its root path."""
    app = Starlette(routes=[Mount("/bank", make_app(nowhere, *ROUTES))])
    async with Browser(app) as browser:
        for page, expected in (("/bank/form", "/bank/form"), ("/bank/transfer", None)):
            answer = await browser.post("/bank/transfer", headers={"referer": SITE + page})
            found = urlsplit(answer.headers["location"])
            assert found.path == "/bank/account/login"
            assert parse_qs(found.query).get("next", [None])[0] == expected


async def test_without_routes_to_look_at(nowhere: OTP) -> None:
    """Where the application can't be looked into, a page of this site is gone back to."""
    inner = Starlette(routes=ROUTES)

    async def opaque(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, send)

    app: Any = OTPMiddleware(opaque, otp=nowhere)
    for layer in reversed(middleware(nowhere)[:2]):
        app = layer.cls(app, *layer.args, **layer.kwargs)
    async with Browser(app) as browser:
        answer = await browser.post("/transfer", headers={"referer": f"{SITE}/form"})
        assert back(answer.headers["location"]) == "/form"


async def test_another_site_is_told_the_whole_page(nowhere: OTP) -> None:
    """A login_url of another site gets the page as a whole URL, or none."""
    guard = requires_otp(login_url="https://id.example/in")(transfer.__wrapped__)
    app = make_app(nowhere, Route("/pay", guard, methods=["POST"]), *ROUTES)
    async with Browser(app) as browser:
        answer = await browser.post("/pay", headers={"referer": f"{SITE}/form"})
        expected = "https://id.example/in?next=http%3A%2F%2Fsite.example%2Fform"
        assert answer.headers["location"] == expected
        answer = await browser.post("/pay")
        assert answer.headers["location"] == "https://id.example/in"


async def test_the_step_up_of_a_post(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Who was verified too long ago is asked for a token, and comes back to the form."""
    guard = requires_otp(max_age=60)(transfer.__wrapped__)
    await make_totp(sessions, alice)
    app = make_app(otp, Route("/pay", guard, methods=["POST"]), *ROUTES)
    with time_machine.travel(1_800_000_000, tick=False) as time:
        async with Browser(app) as browser:
            await browser.log_in(totp_token())
            time.shift(61)
            answer = await browser.post("/pay")
            assert answer.headers["location"] == "/account/login?reverify=1"
            answer = await browser.post("/pay", headers={"referer": f"{SITE}/form"})
            page = await browser.get(answer.headers["location"])
            fields = {"csrf_token": csrf_of(page), "otp_token": totp_token()}
            answer = await browser.post(answer.headers["location"], data=fields)
            assert (answer.status_code, answer.headers["location"]) == (303, "/form")
            assert (await browser.post("/pay")).text == "sent"
