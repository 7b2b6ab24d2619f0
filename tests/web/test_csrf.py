"""CSRF: a form that was not asked for does nothing, whatever a host's own middleware says."""

import time
from typing import Any

import pytest
import time_machine
from starlette.applications import Starlette
from starlette_wtf import CSRFProtectMiddleware
from starlette_wtf.csrf import csrf_protect

from starlette_otp import OTP, LoginView
from starlette_otp.models import Device, OTPSession, TOTPDevice, User
from tests.support import (
    OTHER_KEY,
    PASSWORD,
    SECRET_KEY,
    Browser,
    CodesView,
    Sessions,
    codes,
    csrf_of,
    make_app,
    make_totp,
    reload,
    totp_token,
)

LOGIN, LOGOUT = "/account/login", "/account/logout"


@pytest.fixture
async def device(sessions: Sessions, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice)


async def post(browser: Browser, csrf_token: str | None, token: str | None = None) -> Any:
    fields = {"username": "alice", "password": PASSWORD, "otp_token": token or totp_token()}
    fields |= {} if csrf_token is None else {"csrf_token": csrf_token}
    return await browser.post(LOGIN, data=fields)


async def assert_nothing_happened(sessions: Sessions, device: TOTPDevice) -> None:
    device = await reload(sessions, device)
    assert (device.throttling_failure_count, device.last_used_at) == (0, None)
    async with sessions() as session:
        assert await session.get(OTPSession, 1) is None


@pytest.mark.parametrize(
    "forged", [None, "", "wrong", "é", "a" * 10_000, "a.b.c", "cut", "swapped"]
)
async def test_a_forged_form_does_nothing(
    browser: Browser, sessions: Sessions, device: TOTPDevice, forged: str | None
) -> None:
    """Without this page's CSRF token the right credentials and a wrong token do nothing at all."""
    good = csrf_of(await browser.get(LOGIN))
    csrf_token = {"cut": good[:-1], "swapped": good.swapcase()}.get(str(forged), forged)
    for token in (totp_token(), "000000"):
        page = await post(browser, csrf_token, token)
        assert codes(page) == ["csrf_failed"]
        assert "Please try again." in page.text
        assert 'value="alice"' in page.text
        assert PASSWORD not in page.text
    await assert_nothing_happened(sessions, device)
    assert (await post(browser, csrf_of(page))).status_code == 303


async def test_another_sessions_token_is_forged(
    browser: Browser, otp: OTP, sessions: Sessions, device: TOTPDevice
) -> None:
    """An attacker's own CSRF token is worth nothing in the victim's browser."""
    async with Browser(make_app(otp)) as attacker:
        stolen = csrf_of(await attacker.get(LOGIN))
    assert codes(await post(browser, stolen)) == ["csrf_failed"]
    await browser.get(LOGIN)
    assert codes(await post(browser, stolen)) == ["csrf_failed"]
    await assert_nothing_happened(sessions, device)


async def test_a_token_lives_an_hour(
    browser: Browser, sessions: Sessions, device: TOTPDevice
) -> None:
    """A page that was open for over an hour is checked again; the page that comes back works."""
    now = time.time()
    with time_machine.travel(now, tick=False):
        csrf_token = csrf_of(await browser.get(LOGIN))
    with time_machine.travel(now + 3601, tick=False):
        page = await post(browser, csrf_token)
        assert codes(page) == ["csrf_failed"]
        await assert_nothing_happened(sessions, device)
        assert (await post(browser, csrf_of(page))).status_code == 303


class MarkedValid(CodesView):
    """A view in which something before it has called the request checked, as csrf_protect does."""

    async def post(self, request: Any) -> Any:
        request.state.csrf_valid = True
        return await super().post(request)


@pytest.mark.parametrize("config", [{"enabled": False}, {"csrf_secret": "the host's"}])
@pytest.mark.parametrize("login_view", [CodesView, MarkedValid])
async def test_a_hosts_middleware_does_not_switch_it_off(
    otp: OTP,
    sessions: Sessions,
    device: TOTPDevice,
    config: dict[str, Any],
    login_view: type[LoginView],
) -> None:
    """CSRF is in the forms' own Meta: starlette-wtf's middleware changes nothing."""
    app: Starlette = make_app(otp, login_view=login_view)
    app.add_middleware(CSRFProtectMiddleware, **config)
    async with Browser(app) as browser:
        page = await browser.get(LOGIN)
        assert codes(await post(browser, None)) == ["csrf_failed"]
        await assert_nothing_happened(sessions, device)
        assert (await post(browser, csrf_of(page))).status_code == 303


