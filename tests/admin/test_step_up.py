"""Changes want a verification that is not old."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from starlette.applications import Starlette

from starlette_otp import OTP
from starlette_otp.admin import OTPAdmin
from starlette_otp.models import TOTPDevice, User
from tests.admin.test_hosts import AccountAdmin
from tests.support import Browser, Sessions, csrf_of, grow_old, make_totp, reload, totp_token

DETAILS = "/admin/otp-totp/details/2"
CONFIRM = "/admin/otp/device/totp/2/confirm"


@pytest.fixture
async def pad(sessions: Sessions, bob: User) -> TOTPDevice:
    """A device of somebody else's, to be changed."""
    return await make_totp(sessions, bob, confirmed=False)


def way_back(answer: Any) -> str:
    """Where a step-up leads back to."""
    assert answer.status_code == 303, answer.text
    url = urlsplit(answer.headers["location"])
    query = parse_qs(url.query)
    assert (url.path, query["reverify"]) == ("/admin/login", ["1"])
    return query["next"][0]


async def test_a_change_asks_for_a_token_and_comes_back(
    desk: Browser, sessions: Sessions, phone: TOTPDevice, pad: TOTPDevice
) -> None:
    """After five minutes a change is not made: a token is asked for, then the page comes again."""
    page = await desk.get(DETAILS)
    await grow_old(sessions, 301)
    data, referer = {"csrf_token": csrf_of(page)}, {"referer": f"http://site.example{DETAILS}"}
    answer = await desk.post(CONFIRM, data=data, headers=referer)
    assert way_back(answer) == DETAILS
    assert not (await reload(sessions, pad)).confirmed
    form = await desk.get(answer.headers["location"])
    assert 'name="password"' not in form.text
    fields = {"csrf_token": csrf_of(form), "otp_token": totp_token()}
    back = await desk.post(answer.headers["location"], data=fields)
    assert (back.status_code, back.headers["location"]) == (303, DETAILS)
    data = {"csrf_token": csrf_of(await desk.get(DETAILS))}
    assert (await desk.post(CONFIRM, data=data, headers=referer)).status_code == 303
    assert (await reload(sessions, pad)).confirmed


@pytest.mark.parametrize(
    "path",
    [
        "/admin/otp/add/totp?user=bob",
        "/admin/otp/device/totp/1/config",
        "/admin/otp/device/totp/1/qr.svg",
        "/admin/user/create",
        "/admin/user/edit/1",
    ],
)
async def test_secrets_and_forms_ask_before_they_are_shown(
    desk: Browser, admin: OTPAdmin, sessions: Sessions, path: str
) -> None:
    """Nobody fills in a form for nothing, and no key is shown to who only passes by."""
    admin.show_sensitive = True
    admin.add_view(AccountAdmin)
    assert (await desk.get(path)).status_code == 200
    await grow_old(sessions, 301)
    assert way_back(await desk.get(path)) == path


async def test_looking_asks_for_nothing(desk: Browser, sessions: Sessions, pad: TOTPDevice) -> None:
    """Lists, details and exports are read however old the verification is."""
    await grow_old(sessions, 30_000)
    for path in ("/admin/", "/admin/otp-totp/list", DETAILS, "/admin/otp-totp/export/csv"):
        assert (await desk.get(path)).status_code == 200, path


@pytest.mark.parametrize("referer", ["", "http://elsewhere.example/admin/x", "http://[", "/admin/"])
async def test_without_a_page_of_ours_the_way_back_is_the_first(
    desk: Browser, sessions: Sessions, pad: TOTPDevice, referer: str
) -> None:
    """A Referer that is missing, or no page of this site's, leads to the site's first page."""
    data = {"csrf_token": csrf_of(await desk.get(DETAILS))}
    await grow_old(sessions, 301)
    assert way_back(await desk.post(CONFIRM, data=data, headers={"referer": referer})) == "/admin/"


@pytest.mark.parametrize("accept", ["text/html", "*/*"])
async def test_a_script_is_told_where_to_verify(
    desk: Browser, admin: OTPAdmin, sessions: Sessions, bob: User, accept: str
) -> None:
    """sqladmin's DELETE by script says that it takes HTML: it gets 403 and the log-in's place."""
    admin.add_view(AccountAdmin)
    headers = {"x-csrf-token": csrf_of(await desk.get("/admin/")), "accept": accept}
    await grow_old(sessions, 301)
    answer = await desk.delete(f"/admin/user/delete?pks={bob.id}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "reverification_required")
    assert answer.headers["location"].startswith("/admin/login?next=%2Fadmin%2F&reverify=1")
    assert await reload(sessions, bob) is not None


async def test_a_forged_change_is_refused_however_old_the_verification_is(
    desk: Browser, sessions: Sessions, pad: TOTPDevice
) -> None:
    """The token of the page is looked at first: a forged form leads nobody to the log-in."""
    await grow_old(sessions, 301)
    assert (await desk.post(CONFIRM, data={"csrf_token": "guessed"})).status_code == 403


@pytest.mark.parametrize(("max_age", "status"), [(None, "made"), (10_000, "made"), (100, "asked")])
async def test_a_host_says_how_old(
    app: Starlette, otp: OTP, sessions: Sessions, pad: TOTPDevice, max_age: Any, status: str
) -> None:
    """`max_age` is in seconds; None never asks again."""
    OTPAdmin(app, sessions, otp=otp, max_age=max_age)
    async with Browser(app) as browser:
        await browser.get("/enter")
        data = {"csrf_token": csrf_of(await browser.get(DETAILS))}
        await grow_old(sessions, 200)
        await browser.post(CONFIRM, data=data)
    assert (await reload(sessions, pad)).confirmed == (status == "made")
