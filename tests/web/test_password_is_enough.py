"""`OTP(password_is_enough=True)`: the password begins a session, the token then verifies it."""

from typing import Any

import pytest
from starlette.requests import Request

from starlette_otp import OTP
from starlette_otp.models import Device, User
from tests.support import (
    ANONYMOUS,
    AUTHENTICATED,
    PASSWORD,
    SECRET_KEY,
    Browser,
    CodesView,
    OnePageView,
    Sessions,
    codes,
    make_app,
    make_totp,
    totp_token,
    verified_by,
)

LOGIN = "/account/login"


@pytest.fixture
def app(sessions: Sessions) -> Any:
    otp = OTP(sessions, Device, secret_key=SECRET_KEY, password_is_enough=True)
    return make_app(otp, login_view=CodesView)


async def enter(browser: Browser, url: str = LOGIN, **fields: str) -> Any:
    """Submit the first page."""
    return await browser.submit(url, **{"username": "alice", "password": PASSWORD, **fields})


async def test_then_authenticated_the_token(app: Any, sessions: Sessions, alice: User) -> None:
    """The password makes the session authenticated, the token verifies it; each renews it."""
    device = await make_totp(sessions, alice)
    async with Browser(app) as browser:
        answer = await enter(browser)
        assert answer.status_code == 303
        assert await browser.state() == AUTHENTICATED
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


async def test_all_three_at_once_verify_at_once(app: Any, sessions: Sessions, alice: User) -> None:
    """Who brings the token, too, is verified in one go; a wrong one leaves them anonymous."""
    device = await make_totp(sessions, alice)
    async with Browser(app) as browser:
        answer = await browser.log_in(totp_token())
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert await browser.state() == verified_by(device)
    async with Browser(app) as browser:
        assert codes(await browser.log_in("000000")) == ["invalid_token"]
        assert await browser.state() == ANONYMOUS
        page = await browser.submit(LOGIN, otp_way=device.persistent_id, otp_token="")
        assert (codes(page), 'type="password"' in page.text) == ([], False)


async def test_the_one_page_needs_no_token(otp: OTP, sessions: Sessions, alice: User) -> None:
    """The page with all three fields begins a session without a token, too."""
    await make_totp(sessions, alice)
    otp.password_is_enough = True
    async with Browser(make_app(otp, login_view=OnePageView)) as browser:
        assert 'name="otp_token"' in (await browser.get(LOGIN)).text
        assert codes(await browser.log_in(password="wrong")) == ["invalid_login"]
        assert (await browser.log_in()).headers["location"] == f"{LOGIN}?next=%2F"
        assert await browser.state() == AUTHENTICATED


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
    """Who has no confirmed device is authenticated by the password, and on the way to `next`.

    For what wants a token they are not asked for one, but led to where a device is set up.
    """
    if confirmed is not None:
        await make_totp(sessions, alice, confirmed=confirmed)
    async with Browser(app) as browser:
        answer = await enter(browser, f"{LOGIN}?next=/vault")
        assert (answer.status_code, answer.headers["location"]) == (303, "/vault")
        assert (await browser.state())["scopes"] == ["authenticated"]
        back = (await browser.get("/vault")).headers["location"]
        answer = await browser.get(back)
        assert answer.headers["location"] == "/account/devices/add?next=%2Fvault"
        assert (
            "What do you want to sign in with"
            in (await browser.get(answer.headers["location"])).text
        )


async def test_a_user_who_goes_meanwhile_is_no_error(sessions: Sessions) -> None:
    """A user deleted between the check of the password and what follows is told so, not 500."""

    async def authenticate(request: Request, username: str, password: str) -> User:
        return User(id=4711, username=username)

    for is_enough in (True, False):
        otp = OTP(
            sessions,
            Device,
            secret_key=SECRET_KEY,
            authenticate=authenticate,
            password_is_enough=is_enough,
        )
        async with Browser(make_app(otp, login_view=CodesView)) as browser:
            page = await enter(browser)
            assert codes(page)[-1] == "invalid_login"
            assert 'type="password"' in page.text
            assert not (await browser.state())["authenticated"]
