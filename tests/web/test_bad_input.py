"""Bad input through HTTP: a clear error, never a 500, and nothing else changes."""

import json
from collections.abc import Mapping
from typing import Any

import httpx2
import pytest
from sqlalchemy import func, select

from starlette_otp.models import OTPSession, TOTPDevice, User
from tests.support import (
    PASSWORD,
    Browser,
    Sessions,
    codes,
    csrf_of,
    make_static,
    make_totp,
    reload,
    totp_token,
)

LOGIN, LOGOUT = "/account/login", "/account/logout"
FORM, JSON = "application/x-www-form-urlencoded", "application/json"
LONG = "9" * 10_000
BAD_TOKENS = [
    "abcdef",
    "12345a",
    "12345",
    "1234567",
    "1_23456",
    "+123456",
    "-1",
    "0x1F2E3D",
    "1e5",
    "\uff11\uff12\uff13\uff14\uff15\uff16",
    "\u0661\u0662\u0663\u0664\u0665\u0666",
    "12345\0",
    "\0" * 6,
    "123.456",
    "' OR 1=1 --",
    LONG,
    "\U0001f511" * 1000,
]


@pytest.fixture
async def device(sessions: Sessions, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice)


async def send(browser: Browser, encoding: str, fields: Mapping[str, str]) -> httpx2.Response:
    """Post alice's credentials and these fields, as a form, as multipart or as JSON."""
    token = csrf_of(await browser.get(LOGIN))
    given = {"csrf_token": token, "username": "alice", "password": PASSWORD, **fields}
    if encoding == "json":
        return await browser.post(LOGIN, json=given)
    if encoding == "multipart":
        return await browser.post(LOGIN, files={name: (None, v) for name, v in given.items()})
    return await browser.post(LOGIN, data=given)


async def raw(
    browser: Browser, content_type: str | None, body: bytes, url: str = LOGIN
) -> httpx2.Response:
    headers = {} if content_type is None else {"content-type": content_type}
    return await browser.post(url, content=body, headers=headers)


async def assert_nothing_changed(browser: Browser, sessions: Sessions, device: Any) -> None:
    """Nobody is logged in, and the device was never used; its count of failures aside."""
    async with sessions() as session:
        begun = select(func.count()).where(~OTPSession.is_ticket)
        assert await session.scalar(begun) == 0
    after = await reload(sessions, device)
    assert (after.last_used_at, after.last_t, after.drift) == (None, -1, 0)
    assert (await browser.get("/vault")).status_code == 303


@pytest.mark.parametrize("token", BAD_TOKENS, ids=lambda token: repr(token)[:20])
async def test_tokens(
    browser: Browser, sessions: Sessions, alice: User, device: TOTPDevice, token: str
) -> None:
    """A token that can't be one is a wrong token, in every encoding, for all devices or one."""
    await make_static(sessions, alice, None)
    for encoding in ("form", "multipart", "json"):
        # The ticket stands for the password after the first of them.
        password = PASSWORD if encoding == "form" else ""
        page = await send(browser, encoding, {"otp_token": token, "password": password})
        assert codes(page) == ["invalid_token"]
    assert (await reload(sessions, device)).throttling_failure_count == 0
    page = await send(
        browser,
        "form",
        {"otp_token": token, "otp_device": device.persistent_id, "password": ""},
    )
    assert codes(page) == ["invalid_token"]
    assert (await reload(sessions, device)).throttling_failure_count == 1
    await assert_nothing_changed(browser, sessions, device)


@pytest.mark.parametrize(
    "persistent_id",
    [
        *("", "totp/", "/1", "totp/x", "totp/-1", "totp/1/1", "totp/1 ", "totp/0", "totp/\0"),
        *("totp/99999999999999999999", "static/1", "nokind/1", "totp/\uff11", LONG),
    ],
)
async def test_persistent_ids(
    browser: Browser, sessions: Sessions, device: TOTPDevice, persistent_id: str
) -> None:
    """Garbage for a device id is as good as none: every device is asked, none is challenged."""
    page = await send(browser, "form", {"otp_device": persistent_id, "otp_challenge": "1"})
    assert codes(page) == ["not_interactive"]
    page = await send(browser, "form", {"otp_device": persistent_id, "otp_token": "000000"})
    assert codes(page) == ["invalid_token"]
    await assert_nothing_changed(browser, sessions, device)
    assert (await reload(sessions, device)).throttling_failure_count == 1


@pytest.mark.parametrize("encoding", ["form", "multipart", "json"])
@pytest.mark.parametrize(
    "fields",
    [
        {"username": "alice\0"},
        {"username": "\0"},
        {"username": "a" * 10_000},
        {"username": "' OR 1=1 --"},
        {"username": "\U0001f600 <script>"},
        {"password": f"{PASSWORD}\0"},
        {"password": "\0"},
        {"password": "p" * 1025},
        {"password": LONG},
    ],
    ids=str,
)
async def test_credentials(
    browser: Browser,
    sessions: Sessions,
    device: TOTPDevice,
    fields: dict[str, str],
    encoding: str,
) -> None:
    """A name or a password that can't be one is a wrong one."""
    page = await send(browser, encoding, {"otp_token": totp_token(), **fields})
    assert codes(page) == ["invalid_login"]
    assert "<script>" not in page.text
    assert fields.get("password", "no password") not in page.text
    await assert_nothing_changed(browser, sessions, device)


