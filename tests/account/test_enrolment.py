"""People set up an authenticator app by themselves: begun, confirmed, given up."""

import asyncio
import time
from base64 import b32encode, b64decode
from typing import Any

import pytest
import time_machine
from sqlalchemy import select

from starlette_otp import OTP, oath, otp_device_added
from starlette_otp.models import Device, HOTPDevice, TOTPDevice, User
from tests.account.pages import (
    ADD_TOTP,
    ROOT,
    app_token,
    codes_of,
    enter,
    follow,
    heading,
    key_of,
    press,
    visit,
    words,
)
from tests.support import (
    Browser,
    Sessions,
    csrf_of,
    make_app,
    make_static,
    make_totp,
    reload,
    totp_token,
    verified_by,
)

NOON = "2031-05-04T12:00Z"


async def devices(sessions: Sessions) -> list[Any]:
    async with sessions() as session:
        return list(await session.scalars(select(Device).order_by(Device.id)))


async def test_the_first_device(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Key, token, recovery codes: the session is verified by it, and the token is spent."""
    told = []

    def added(sender: Any, user: Any, device: Any) -> None:
        told.append(device.kind)

    browser = await enter(otp, alice)
    page = await visit(browser, ADD_TOTP)
    assert "<svg" in page.text
    assert "alice" in words(page)
    token = app_token(key_of(page), time.time())
    with otp_device_added.connected_to(added):
        page = await press(browser, page, otp_token=token, name="  My   phone ")
        assert heading(page) == "Save your recovery codes"
        codes = codes_of(page)
        assert len(set(codes)) == 10
        assert page.headers["cache-control"] == "no-store"
        device, waiting = await devices(sessions)
        assert (device.confirmed, device.name, waiting.confirmed) == (True, "My phone", False)
        assert await browser.state() == verified_by(device)
        assert await otp.verify_token(alice, device.persistent_id, token) is None
        assert await otp.match_token(alice, codes[0]) is None
        page = await follow(browser, await press(browser, page, saved="I saved them"))
    assert told == ["totp", "static"]
    assert await otp.match_token(alice, codes[0]) is not None
    assert "Authenticator app · My phone" in words(page)
    assert "9 left" in words(await visit(browser, ROOT))


async def test_one_device_waits_however_often_they_come_back(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """A reload, a second tab and the way over the overview show the same key; Cancel ends it."""
    browser = await enter(otp, alice)
    page = await visit(browser, ADD_TOTP)
    key = key_of(page)
    assert key_of(await visit(browser, ADD_TOTP)) == key
    assert key_of(await visit(browser, str(page.request.url))) == key
    assert "not confirmed yet" in words(await visit(browser, ROOT))
    [device] = await devices(sessions)
    remove = await browser.get(f"/account/devices/{device.persistent_id}/remove")
    page = await follow(browser, await press(browser, remove))
    assert "Nothing was added." in words(page)
    assert await devices(sessions) == []
    assert key_of(await visit(browser, ADD_TOTP)) != key


async def test_a_key_is_shown_to_the_browser_that_began_it(otp: OTP, alice: User) -> None:
    """Who has the password, too, is neither shown the owner's key nor given theirs for it."""
    owner, thief = await enter(otp, alice), await enter(otp, alice)
    theirs = await visit(thief, ADD_TOTP)
    page = await visit(owner, ADD_TOTP)
    assert key_of(page) != key_of(theirs)
    seen = await visit(thief, str(page.request.url))
    assert seen.status_code == 200
    assert "<code>" not in seen.text
    assert "<svg" not in seen.text
    assert "otpauth:" not in seen.text


async def test_no_secret_travels(otp: OTP, alice: User) -> None:
    """Neither in a cookie nor in a field: the key is on the page, and in the row."""
    browser = await enter(otp, alice)
    page = await visit(browser, ADD_TOTP)
    plain = b32encode(key_of(page)).decode().rstrip("=")
    for name, cookie in browser.cookies.items():
        assert plain not in cookie, name
    hosts = b64decode(browser.cookies["session"].partition(".")[0] + "==")
    assert b"otp_csrf" in hosts
    assert plain.encode() not in hosts
    assert f'value="{plain}' not in page.text


async def test_a_wrong_code(otp: OTP, sessions: Sessions, alice: User) -> None:
    """It says so, counts, and shows the same key again; an empty one is none."""
    browser = await enter(otp, alice)
    page = await visit(browser, ADD_TOTP)
    again = await press(browser, page, otp_token="")
    assert "Please enter the code." in words(again)
    again = await press(browser, page, otp_token="000000", name="Phone")
    assert "That code is not right" in words(again)
    assert 'value="Phone"' in again.text
    assert key_of(again) == key_of(page)
    again = await press(browser, again, otp_token="000000")
    assert "too many wrong codes" in words(again)
    [device] = await devices(sessions)
    assert (device.confirmed, device.throttling_failure_count) == (False, 1)
    for name in ("x" * 65, "a\u202eb", "\x1b[2J"):
        again = await press(browser, page, otp_token="123456", name=name)
        assert "at most 64 characters, all of them visible" in words(again)
    assert (await reload(sessions, device)).throttling_failure_count == 1


async def test_too_late(otp: OTP, sessions: Sessions, alice: User) -> None:
    """After ten minutes the page says to begin anew, whatever is done on it."""
    with time_machine.travel(NOON, tick=False) as clock:
        browser = await enter(otp, alice)
        page = await visit(browser, ADD_TOTP)
        clock.shift(200)
        await browser.get("/enter")
        page = await visit(browser, ADD_TOTP)
        key = key_of(page)
        clock.shift(420)
        await browser.get("/enter")
        page = await visit(browser, str(page.request.url))
        assert (page.status_code, heading(page)) == (410, "That took too long")
        assert key_of(await visit(browser, ADD_TOTP)) != key


async def test_a_form_that_is_sent_too_late(otp: OTP, alice: User) -> None:
    """The right token of a device that has expired meanwhile confirms nothing."""
    with time_machine.travel(NOON, tick=False) as clock:
        browser = await enter(otp, alice)
        page = await visit(browser, ADD_TOTP)
        clock.shift(600)
        # Signed in again in another tab, in the same browser: the host's session goes on.
        await browser.get("/enter")
        csrf = csrf_of(await visit(browser, "/account/sessions"))
        token = app_token(key_of(page), time.time())
        answer = await browser.post(
            str(page.request.url), data={"csrf_token": csrf, "otp_token": token}
        )
        assert (answer.status_code, heading(answer)) == (410, "That took too long")


async def test_confirmed_again(otp: OTP, sessions: Sessions, alice: User) -> None:
    """The second of two clicks goes on as the first; later there is nothing more to do."""
    with time_machine.travel(NOON, tick=False) as clock:
        browser = await enter(otp, alice)
        page = await visit(browser, ADD_TOTP)
        token = app_token(key_of(page), time.time())
        first = await press(browser, page, otp_token=token)
        assert heading(first) == "Save your recovery codes"
        second = await press(browser, page, otp_token=token)
        assert second.headers["location"] == "/account/recovery-codes"
        codes = await otp.devices_for_user(alice, confirmed=False)
        clock.shift(60)
        again = await press(browser, page, otp_token=token)
        assert heading(again) == heading(await visit(browser, str(page.request.url)))
        assert heading(again) == "This device is set up already"
        # Codes that wait are not made anew by any of it.
        assert await otp.devices_for_user(alice, confirmed=False) == codes
        device, _ = await devices(sessions)
        assert device.throttling_failure_count == 0


async def test_two_clicks_at_once(otp: OTP, sessions: Sessions, alice: User) -> None:
    """One confirms and shows the codes, and the other leads to them; neither is an error."""
    browser = await enter(otp, alice)
    page = await visit(browser, ADD_TOTP)
    token = app_token(key_of(page), time.time())
    answers = await asyncio.gather(
        press(browser, page, otp_token=token), press(browser, page, otp_token=token)
    )
    codes, other = sorted(answers, key=lambda answer: answer.status_code)
    assert len(codes_of(codes)) == 10
    assert other.headers["location"] == "/account/recovery-codes"
    device, _ = await devices(sessions)
    assert (device.confirmed, device.throttling_failure_count) == (True, 0)


async def test_the_second_click_comes_after_the_first_was_answered(otp: OTP, alice: User) -> None:
    """It brings the session's token of before, and leads on to the codes like the first."""
    browser = await enter(otp, alice)
    page = await visit(browser, ADD_TOTP)
    token = app_token(key_of(page), time.time())
    before = dict(browser.cookies)
    assert len(codes_of(await press(browser, page, otp_token=token))) == 10
    assert browser.cookie != before["otp_session"]
    again = Browser(make_app(otp), cookies=before)
    answer = await press(again, page, otp_token=token)
    assert answer.headers["location"] == "/account/recovery-codes"
    assert not (await again.state())["verified"]
    answer = await press(again, page, otp_token="123456")
    assert answer.headers["location"].startswith("/account/login")


async def test_a_device_that_went_meanwhile(otp: OTP, alice: User) -> None:
    """Removed in another browser: the page that is still open says so."""
    browser = await enter(otp, alice)
    page = await visit(browser, ADD_TOTP)
    [device] = await otp.devices_for_user(alice, confirmed=False)
    await otp.remove_device(alice, device.persistent_id)
    answer = await press(browser, page, otp_token="123456")
    assert (answer.status_code, heading(answer)) == (404, "There is nothing here")


async def test_a_stale_form(otp: OTP, sessions: Sessions, alice: User) -> None:
    """One without this session's CSRF token confirms nothing, and shows the page again."""
    browser = await enter(otp, alice)
    page = await visit(browser, ADD_TOTP)
    token = app_token(key_of(page), time.time())
    answer = await browser.post(
        str(page.request.url), data={"csrf_token": "stale", "otp_token": token}
    )
    assert "could not be checked" in words(answer)
    assert key_of(answer) == key_of(page)
    [device] = await devices(sessions)
    assert (device.confirmed, device.throttling_failure_count) == (False, 0)


async def test_a_second_device(otp: OTP, sessions: Sessions, alice: User) -> None:
    """With recovery codes there already the overview comes next; what verified stays."""
    first = await make_totp(sessions, alice)
    await make_static(sessions, alice, None)
    browser = await enter(otp, alice, first)
    page = await visit(browser, ADD_TOTP + "&name=Tablet")
    token = app_token(key_of(page), time.time())
    answer = await press(browser, page, otp_token=token, name="Tablet")
    assert answer.headers["location"] == "/account/?done=added"
    page = await follow(browser, answer)
    assert "Your device was added." in words(page)
    assert "sign out other browsers" in words(page)
    assert await browser.state() == verified_by(first)


async def test_too_many_at_once(otp: OTP, alice: User) -> None:
    """Who has begun five elsewhere is told, and can give one up."""
    browser = await enter(otp, alice)
    for _ in range(5):
        await otp.add_device(alice, TOTPDevice(confirmed=False))
    page = await visit(browser, ADD_TOTP)
    assert (page.status_code, heading(page)) == (409, "Too many devices are waiting")
    assert words(await visit(browser, ROOT)).count("Cancel") == 5


async def test_what_is_offered(otp: OTP, alice: User) -> None:
    """Apps, and mail where there is a mailer; no hardware tokens, no codes, nothing unknown."""
    browser = await enter(otp, alice)
    page = await visit(browser, "/account/devices/add")
    assert "Authenticator app" in words(page)
    for word in ("generator", "Recovery", "Email"):
        assert word not in words(page)
    for kind in ("hotp", "static", "email", "x", ""):
        page = await visit(browser, f"/account/devices/add?kind={kind}")
        assert heading(page) == "Add a device"
    assert await otp.devices_for_user(alice, confirmed=None) == []


async def test_a_hardware_token_from_staff(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Its owner confirms it with its first token; its key is not for them to see."""
    device = await otp.add_device(alice, HOTPDevice(confirmed=False, secret=b"1" * 20))
    browser = await enter(otp, alice)
    page = await visit(browser, f"/account/devices/{device.persistent_id}/confirm")
    assert "<code>" not in page.text
    await press(browser, page, otp_token=oath.hotp(b"1" * 20, 0))
    assert (await reload(sessions, device)).confirmed


async def test_another_users_device(otp: OTP, sessions: Sessions, alice: User, bob: User) -> None:
    """Whatever the id, there is nothing, and nothing changes."""
    theirs = await make_totp(sessions, bob)
    waiting = await otp.add_device(bob, TOTPDevice(confirmed=False, secret=b"2" * 20))
    browser = await enter(otp, alice)
    csrf = csrf_of(await visit(browser, "/account/sessions"))
    ids = [theirs.persistent_id, waiting.persistent_id, "totp/0", "totp/x", "x/1", "totp/%00"]
    for device_id in [*ids, "totp/" + "9" * 5000]:
        for action in ("confirm", "rename", "remove"):
            url = f"/account/devices/{device_id}/{action}"
            token = totp_token() if device_id == ids[0] else totp_token(b"2" * 20)
            data = {"csrf_token": csrf, "name": "mine", "otp_token": token}
            assert (await browser.get(url)).status_code == 404
            assert (await browser.post(url, data=data)).status_code == 404
    for device in (theirs, waiting):
        stored = await reload(sessions, device)
        assert (stored.name, stored.confirmed) == ("", device is theirs)
        assert stored.throttling_failure_count == 0


async def test_the_way_back_is_kept(otp: OTP, alice: User) -> None:
    """`next` goes along to the end; one of another site does not."""
    browser = await enter(otp, alice)
    page = await visit(browser, ADD_TOTP + "&next=/vault")
    page = await press(browser, page, otp_token=app_token(key_of(page), time.time()))
    answer = await press(browser, page, saved="1")
    assert answer.headers["location"] == "/vault"
    page = await visit(browser, ADD_TOTP + "&next=https://elsewhere.example/")
    assert "elsewhere" not in str(page.request.url)


@pytest.mark.parametrize("path", ["", "devices/add?kind=totp", "sessions", "password"])
async def test_anonymous_meets_the_log_in(otp: OTP, alice: User, path: str) -> None:
    """And comes back to the page."""
    browser = await enter(otp, alice)
    browser.cookies.clear()
    answer = await browser.get(f"{ROOT}{path}")
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/account/login?next=%2Faccount%2F")
    assert (await browser.get(f"{ROOT}{path}", headers={"accept": "*/*"})).status_code == 401


async def test_without_the_pages(otp: OTP) -> None:
    """`account=False` leaves them out."""
    assert {route.path for route in otp.routes(account=False)} == {"/login", "/logout", "/static"}
