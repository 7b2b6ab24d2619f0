"""Who may change an account: verified, or with a password, no longer ago than five minutes."""

import re
from typing import Any

import pytest
import time_machine
from sqlalchemy.ext.asyncio import async_sessionmaker
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starlette_otp import OTP, log_in
from starlette_otp.models import Device, TOTPDevice, User
from tests.account.pages import ADD_TOTP, ROOT, enter, follow, heading, key_of, press, visit, words
from tests.hosts import make_host
from tests.support import (
    PASSWORD,
    SECRET_KEY,
    Browser,
    Sessions,
    Statements,
    add,
    door,
    grow_old,
    make_app,
    make_static,
    make_totp,
    reload,
    totp_token,
)

PAGES = ["devices/add", "devices/totp/1/rename", "devices/totp/1/remove", "recovery-codes"]
PAGES += ["sessions", "password"]


@pytest.mark.parametrize("path", PAGES)
async def test_a_verification_of_before(
    otp: OTP, sessions: Sessions, alice: User, path: str
) -> None:
    """Older than five minutes it is asked for anew, before the page is shown, and then the page."""
    device = await make_totp(sessions, alice)
    browser = await enter(otp, alice, device)
    await grow_old(sessions, 290)
    assert (await browser.get(ROOT + path)).status_code == 200
    await grow_old(sessions, 310)
    answer = await browser.get(ROOT + path)
    url = answer.headers["location"]
    assert (answer.status_code, "reverify=1" in url) == (303, True)
    answer = await browser.submit(url, otp_token=totp_token())
    assert answer.headers["location"] == ROOT + path
    assert (await browser.get(ROOT + path)).status_code == 200
    await grow_old(sessions, 10**6)
    assert (await browser.get(ROOT)).status_code == 200


async def test_a_host_sets_the_age(sessions: Sessions, alice: User) -> None:
    """`OTP(reauthenticate_after=)`, in seconds."""
    otp = OTP(sessions, Device, secret_key=SECRET_KEY, reauthenticate_after=60)
    browser = await enter(otp, alice, await make_totp(sessions, alice))
    await grow_old(sessions, 61)
    assert (await browser.get("/account/sessions")).status_code == 303


async def test_a_form_that_is_late(otp: OTP, sessions: Sessions, alice: User) -> None:
    """It changes nothing, and after the token its page is there again."""
    device = await make_totp(sessions, alice)
    browser = await enter(otp, alice, device)
    page = await visit(browser, f"/account/devices/{device.persistent_id}/remove")
    await grow_old(sessions, 310)
    answer = await press(browser, page)
    assert "reverify=1" in answer.headers["location"]
    assert await reload(sessions, device) is not None
    answer = await browser.submit(answer.headers["location"], otp_token=totp_token())
    assert answer.headers["location"] == f"/account/devices/{device.persistent_id}/remove"


@pytest.mark.parametrize("path", ["", *PAGES])
async def test_a_password_alone_is_not_enough(
    otp: OTP, sessions: Sessions, alice: User, path: str
) -> None:
    """Whoever has a confirmed device has to be verified, for the overview, too."""
    await make_totp(sessions, alice)
    browser = await enter(otp, alice)
    answer = await browser.get(ROOT + path)
    assert (answer.status_code, answer.headers["location"][:20]) == (303, "/account/login?next=")


async def test_without_a_device_the_password_is_young(otp: OTP, alice: User) -> None:
    """Else it is asked for once more, and the page comes next; a wrong one counts."""
    with time_machine.travel("2031-05-04T12:00Z", tick=False) as clock:
        browser = await enter(otp, alice)
        assert (await browser.get("/account/sessions")).status_code == 200
        clock.shift(301)
        page = await visit(browser, ADD_TOTP)
        assert heading(page) == "Is it you?"
        assert await otp.devices_for_user(alice, confirmed=None) == []
        page = await press(browser, page, current_password="")
        assert "Please enter your password." in words(page)
        page = await press(browser, page, current_password="wrong")
        assert "not your password" in words(page)
        page = await follow(browser, await press(browser, page, current_password=PASSWORD))
        assert key_of(page)
        program = await browser.get("/account/sessions", headers={"accept": "*/*"})
        assert program.status_code == 200
        clock.shift(301)
        program = await browser.get("/account/sessions", headers={"accept": "*/*"})
        assert (program.status_code, program.json()["code"]) == (403, "reverification_required")


async def test_guesses_at_the_password_wait(otp: OTP, alice: User) -> None:
    """As at a log-in: five are free."""
    browser = await enter(otp, alice)
    page = await visit(browser, "/account/reauthenticate")
    for _ in range(6):
        page = await press(browser, page, current_password="wrong")
    page = await press(browser, page, current_password=PASSWORD)
    assert "too many wrong passwords" in words(page)