@pytest.mark.parametrize("value", ["\ud800", 123456, 1.5, True, None, [], ["123456"], {"a": 1}])
async def test_json_values_that_are_no_texts(
    browser: Browser, sessions: Sessions, device: TOTPDevice, value: object
) -> None:
    """A field of a JSON body that is no text, or no Unicode, is 400 and names the field."""
    token = csrf_of(await browser.get(LOGIN))
    body = {"csrf_token": token, "username": "alice", "password": PASSWORD, "otp_token": "000000"}
    for name in ("username", "password", "otp_token", "otp_device", "csrf_token"):
        answer = await raw(browser, JSON, json.dumps({**body, name: value}).encode())
        assert (answer.status_code, answer.text) == (400, f"The field {name!r} has to be a text.")
    await assert_nothing_changed(browser, sessions, device)
    assert (await reload(sessions, device)).throttling_failure_count == 0


@pytest.mark.parametrize("url", [LOGIN, LOGOUT])
@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "The body is not JSON."),
        (b"no", "The body is not JSON."),
        (b"{", "The body is not JSON."),
        (b"\xff\xfe", "The body is not JSON."),
        (b"[" * 50_000, "The body is not JSON."),
        (b'{"a":' * 10_000, "The body is not JSON."),
        (b"9" * 10_000, "The body is not JSON."),
        (b"[]", "The body has to be a JSON object."),
        (b'"text"', "The body has to be a JSON object."),
        (b"null", "The body has to be a JSON object."),
        (b"1", "The body has to be a JSON object."),
        (b'{"otp_token": NaN}', "The field 'otp_token' has to be a text."),
    ],
)
async def test_json_that_is_no_object(
    stranger: Browser, url: str, body: bytes, detail: str
) -> None:
    """A JSON body that does not parse or is no object is 400 and says so."""
    answer = await raw(stranger, f"{JSON}; charset=utf-8", body, url)
    assert (answer.status_code, answer.text) == (400, detail)


@pytest.mark.parametrize("name", ["username", "password", "otp_token", "csrf_token", "other"])
async def test_a_file_for_a_field(stranger: Browser, name: str) -> None:
    """A file where a text belongs is 400."""
    fields = {"csrf_token": csrf_of(await stranger.get(LOGIN)), "username": "alice"}
    fields.pop(name, None)
    answer = await stranger.post(LOGIN, data=fields, files={name: ("a.txt", b"123456")})
    assert (answer.status_code, answer.text) == (400, f"The field {name!r} has to be a text.")


def part(value: bytes, name: bytes = b"username") -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="' + name + b'"\r\n\r\n'
    return head + value + b"\r\n--x--\r\n"


MULTIPART = "multipart/form-data; boundary=x"


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        (FORM, b"", 200),
        (FORM, b"&&&===%%%", 200),
        (FORM, b"\xff\xfe=%ff%00", 200),
        (FORM, b"username=%ed%a0%80", 200),
        (FORM, b"a=1&" * 101, 400),
        (f"{FORM}; charset=utf-16", b"username=a", 400),
        (MULTIPART, b"", 200),
        (MULTIPART, b"garbage", 400),
        (MULTIPART, part(b"\xff\xfe"), 200),
        (MULTIPART, part(b"a" * 2_000_000), 413),
        (MULTIPART, part(b"a", b"\xff\x00"), 200),
        (MULTIPART, part(b"a").replace(b"name", b"nom"), 400),
        ("multipart/form-data", b"--x", 400),
        (f"{MULTIPART}; charset=UTF-8", part(b"a"), 200),
        (f"{MULTIPART}; charset=nonsense", part(b"a"), 400),
        (f"{MULTIPART}; charset=punycode", part(b"a"), 400),
        (f"{MULTIPART}; charset=undefined", part(b"a"), 400),
        (f"{MULTIPART}; charset=utf-7", part(b"+2AA-"), 400),
        (f"{MULTIPART}; charset=unicode_escape", part(rb"\ud800"), 400),
        ("text/plain", b"username=alice", 200),
        ("application/xml", b"<username/>", 200),
        ("application/jsonp", b"{}", 200),
        (";;;=", b"username=alice", 200),
        ("", b"username=alice", 200),
        (None, b"username=alice", 200),
    ],
)
async def test_bodies(
    stranger: Browser, content_type: str | None, body: bytes, status: int
) -> None:
    """A body without our fields is a form that failed; one that does not parse is 400."""
    answer = await raw(stranger, content_type, body)
    assert answer.status_code == status, answer.text
    assert status >= 400 or codes(answer) == ["csrf_failed"]


async def test_a_form_without_its_fields(stranger: Browser) -> None:
    """With the CSRF token and nothing else, name and password are asked for."""
    token = csrf_of(await stranger.get(LOGIN))
    page = await stranger.post(LOGIN, data={"csrf_token": token})
    assert codes(page) == ["username_required", "password_required"]


async def test_a_field_twice(browser: Browser, sessions: Sessions, device: TOTPDevice) -> None:
    """Of a field that comes twice one is taken, and no other is tried."""
    token = csrf_of(await browser.get(LOGIN))
    fields = {"csrf_token": token, "username": "alice", "password": PASSWORD}
    page = await browser.post(LOGIN, data={**fields, "otp_token": ["000000", totp_token()]})
    assert codes(page) == ["invalid_token"]
    await assert_nothing_changed(browser, sessions, device)


@pytest.mark.parametrize(
    "cookie",
    ["", "x", "a.b.c", "e30=.x.y", "\u00ff".encode().hex(), "9" * 4000, "eyJvdHBfc2Vzc2lvbiI6MX0="],
)
async def test_a_forged_cookie_is_nobodys(stranger: Browser, cookie: str) -> None:
    """A cookie that we did not make is as good as none, and costs no SQL."""
    headers = {"cookie": f"session={cookie}; otp_session={cookie}"}
    state = (await stranger.get("/state", headers=headers)).json()
    assert (state["authenticated"], state["scopes"]) == (False, [])
    assert (await stranger.get(LOGIN, headers=headers)).status_code == 200
