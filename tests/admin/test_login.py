"""The site's log-in and log-out."""

from typing import Any

import pytest
from sqlalchemy import func, select
from starlette.applications import Starlette
from starlette.responses import Response

from starlette_otp import OTP
from starlette_otp.admin import OTPAdmin, OTPAdminLoginView
from starlette_otp.models import Device, OTPSession, User
from tests.support import (
    PASSWORD,
    SECRET_KEY,
    Browser,
    codes,
    csrf_of,
    door,
    make_app,
    make_totp,
    make_user,
    totp_token,
)

LOGIN = "/admin/login?next=/admin/otp-users/list"


class CodesLogin(OTPAdminLoginView):
    def render(self, request: Any, form: Any) -> Response:
        response = super().render(request, form)
        response.headers["x-codes"] = " ".join(form.error_codes)
        return response


class Site(OTPAdmin):
    login_view = CodesLogin


@pytest.fixture
def admin(app: Starlette, sessions: Any, otp: OTP) -> OTPAdmin:
    return Site(app, sessions, otp=otp, title="The office")


async def count_sessions(sessions: Any) -> int:
    async with sessions() as session:
        begun = select(func.count()).where(~OTPSession.is_ticket)
        return int(await session.scalar(begun))


async def test_staff_sign_in_with_a_token(anyone: Browser) -> None:
    """Name, password and token of a member of staff open the page that was asked for."""
    sent = await anyone.get("/admin/otp-users/list?search=bo")
    assert sent.headers["location"] == "/admin/login?next=%2Fadmin%2Fotp-users%2Flist%3Fsearch%3Dbo"
    page = await anyone.get(sent.headers["location"])
    assert "<title>The office</title>" in page.text
    assert codes(await anyone.log_in("", sent.headers["location"])) == ["token_required"]
    answer = await anyone.log_in(totp_token(), sent.headers["location"])
    assert answer.headers["location"] == "/admin/otp-users/list?search=bo"
    assert (await anyone.get(answer.headers["location"])).status_code == 200
    assert (await anyone.get("/admin/login")).headers["location"] == "/admin/"


async def test_others_are_refused_with_a_code(
    anyone: Browser, sessions: Any, bob: User, caplog: pytest.LogCaptureFixture
) -> None:
    """Who is no staff is refused by name, the token is not used up, and no session begins; the log
    has a line of it."""
    await make_totp(sessions, bob)
    answer = await anyone.log_in(totp_token(), LOGIN, username="bob")
    assert codes(answer) == ["not_staff"]
    assert "This account may not use this site." in answer.text
    assert f"A log-in of user {bob.id} was refused (not_staff)" in caplog.text
    assert await count_sessions(sessions) == 0
    assert (await anyone.state())["authenticated"] is False
    assert (await anyone.log_in(totp_token(), username="bob")).status_code == 303


async def test_a_wrong_password_tells_nothing(anyone: Browser, bob: User) -> None:
    """A wrong password of one who is no staff is a wrong password."""
    answer = await anyone.log_in("", LOGIN, username="bob", password="wrong")
    assert codes(answer) == ["invalid_login"]


async def test_the_token_alone_of_who_is_signed_in(otp: OTP, sessions: Any, staff: User) -> None:
    """Staff who are authenticated already type the token alone; after that the site is open."""
    await make_totp(sessions, staff)
    app = make_app(otp, door(otp, staff))
    Site(app, sessions, otp=otp)
    async with Browser(app) as browser:
        await browser.get("/enter")
        page = await browser.get(LOGIN)
        assert 'name="password"' not in page.text
        answer = await browser.submit(LOGIN, otp_token=totp_token())
        assert answer.headers["location"] == "/admin/otp-users/list"
        assert (await browser.get("/admin/otp-users/list")).status_code == 200


