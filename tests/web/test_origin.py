"""Origins: what another site's page sends is refused before the token is looked at."""

from typing import Any

import pytest
from starlette.requests import HTTPConnection

from starlette_otp import OTP
from starlette_otp.models import Device, TOTPDevice, User
from starlette_otp.web.origin import is_own_origin
from tests.support import (
    PASSWORD,
    SECRET_KEY,
    Browser,
    CodesView,
    Sessions,
    codes,
    csrf_of,
    make_app,
    make_totp,
    reload,
    totp_token,
)

LOGIN = "/account/login"
OWN, NEIGHBOUR, STRANGER = "http://site.example", "http://evil.site.example", "http://evil.example"
REFUSED = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "cross-site", "origin": STRANGER},
    {"sec-fetch-site": "cross-site", "origin": OWN},
    {"sec-fetch-site": "same-site", "origin": NEIGHBOUR},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "none", "origin": STRANGER},
    {"sec-fetch-site": "anything"},
    {"origin": STRANGER},
    {"origin": NEIGHBOUR},
    {"origin": "http://site.example:8080"},
    {"origin": "null"},
    {"origin": ""},
    {"origin": "http://site.example@evil.example"},
    {"origin": "http://site.example.evil.example"},
    {"origin": "http://["},
]
ACCEPTED = [
    {},
    {"sec-fetch-site": "same-origin"},
    {"sec-fetch-site": "same-origin", "origin": OWN},
    {"sec-fetch-site": "same-origin", "origin": "https://behind.a.proxy.example"},
    {"sec-fetch-site": "none"},
    {"origin": OWN},
    {"origin": "http://SITE.example:80"},
    {"origin": "https://site.example"},
]


def named(headers: dict[str, str]) -> str:
    return " ".join(headers.values()) or "none"


@pytest.fixture
async def device(sessions: Sessions, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice)


async def post(browser: Browser, headers: dict[str, str]) -> Any:
    fields = {
        "csrf_token": csrf_of(await browser.get(LOGIN)),
        "username": "alice",
        "password": PASSWORD,
        "otp_token": totp_token(),
    }
    return await browser.post(LOGIN, data=fields, headers=headers)


@pytest.mark.parametrize("headers", REFUSED, ids=named)
async def test_another_origins_form_does_nothing(
    browser: Browser, sessions: Sessions, device: TOTPDevice, headers: dict[str, str]
) -> None:
    """Though cookie, token and credentials are right, nobody is logged in and nothing is spent."""
    page = await post(browser, headers)
    assert codes(page) == ["csrf_failed"]
    assert PASSWORD not in page.text
    assert (await reload(sessions, device)).last_used_at is None
    assert not (await browser.state())["authenticated"]


@pytest.mark.parametrize("headers", ACCEPTED, ids=named)
async def test_our_own_form_is_as_before(
    browser: Browser, device: TOTPDevice, headers: dict[str, str]
) -> None:
    """A page of this origin, a client without the headers, a proxy that ends TLS or renames us."""
    assert (await post(browser, headers)).status_code == 303


@pytest.mark.parametrize(
    ("origin", "site", "status"),
    [
        ("https://app.example", "cross-site", 303),
        ("https://APP.example:443", None, 303),
        ("http://app.example", "cross-site", 200),
        ("https://app.example:8443", None, 200),
        (OWN, "same-origin", 303),
    ],
)
async def test_a_host_allows_more_origins(
    sessions: Sessions, device: TOTPDevice, origin: str, site: str | None, status: int
) -> None:
    """`allowed_origins` are compared whole, scheme and port included."""
    allowed = ["https://app.example"]
    otp = OTP(sessions, Device, secret_key=SECRET_KEY, allowed_origins=allowed)
    headers = {"origin": origin} | ({"sec-fetch-site": site} if site else {})
    async with Browser(make_app(otp, login_view=CodesView)) as browser:
        assert (await post(browser, headers)).status_code == status


async def test_a_neighbours_cookie_logs_nobody_in(
    otp: OTP, sessions: Sessions, device: TOTPDevice
) -> None:
    """Its owner's own cookie and token, tossed into a victim's browser, are worth nothing there."""
    app = make_app(otp, login_view=CodesView)
    async with Browser(app) as attacker, Browser(app) as victim:
        token = csrf_of(await attacker.get(LOGIN))
        victim.cookies.update(attacker.cookies)
        fields = {"csrf_token": token, "username": "alice", "password": PASSWORD}
        headers = {"sec-fetch-site": "same-site", "origin": NEIGHBOUR}
        data = {**fields, "otp_token": totp_token()}
        assert codes(await victim.post(LOGIN, data=data, headers=headers)) == ["csrf_failed"]
        assert not (await victim.state())["authenticated"]


async def test_nobody_else_logs_one_out(browser: Browser, device: TOTPDevice) -> None:
    """Logging out from another origin is 403, whatever token it brings."""
    await post(browser, {})
    token = csrf_of(await browser.get(f"{LOGIN}?reverify=1"))
    data, headers = {"csrf_token": token}, {"sec-fetch-site": "cross-site"}
    assert (await browser.post("/account/logout", data=data, headers=headers)).status_code == 403
    assert (await browser.state())["verified"]
    assert (await browser.post("/account/logout", data=data)).status_code == 303


@pytest.mark.parametrize(
    ("scheme", "host", "origin", "own"),
    [
        ("https", "site.example", "https://site.example", True),
        ("https", "site.example", "http://site.example", False),
        ("wss", "site.example", "https://site.example", True),
        ("wss", "site.example", "http://site.example", False),
        ("ws", "site.example", "https://site.example", True),
        ("ws", "site.example:8000", "http://site.example:8000", True),
        ("http", "site.example:443", "https://site.example", True),
        ("http", "[::1]:8000", "http://[::1]:8000", True),
        ("http", "", "http://site.example", False),
        ("http", "site.example", "ftp://site.example", False),
        ("http", "site.example", "http://site.example/path", False),
    ],
)
def test_whose_origin_it_is(scheme: str, host: str, origin: str, own: bool) -> None:
    """The host and port that the application sees; TLS may end before it, and not the reverse."""
    scope = {
        "type": "websocket" if scheme.startswith("ws") else "http",
        "scheme": scheme,
        "path": "/",
        "query_string": b"",
        "server": ("127.0.0.1", 8000),
        "headers": [(b"host", host.encode())] if host else [],
    }
    assert is_own_origin(HTTPConnection(scope), origin, ()) is own
