"""The account pages in a real browser: without JavaScript, small and wide, by what the eye sees."""

import asyncio
import io
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import zxingcpp
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from starlette_otp import oath, secret_from_base32
from starlette_otp.cli.migrations import upgrade
from tests.account.site import Site, running
from tests.axe import violations
from tests.conftest import sql, with_database
from tests.demo_process import free_port
from tests.support import PASSWORD
from tests.web.test_browser import chromium, open_page

__all__ = ["chromium"]

DATABASE = "otp_account_browser"


async def fill(server_url: str) -> str:
    await sql(server_url, f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
    await sql(server_url, f"CREATE DATABASE {DATABASE}")
    url = with_database(server_url, DATABASE)
    await asyncio.to_thread(upgrade, url)
    return url


@pytest.fixture(scope="module")
def site(server_url: str) -> Iterator[Site]:
    with ThreadPoolExecutor(1) as thread:
        # Playwright keeps a loop running in this one.
        url = thread.submit(asyncio.run, fill(server_url)).result()
        with running(url, free_port()) as site:
            yield site
        dropping = sql(server_url, f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        thread.submit(asyncio.run, dropping).result()


def scan(page: Page) -> bytes:
    """The key, read by a camera from what the screen shows."""
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    (code,) = zxingcpp.read_barcodes(picture)
    url = urlsplit(code.text)
    assert (url.scheme, url.netloc) == ("otpauth", "totp")
    return secret_from_base32(parse_qs(url.query)["secret"][0])


def token(key: bytes) -> str:
    return oath.hotp(key, int(time.time() // 30))


def enrol(page: Page, name: str = "Phone") -> bytes:
    """From the overview: add an app, scan it, confirm it, and save the codes."""
    page.get_by_role("link", name="Add authenticator app").click()
    key = scan(page)
    page.get_by_label("Code").fill(token(key))
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Confirm").click()
    return key


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_set_up_and_look_around(chromium: Browser, site: Site, width: int, scheme: Any) -> None:
    """A whole walk: nothing overflows, axe finds no violation, the QR code can be scanned."""
    viewport: Any = {"width": width, "height": 800}
    name = f"eve{width}{scheme}"
    page = open_page(
        chromium,
        site,  # type: ignore[arg-type]
        site.enter(name),
        viewport=viewport,
        color_scheme=scheme,
        bypass_csp=True,
    )
    look(page)
    page.get_by_role("link", name="Add authenticator app").click()
    page.get_by_text("Can't scan it?").click()
    look(page)
    key = scan(page)
    page.get_by_label("Code").fill("000000")
    page.get_by_role("button", name="Confirm").click()
    look(page)
    page.get_by_label("Name").fill("Phone")
    page.goto(site.enter(name, "/account/devices/add"))
    look(page)
    page.goto(site.enter(name))
    page.get_by_role("link", name="Continue").click()
    time.sleep(1.1)  # The wrong code made it wait for a second.
    page.get_by_label("Code").fill(token(key))
    page.get_by_role("button", name="Confirm").click()
    expect(page.get_by_role("heading", name="Save your recovery codes")).to_be_visible()
    look(page)
    page.get_by_role("button", name="I saved them").click()
    expect(page.get_by_text("10 left")).to_be_visible()
    look(page)
    for link in ("Manage recovery codes", "See all, and sign out", "Change your password"):
        page.get_by_role("link", name=link).click()
        look(page)
        page.get_by_role("link", name="Your account").click()
    for link in ("Rename", "Remove"):
        page.get_by_role("link", name=link).first.click()
        look(page)
        page.get_by_role("link", name="Your account").click()


def look(page: Page) -> None:
    """Nothing is wider than the screen, and axe has nothing to say."""
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert violations(page) == [], page.url
    assert page.evaluate(overflow) == 0, page.url


def complaints_of(page: Page) -> list[str]:
    """What the browser complains of, but for a test that types before it is ready."""
    complaints: list[str] = page.complaints  # type: ignore[attr-defined]
    return [text for text in complaints if "already has a focused element" not in text]


def test_without_javascript(chromium: Browser, site: Site) -> None:
    """And under a strict policy, of which the browser has nothing to complain."""
    page = open_page(chromium, site, site.enter("frank"), java_script_enabled=False)  # type: ignore[arg-type]
    enrol(page)
    page.get_by_role("button", name="I saved them").click()
    expect(page.get_by_text("Authenticator app · Phone").first).to_be_visible()
    page.get_by_role("link", name="Add email").click()
    page.get_by_role("button", name="Send me a code").click()
    found = re.search(r"\d{6}", site.mails[-1].get_content())
    assert found
    page.get_by_label("Code").fill(found[0])
    page.get_by_role("button", name="Confirm").click()
    expect(page.get_by_text("Your device was added.")).to_be_visible()
    page.get_by_role("link", name="Remove Email").click()
    page.get_by_role("button", name="Remove").click()
    expect(page.get_by_text("The device was removed.")).to_be_visible()
    assert complaints_of(page) == []


def test_the_codes_can_be_taken_along(chromium: Browser, site: Site, tmp_path: Path) -> None:
    """As a file, under a policy that allows nothing but this site; and marked by one click."""
    page = open_page(chromium, site, site.enter("grace"))  # type: ignore[arg-type]
    enrol(page)
    block = page.locator(".otp-codes")
    codes = block.inner_text().split()
    assert len(codes) == 10
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    download.value.save_as(tmp_path / "codes.txt")
    assert download.value.suggested_filename == "recovery-codes.txt"
    assert (tmp_path / "codes.txt").read_text().split()[-10:] == codes
    block.click()
    assert page.evaluate("getSelection().toString()").split() == codes
    page.emulate_media(media="print")
    expect(block).to_be_visible()
    expect(page.get_by_role("button", name="I saved them")).to_be_hidden()
    assert complaints_of(page) == []


def test_back_reload_and_a_second_tab(chromium: Browser, site: Site) -> None:
    """They show the same key; going back after all is done says that it is done."""
    page = open_page(chromium, site, site.enter("heidi"))  # type: ignore[arg-type]
    page.get_by_role("link", name="Add authenticator app").click()
    key = scan(page)
    page.reload()
    assert scan(page) == key
    page.go_back()
    page.get_by_role("link", name="Add authenticator app").click()
    assert scan(page) == key
    second = page.context.new_page()
    second.goto(site.url + "/account/devices/add?kind=totp")
    assert scan(second) == key
    page.get_by_label("Code").fill(token(key))
    page.keyboard.press("Enter")
    page.get_by_role("button", name="I saved them").click()
    second.get_by_label("Code").fill("000000")
    second.keyboard.press("Enter")
    expect(second.get_by_text("set up already")).to_be_visible()
    second.get_by_role("link", name="Your account").last.click()
    expect(second.get_by_text("10 left")).to_be_visible()


def test_large_text(chromium: Browser, site: Site) -> None:
    """At twice the text's size on a phone nothing leaves its card (WCAG 1.4.4)."""
    page = open_page(
        chromium,
        site,  # type: ignore[arg-type]
        site.enter("ivan"),
        viewport={"width": 375, "height": 800},
    )
    enrol(page, "A very long name of a phone, longer than any should be, of 64 c")
    inside = """card => [...card.querySelectorAll("h1, h2, p, a, button, input, pre, svg")]
        .filter(part => part.offsetParent || part.tagName == "svg").every(part => {
        const [outer, inner] = [card.getBoundingClientRect(), part.getBoundingClientRect()]
        return outer.left <= inner.left && inner.right <= outer.right && outer.right <= innerWidth
    })"""
    for path in ("", "devices/add", "recovery-codes", "sessions", "password"):
        if path or page.get_by_role("heading", name="Save").count() == 0:
            page.goto(f"{site.url}/account/{path}")
        page.evaluate("document.documentElement.style.fontSize = '200%'")
        assert page.locator(".otp-card").evaluate(inside), page.url


FOCUSED = """() => {
    const stops = [...document.querySelectorAll("a, button, input, summary, [tabindex]")]
        .filter(stop => stop.type != "hidden" && stop.checkVisibility())
    const it = document.activeElement
    const box = it.getBoundingClientRect(), style = getComputedStyle(it)
    const labels = [it.getAttribute("aria-label"), it.labels?.[0]?.innerText,
        it.innerText, it.value]
    return {
        tops: stops.map(stop => stop.getBoundingClientRect().top),
        stop: stops.indexOf(it),
        name: labels.find(label => label),
        isSeen: box.top >= 0 && box.bottom <= innerHeight && box.width > 0
            && style.outlineStyle != "none" && parseFloat(style.outlineWidth) >= 2,
    }
}"""


def tab_to(page: Page, name: str) -> None:
    """Press Tab until that has the focus, which is seen at every stop."""
    for _ in range(40):
        focused = page.evaluate(FOCUSED)
        assert focused["isSeen"] or focused["stop"] < 0, (page.url, focused)
        if focused["stop"] >= 0 and focused["name"].strip().startswith(name):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not reach {name!r} at {page.url}")


def go_round(page: Page) -> None:
    """Tab stops at all there is, down the page, and comes round to where it began."""
    tops = page.evaluate(FOCUSED)["tops"]
    # What stands in one row is not always of one height.
    assert all(below > above - 20 for above, below in pairwise(tops)), (page.url, tops)
    stops = []
    for _ in range(len(tops) + 3):
        page.keyboard.press("Tab")
        stops.append(page.evaluate(FOCUSED)["stop"])
    stops = [stop for stop in stops if stop >= 0]
    expected = [(stops[0] + step) % len(tops) for step in range(len(stops))]
    assert stops == expected, page.url
    assert len(stops) > len(tops), page.url


def go(page: Page, name: str) -> None:
    """Press the link or button of that name."""
    tab_to(page, name)
    with page.expect_navigation():
        page.keyboard.press("Enter")


def write(page: Page, name: str, words: str) -> None:
    """Type into the field of that name, in place of what is there."""
    tab_to(page, name)
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type(words)


@pytest.mark.parametrize("width", [375, 1280])
def test_by_keyboard_alone(chromium: Browser, site: Site, width: int) -> None:
    """Signing in, a first device, its codes, a new name and its end, by Tab, Enter and typing."""
    name = f"judy{width}"
    viewport: Any = {"width": width, "height": 800}
    page = open_page(chromium, site, site.enter(name), viewport=viewport)  # type: ignore[arg-type]
    go_round(page)
    go(page, "Add authenticator app")
    key = scan(page)
    write(page, "Code", token(key))
    write(page, "Name", "Phone")
    go(page, "Confirm")
    code = page.locator(".otp-codes").inner_text().split()[0]
    go_round(page)
    go(page, "I saved them")
    go(page, "Log out")
    page.goto("/account/login")
    write(page, "Username", name)
    write(page, "Password", PASSWORD)
    go(page, "Log in")
    go_round(page)
    go(page, "Recovery code")
    write(page, "Enter a recovery code", code)
    go(page, "Verify")
    page.goto("/account/")
    go(page, "Rename Authenticator app")
    write(page, "Name", "Old phone")
    go(page, "Save")
    expect(page.get_by_text("Authenticator app · Old phone").first).to_be_visible()
    go(page, "Remove Authenticator app")
    go_round(page)
    go(page, "Remove")
    expect(page.get_by_text("The device was removed.")).to_be_visible()
