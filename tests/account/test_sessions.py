"""Sessions, password and the removal of devices, on their pages."""

import sys
from typing import Any

import pytest

from starlette_otp import OTP
from starlette_otp.account import words as account_words
from starlette_otp.models import OTPSession, User
from tests.account.pages import ROOT, enter, follow, heading, press, visit, words
from tests.support import (
    ANONYMOUS,
    HTML,
    PASSWORD,
    Sessions,
    csrf_of,
    make_static,
    make_totp,
    reload,
    verified_by,
)

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like "
    "Gecko) Version/18.0 Mobile/15E148 Safari/604.1"
)
NEW = "another good password"


def by(agent: str) -> Any:
    return {**HTML, "user-agent": agent}


async def test_where_they_are_signed_in(otp: OTP, sessions: Sessions, alice: User) -> None:
    """This browser first and marked, each by its name, and what verified it."""
    device = await make_totp(sessions, alice, name="Phone")
    here = await enter(otp, alice, device, headers=by(FIREFOX))
    await enter(otp, alice, None, headers=by(IPHONE))
    await enter(otp, alice, None, headers=by("x" * 300))
    said = words(await visit(here, "/account/sessions"))
    assert (
        "Firefox on Linux This browser Signed in just now, with Authenticator app · Phone" in said
    )
    assert "Mobile Safari on iOS Signed in just now, last seen just now Sign out" in said
    assert "x" * 80 in said
    assert "x" * 81 not in said


async def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser is called what it calls itself."""
    account_words._browser.cache_clear()
    monkeypatch.setitem(sys.modules, "ua_parser", None)
    assert await account_words.browsers([FIREFOX, ""]) == [FIREFOX[:80], "Unknown browser"]
    account_words._browser.cache_clear()


async def test_one_is_ended(otp: OTP, sessions: Sessions, alice: User, bob: User) -> None:
    """Another's stays, and one that has ended already says so."""
    device = await make_totp(sessions, alice)
    here, there = await enter(otp, alice, device), await enter(otp, alice, device)
    elsewhere = await enter(otp, bob)
    csrf = {"csrf_token": csrf_of(await visit(here, "/account/sessions"))}
    answer = await here.post("/account/sessions/2/end", data=csrf)
    assert "That browser was signed out." in words(await follow(here, answer))
    assert await there.state() == ANONYMOUS
    assert await here.state() == verified_by(device)
    for wrong in ("2", "3", "0", "x", "9" * 5000, "-1"):
        answer = await here.post(f"/account/sessions/{wrong}/end", data=csrf)
        assert (answer.status_code, heading(answer)) == (404, "That browser is signed out already")
    assert (await elsewhere.state())["authenticated"]
    assert (await here.get("/account/sessions/1/end")).status_code == 405


async def test_this_one_is_ended(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Which is a log-out."""
    here = await enter(otp, alice, await make_totp(sessions, alice))
    page = await visit(here, "/account/sessions")
    answer = await press(here, page)
    assert answer.headers["location"] == "/account/login"
    assert await here.state() == ANONYMOUS


async def test_all_others_are_ended(otp: OTP, sessions: Sessions, alice: User) -> None:
    """By a form that this session's pages have; a stale one ends none."""
    device = await make_totp(sessions, alice)
    here, there = await enter(otp, alice, device), await enter(otp, alice, device)
    answer = await here.post("/account/sessions/end-others", data={"csrf_token": "stale"})
    assert "could not be checked" in words(answer)
    assert await there.state() == verified_by(device)
    csrf = {"csrf_token": csrf_of(await visit(here, "/account/sessions"))}
    page = await follow(here, await here.post("/account/sessions/end-others", data=csrf))
    assert "signed out everywhere else" in words(page)
    assert await there.state() == ANONYMOUS
    assert await here.state() == verified_by(device)


async def test_a_new_password(otp: OTP, sessions: Sessions, alice: User) -> None:
    """With a device nothing else is asked; the others end."""
    device = await make_totp(sessions, alice)
    here, there = await enter(otp, alice, device), await enter(otp, alice, device)
    page = await visit(here, "/account/password")
    assert 'name="current_password"' not in page.text
    for wrong, said in [("", "enter a new password"), ("short", "8 to 1024 characters")]:
        page = await press(here, page, password=wrong)
        assert said in words(page)
    page = await follow(here, await press(here, page, password=NEW))
    assert "Your password was changed" in words(page)
    assert (await reload(sessions, alice)).check_password(NEW)
    assert await here.state() == verified_by(device)
    assert await there.state() == ANONYMOUS


async def test_a_new_password_without_a_device(otp: OTP, sessions: Sessions, alice: User) -> None:
    """The one of now is asked for, however young the session is."""
    here, there = await enter(otp, alice), await enter(otp, alice)
    page = await visit(here, "/account/password")
    for wrong, said in [("", "Please enter your password"), ("wrong", "not your password")]:
        page = await press(here, page, password=NEW, current_password=wrong)
        assert said in words(page)
        assert NEW not in page.text
    assert (await reload(sessions, alice)).check_password(PASSWORD)
    answer = await press(here, page, password=NEW, current_password=PASSWORD)
    assert answer.headers["location"] == "/account/?done=password"
    assert (await reload(sessions, alice)).check_password(NEW)
    assert (await here.state())["authenticated"]
    assert await there.state() == ANONYMOUS


async def test_a_device_is_removed(otp: OTP, sessions: Sessions, alice: User) -> None:
    """After a question, which says what is left; a second click finds nothing."""
    phone = await make_totp(sessions, alice, name="Phone")
    tablet = await make_totp(sessions, alice, name="Tablet", secret=b"3" * 20)
    browser = await enter(otp, alice, phone)
    page = await visit(browser, f"/account/devices/{tablet.persistent_id}/remove")
    assert "You can go on signing in with Authenticator app · Phone" in words(page)
    assert await reload(sessions, tablet) is not None
    after = await follow(browser, await press(browser, page))
    assert "The device was removed." in words(after)
    assert await reload(sessions, tablet) is None
    again = await press(browser, page)
    assert (again.status_code, heading(again)) == (404, "There is nothing here")


@pytest.mark.parametrize(
    ("codes", "said"), [(0, "the last thing besides your password"), (2, "only your 2 recovery")]
)
async def test_the_last_device(
    otp: OTP, sessions: Sessions, alice: User, codes: int, said: str
) -> None:
    """The question says what it means, with recovery codes and without."""
    phone = await make_totp(sessions, alice)
    if codes:
        await make_static(sessions, alice, *[None] * codes)
    browser = await enter(otp, alice, phone)
    page = await visit(browser, f"/account/devices/{phone.persistent_id}/remove")
    assert said in words(page)
    answer = await press(browser, page)
    assert answer.headers["location"] == "/account/?done=removed"
    assert await otp.user_has_device(alice) is (codes > 0)
    after = await browser.get(answer.headers["location"])
    # Who has codes left is asked for one; who has nothing is told so.
    assert after.status_code == (303 if codes else 200)
    if not codes:
        assert "Only your password protects your account" in words(after)


async def test_rows_of_others_are_not_shown(
    otp: OTP, sessions: Sessions, alice: User, bob: User
) -> None:
    """On the overview of one user is nothing of another's."""
    theirs = await make_totp(sessions, bob, name="Bob's own")
    await enter(otp, bob, theirs, headers=by("a browser of bob's"))
    browser = await enter(otp, alice)
    said = words(await visit(browser, ROOT))
    assert "Bob" not in said
    assert "bob" not in said
    assert (await reload(sessions, OTPSession(id=1))).user_id == bob.id
