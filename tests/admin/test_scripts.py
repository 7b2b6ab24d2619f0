"""A host's own sqladmin views in a real browser: the site's script brings the token along."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from starlette_otp import OTP
from starlette_otp.admin import OTPAdmin
from starlette_otp.models import Base, Device
from tests.admin.test_hosts import AccountAdmin
from tests.conftest import sql, with_database
from tests.demo_process import free_port
from tests.support import (
    SECRET_KEY,
    Sessions,
    door,
    grow_old,
    make_app,
    make_totp,
    make_user,
    totp_token,
)
from tests.web.test_browser import chromium

__all__ = ["chromium"]

DATABASE = "otp_admin_scripts"


class Policy:
    """A Content-Security-Policy on every answer to a browser that has the cookie `strict`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_strict = scope["type"] == "http" and "strict" in Request(scope).cookies

        async def send_with_policy(message: Message) -> None:
            if is_strict and message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = "default-src 'self'"
            await send(message)

        await self.app(scope, receive, send_with_policy)


def ageing(sessions: Sessions) -> Route:
    """A route after which every verification is an hour old."""

    async def age(request: Request) -> Response:
        await grow_old(sessions, 3600)
        return PlainTextResponse("an hour ago")

    return Route("/age", age)


async def application(server_url: str, database: str) -> uvicorn.Server:
    """A server of a host with a view of its own, whose /enter verifies alice."""
    await sql(server_url, f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
    await sql(server_url, f"CREATE DATABASE {database}")
    engine = create_async_engine(with_database(server_url, database), poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    otp = OTP(sessions, Device, secret_key=SECRET_KEY)
    alice = await make_user(sessions, "alice", is_staff=True)
    for name in ("bob", "carol"):
        await make_user(sessions, name)
    app = make_app(otp, door(otp, alice, await make_totp(sessions, alice)), ageing(sessions))
    OTPAdmin(app, engine, otp=otp).add_view(AccountAdmin)
    return uvicorn.Server(uvicorn.Config(Policy(app), port=free_port(), log_level="warning"))


@contextmanager
def serving(server_url: str, database: str) -> Iterator[str]:
    """The application's URL, while it runs."""
    with ThreadPoolExecutor(1) as thread:
        server = thread.submit(asyncio.run, application(server_url, database)).result()
    running = threading.Thread(target=server.run)
    running.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.config.port}"
    server.should_exit = True
    running.join()


@pytest.fixture(scope="module")
def url(server_url: str) -> Iterator[str]:
    with serving(server_url, DATABASE) as url:
        yield url


@pytest.fixture
def page(chromium: Browser, url: str) -> Page:
    page = chromium.new_context(base_url=url).new_page()
    page.goto("/enter")
    return page


def usernames(page: Page) -> list[str]:
    page.goto("/admin/user/list")
    return [cell.strip() for cell in page.locator("tbody tr td:nth-child(3)").all_inner_texts()]


def test_a_form_is_saved(page: Page) -> None:
    """sqladmin's form to create a row carries the token."""
    page.goto("/admin/user/create")
    page.get_by_label("Username").fill("dave")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("cell", name="dave")).to_be_visible()


def test_a_row_is_deleted(page: Page) -> None:
    """sqladmin's DELETE by script carries the token."""
    page.goto("/admin/user/list")
    page.get_by_role("row", name="bob").locator('[data-bs-target="#modal-delete"]').click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_role("cell", name="bob")).to_have_count(0)
    assert "bob" not in usernames(page)


def test_an_action_is_a_post(page: Page) -> None:
    """A host's action, a link in sqladmin, is sent by POST, with the rows that are chosen."""
    page.goto("/admin/user/list")
    page.get_by_role("row", name="carol").get_by_role("checkbox").check()
    page.get_by_role("button", name="Actions").click()
    page.get_by_role("link", name="Block").click()
    with page.expect_navigation() as navigation:
        page.get_by_role("link", name="Yes").click()
    assert navigation.value.request.method == "POST"
    assert navigation.value.text() == "blocked"


def test_a_change_by_script_asks_for_a_token_and_comes_back(page: Page, url: str) -> None:
    """sqladmin's DELETE on an old verification leads to the log-in, and that to the list again."""
    page.goto("/age")
    page.goto("/admin/user/list")
    page.get_by_role("row", name="carol").locator('[data-bs-target="#modal-delete"]').click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_label("Password")).to_have_count(0)
    page.get_by_label("Enter the code from your authenticator app").fill(totp_token())
    page.get_by_role("button", name="Verify").click()
    expect(page).to_have_url(f"{url}/admin/user/list")
    expect(page.get_by_role("cell", name="carol")).to_be_visible()
