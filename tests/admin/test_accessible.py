"""The site's own pages are accessible, with and without a strict policy."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.admin.test_scripts import serving
from tests.axe import violations
from tests.web.test_browser import chromium

__all__ = ["chromium"]

PAGES = [
    "/admin/",
    "/admin/otp-totp/list",
    "/admin/otp-totp/list?search=nobody",
    "/admin/otp-static/list",
    "/admin/otp-tokens/list",
    "/admin/otp-users/list",
    "/admin/otp-totp/details/1",
    "/admin/otp-users/details/1",
    "/admin/otp/add/totp",
    "/admin/otp/add/email",
]


@pytest.fixture(scope="module")
def url(server_url: str) -> Iterator[str]:
    with serving(server_url, "otp_admin_accessible") as url:
        yield url


@pytest.mark.parametrize(
    ("strict", "width"), [(False, 1280), (True, 360)], ids=["no policy", "default-src 'self'"]
)
def test_axe_finds_nothing(chromium: Browser, url: str, strict: bool, width: int) -> None:
    """Lists, details, the form to add a device, its errors and the QR code."""
    context = chromium.new_context(base_url=url, viewport={"width": width, "height": 800})
    if strict:
        context.add_cookies([{"name": "strict", "value": "1", "url": url}])
    page = context.new_page()
    page.goto("/enter")
    found = {}
    for path in PAGES:
        page.goto(path)
        found[path] = violations(page)
    page.goto("/admin/otp/add/totp")
    for name, where in (("nobody", "errors"), ("bob", "QR code")):
        page.get_by_label("User", exact=True).fill(name)
        page.get_by_role("button", name="Add", exact=True).click()
        found[where] = violations(page)
    assert {where: lines for where, lines in found.items() if lines} == {}
