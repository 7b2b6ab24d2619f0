"""The demo in a real browser: no JavaScript, a strict policy, keyboard alone, a phone's width."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from tests.axe import violations
from tests.demo_process import Demo, demo

APP_CODE = "Enter the code from your authenticator app"
STRICT = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'"
SWITCHES = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None and not os.environ.get("OTP_TESTS_NEED_BROWSER"):
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=SWITCHES.split())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site() -> Iterator[Demo]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        with demo(Path(name) / "data") as running:
            yield running


def open_page(chromium: Browser, site: Demo, path: str, **options: Any) -> Page:
    """A page under a strict policy; what the browser complains of is an error."""
    context = chromium.new_context(base_url=site.url, **options)
    page = context.new_page()
    page.complaints = []  # type: ignore[attr-defined]
    page.on("console", lambda message: page.complaints.append(message.text))  # type: ignore[attr-defined]

    def strict(route: Route) -> None:
        answer = route.fetch(max_redirects=0)
        route.fulfill(
            response=answer, headers={**answer.headers, "content-security-policy": STRICT}
        )

    page.route("**/*", strict)
    page.goto(path)
    return page


def press_enter(page: Page) -> None:
    with page.expect_navigation():
        page.keyboard.press("Enter")


def fill_in(page: Page, site: Demo) -> None:
    page.get_by_label("Username").fill("alice")
    page.get_by_label("Password").fill(site.word("password"))


def to_the_second_step(page: Page, site: Demo) -> None:
    fill_in(page, site)
    press_enter(page)


def test_signing_in_without_javascript(chromium: Browser, site: Demo) -> None:
    """Without JavaScript and under a strict policy: password, then token, then the vault."""
    page = open_page(chromium, site, "/vault", java_script_enabled=False)
    to_the_second_step(page, site)
    expect(page.get_by_text("Signing in as alice.")).to_be_visible()
    expect(page.get_by_label("Password")).to_have_count(0)
    page.get_by_label(APP_CODE).fill(site.token(time.time()))
    press_enter(page)
    expect(page).to_have_url(f"{site.url}/vault")
    expect(page.get_by_text("Welcome, alice")).to_be_visible()
    page.goto("/")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_text("anonymous")).to_be_visible()


def test_enter_verifies_and_does_not_ask_for_a_challenge(chromium: Browser, site: Demo) -> None:
    """By keyboard alone: the fields come in their order, and Enter sends the token."""
    page = open_page(chromium, site, "/account/login")
    expect(page.get_by_label("Username")).to_be_focused()
    page.keyboard.type("alice")
    page.keyboard.press("Tab")
    page.keyboard.type(site.word("password"))
    press_enter(page)
    expect(page.get_by_label(APP_CODE)).to_be_focused()
    page.keyboard.type(site.static_tokens[0].upper())
    press_enter(page)
    expect(page.get_by_text("verified")).to_be_visible()


def test_another_way_and_a_code_by_mail(chromium: Browser, site: Demo) -> None:
    """The mail is another way; its button says where the code goes, for screen readers, too."""
    page = open_page(chromium, site, "/account/login", java_script_enabled=False)
    to_the_second_step(page, site)
    other = page.get_by_role("group", name="Try another way").get_by_role("button")
    expect(other).to_have_count(2)
    page.get_by_role("button", name="Email to a…@demo.example").click()
    send = page.get_by_role("button", name="Send me a code")
    expect(send).to_have_accessible_description("To a…@demo.example.")
    send.click()
    expect(page.get_by_text("We sent a code to a…@demo.example.")).to_be_visible()
    expect(page.get_by_text("You can ask again in")).to_be_visible()
    site.read_to("Your code is")
    page.get_by_label("Enter the code that we email you").fill(site.printed.split()[-1])
    press_enter(page)
    expect(page.get_by_text("verified")).to_be_visible()


@pytest.mark.parametrize("width", [320, 375, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_readable_and_accessible(
    chromium: Browser, site: Demo, width: int, scheme: Any
) -> None:
    """On a phone and a desktop, light and dark: nothing overflows, axe finds no violation."""
    viewport: Any = {"width": width, "height": 700}
    page = open_page(
        chromium, site, "/account/login", viewport=viewport, color_scheme=scheme, bypass_csp=True
    )
    fill_in(page, site)
    for step in (
        "login",
        "token",
        "Recovery code",
        "Email to a…@demo.example",
        "/account/logout",
        "/",
    ):
        if step == "token":
            press_enter(page)
        elif step.startswith("/"):
            page.goto(step)
        elif step != "login":
            with page.expect_navigation():
                page.get_by_role("button", name=step).click()
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert violations(page) == [], step
        assert page.evaluate(overflow) == 0, step


def test_large_text_stays_in_its_card(chromium: Browser, site: Demo) -> None:
    """At twice the text's size on a phone no field and no button leaves its card (WCAG 1.4.4)."""
    viewport: Any = {"width": 375, "height": 700}
    page = open_page(chromium, site, "/account/login", viewport=viewport)
    fill_in(page, site)
    press_enter(page)
    page.evaluate("document.documentElement.style.fontSize = '200%'")
    inside = """card => [
        ...card.querySelectorAll("h1, p, button, .otp-field input, .otp-actions *")
    ].every(part => {
        const [outer, inner] = [card.getBoundingClientRect(), part.getBoundingClientRect()]
        return outer.left <= inner.left && inner.right <= outer.right && outer.right <= innerWidth
    })"""
    assert page.locator(".otp-card").evaluate(inside)
    long = "id => document.getElementById(id).textContent = `To a…@${'long.'.repeat(30)}example`"
    page.evaluate(long, "otp_challenge-hint")
    page.evaluate(long, "otp_ways")
    assert page.locator(".otp-card").evaluate(inside)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for button in page.locator(".otp-actions > *").all():
        assert button.evaluate("it => it.scrollWidth <= it.clientWidth")


def test_the_browser_has_nothing_to_complain_of(chromium: Browser, site: Demo) -> None:
    """No page breaks a strict Content-Security-Policy or asks for what is not there."""
    page = open_page(chromium, site, "/vault")
    fill_in(page, site)
    press_enter(page)
    page.goto("/")
    complaints: list[str] = page.complaints  # type: ignore[attr-defined]
    assert complaints == []


def test_a_recovery_code_can_be_typed_on_a_phone(chromium: Browser, site: Demo) -> None:
    """The numeric keyboard has no letters: the page for recovery codes brings others."""
    page = open_page(chromium, site, "/account/login?next=/vault")
    to_the_second_step(page, site)
    expect(page.locator("[name=otp_token]")).to_have_attribute("inputmode", "numeric")
    page.get_by_role("button", name="Recovery code").click()
    code = page.get_by_label("Enter a recovery code")
    expect(code).to_have_attribute("inputmode", "text")
    expect(page.get_by_text("Please enter the code.")).to_have_count(0)
    code.fill(site.static_tokens[1])
    press_enter(page)
    expect(page).to_have_url(f"{site.url}/vault")
