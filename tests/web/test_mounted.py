"""An application like README's inside another one, and behind a server's root path."""

from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from starlette_otp import OTP
from starlette_otp.models import TOTPDevice, User
from tests.support import (
    AUTHENTICATED,
    Browser,
    Sessions,
    csrf_of,
    door,
    make_app,
    make_totp,
    middleware,
    totp_token,
    vault,
    verified_by,
)


async def not_ours(request: Request) -> Response:
    return PlainTextResponse("the outer application's")


def in_starlette(app: Any) -> Any:
    return Starlette(routes=[Route("/login", not_ours), Mount("/portal", app)])


def in_fastapi(app: Any) -> Any:
    outer = FastAPI()
    outer.mount("/portal", app)
    return outer


def in_two(app: Any) -> Any:
    """Mounted at a path inside an application that is mounted at a path."""
    return Starlette(routes=[Mount("/outer", in_starlette(app))])


def at_parameter(app: Any) -> Any:
    """Mounted at a path with a parameter."""
    return Starlette(routes=[Mount("/{tenant}", app)])


def unmounted(app: Any) -> Any:
    return app


MOUNTS = [
    (in_starlette, "", "/portal"),
    (in_fastapi, "", "/portal"),
    (in_two, "", "/outer/portal"),
    (at_parameter, "", "/acme"),
    (unmounted, "/api", "/api"),
    (in_fastapi, "/api", "/api/portal"),
    (in_two, "/v1/api", "/v1/api/outer/portal"),
]


@pytest.fixture
async def device(sessions: Sessions, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice)


def browse(app: Any, root_path: str) -> Browser:
    """A browser of a server that was started with this root path, as uvicorn's --root-path."""
    return Browser(None, transport=httpx2.ASGITransport(app=app, root_path=root_path))


@pytest.mark.parametrize(("mount", "root_path", "prefix"), MOUNTS)
async def test_log_in_and_back_inside_a_mount(
    otp: OTP, device: TOTPDevice, mount: Any, root_path: str, prefix: str
) -> None:
    """Mounted inside another application or under a root path, guards redirect to their own
    login, and logging in there comes back to the guarded page; logging out stays inside, too."""
    async with browse(mount(make_app(otp)), root_path) as browser:
        refused = await browser.get(f"{prefix}/vault?a=1")
        assert refused.status_code == 303
        login_url = refused.headers["location"]
        assert login_url.startswith(f"{prefix}/account/login?next={prefix.replace('/', '%2F')}%2F")
        page = await browser.get(login_url)
        assert page.status_code == 200
        assert f'href="{prefix}/account/static/otp.css"' in page.text
        assert (await browser.get(f"{prefix}/account/static/otp.css")).status_code == 200
        answer = await browser.log_in(totp_token(), url=login_url)
        assert (answer.status_code, answer.headers["location"]) == (303, f"{prefix}/vault?a=1")
        assert (await browser.get(f"{prefix}/vault?a=1")).text == "hello alice"
        answer = await browser.log_in(url=f"{prefix}/account/login")
        assert answer.status_code == 200
        left = await browser.post(f"{prefix}/account/logout", data={"csrf_token": csrf_of(answer)})
        assert (left.status_code, left.headers["location"]) == (303, f"{prefix}/")
        assert (await browser.get(f"{prefix}/vault")).status_code == 303


async def test_log_in_without_next_goes_to_ones_own_home(otp: OTP, device: TOTPDevice) -> None:
    """Without a `next` the log-in ends inside the mount, too."""
    async with browse(in_fastapi(make_app(otp)), "/api") as browser:
        answer = await browser.log_in(totp_token(), url="/api/portal/account/login")
        assert answer.headers["location"] == "/api/portal/"


async def test_the_middleware_of_the_outer_application_serves_what_is_mounted(
    otp: OTP, alice: User, device: TOTPDevice
) -> None:
    """Middleware on the outer application guards mounted ones, which log in at the outer's."""
    inner = Starlette(routes=[Route("/vault", vault)])
    async with browse(make_app(otp, door(otp, alice, device), Mount("/inner", inner)), "") as it:
        refused = await it.get("/inner/vault")
        assert refused.headers["location"] == "/account/login?next=%2Finner%2Fvault"
        await it.get("/enter")
        assert (await it.get("/inner/vault")).text == "hello alice"


async def test_middleware_inside_and_outside(otp: OTP, alice: User, device: TOTPDevice) -> None:
    """An application with its own middleware inside another with the same: one session serves
    both, and each sends people to its own login."""
    inner = make_app(otp)
    outer = Starlette(
        routes=[door(otp, alice, device), Route("/vault", vault), Mount("/inner", inner)],
        middleware=middleware(otp),
    )
    async with browse(outer, "") as browser:
        assert (await browser.get("/vault")).headers["location"].startswith("/account/login?")
        inside = await browser.get("/inner/vault")
        assert inside.headers["location"].startswith("/inner/account/login?")
        await browser.get("/enter")
        assert (await browser.get("/inner/state")).json() == verified_by(device)
        await otp.revoke_sessions(device)
        assert (await browser.get("/inner/state")).json() == AUTHENTICATED
