"""A host's own sqladmin views in a real browser: the site's script brings the token along."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool

from starlette_otp import OTP
from starlette_otp.admin import OTPAdmin
from starlette_otp.models import Base, Device
from tests.admin.test_hosts import AccountAdmin
from tests.conftest import sql, with_database
from tests.demo_process import free_port
from tests.support import SECRET_KEY, door, make_app, make_totp, make_user
from tests.test_browser import chromium

__all__ = ["chromium"]

DATABASE = "otp_admin_scripts"


async def application(server_url: str) -> uvicorn.Server:
    """A server of a host with a view of its own, whose /enter verifies alice."""
    await sql(server_url, f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
    await sql(server_url, f"CREATE DATABASE {DATABASE}")
    engine = create_async_engine(with_database(server_url, DATABASE), poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    otp = OTP(sessions, Device, secret_key=SECRET_KEY)
    alice = await make_user(sessions, "alice", is_staff=True)
    for name in ("bob", "carol"):
        await make_user(sessions, name)
    app = make_app(otp, door(otp, alice, await make_totp(sessions, alice)))
    OTPAdmin(app, engine, otp=otp).add_view(AccountAdmin)
    return uvicorn.Server(uvicorn.Config(app, port=free_port(), log_level="warning"))


@pytest.fixture(scope="module")
def url(server_url: str) -> Iterator[str]:
    with ThreadPoolExecutor(1) as thread:
        server = thread.submit(asyncio.run, application(server_url)).result()
    serving = threading.Thread(target=server.run)
    serving.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.config.port}"
    server.should_exit = True
    serving.join()


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
