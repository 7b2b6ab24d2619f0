"""Recovery codes on their page: shown once, and in force once they are saved."""

import html
import re
from urllib.parse import unquote

from starlette_otp import OTP
from starlette_otp.models import User
from tests.account.pages import codes_of, enter, follow, heading, press, visit, words
from tests.support import Sessions, csrf_of, make_static, make_totp, verified_by

PAGE = "/account/recovery-codes"


async def test_made_anew(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Asked twice; the old ones are good until the new ones are saved, and then no more."""
    device, old = await make_static(sessions, alice, *[None] * 3)
    browser = await enter(otp, alice, device)
    page = await visit(browser, PAGE)
    assert "Only 3 recovery codes left" in words(page)
    assert codes_of(page) == []
    page = await press(browser, page, new="1")
    assert "Your 3 codes stop working" in words(page)
    assert codes_of(page) == []
    page = await press(browser, page, sure="1")
    codes = codes_of(page)
    assert len(set(codes)) == 10
    assert await otp.match_token(alice, old[0]) is not None
    page = await follow(browser, await press(browser, page, saved="1"))
    assert "10 left" in words(page)
    assert await otp.match_token(alice, old[1]) is None
    assert await otp.match_token(alice, codes[0]) == device
    assert await browser.state() == verified_by(device)


async def test_a_reload_makes_none(otp: OTP, sessions: Sessions, alice: User) -> None:
    """GET never does, whatever its query; what waits goes on waiting."""
    device = await make_totp(sessions, alice)
    browser = await enter(otp, alice, device)
    page = await press(browser, await visit(browser, PAGE), new="1")
    assert len(codes_of(page)) == 10
    waiting = await otp.devices_for_user(alice, confirmed=False)
    for query in ("", "?new=1&sure=1"):
        again = await visit(browser, PAGE + query)
        assert codes_of(again) == []
    assert await otp.devices_for_user(alice, confirmed=False) == waiting
    answer = await press(browser, page, saved="1")
    assert answer.headers["location"] == "/account/?done=codes"
    assert await otp.match_token(alice, codes_of(page)[0]) is not None


async def test_they_come_with_a_device(otp: OTP, alice: User) -> None:
    """Alone they would be all that lets their owner in, until none is left."""
    browser = await enter(otp, alice)
    page = await visit(browser, PAGE)
    assert "They come with your first device" in words(page)
    csrf = csrf_of(await visit(browser, "/account/sessions"))
    page = await browser.post(PAGE, data={"csrf_token": csrf, "new": "1", "sure": "1"})
    assert codes_of(page) == []
    assert await otp.devices_for_user(alice, confirmed=None) == []


async def test_saved_twice(otp: OTP, sessions: Sessions, alice: User) -> None:
    """The second click changes nothing, and says how many there are."""
    device = await make_totp(sessions, alice)
    browser = await enter(otp, alice, device)
    page = await press(browser, await visit(browser, PAGE), new="1")
    await press(browser, page, saved="1")
    again = await press(browser, page, saved="1")
    assert "You have 10 that work" in words(again)
    assert await otp.match_token(alice, codes_of(page)[0]) is not None


async def test_another_users_codes(otp: OTP, sessions: Sessions, alice: User, bob: User) -> None:
    """What waits for bob is not alice's to put in force."""
    theirs, _ = await otp.recovery_codes.prepare(bob)
    browser = await enter(otp, alice, await make_totp(sessions, alice))
    csrf = csrf_of(await visit(browser, PAGE))
    data = {"csrf_token": csrf, "saved": "1", "device": theirs.persistent_id}
    assert heading(await browser.post(PAGE, data=data)) == "Recovery codes"
    assert await otp.recovery_codes_left(bob) == 0
    for garbage in ("", "x", "static/" + "9" * 5000, "a\0b"):
        data["device"] = garbage
        assert (await browser.post(PAGE, data=data)).status_code == 200


async def test_the_file(otp: OTP, sessions: Sessions, alice: User) -> None:
    """The link to it has it inside: no second request, which would have to make them anew."""
    browser = await enter(otp, alice, await make_totp(sessions, alice))
    page = await press(browser, await visit(browser, PAGE), new="1")
    link = re.search(r'<a href="data:text/plain;charset=utf-8,([^"]*)" download="', page.text)
    assert link
    text = unquote(html.unescape(link[1]))
    assert text.splitlines()[0] == "Recovery codes of alice for site.example"
    assert [line for line in text.splitlines() if line in codes_of(page)] == codes_of(page)


async def test_a_stale_form(otp: OTP, sessions: Sessions, alice: User) -> None:
    """It makes none."""
    browser = await enter(otp, alice, await make_totp(sessions, alice))
    answer = await browser.post(PAGE, data={"csrf_token": "stale", "new": "1"})
    assert "could not be checked" in words(answer)
    assert codes_of(answer) == []


async def test_removed(otp: OTP, sessions: Sessions, alice: User) -> None:
    """As any device; the page says what they are to the account."""
    device, _ = await make_static(sessions, alice, None)
    browser = await enter(otp, alice, device)
    page = await visit(browser, f"/account/devices/{device.persistent_id}/remove")
    assert "All recovery codes of yours stop working" in words(page)
    assert "the last thing besides your password" in words(page)
    await press(browser, page)
    assert await otp.recovery_codes_left(alice) == 0
