"""`next` never leaves the site (CWE-601), in all the spellings that browsers accept."""

import re
from urllib.parse import urlencode, urljoin, urlsplit

import pytest
import time_machine

from starlette_otp import OTP, LoginView
from starlette_otp.models import Device, User
from tests.support import SECRET_KEY, Browser, Sessions, csrf_of, make_app, make_totp, totp_token

LOGIN, LOGOUT = "/account/login", "/account/logout"
SITE = "http://site.example"

REFUSED = [
    "",
    " ",
    "vault",
    "./vault",
    "../vault",
    "?next=/vault",
    "#vault",
    "https://elsewhere",
    "http://elsewhere/vault",
    "HTTPS://ELSEWHERE",
    "https:elsewhere",
    "http:elsewhere",
    "http:/elsewhere",
    "http:///elsewhere",
    "http:\\\\elsewhere",
    "//elsewhere",
    "///elsewhere",
    "////elsewhere",
    "//elsewhere@site.example",
    "//site.example",
    "/\\elsewhere",
    "/\\/elsewhere",
    "\\/elsewhere",
    "\\\\elsewhere",
    "\\elsewhere",
    "/vault\\..\\elsewhere",
    "/\t/elsewhere",
    "/\n/elsewhere",
    "/\r\n/elsewhere",
    "/\r\nLocation: https://elsewhere",
    "\t//elsewhere",
    " //elsewhere",
    "\x00//elsewhere",
    "\x1f//elsewhere",
    "/\x00/elsewhere",
    "/\x7f/elsewhere",
    "/\x85/elsewhere",
    "/\u2028/elsewhere",
    "/\u202e/elsewhere",
    "/\u00a0/elsewhere",
    "\u3000//elsewhere",
    "\ufeff//elsewhere",
    "\uff0f\uff0felsewhere",
    "javascript:alert(1)",
    "JavaScript:alert(1)",
    "java\tscript:alert(1)",
    "\x01javascript:alert(1)",
    "javascript://site.example/%0aalert(1)",
    "data:text/html,<script>",
    "vbscript:msgbox",
    "mailto:alice@elsewhere",
    "site.example/vault",
    "http://site.example",
    "http://site.example@elsewhere/",
    "http://site.example:80@elsewhere/",
    "http://alice@site.example/vault",
    "http://site.example.elsewhere/",
    "http://site.exampleelsewhere/",
    "http://site.example:8000/vault",
    "https://site.example/vault",
    "http://site.example//elsewhere",
    "http://site.example/\\elsewhere",
    "http://site.example/\t/elsewhere",
    "http://site.example\\@elsewhere/",
    "http://site.example\t/vault",
    "/" + "a" * 2048,
]
KEPT = {
    "/": "/",
    "/vault": "/vault",
    "/vault/": "/vault/",
    "/vault?a=1&b=%2Fc&next=https://elsewhere#part": None,
    "/vault?next=%2F%2Felsewhere": None,
    "/%2F%2Felsewhere": None,
    "/%09/elsewhere": None,
    "/%5Celsewhere": None,
    "/@elsewhere": None,
    "/https://elsewhere": None,
    "/.//elsewhere": None,
    "/../vault": None,
    "/a b": "/a%20b",
    "/café": "/caf%C3%A9",
    "/\uff0felsewhere": "/%EF%BC%8Felsewhere",
    "http://site.example/": "/",
    "http://site.example/vault?a=1#part": "/vault?a=1#part",
    "/" + "a" * 2047: None,
}


async def leave(browser: Browser, query: str = "", **fields: str) -> str:
    """Where a log-out goes with this query and this body."""
    answer = await browser.post(
        f"{LOGOUT}?{query}", data={"csrf_token": csrf_of(await browser.get(LOGIN)), **fields}
    )
    assert answer.status_code == 303, answer.text
    location: str = answer.headers["location"]
    return location


async def leave_for(browser: Browser, url: str, place: str) -> str:
    if place == "query":
        return await leave(browser, urlencode({"next": url}))
    return await leave(browser, next=url)


