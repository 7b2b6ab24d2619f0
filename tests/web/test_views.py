"""Logging in and out, through HTTP."""

import time
from typing import Any

import pytest
import time_machine
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from starlette_otp import OTP, log_in
from starlette_otp.models import User
from tests.support import (
    Browser,
    CodesView,
    OnePageView,
    Sessions,
    codes,
    csrf_of,
    make_app,
    make_static,
    make_totp,
    reload,
    totp_token,
)

LOGIN, LOGOUT = "/account/login", "/account/logout"
REVERIFY = f"{LOGIN}?next=%2Fvault&reverify=1"
FIRST, TOKEN_ONLY = {"username", "password"}, {"otp_device", "otp_token"}
FULL = FIRST | {"otp_token"}


def fields_of(page: Any) -> set[str]:
    """Which fields the page asks for."""
    names = {"username", "password", "otp_device", "otp_token"}
    return {name for name in names if f'name="{name}"' in page.text}


@pytest.fixture
def app(otp: OTP, alice: User) -> Any:
    """An application where another door than ours makes alice authenticated."""

    async def enter(request: Request) -> Response:
        await log_in(request, alice)
        return RedirectResponse("/state", 303)

    return make_app(otp, Route("/enter", enter), login_view=CodesView)


async def test_name_password_and_token_open_a_guarded_page(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """A stranger signs in with name, password and token in one go, and the guarded page opens."""
    device = await make_totp(sessions, alice)
    async with Browser(make_app(otp)) as browser:
        refused = await browser.get("/vault")
        assert refused.status_code == 303
        assert refused.headers["location"] == "/account/login?next=%2Fvault"
        answer = await browser.log_in(totp_token(), url=refused.headers["location"])
        assert (answer.status_code, answer.headers.get("location")) == (303, "/vault"), answer.text
        assert (await browser.get("/vault")).text == "hello alice"
        assert (await browser.state())["device"] == device.persistent_id


@pytest.mark.parametrize("query", ["", "?reverify=1"])
@pytest.mark.parametrize(("view", "asked"), [(CodesView, FIRST), (OnePageView, FULL)])
async def test_anonymous_meets_the_form(
    otp: OTP, query: str, view: type[CodesView], asked: set[str]
) -> None:
    """Who is nobody is asked for name and password, on one page or on two, and sees no device and
    no challenge."""
    async with Browser(make_app(otp, login_view=view)) as browser:
        page = await browser.get(LOGIN + query)
    assert fields_of(page) == asked
    assert "otp_challenge" not in page.text
    assert 'action="/account/logout"' not in page.text


async def test_authenticated_meets_the_token_form(
    app: Any, sessions: Sessions, alice: User
) -> None:
    """Who is authenticated and not verified is asked for the token alone, and keeps the session."""
    await make_totp(sessions, alice)
    static, _ = await make_static(sessions, alice, None)
    async with Browser(app) as browser:
        await browser.get("/enter")
        page = await browser.get(LOGIN)
        assert fields_of(page) == TOKEN_ONLY
        assert "Enter the code from your authenticator app" in page.text
        assert static.persistent_id in page.text
        assert "otp_challenge" not in page.text
        assert codes(await browser.submit(LOGIN, otp_token="000000")) == ["invalid_token"]
        assert codes(await browser.submit(LOGIN)) == ["token_required"]
        assert (await browser.state())["scopes"] == ["authenticated"]
        with time_machine.travel(time.time() + 2, tick=False):
            answer = await browser.submit(f"{LOGIN}?next=/vault", otp_token=totp_token())
            assert (answer.status_code, answer.headers["location"]) == (303, "/vault")
            assert (await browser.get("/vault")).text == "hello alice"


async def test_the_token_form_knows_only_the_sessions_user(
    app: Any, sessions: Sessions, alice: User, bob: User
) -> None:
    """Another user's name, device and token in the token form verify nobody."""
    theirs = await make_totp(sessions, bob)
    await make_static(sessions, alice, None)
    async with Browser(app) as browser:
        await browser.get("/enter")
        page = await browser.submit(
            LOGIN, username="bob", otp_device=theirs.persistent_id, otp_token=totp_token()
        )
        assert codes(page) == ["invalid_token"]
        assert theirs.persistent_id not in page.text
        assert not (await browser.state())["verified"]
    untouched = await reload(sessions, theirs)
    assert (untouched.throttling_failure_count, untouched.last_used_at) == (0, None)


async def test_verified_meets_the_first_page(
    browser: Browser, sessions: Sessions, alice: User
) -> None:
    """A verified user may log in as somebody else."""
    await make_totp(sessions, alice)
    await browser.log_in(totp_token())
    assert fields_of(await browser.get(LOGIN)) == FIRST


async def test_verified_and_asked_again_meets_the_token_form(
    browser: Browser, otp: OTP, sessions: Sessions, alice: User
) -> None:
    """ASVS 7.5.3, step-up: the token form alone, a new token for the session, and on to `next`."""
    await make_totp(sessions, alice)
    now = time.time()
    with time_machine.travel(now, tick=False):
        await browser.log_in(totp_token())
    with time_machine.travel(now + 60, tick=False):
        before = dict(browser.cookies)
        page = await browser.get(REVERIFY)
        assert fields_of(page) == TOKEN_ONLY
        assert codes(await browser.submit(REVERIFY)) == ["token_required"]
        assert (await browser.state())["verified"]
        answer = await browser.submit(REVERIFY, otp_token=totp_token())
        assert (answer.status_code, answer.headers["location"]) == (303, "/vault")
        assert (await browser.state())["verified"]
        async with Browser(make_app(otp), cookies=before) as thief:
            assert not (await thief.state())["verified"]


async def test_logging_in_as_somebody_else_ends_the_former_session(
    browser: Browser, otp: OTP, sessions: Sessions, alice: User, bob: User
) -> None:
    """Nothing of the former user's session survives the log-in of another."""
    await make_totp(sessions, alice)
    theirs = await make_totp(sessions, bob)
    await browser.log_in(totp_token())
    before = dict(browser.cookies)
    assert (await browser.log_in(totp_token(), username="bob")).status_code == 303
    assert (await browser.state())["device"] == theirs.persistent_id
    async with Browser(make_app(otp), cookies=before) as thief:
        assert not (await thief.state())["authenticated"]


async def test_a_log_out_is_real(
    browser: Browser, otp: OTP, sessions: Sessions, alice: User
) -> None:
    """ASVS 7.4.1: after a log-out the copied cookie opens nothing, and `next` is followed."""
    await make_totp(sessions, alice)
    await browser.log_in(totp_token())
    before = dict(browser.cookies)
    page = await browser.get(LOGIN)
    answer = await browser.post(f"{LOGOUT}?next=/bye", data={"csrf_token": csrf_of(page)})
    assert (answer.status_code, answer.headers["location"]) == (303, "/bye")
    for cookies in (before, dict(browser.cookies)):
        async with Browser(make_app(otp), cookies=cookies) as thief:
            assert not (await thief.state())["authenticated"]


async def test_a_device_that_goes_meanwhile_verifies_nothing(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """A device removed between its token and the session is told as a wrong token, not 500."""
    device = await make_totp(sessions, alice)

    class View(CodesView):
        async def success(self, request: Request, form: Any) -> Response:
            async with sessions.begin() as session:
                await session.delete(await session.get_one(type(device), device.id))
            return await super().success(request, form)

    async with Browser(make_app(otp, login_view=View)) as browser:
        assert codes(await browser.log_in(totp_token())) == ["invalid_token"]
        assert not (await browser.state())["authenticated"]


async def test_pages_and_redirects_are_never_stored(
    browser: Browser, sessions: Sessions, alice: User
) -> None:
    """Every answer says no-store, may not be framed, and varies with the cookie."""
    await make_totp(sessions, alice)
    answers = [
        await browser.get(LOGIN),
        await browser.log_in(),
        await browser.log_in(totp_token()),
        await browser.get(REVERIFY),
        await browser.post(LOGOUT),
        await browser.submit(REVERIFY, otp_token="000000"),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 303, 200, 403, 200]
    for answer in answers:
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "cookie" in answer.headers["vary"].lower()


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("HEAD", LOGIN, 200),
        ("PUT", LOGIN, 405),
        ("DELETE", LOGIN, 405),
        ("PUT", LOGOUT, 405),
    ],
)
async def test_other_methods(browser: Browser, method: str, url: str, status: int) -> None:
    """Only GET and POST log in, only POST logs out."""
    assert (await browser.request(method, url)).status_code == status
