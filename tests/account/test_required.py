"""Who has to have a device: led to set one up, nobody until then, and told of it beforehand."""

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from starlette_otp import (
    OTP,
    ConfigurationError,
    DatabaseUnavailable,
    DeviceRejected,
    device_due,
    is_verified,
    log_in,
    login,
    requires_otp,
)
from starlette_otp.models import Device, User
from tests.account.pages import (
    ADD_TOTP,
    ROOT,
    app_token,
    codes_of,
    follow,
    heading,
    key_of,
    press,
    visit,
    words,
)
from tests.support import (
    ANONYMOUS,
    AUTHENTICATED,
    PASSWORD,
    SECRET,
    SECRET_KEY,
    Browser,
    Sessions,
    csrf_of,
    door,
    make_app,
    make_static,
    make_totp,
    totp_token,
    verified_by,
)

ADD = "/account/devices/add"
LOGIN = "/account/login"
NOON = datetime(2031, 5, 4, 12, tzinfo=UTC)


def required(sessions: Sessions, rule: Any = True, **settings: Any) -> OTP:
    return OTP(sessions, Device, secret_key=SECRET_KEY, require_device=rule, **settings)


def from_day(day: datetime) -> Any:
    async def rule(user: User) -> datetime:
        return day

    return rule


async def type_password(browser: Browser, url: str = LOGIN) -> Any:
    """Sign in by the password, as far as that goes."""
    return await browser.submit(url, username="alice", password=PASSWORD)


@pytest.mark.parametrize("password_is_enough", [False, True])
async def test_from_the_password_to_the_vault(
    sessions: Sessions, alice: User, password_is_enough: bool
) -> None:
    """Who has none sets one up after the password, and comes back verified by it."""
    otp = required(sessions, password_is_enough=password_is_enough)
    async with Browser(make_app(otp)) as browser:
        wall = await follow(browser, await browser.get("/vault"))
        page = await follow(browser, await type_password(browser, str(wall.request.url)))
        assert page.request.url.path == ADD
        assert "Your account has to have a second step" in words(page)
        assert await browser.state() == ANONYMOUS
        page = await visit(browser, f"{ADD_TOTP}&next=/vault")
        page = await press(browser, page, otp_token=app_token(key_of(page), time.time()))
        assert heading(page) == "Save your recovery codes"
        assert len(codes_of(page)) == 10
        [device] = [d for d in await otp.devices_for_user(alice) if d.kind == "totp"]
        assert await browser.state() == verified_by(device)
        answer = await press(browser, page, saved="I saved them")
        assert answer.headers["location"] == "/vault"
        assert (await browser.get("/vault")).text == "hello alice"


async def test_nothing_else_is_open(sessions: Sessions, alice: User) -> None:
    """Until then all other pages lead there; what is no page says what is missing."""
    otp = required(sessions)

    async def who(request: Request) -> Response:
        return JSONResponse([request.user.is_authenticated, list(request.auth.scopes)])

    @requires_otp(if_configured=True)
    async def either(request: Request) -> Response:
        return PlainTextResponse("")

    app = make_app(otp, Route("/who", who), Route("/either", either))
    async with Browser(app) as browser:
        await type_password(browser)
        assert (await browser.get("/who")).json() == [False, []]
        for path in (ROOT, "/account/sessions", "/account/password", "/account/recovery-codes"):
            page = await visit(browser, path)
            assert page.request.url.path == ADD, path
        for path in ("/vault", "/either", LOGIN):
            assert (await visit(browser, path)).request.url.path == ADD, path
        for path in ("/vault", "/either", ROOT):
            refused = await browser.get(path, headers={"accept": "application/json"})
            assert refused.status_code == 403, path
            assert refused.json()["code"] == "enrolment_required", path
        page = await browser.get(ADD)
        page = await press(browser, page)
        assert (page.status_code, page.headers["location"]) == (303, "/")
        assert (await visit(browser, ADD)).request.url.path == LOGIN


async def test_giving_up_leads_back(sessions: Sessions, alice: User) -> None:
    """A device that was begun and cancelled is gone, and the choice is there again."""
    async with Browser(make_app(required(sessions))) as browser:
        await type_password(browser)
        key = key_of(await visit(browser, ADD_TOTP))
        [device] = await required(sessions).devices_for_user(alice, confirmed=False)
        question = await visit(browser, f"/account/devices/{device.persistent_id}/remove")
        page = await follow(browser, await press(browser, question))
        assert page.request.url.path == ADD
        assert key_of(await visit(browser, ADD_TOTP)) != key


