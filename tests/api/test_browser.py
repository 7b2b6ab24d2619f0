"""The demo's single page, and pages of other origins, in a real browser."""

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route

from starlette_otp import OTP, oath, secret_from_base32
from starlette_otp.cli.migrations import upgrade
from starlette_otp.models import Device, TOTPDevice
from tests.axe import violations
from tests.conftest import sql, with_database
from tests.demo_process import Demo, free_port
from tests.support import PASSWORD, SECRET, SECRET_KEY, add, make_user, middleware, totp_token
from tests.web.test_browser import chromium, site

__all__ = ["chromium", "site"]


POLICY = "default-src 'self'; base-uri 'none'"


def open_spa(chromium: Browser, site: Demo, width: int) -> Page:
    """The single page, under a policy that allows nothing but this site."""
    context = chromium.new_context(base_url=site.url, viewport={"width": width, "height": 800})
    page = context.new_page()

    def strict(route: Any) -> None:
        answer = route.fetch(max_redirects=0)
        headers = {**answer.headers, "content-security-policy": POLICY}
        route.fulfill(response=answer, headers=headers)

    page.route("**/*", strict)
    page.goto("/spa")
    return page


def sign_in(page: Page, site: Demo, username: str) -> None:
    page.get_by_label("Username").fill(username)
    page.get_by_label("Password").fill(site.word("password"))
    page.keyboard.press("Enter")


@pytest.mark.parametrize("width", [375, 1280])
def test_a_single_page(chromium: Browser, site: Demo, width: int) -> None:
    """Sign in by two steps, look around, end a session and leave; axe has nothing to say."""
    page = open_spa(chromium, site, width)
    sign_in(page, site, "alice")
    expect(page.get_by_role("heading", name="Enter your code")).to_be_visible()
    assert violations(page) == []
    page.reload()
    page.get_by_label("Code").fill("no code")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("not right")
    page.get_by_label("Code").fill(site.static_tokens[1 if width == 375 else 2])
    page.keyboard.press("Enter")
    expect(page.get_by_text("You are verified")).to_be_visible()
    assert violations(page) == []
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) == 0
    page.get_by_role("button", name="Where you are signed in").click()
    expect(page.get_by_text("this one")).to_be_visible()
    page.get_by_role("button", name="Back").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Username")).to_be_focused()


def test_a_newcomer_on_the_single_page(chromium: Browser, site: Demo) -> None:
    """Who has to set up a device does so there, and gets recovery codes."""
    page = open_spa(chromium, site, 375)
    sign_in(page, site, "bob")
    expect(page.get_by_role("heading", name="Scan this with your app")).to_be_visible()
    key = secret_from_base32(page.locator("code").inner_text())
    expect(page.get_by_role("img", name="QR code for your authenticator app")).to_be_visible()
    page.get_by_label("The code that your app shows").fill(oath.hotp(key, int(time.time() // 30)))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Save your recovery codes")).to_be_visible()
    page.get_by_role("button", name="I saved them").click()
    expect(page.get_by_text("You are verified")).to_be_visible()
    page.get_by_role("button", name="Remove").first.click()
    expect(page.get_by_role("alert")).to_contain_text("this is the last one")


PAGE = "<!doctype html><title>A page</title>"
LOG_IN = """async ([url, body, type]) => {
  try {
    const answer = await fetch(url, {
      method: "POST", credentials: "include", headers: {"Content-Type": type},
      body: JSON.stringify(body),
    });
    return (await answer.json()).state ?? "refused";
  } catch (error) { return "blocked"; }
}"""


@contextmanager
def serving(app: Any, port: int) -> Iterator[None]:
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", loop="asyncio")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        yield
    finally:
        server.should_exit = True
        thread.join(30)


def run(work: Coroutine[Any, Any, Any]) -> None:
    """In a thread: the browser's own loop runs in this one."""
    with ThreadPoolExecutor() as pool:
        pool.submit(asyncio.run, work).result()


def test_a_page_of_another_origin(chromium: Browser, server_url: str) -> None:
    """One that the host allows, by CORSMiddleware and OTP(allowed_origins=), logs in and reads the
    answer; from another nothing gets in, with or without a preflight."""
    run(sql(server_url, "DROP DATABASE IF EXISTS otp_cors"))
    run(sql(server_url, "CREATE DATABASE otp_cors"))
    url = with_database(server_url, "otp_cors")
    run(asyncio.to_thread(upgrade, url))
    api_port, page_port = free_port(), free_port()
    friend, stranger = f"http://127.0.0.1:{page_port}", f"http://localhost:{page_port}"
    sessions = async_sessionmaker(
        create_async_engine(url, poolclass=NullPool), expire_on_commit=False
    )
    otp = OTP(sessions, Device, secret_key=SECRET_KEY, allowed_origins=[friend])

    async def prepare() -> None:
        user = await make_user(sessions, "alice")
        await add(sessions, TOTPDevice(user_id=user.id, secret=SECRET))

    run(prepare())
    cors = Middleware(
        CORSMiddleware,
        allow_origins=[friend],
        allow_credentials=True,
        allow_methods=["*"],
        allow_headers=["content-type"],
    )
    app = Starlette(
        routes=[Mount("/auth", routes=otp.api_routes())], middleware=[cors, *middleware(otp)]
    )
    pages = Starlette(routes=[Route("/", lambda request: HTMLResponse(PAGE))])
    target = f"http://127.0.0.1:{api_port}/auth/session"
    with serving(app, api_port), serving(pages, page_port):
        for origin, expected in ((stranger, "blocked"), (friend, "verified")):
            page = chromium.new_context().new_page()
            page.goto(origin + "/")
            body = {"username": "alice", "password": PASSWORD, "token": totp_token(SECRET)}
            for content_type in ("text/plain", "application/json"):
                said = page.evaluate(LOG_IN, [target, body, content_type])
            assert said == expected, origin
            there = page.context.request.get(target).json()
            assert there["state"] == ("verified" if expected == "verified" else "anonymous")
