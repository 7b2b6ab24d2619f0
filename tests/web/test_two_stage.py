"""`two_stage`: the password's page first; then, authenticated, the token's."""

from typing import Any

import pytest
from starlette.requests import Request

from starlette_otp import OTP
from starlette_otp.models import Device, User
from tests.support import (
    PASSWORD,
    SECRET_KEY,
    Browser,
    CodesView,
    Sessions,
    codes,
    make_app,
    make_totp,
    totp_token,
)

LOGIN = "/account/login"


class TwoStageView(CodesView):
    two_stage = True


@pytest.fixture
def app(otp: OTP) -> Any:
    return make_app(otp, login_view=TwoStageView)


async def enter(browser: Browser, url: str = LOGIN, **fields: str) -> Any:
    """Submit the first page."""
    return await browser.submit(url, **{"username": "alice", "password": PASSWORD, **fields})


async def test_the_password_comes_first(app: Any) -> None:
    """The first page asks for name and password, which can be typed, and for nothing else."""
    async with Browser(app) as browser:
        page = (await browser.get(LOGIN)).text
    assert 'name="username"' in page
    assert 'name="password"' in page
    assert "otp_token" not in page
    assert "otp_challenge" not in page
    assert "readonly" not in page


async def test_then_authenticated_the_token(app: Any, sessions: Sessions, alice: User) -> None:
    """The password makes the session authenticated, the token verifies it; each renews it."""
    device = await make_totp(sessions, alice)
    async with Browser(app) as browser:
        answer = await enter(browser)
        assert answer.status_code == 303
        assert await browser.state() == {
            "authenticated": True,
            "verified": False,
            "device": None,
            "scopes": ["authenticated"],
        }
        assert (await browser.get("/vault")).status_code == 303
        first = browser.cookie
        page = await browser.get(answer.headers["location"])
        assert 'name="otp_token"' in page.text
        assert 'name="password"' not in page.text
        assert "Signed in as alice." in page.text
        answer = await browser.submit(str(page.url), otp_token=totp_token())
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert (await browser.state())["device"] == device.persistent_id
        async with Browser(app, cookies={"otp_session": first}) as thief:
            assert not (await thief.state())["verified"]


@pytest.mark.parametrize(
    ("url", "fields", "location"),
    [
        (LOGIN, {}, "/"),
        (f"{LOGIN}?next=/vault%3Fa%3D1%26b%3D2", {}, "/vault?a=1&b=2"),
        (LOGIN, {"next": "/vault?a=1&b=2"}, "/vault?a=1&b=2"),
        (f"{LOGIN}?next=//elsewhere", {}, "/"),
        (LOGIN, {"next": "//elsewhere"}, "/"),
    ],
)
async def test_next_survives_both_pages(
    app: Any, sessions: Sessions, alice: User, url: str, fields: dict[str, str], location: str
) -> None:
    """`next` leads on after the second page, whether it came in the query or in the body."""
    await make_totp(sessions, alice)
    async with Browser(app) as browser:
        answer = await enter(browser, url, **fields)
        second = answer.headers["location"]
        assert second.startswith(LOGIN)
        assert codes(await browser.submit(second)) == ["token_required"]
        answer = await browser.submit(second, otp_token=totp_token())
        assert (answer.status_code, answer.headers["location"]) == (303, location)


@pytest.mark.parametrize("confirmed", [None, False])
async def test_a_user_without_a_device_goes_straight_on(
    app: Any, sessions: Sessions, alice: User, confirmed: bool | None
) -> None:
    """Who has no confirmed device is authenticated by the password, and on the way to `next`."""
    if confirmed is not None:
        await make_totp(sessions, alice, confirmed=confirmed)
    async with Browser(app) as browser:
        answer = await enter(browser, f"{LOGIN}?next=/vault")
        assert (answer.status_code, answer.headers["location"]) == (303, "/vault")
        assert (await browser.state())["scopes"] == ["authenticated"]
        back = (await browser.get("/vault")).headers["location"]
        assert "No device is set up for your account." in (await browser.get(back)).text


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"password": "wrong"}, ["invalid_login"]),
        ({"username": "nobody"}, ["invalid_login"]),
        ({"username": "", "password": ""}, ["username_required", "password_required"]),
        ({"csrf_token": "wrong"}, ["csrf_failed"]),
    ],
)
async def test_the_first_page_has_its_codes(
    app: Any, alice: User, fields: dict[str, str], expected: list[str]
) -> None:
    """A wrong password leaves the session anonymous, and is never written back."""
    async with Browser(app) as browser:
        page = await enter(browser, **fields)
        assert codes(page) == expected
        assert PASSWORD not in page.text
        assert not (await browser.state())["authenticated"]


async def test_a_user_who_goes_meanwhile_is_no_error(sessions: Sessions) -> None:
    """A user deleted between the check of the password and the session is told so, not 500."""

    async def authenticate(request: Request, username: str, password: str) -> User:
        return User(id=4711, username=username)

    otp = OTP(sessions, Device, secret_key=SECRET_KEY, authenticate=authenticate)
    async with Browser(make_app(otp, login_view=TwoStageView)) as browser:
        assert codes(await enter(browser)) == ["invalid_login"]
        assert not (await browser.state())["authenticated"]