async def test_who_is_verified_is_asked_for_no_password(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """They are sent on."""
    browser = await enter(otp, alice, await make_totp(sessions, alice))
    for query, target in [("", ROOT), ("?next=/vault", "/vault")]:
        answer = await browser.get(f"/account/reauthenticate{query}")
        assert (answer.status_code, answer.headers["location"]) == (303, target)


async def test_the_password_of_somebody_else(
    otp: OTP, sessions: Sessions, alice: User, bob: User
) -> None:
    """Only the user's own is one."""
    bob.set_password("bob has another one")
    await add(sessions, bob)
    browser = await enter(otp, bob)
    page = await visit(browser, "/account/reauthenticate")
    assert "not your password" in words(await press(browser, page, current_password=PASSWORD))


async def test_users_who_live_elsewhere(empty_engine: Any) -> None:
    """Nobody here can check their password: they log out and sign in where they do."""
    host = make_host(None)
    await host.create_tables(empty_engine)

    async def load(conn: Any, key: Any) -> Any:
        return host.User(key)

    sessions = async_sessionmaker(empty_engine)
    otp = OTP(sessions, host.Device, secret_key=SECRET_KEY, load_user=load)

    async def sign_in(request: Request) -> Response:
        await log_in(request, host.User("alice@elsewhere"))
        return PlainTextResponse("in")

    with time_machine.travel("2031-05-04T12:00Z", tick=False) as clock:
        async with Browser(make_app(otp, Route("/enter", sign_in))) as browser:
            await browser.get("/enter")
            assert "<svg" in (await visit(browser, ADD_TOTP)).text
            assert (await browser.get("/account/password")).status_code == 404
            clock.shift(301)
            page = await visit(browser, "/account/sessions")
            assert "log out and sign in once more" in words(page)
            answer = await press(browser, page)
            assert answer.headers["location"] == "/account/sessions"


async def test_the_overview_in_four_selects(
    otp: OTP, sessions: Sessions, engine: Any, alice: User
) -> None:
    """The session's own included; of a user without a device, too."""
    statements = Statements(engine)
    browser = await enter(otp, alice)
    statements.clear()
    assert (await browser.get(ROOT)).status_code == 200
    assert len(statements) <= 4, statements
    device = await make_totp(sessions, alice, name="Phone")
    await make_static(sessions, alice, None, None)
    browser = await enter(otp, alice, device)
    statements.clear()
    page = await browser.get(ROOT)
    assert len(statements) == 4, statements
    assert all(one.startswith("SELECT") for one in statements)
    assert "Authenticator app · Phone" in words(page)


async def test_what_the_overview_says(otp: OTP, sessions: Sessions, alice: User) -> None:
    """When a device was added and used last, whether it has to wait; how many codes are left."""
    with time_machine.travel("2031-05-04T12:00Z", tick=False) as clock:
        phone = await make_totp(sessions, alice, name="Phone")
        await make_totp(sessions, alice, name="Tablet", secret=b"3" * 20)
        await make_static(sessions, alice, *[None] * 3)
        clock.shift(3 * 3600)
        assert await otp.verify_token(alice, phone.persistent_id, totp_token()) is not None
        browser = await enter(otp, alice, phone)
        for _ in range(4):
            clock.shift(3600)
            await otp.verify_token(alice, "totp/2", "000000")
        said = words(await browser.get(ROOT))
        assert "Phone Added 7 hours ago, last used 4 hours ago" in said
        assert "Tablet Added 7 hours ago, not used yet Paused after wrong codes" in said
        assert "Only 3 recovery codes left" in said
        assert re.search(r"Unknown browser|python-httpx", said, re.I)
        assert "This browser" in said


async def test_nothing_is_stored(otp: OTP, alice: User) -> None:
    """No page of them, by a browser or a cache."""
    browser = await enter(otp, alice)
    for path in ("", "devices/add", "recovery-codes", "sessions", "password", "reauthenticate"):
        answer = await browser.get(ROOT + path)
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
        assert answer.headers["x-frame-options"] == "DENY"
        for inline in ("style=", "<style", "<script", "onclick"):
            assert inline not in answer.text


async def test_under_another_root(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Behind a proxy that strips a prefix all links and ways back have it."""
    with time_machine.travel("2031-05-04T12:00Z", tick=False) as clock:
        app = make_app(otp, door(otp, alice))

        async def prefixed(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "root_path": "/api", "path": "/api" + scope["path"]}, receive, send)

        async with Browser(prefixed) as browser:
            await browser.get("/enter")
            page = await browser.get(ROOT)
            assert 'href="/api/account/devices/add?kind=totp"' in page.text
            answer = await browser.get(ADD_TOTP)
            assert answer.headers["location"].startswith("/api/account/devices/totp/")
            clock.shift(301)
            answer = await browser.get("/account/sessions")
            wanted = "/api/account/reauthenticate?next=%2Fapi%2Faccount%2Fsessions"
            assert answer.headers["location"] == wanted


def test_devices_are_declared() -> None:
    """What the pages say of a kind is on its class."""
    assert (TOTPDevice.enrollable, TOTPDevice.kind_name) == (True, "Authenticator app")