async def test_who_is_signed_in_without_being_staff_can_change_over(
    otp: OTP, sessions: Any, staff: User, bob: User
) -> None:
    """Somebody else's session meets the whole form, and is told whose it is."""
    await make_totp(sessions, staff)
    app = make_app(otp, door(otp, bob))
    Site(app, sessions, otp=otp)
    async with Browser(app) as browser:
        await browser.get("/enter")
        page = await browser.get(LOGIN)
        assert "You are signed in as bob, who may not use this site." in page.text
        assert (await browser.log_in(totp_token(), LOGIN)).status_code == 303
        assert (await browser.get("/admin/")).status_code == 200


async def test_staff_without_a_device_set_one_up_first(
    sessions: Any, staff: User, bob: User
) -> None:
    """On the application's own pages, after which they come back; others are refused as ever."""
    otp = OTP(sessions, Device, secret_key=SECRET_KEY, require_device=True)
    app = make_app(otp)
    Site(app, sessions, otp=otp)
    async with Browser(app) as browser:
        answer = await browser.log_in(url=LOGIN)
        assert answer.headers["location"] == (
            "/account/devices/add?next=%2Fadmin%2Fotp-users%2Flist"
        )
        assert (
            "What do you want to sign in with"
            in (await browser.get(answer.headers["location"])).text
        )
        assert (await browser.get("/admin/")).status_code in (302, 303)
        assert (await browser.get(LOGIN)).headers["location"] == answer.headers["location"]
    async with Browser(app) as browser:
        page = await browser.log_in(url=LOGIN, username="bob")
        assert "may not use this site" in page.text


@pytest.mark.parametrize("target", ["https://elsewhere", "//elsewhere", "javascript:alert(1)", ""])
async def test_the_way_back_stays_here(anyone: Browser, target: str) -> None:
    """A `next` of another site leads to the site's first page (CWE-601)."""
    page = await anyone.get("/admin/login", params={"next": target})
    fields = {"username": "alice", "password": PASSWORD, "otp_token": totp_token()}
    answer = await anyone.post(
        "/admin/login", params={"next": target}, data={"csrf_token": csrf_of(page), **fields}
    )
    assert answer.headers["location"] == "/admin/"


async def test_log_out_is_a_post_with_a_token(desk: Browser, sessions: Any) -> None:
    """GET does not log out, nor does POST without the token; with it the session is gone."""
    token = csrf_of(await desk.get("/admin/"))
    assert "<h1>Log out</h1>" in (await desk.get("/admin/logout")).text
    assert (await desk.post("/admin/logout")).status_code == 403
    assert (await desk.get("/admin/")).status_code == 200
    answer = await desk.post("/admin/logout", data={"csrf_token": token})
    assert answer.headers["location"] == "/admin/login"
    assert (await desk.get("/admin/")).status_code == 303
    assert await count_sessions(sessions) == 0


async def test_form_and_template_are_replaceable(
    app: Starlette, sessions: Any, otp: OTP, tmp_path: Any
) -> None:
    """A subclass brings a form and a template of its own."""
    from starlette_otp.admin import OTPAdminAuthenticationForm

    class Form(OTPAdminAuthenticationForm):
        error_messages = {"not_staff": "Go away."}

        def may_enter(self, user: Any) -> bool:
            return False

    class Own(Site):
        login_form = Form
        login_template = "otp/login.html"

    Own(app, sessions, otp=otp)
    async with Browser(app) as browser:
        answer = await browser.log_in(totp_token(), LOGIN)
        assert codes(answer) == ["not_staff"]
        assert "Go away." in answer.text
        assert "otp-admin-title" not in answer.text


async def test_a_mere_password_is_never_a_session(anyone: Browser, sessions: Any) -> None:
    """A member of staff without a device stays outside (token_required)."""
    await make_user(sessions, "carol", is_staff=True)
    answer = await anyone.log_in("123456", LOGIN, username="carol")
    assert codes(answer) == ["invalid_token"]
    assert await count_sessions(sessions) == 0