async def test_a_hosts_own_check_stands_beside_it(
    otp: OTP, sessions: Sessions, device: TOTPDevice
) -> None:
    """A login view under csrf_protect wants the host's token, and then ours as well."""

    class View(CodesView):
        pass

    app: Starlette = make_app(otp, login_view=csrf_protect(View))
    app.add_middleware(CSRFProtectMiddleware, csrf_secret="s" * 32, csrf_field_name="theirs")
    async with Browser(app) as browser:
        csrf_token = csrf_of(await browser.get(LOGIN))
        assert (await post(browser, csrf_token)).status_code == 403
    await assert_nothing_happened(sessions, device)


async def test_it_changes_at_every_log_in(
    browser: Browser, sessions: Sessions, device: TOTPDevice
) -> None:
    """A CSRF token from before a log-in is worth nothing in the session after it."""
    before = csrf_of(await browser.get(LOGIN))
    assert (await post(browser, before)).status_code == 303
    assert (await browser.post(LOGOUT, data={"csrf_token": before})).status_code == 403
    assert (await browser.state())["verified"]


async def test_keys_rotate(otp: OTP, sessions: Sessions, device: TOTPDevice) -> None:
    """A page made under the former key still works under the new one, until the key is dropped."""
    async with Browser(make_app(otp)) as browser:
        csrf_token = csrf_of(await browser.get(LOGIN))
        cookies = dict(browser.cookies)
    for keys, expected in (([OTHER_KEY], 200), ([OTHER_KEY, SECRET_KEY], 303)):
        app = make_app(OTP(sessions, Device, secret_key=keys), login_view=CodesView)
        async with Browser(app, cookies=cookies) as browser:
            answer = await post(browser, csrf_token)
            assert answer.status_code == expected
            assert expected == 303 or codes(answer) == ["csrf_failed"]


async def test_new_tokens_are_signed_with_the_newest_key(
    otp: OTP, sessions: Sessions, device: TOTPDevice
) -> None:
    """A page made while keys rotate works where only the new key is known."""
    both = OTP(sessions, Device, secret_key=[OTHER_KEY, SECRET_KEY])
    async with Browser(make_app(both)) as browser:
        csrf_token = csrf_of(await browser.get(LOGIN))
        cookies = dict(browser.cookies)
    app = make_app(OTP(sessions, Device, secret_key=OTHER_KEY), login_view=CodesView)
    async with Browser(app, cookies=cookies) as browser:
        assert codes(await post(browser, csrf_token, " ")) == ["token_required"]


@pytest.mark.parametrize("forged", [None, "wrong"])
async def test_logging_out_wants_it(
    browser: Browser, device: TOTPDevice, forged: str | None
) -> None:
    """A forged log-out is 403 with a page whose button logs out."""
    await browser.log_in(totp_token())
    page = await browser.post(LOGOUT, data={} if forged is None else {"csrf_token": forged})
    assert page.status_code == 403
    assert (await browser.state())["verified"]
    assert "Log out</button>" in page.text
    answer = await browser.post(LOGOUT, data={"csrf_token": csrf_of(page)})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert not (await browser.state())["authenticated"]


async def test_logging_out_is_no_link(browser: Browser, device: TOTPDevice) -> None:
    """GET logs nobody out: it is the page with the button."""
    await browser.log_in(totp_token())
    answer = await browser.get(LOGOUT)
    assert (answer.status_code, "<button" in answer.text) == (200, True)
    assert (await browser.state())["verified"]


async def test_the_token_form_wants_it(
    browser: Browser, sessions: Sessions, device: TOTPDevice
) -> None:
    """A forged step-up verifies nothing, counts nothing, and offers the devices again."""
    await browser.log_in(totp_token())
    with time_machine.travel(time.time() + 60, tick=False):
        page = await browser.post(f"{LOGIN}?reverify=1", data={"otp_token": "000000"})
        assert codes(page) == ["csrf_failed"]
        assert "Enter the code from your authenticator app" in page.text
    assert (await reload(sessions, device)).throttling_failure_count == 0
