"""The demo's pages in a real browser, as README shows them."""

import io
import os
import time
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.account.test_browser import look
from tests.demo_process import Demo
from tests.pages import DOCS
from tests.web.test_browser import (
    APP_CODE,
    chromium,
    open_page,
    press_enter,
    site,
    to_the_second_step,
)

__all__ = ["chromium", "site"]

VIEW: Any = {"width": 420, "height": 720}
"""Two of them stand side by side."""
AGENT = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 "
    "Safari/537.36"
)
COLOURS = 64


def take(page: Page, name: str) -> None:
    """A picture with few colours, kept where somebody wants new ones."""
    look(page)
    picture = Image.open(io.BytesIO(page.screenshot()))
    with Image.open(DOCS / "pictures" / f"{name}.png") as known:
        assert known.size == picture.size
    if folder := os.environ.get("OTP_TESTS_PICTURES"):
        small = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        small.save(Path(folder) / f"{name}.png", optimize=True)


def test_the_pages_that_readme_shows(chromium: Browser, site: Demo) -> None:
    """The question for the code, and after it the account page."""
    page = open_page(
        chromium,
        site,
        "/account/login?next=/account/",
        viewport=VIEW,
        user_agent=AGENT,
        color_scheme="light",
        bypass_csp=True,
    )
    to_the_second_step(page, site)
    expect(page.get_by_label(APP_CODE)).to_be_visible()
    take(page, "login")
    page.get_by_label(APP_CODE).fill(site.token(time.time()))
    press_enter(page)
    expect(page.get_by_role("link", name="Add authenticator app")).to_be_visible()
    take(page, "account")