async def test_an_old_password_is_asked_for_again(sessions: Sessions, alice: User) -> None:
    """After five minutes, before a device is set up."""
    with time_machine.travel(NOON, tick=False) as clock:
        async with Browser(make_app(required(sessions))) as browser:
            await type_password(browser)
            clock.shift(301)
            page = await visit(browser, f"{ADD_TOTP}&next=/vault")
            assert heading(page) == "Is it you?"
            page = await follow(browser, await press(browser, page, current_password=PASSWORD))
            assert await browser.state() == ANONYMOUS
            page = await press(browser, page, otp_token=app_token(key_of(page), time.time()))
            assert heading(page) == "Save your recovery codes"


async def test_who_has_one_is_asked_for_it(sessions: Sessions, alice: User) -> None:
    """A wall for who has none is no way past the device of who has one."""
    device = await make_totp(sessions, alice)
    async with Browser(make_app(required(sessions))) as browser:
        page = await type_password(browser)
        assert page.status_code == 200
        assert await browser.state() == ANONYMOUS
        assert (await browser.get(ADD)).headers["location"].startswith(LOGIN)
        await browser.submit(LOGIN, otp_token=totp_token())
        assert await browser.state() == verified_by(device)


async def test_codes_alone_are_a_device(sessions: Sessions, alice: User) -> None:
    """Who was given a code to get in is asked for it: the password alone opens nothing."""
    _, [code] = await make_static(sessions, alice, None)
    async with Browser(make_app(required(sessions))) as browser:
        assert (await type_password(browser)).status_code == 200
        assert (await browser.get(ADD)).headers["location"].startswith(LOGIN)
        answer = await browser.submit(LOGIN, otp_token=code)
        assert answer.status_code == 303


async def test_a_device_from_elsewhere_lets_nobody_in(sessions: Sessions, alice: User) -> None:
    """Two know the password; when one of them sets up a device, the other is asked for it."""
    otp = required(sessions)
    app = make_app(otp)
    async with Browser(app) as owner, Browser(app) as thief:
        await type_password(owner)
        await type_password(thief)
        theirs = await visit(thief, ADD_TOTP)
        page = await visit(owner, ADD_TOTP)
        await press(owner, page, otp_token=app_token(key_of(page), time.time()))
        assert (await owner.state())["verified"]
        assert await thief.state() == ANONYMOUS
        token = app_token(key_of(theirs), time.time())
        answer = await press(thief, theirs, otp_token=token)
        assert answer.headers["location"].startswith(LOGIN)
        assert await thief.state() == ANONYMOUS
        assert 'name="otp_token"' in (await visit(thief, "/vault")).text
        assert len(await otp.devices_for_user(alice, confirmed=True)) == 1


async def test_until_the_day_a_notice(sessions: Sessions, alice: User) -> None:
    """Before it the password is enough and "Not now" goes on; from then on it is a wall."""
    with time_machine.travel(NOON, tick=False) as clock:
        due = NOON + timedelta(days=2)

        async def home(request: Request) -> Response:
            return PlainTextResponse(str(device_due(request)))

        app = make_app(required(sessions, from_day(due)), Route("/", home))
        async with Browser(app) as browser:
            page = await follow(browser, await type_password(browser, f"{LOGIN}?next=/state"))
            assert "From 6 May 2031 on your account has to have a second step" in words(page)
            assert '<a href="/state">Not now</a>' in page.text
            assert await browser.state() == AUTHENTICATED
            assert (await browser.get("/")).text == str(due)
            assert "From 6 May 2031 on you can't sign in" in words(await visit(browser, ROOT))
            clock.shift(2 * 86400 - 200)
        async with Browser(app) as browser:
            await type_password(browser)
            assert await browser.state() == AUTHENTICATED
            clock.shift(200)
            assert await browser.state() == ANONYMOUS
            assert (await visit(browser, "/vault")).request.url.path == ADD


async def test_some_need_none(sessions: Sessions, alice: User) -> None:
    """A function says who: for others it is as without it."""

    async def staff(user: User) -> bool:
        return user.username != "alice"

    async with Browser(make_app(required(sessions, staff))) as browser:
        assert "no second factor yet" in (await type_password(browser)).text
    async with Browser(make_app(required(sessions, staff, password_is_enough=True))) as browser:
        await type_password(browser)
        assert await browser.state() == AUTHENTICATED
        assert "From" not in words(await visit(browser, ROOT))


async def test_a_log_in_of_the_hosts(sessions: Sessions, alice: User) -> None:
    """`log_in` of who has none opens the enrolment alone; of who has one, the token's page."""
    otp = required(sessions)
    async with Browser(make_app(otp, door(otp, alice))) as browser:
        await browser.get("/enter")
        assert await browser.state() == ANONYMOUS
        assert (await visit(browser, "/vault")).request.url.path == ADD
    device = await make_totp(sessions, alice)
    async with Browser(make_app(otp, door(otp, alice))) as browser:
        await browser.get("/enter")
        assert await browser.state() == ANONYMOUS
        page = await visit(browser, "/vault")
        assert "Signed in as alice." in page.text
        await press(browser, page, otp_token=totp_token())
        assert await browser.state() == verified_by(device)


