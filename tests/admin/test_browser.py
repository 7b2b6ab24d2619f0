"""Staff at work, in a real browser."""

import asyncio
import base64
import io
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import zxingcpp
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from starlette_otp import oath
from starlette_otp.cli.migrations import upgrade
from tests.conftest import sql, with_database
from tests.demo_process import Demo, demo
from tests.web.test_browser import chromium

__all__ = ["chromium"]

DATABASE = "otp_admin_browser"
CROWD = """
    INSERT INTO otp_user (username, email)
    SELECT 'user' || n, 'user' || n || '@site.example' FROM generate_series(1, 100000) n;
    INSERT INTO otp_device (kind, user_id, name, created_at, throttling_failure_count)
    SELECT 'totp', id, 'pad', now(), 100 FROM otp_user WHERE username LIKE 'user7777_' ORDER BY id;
"""
ELSEWHERE = "http://127.0.0.1:8099/"
FOREIGN = """<!doctype html>
    <img src="{url}/admin/logout"><img src="{url}/admin/otp/device/totp/9/delete">
    <form method="post" action="{url}/admin/otp/device/totp/9/{action}">
      <input name="csrf_token" value="guessed"><button>Win a prize</button>
    </form>
"""


async def fill(server_url: str) -> str:
    """A database with a hundred thousand users, ten of them locked out."""
    await sql(server_url, f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
    await sql(server_url, f"CREATE DATABASE {DATABASE}")
    url = with_database(server_url, DATABASE)
    await asyncio.to_thread(upgrade, url)
    await sql(url.replace("+asyncpg", ""), CROWD)
    return url


@pytest.fixture(scope="module")
def site(server_url: str) -> Iterator[Demo]:
    with ThreadPoolExecutor(1) as thread:
        # Playwright keeps a loop running in this one.
        url = thread.submit(asyncio.run, fill(server_url)).result()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        with demo(Path(name) / "data", "--yes", env={"DATABASE_URL": url}) as running:
            yield running


def sign_in(page: Page, site: Demo, token: str) -> None:
    page.goto("/admin/")
    page.get_by_label("Username").fill("alice")
    page.get_by_label("Password").fill(site.word("password"))
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Verify").wait_for()
    page.locator("[name=otp_token]").fill(token)
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{site.url}/admin/")


def scan(screenshot: bytes) -> dict[str, Any]:
    """What a camera reads of the QR code: the otpauth URL's parameters."""
    with Image.open(io.BytesIO(screenshot)) as image:
        (code,) = zxingcpp.read_barcodes(image)
    assert code.text.startswith("otpauth://totp/"), code.text
    return {name: values[0] for name, values in parse_qs(urlsplit(code.text).query).items()}


def token_of(scanned: dict[str, Any]) -> str:
    secret = base64.b32decode(scanned["secret"])
    return oath.hotp(secret, int(time.time() // int(scanned["period"])))


def answer(html: str, route: Route) -> None:
    route.fulfill(body=html, content_type="text/html")


def no_overflow(page: Page) -> bool:
    width = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    return bool(page.evaluate(width) == 0)


@pytest.mark.parametrize(("width", "user"), [(360, "user77770"), (1280, "user77771")])
def test_staff_at_work(chromium: Browser, site: Demo, width: int, user: str) -> None:
    """Sign in with a token, find one among 100,000, reset a lock, add a device, scan its QR."""
    page = chromium.new_context(
        base_url=site.url, viewport={"width": width, "height": 800}
    ).new_page()
    sign_in(page, site, site.static_tokens[width > 1000])
    page.goto("/admin/otp-users/list")
    page.get_by_placeholder("Search").fill(user)
    page.keyboard.press("Enter")
    page.get_by_role("link", name=user).click()
    expect(page.get_by_text("until it is reset")).to_be_visible()
    page.get_by_role("link", name="pad").click()
    reset = page.get_by_role("button", name="Reset throttling")
    expect(reset).to_be_visible()
    assert no_overflow(page)
    with page.expect_navigation():
        reset.click()
    expect(page.get_by_text("until it is reset")).to_have_count(0)
    page.goto("/admin/otp-totp/list")
    assert no_overflow(page)
    page.get_by_role("link", name="+ Add").click()
    page.get_by_label("User").fill("ali")
    page.get_by_label("Name").fill("new phone")
    page.get_by_role("button", name="Add").click()
    page.get_by_label("Who is meant").select_option(index=0)
    page.get_by_role("button", name="Add").click()
    expect(page.get_by_text("It is shown this once.")).to_be_visible()
    assert no_overflow(page)
    scanned = scan(page.screenshot())
    page.get_by_role("link", name="Done").click()
    expect(page.get_by_text("new phone")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    sign_in(page, site, token_of(scanned))


def test_no_foreign_page_changes_anything(chromium: Browser, site: Demo) -> None:
    """A page of another origin, to which the cookie goes along, changes nothing."""
    page = chromium.new_context(base_url=site.url).new_page()
    sign_in(page, site, site.static_tokens[2])
    for action in ("delete", "reset-throttling"):
        html = FOREIGN.format(url=site.url, action=action)
        page.route(ELSEWHERE, partial(answer, html))
        page.goto(ELSEWHERE)
        with page.expect_navigation() as navigation:
            page.get_by_role("button", name="Win a prize").click()
        assert navigation.value.status == 403
        page.unroute(ELSEWHERE)
    page.goto("/admin/otp-totp/details/9")
    expect(page.get_by_text("until it is reset")).to_be_visible()


def test_a_device_is_deleted_after_a_second_question(chromium: Browser, site: Demo) -> None:
    """Delete asks again, without any script; then the device is gone from the list."""
    page = chromium.new_context(base_url=site.url, java_script_enabled=False).new_page()
    sign_in(page, site, site.static_tokens[3])
    page.goto("/")
    page.get_by_role("link", name="Admin site").click()
    expect(page).to_have_url(f"{site.url}/admin/")
    page.goto("/admin/otp-totp/details/10")
    expect(page.get_by_role("button", name="Yes, delete")).not_to_be_visible()
    page.get_by_text("Delete …").click()
    page.get_by_role("button", name="Yes, delete").click()
    expect(page).to_have_url(f"{site.url}/admin/otp-totp/list")
    assert page.goto("/admin/otp-totp/details/10").status == 404