def seen_by_a_browser(location: str) -> str:
    """The host that a browser goes to: it drops controls and reads a backslash as a slash."""
    plain = re.sub(r"[\t\r\n]", "", location.strip("".join(map(chr, range(33)))))
    path, mark, rest = plain.partition("?")
    return urlsplit(urljoin(f"{SITE}{LOGIN}", path.replace("\\", "/") + mark + rest)).netloc


@pytest.mark.parametrize("place", ["query", "body"])
@pytest.mark.parametrize("url", REFUSED)
async def test_what_could_leave_goes_to_the_default(
    stranger: Browser, url: str, place: str
) -> None:
    """What is not plainly a path of this site is ignored."""
    assert await leave_for(stranger, url, place) == "/"


@pytest.mark.parametrize("place", ["query", "body"])
@pytest.mark.parametrize(("url", "location"), KEPT.items())
async def test_a_path_of_this_site_is_kept(
    stranger: Browser, url: str, location: str | None, place: str
) -> None:
    """A path is kept with its query and fragment; this site's own whole URL becomes its path."""
    answer = await leave_for(stranger, url, place)
    assert answer == (url if location is None else location)
    assert seen_by_a_browser(answer) == "site.example"


@pytest.mark.parametrize(
    ("query", "location"),
    [
        ("next=/a&next=//elsewhere", "/"),
        ("next=//elsewhere&next=/a", "/a"),
        ("next[]=//elsewhere", "/"),
        ("next=//elsewhere", "/"),
    ],
)
async def test_several_are_no_way_around(stranger: Browser, query: str, location: str) -> None:
    """Of several `next` the last counts, and it is checked as one alone is."""
    assert await leave(stranger, query, next="/" if "&" in query else "//elsewhere") == location


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("/vault?a=1#part", "/vault?a=1#part"),
        ("http://site.example/vault", "/vault"),
        ("//elsewhere", "/"),
        ("/\\elsewhere", "/"),
    ],
)
@pytest.mark.parametrize("place", ["query", "body"])
async def test_logging_in_goes_there(
    browser: Browser, sessions: Sessions, alice: User, url: str, location: str, place: str
) -> None:
    """A log-in goes where its `next` says, if that is on this site."""
    await make_totp(sessions, alice)
    fields = {"next": url} if place == "body" else {}
    page = str(browser.build_request("GET", LOGIN, params={"next": url}).url)
    answer = await browser.log_in(totp_token(), LOGIN if fields else page, **fields)
    assert (answer.status_code, answer.headers.get("location")) == (303, location)


async def test_a_failure_keeps_it(browser: Browser, sessions: Sessions, alice: User) -> None:
    """The form that comes back after a wrong password and a wrong token still knows the way."""
    await make_totp(sessions, alice)
    url = f"{LOGIN}?next=%2Fvault"
    await browser.log_in("", url, password="wrong")
    page = await browser.log_in("", url)
    assert "action=" not in page.text
    assert '<a href="?next=%2Fvault">Start over</a>' in page.text
    answer = await browser.submit(str(page.url), username="alice", otp_token=totp_token())
    assert answer.headers["location"] == "/vault"


@time_machine.travel(1_900_000_000, tick=False)
async def test_names_of_the_hosts_own(sessions: Sessions, alice: User) -> None:
    """A host names the parameter and the default."""

    class View(LoginView):
        redirect_field_name = "back"

    await make_totp(sessions, alice)
    otp = OTP(sessions, Device, secret_key=SECRET_KEY, login_redirect_url="/home")
    async with Browser(make_app(otp, login_view=View)) as browser:
        answer = await browser.log_in(totp_token(), f"{LOGIN}?next=/vault")
        assert answer.headers["location"] == "/home"
    async with Browser(make_app(otp, login_view=View)) as browser:
        answer = await browser.log_in(totp_token(offset=1), f"{LOGIN}?back=/vault&next=/other")
        assert answer.headers["location"] == "/vault"