async def test_what_fails_lets_nobody_in(sessions: Sessions, alice: User, bob: User) -> None:
    """A device of somebody else's, or a session that can't begin, leaves them nobody in that very
    request, too; their own device then verifies them."""
    otp = required(sessions)
    theirs = await make_totp(sessions, bob)
    mine: list[Any] = []

    async def own_page(request: Request) -> Response:
        told = []
        for device in (theirs, *mine):
            with suppress(DeviceRejected):
                await login(request, device)
            told.append([request.user.is_authenticated, is_verified(request)])
        refused = await otp.load_user(request, alice.id)
        refused.otp_device = theirs  # type: ignore[union-attr]
        if not mine:
            with suppress(DeviceRejected):
                await log_in(request, refused)
            told.append([request.user.is_authenticated, is_verified(request)])
        return JSONResponse([*told, list(request.auth.scopes)])

    app = make_app(otp, door(otp, alice), Route("/own", own_page))
    async with Browser(app) as browser:
        await browser.get("/enter")
        assert (await browser.get("/own")).json() == [[False, False], [False, False], []]
        mine.append(await make_totp(sessions, alice))
        assert (await browser.get("/own")).json() == [
            [False, False],
            [True, True],
            ["authenticated", "verified"],
        ]
        assert await browser.state() == verified_by(mine[0])


async def test_the_last_one_stays(sessions: Sessions, alice: User) -> None:
    """Who has to have one can't remove it; with another one beside it they can."""
    otp = required(sessions)
    first = await make_totp(sessions, alice)
    await make_static(sessions, alice, None)
    browser = Browser(make_app(otp, door(otp, alice, first)))
    await browser.get("/enter")
    question = await visit(browser, f"/account/devices/{first.persistent_id}/remove")
    assert "this is the only one" in words(question)
    assert "<form" not in question.text
    other = await visit(browser, "/account/recovery-codes")
    fields = {"csrf_token": csrf_of(other)}
    refused = await browser.post(str(question.request.url), data=fields)
    assert "this is the only one" in words(refused)
    assert first in await otp.devices_for_user(alice)
    second = await make_totp(sessions, alice, secret=SECRET[::-1])
    question = await visit(browser, f"/account/devices/{first.persistent_id}/remove")
    await press(browser, question)
    assert first not in await otp.devices_for_user(alice)
    assert await otp.remove_device(alice, second.persistent_id) == second


async def test_of_two_that_go_at_once_one_stays(sessions: Sessions, alice: User) -> None:
    """In two tabs, each of which sees the other device."""
    otp = required(sessions)
    devices = [await make_totp(sessions, alice, secret=SECRET[::step]) for step in (1, -1)]
    browser = Browser(make_app(otp, door(otp, alice, devices[0])))
    await browser.get("/enter")
    for _ in range(5):
        pages = [
            await visit(browser, f"/account/devices/{device.persistent_id}/remove")
            for device in devices
        ]
        await asyncio.gather(*(press(browser, page) for page in pages))
        left = await otp.devices_for_user(alice)
        assert len(left) == 1
        gone = await make_totp(sessions, alice, secret=SECRET[::-1])
        devices = [left[0], gone]
        browser = Browser(make_app(otp, door(otp, alice, devices[0])))
        await browser.get("/enter")


@pytest.mark.parametrize("answer", [None, "yes", 1, NOON.replace(tzinfo=None)])
async def test_a_rule_says_what_it_may(sessions: Sessions, alice: User, answer: Any) -> None:
    """Anything but a bool or an aware moment is an error that says so."""

    async def rule(user: User) -> Any:
        return answer

    otp = required(sessions, rule)
    async with Browser(make_app(otp, door(otp, alice))) as browser:
        with pytest.raises(ConfigurationError, match="True, False or an aware datetime"):
            await browser.get("/enter")


async def test_a_rule_that_can_not_be_asked(sessions: Sessions, alice: User) -> None:
    """Its database is away: nobody is let past, and everything guarded is 503."""
    is_away = False

    async def rule(user: User) -> bool:
        if is_away:
            raise DatabaseUnavailable()
        return False

    otp = required(sessions, rule)
    async with Browser(make_app(otp, door(otp, alice))) as browser:
        await browser.get("/enter")
        assert await browser.state() == AUTHENTICATED
        is_away = True
        assert await browser.state() == ANONYMOUS
        assert (await browser.get("/vault")).status_code == 503
        assert (await browser.get(ROOT)).status_code == 503


def test_what_can_not_work_says_so(sessions: Sessions) -> None:
    """No rule at all, and no pages to set one up on."""
    with pytest.raises(ConfigurationError, match="an async function of the user, not 'yes'"):
        required(sessions, "yes")
    with pytest.raises(ConfigurationError, match=r"needs the account pages"):
        required(sessions).routes(account=False)
