"""A person at the account pages: what they read, follow and fill in."""

import html
import re
from typing import Any

import httpx2

from starlette_otp import OTP, oath, secret_from_base32
from tests.support import Browser, door, make_app

ROOT = "/account/"
_FORM = r'<form method="post"(?: action="([^"]*)")?[^>]*>(.*?)</form>'
ADD_TOTP = "/account/devices/add?kind=totp"


async def enter(otp: OTP, user: Any, device: Any = None, **options: Any) -> Browser:
    """A browser that has just signed in, verified if there is a device."""
    browser = Browser(make_app(otp, door(otp, user, device)), **options)
    await browser.get("/enter")
    return browser


async def follow(browser: Browser, answer: httpx2.Response) -> httpx2.Response:
    """The page that a browser ends at."""
    while answer.is_redirect:
        answer = await browser.get(answer.headers["location"])
    return answer


async def visit(browser: Browser, url: str) -> httpx2.Response:
    """The page that a browser ends at which opens this URL."""
    return await follow(browser, await browser.get(url))


async def press(browser: Browser, page: httpx2.Response, **fields: str) -> httpx2.Response:
    """Fill in the first form of a page and send it, to where it says, from there."""
    form = re.search(
        r'<form method="post"(?: action="([^"]*)")?[^>]*>(.*?)</form>', page.text, re.S
    )
    assert form, page.text
    hidden = re.findall(r'<input[^>]*type="hidden"[^>]*>', form[2])
    given = dict(_attributes(one) for one in hidden)
    target = html.unescape(form[1] or "") or str(page.request.url)
    headers = {"referer": str(page.request.url)}
    return await browser.post(target, data={**given, **fields}, headers=headers)


def _attributes(tag: str) -> tuple[str, str]:
    name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
    assert name, tag
    return name[1], html.unescape(value[1]) if value else ""


def words(page: httpx2.Response) -> str:
    """What there is to read on a page."""
    main = page.text.partition("<main")[2]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", main)).split())


def heading(page: httpx2.Response) -> str:
    found = re.search(r"<h1>(.*?)</h1>", page.text, re.S)
    assert found, page.text
    return html.unescape(found[1]).strip()


def key_of(page: httpx2.Response) -> bytes:
    """The key that a person types into their app."""
    found = re.search(r"<code>([A-Z2-7 ]+)</code>", page.text)
    assert found, page.text
    return secret_from_base32(found[1])


def codes_of(page: httpx2.Response) -> list[str]:
    """The recovery codes that a page shows."""
    return re.findall(r"^(?:<pre[^>]*>)?(\w{4}(?:-\w{4}){3})$", page.text, re.M)


def app_token(key: bytes, moment: float) -> str:
    """What an app shows that has this key."""
    return oath.hotp(key, int(moment // 30))
