"""Who signs in is told of the wrong tokens since they last did, once."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import time_machine
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from starlette_otp import OTP, LogoutForm, clock, failures_before, log_out, login
from starlette_otp.models import Device, TOTPDevice, User
from starlette_otp.testing import make_device, token_at
from tests.support import Browser, make_app

LOGIN = "/account/login"
TABLE: Any = Device.__table__


@pytest.fixture(autouse=True)
def stopped_clock() -> Any:
    with time_machine.travel(1_900_000_000, tick=False) as stopped:
        yield stopped


@pytest.fixture
async def device(otp: OTP, alice: User) -> TOTPDevice:
    return await make_device(otp, alice, TOTPDevice)


async def told(request: Request) -> Response:
    """A host's page; it asks twice, as a template does."""
    return JSONResponse([failures_before(request), failures_before(request)])


@pytest.fixture
async def browser(otp: OTP) -> AsyncIterator[Browser]:
    async def verify(request: Request) -> Response:
        found = await otp.match_token(request.user, request.query_params["token"])
        await login(request, found)
        return JSONResponse([])

    async def leave(request: Request) -> Response:
        await log_out(request)
        return JSONResponse([])

    async def home(request: Request) -> Response:
        context = {"logout_form": LogoutForm(request)}
        return otp.templates.TemplateResponse(request, "demo/home.html", context)

    routes = [Route("/told", told), Route("/verify", verify), Route("/leave", leave)]
    routes.append(Route("/home", home))
    async with Browser(make_app(otp, *routes)) as browser:
        yield browser


async def guess(engine: AsyncEngine, count: int) -> None:
    """So many wrong tokens, long enough ago."""
    async with engine.begin() as connection:
        failed = {"throttling_failure_count": count, "throttling_failure_timestamp": clock.now()}
        await connection.execute(update(TABLE).values(failed))


async def told_to(browser: Browser) -> list[int]:
    found: list[int] = (await browser.get("/told")).json()
    return found


async def log_in(browser: Browser, device: Any, engine: AsyncEngine, count: int, at: Any) -> None:
    await guess(engine, count)
    at.shift(900)
    assert (await browser.log_in(token_at(device))).status_code == 303


@pytest.mark.parametrize(("count", "expected"), [(4, 0), (5, 5), (71, 71)])
async def test_a_hosts_page_is_told_once(
    browser: Browser,
    engine: AsyncEngine,
    device: TOTPDevice,
    stopped_clock: Any,
    count: int,
    expected: int,
) -> None:
    """Five or more are told to the first request after the log-in that asks, as often as it asks;
    no later one."""
    await log_in(browser, device, engine, count, stopped_clock)
    assert (await browser.get("/vault")).status_code == 200
    assert await told_to(browser) == [expected] * 2
    assert await told_to(browser) == [0, 0]


@pytest.mark.parametrize("path", ["/account/logout", LOGIN, f"{LOGIN}?reverify=1", "/home"])
async def test_our_pages_say_it_once(
    browser: Browser, engine: AsyncEngine, device: TOTPDevice, stopped_clock: Any, path: str
) -> None:
    """The first page of ours after the log-in says it, the demo's too, and takes it from the
    host's."""
    await log_in(browser, device, engine, 7, stopped_clock)
    said = "7 wrong codes since you last signed in."
    assert said in (await browser.get(path)).text
    assert said not in (await browser.get(LOGIN)).text
    assert await told_to(browser) == [0, 0]


async def test_a_log_out_takes_it_away(
    browser: Browser, engine: AsyncEngine, device: TOTPDevice, stopped_clock: Any
) -> None:
    """What was not shown is not shown to nobody, nor after the next log-in."""
    await log_in(browser, device, engine, 7, stopped_clock)
    await browser.get("/leave")
    assert "wrong tokens" not in (await browser.get(LOGIN)).text
    assert await told_to(browser) == [0, 0]
    stopped_clock.shift(30)
    assert (await browser.log_in(token_at(device))).status_code == 303
    assert await told_to(browser) == [0, 0]


async def test_another_users_log_in_takes_it_away(
    otp: OTP,
    browser: Browser,
    engine: AsyncEngine,
    device: TOTPDevice,
    bob: User,
    stopped_clock: Any,
) -> None:
    """What alice was not shown is not shown to bob."""
    await log_in(browser, device, engine, 7, stopped_clock)
    theirs = await make_device(otp, bob, TOTPDevice)
    answer = await browser.log_in(token_at(theirs), username="bob")
    assert answer.status_code == 303
    assert await told_to(browser) == [0, 0]


async def test_a_verification_of_the_hosts_own(
    browser: Browser, engine: AsyncEngine, device: TOTPDevice, stopped_clock: Any
) -> None:
    """`login` with the device that has accepted a token is told of, too, and what was not shown
    stays when the next verification has nothing to tell."""
    assert (await browser.log_in(token_at(device))).status_code == 303
    stopped_clock.shift(1)
    await guess(engine, 6)
    stopped_clock.shift(900)
    await browser.get("/verify", params={"token": token_at(device)})
    stopped_clock.shift(30)
    await browser.get("/verify", params={"token": token_at(device)})
    assert await told_to(browser) == [6, 6]


async def test_without_our_middleware_there_is_nothing_to_tell(otp: OTP) -> None:
    """A page of errors, outside all middleware, can extend ours."""
    scope = {"type": "http", "headers": [], "path": "/", "query_string": b""}
    request = Request(scope)
    assert failures_before(request) == 0
    template = otp.templates.env.get_template("otp/base.html")
    context: dict[str, Any] = {"request": request}
    for processor in otp.templates.context_processors:
        context |= processor(request)
    assert "wrong tokens" not in template.render(context)
