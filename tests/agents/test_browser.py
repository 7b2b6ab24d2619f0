"""Trusted browsers in a real browser: the whole way, of two of them, without JavaScript."""

import os
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.account.test_browser import look
from tests.demo_process import Demo
from tests.web.test_browser import chromium, open_page, press_enter, site, to_the_second_step

__all__ = ["chromium", "site"]

BOX = "Trust this browser for 30 days"


def verify(page: Page, code: str, trust: bool) -> None:
    """Name and password, then a recovery code."""
    page.get_by_label("Enter").fill(code)
    if trust:
        page.get_by_label(BOX).check()
    press_enter(page)


def log_out(page: Page) -> None:
    page.goto("/")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_text("anonymous")).to_be_visible()


def test_trusted_and_no_more(chromium: Browser, site: Demo) -> None:
    """Trusted at the log-in, in again by the password alone, ended elsewhere, and asked again."""
    codes = iter(site.static_tokens)
    mine = open_page(chromium, site, "/account/login", bypass_csp=True)
    to_the_second_step(mine, site)
    look_at(mine, "box")
    verify(mine, next(codes), trust=True)
    expect(mine.get_by_text("verified")).to_be_visible()
    log_out(mine)
    mine.goto("/account/login")
    to_the_second_step(mine, site)
    expect(mine.get_by_text("in a browser that you trust")).to_be_visible()
    look_at(mine, "home")
    mine.goto("/vault")
    expect(mine.get_by_label("Enter")).to_be_visible()
    expect(mine.get_by_label(BOX)).to_have_count(0)

    other = open_page(chromium, site, "/account/login", bypass_csp=True)
    to_the_second_step(other, site)
    verify(other, next(codes), trust=False)
    other.goto("/account/sessions")
    expect(other.get_by_role("heading", name="Browsers that you trust")).to_be_visible()
    look_at(other, "sessions")
    other.get_by_role("button", name="Don't trust").click()
    expect(other.get_by_text("That browser is not trusted any more.")).to_be_visible()
    expect(other.get_by_role("heading", name="Browsers that you trust")).to_have_count(0)

    mine.goto("/")
    expect(mine.get_by_text("anonymous")).to_be_visible()
    mine.goto("/account/login")
    to_the_second_step(mine, site)
    expect(mine.get_by_label(BOX)).to_be_visible()
    verify(mine, next(codes), trust=False)
    expect(mine.get_by_text("verified")).to_be_visible()


def look_at(page: Page, name: str) -> None:
    """On a desktop and a phone; pictures are kept where somebody wants to see them."""
    for width in (1280, 375):
        page.set_viewport_size({"width": width, "height": 800})
        look(page)
        folder = os.environ.get("OTP_TESTS_PICTURES")
        if folder:
            page.screenshot(path=Path(folder) / f"{name}-{width}.png", full_page=True)
