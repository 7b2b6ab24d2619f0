"""What the pages say to whom, and where the cursor waits."""

import re
import time

import httpx2
import pytest
import time_machine

from starlette_otp import OTP
from starlette_otp.models import User
from tests.support import (
    Browser,
    OnePageView,
    Sessions,
    codes,
    csrf_of,
    make_app,
    make_static,
    make_totp,
    totp_token,
)

LOGIN, LOGOUT = "/account/login", "/account/logout"


def focused(page: httpx2.Response) -> list[str]:
    """The names of the fields that take the cursor."""
    fields = re.findall(r"<(?:input|select)[^>]*>", page.text)
    named = [re.search(r' name="(\w+)"', field) for field in fields if " autofocus" in field]
    return [found[1] for found in named if found]


@pytest.mark.parametrize(("wrong", "said"), [(1, "1 wrong code. "), (2, "2 wrong codes. ")])
async def test_one_wrong_token_is_one(
    browser: Browser, sessions: Sessions, alice: User, wrong: int, said: str
) -> None:
    """A pause counts the wrong tokens as people do."""
    await make_totp(sessions, alice)
    with time_machine.travel(time.time() // 30 * 30, tick=False) as moving:
        for _ in range(wrong):
            moving.shift(8)
            await browser.log_in("000000")
        page = await browser.log_in(totp_token())
    assert codes(page) == ["n_failed_attempts"]
    assert f"You have to wait after {said}Please try again" in page.text


async def test_the_letters_stay_and_their_link_goes(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """On the page with all three fields a link brings letters to a phone's keyboard; then it is
    gone, and a wrong token leaves the letters."""
    await make_totp(sessions, alice)
    async with Browser(make_app(otp, login_view=OnePageView)) as browser:
        page = await browser.get(f"{LOGIN}?next=/vault")
        assert 'inputmode="numeric"' in page.text
        (link,) = re.findall(r'href="(\?[^"]+)">Keyboard with letters', page.text)
        assert link == "?next=%2Fvault&amp;keyboard=text"
        url = LOGIN + link.replace("&amp;", "&")
        page = await browser.get(url)
        assert ('inputmode="text"' in page.text, "with letters" in page.text) == (True, False)
        page = await browser.log_in("wrong", url)
        assert codes(page) == ["invalid_token"]
        assert 'inputmode="text"' in page.text


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"username": ""}, "username"),
        ({"username": "", "password": ""}, "username"),
        ({"password": ""}, "password"),
        ({"password": "wrong"}, "password"),
        ({}, "otp_token"),
        ({"otp_token": "000000"}, "otp_token"),
        ({"otp_challenge": "1"}, "otp_token"),
    ],
)
async def test_the_cursor_waits_in_the_field_with_the_error(
    browser: Browser, sessions: Sessions, alice: User, fields: dict[str, str], field: str
) -> None:
    """The first field with an error takes the cursor, else the one to fill in next."""
    await make_totp(sessions, alice)
    await make_static(sessions, alice, None)
    assert focused(await browser.get(LOGIN)) == ["username"]
    page = await browser.log_in(fields.pop("otp_token", ""), **fields)
    assert codes(page) != []
    assert focused(page) == [field]


async def test_who_is_signed_in_is_told_and_may_go_on(
    browser: Browser, sessions: Sessions, alice: User
) -> None:
    """The log-in page of somebody signed in names them and leads on, and never off the site."""
    await make_totp(sessions, alice)
    assert "You are signed in" not in (await browser.get(LOGIN)).text
    await browser.log_in(totp_token())
    for wanted, target in (("/vault", "/vault"), ("//elsewhere", "/"), ("", "/")):
        page = (await browser.get(LOGIN, params={"next": wanted})).text
        assert "You are signed in as alice." in page
        assert f'<a href="{target}">Go on</a>' in page
        assert 'name="username"' in page
    assert "Go on" not in (await browser.get(f"{LOGIN}?reverify=1")).text


async def test_a_link_to_log_out_is_a_page_with_the_button(
    browser: Browser, sessions: Sessions, alice: User
) -> None:
    """GET /logout logs nobody out; its button does."""
    await make_totp(sessions, alice)
    await browser.log_in(totp_token())
    page = await browser.get(LOGOUT)
    assert (page.status_code, page.headers["cache-control"]) == (200, "no-store")
    assert '<button type="submit" class="otp-primary">Log out</button>' in page.text
    assert (await browser.state())["verified"]
    gone = await browser.post(LOGOUT, data={"csrf_token": csrf_of(page)})
    assert gone.status_code == 303
    assert not (await browser.state())["authenticated"]
