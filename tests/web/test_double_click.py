"""The second of two clicks: sent on, not told "wrong", not counted, and worth nothing by itself."""

import asyncio
from typing import Any

import pytest
import time_machine

from starlette_otp import OTP
from starlette_otp.models import StaticDevice, TOTPDevice, User
from starlette_otp.signals import otp_verification_failed, otp_verified
from tests.support import (
    ANONYMOUS,
    PASSWORD,
    Browser,
    CodesView,
    Sessions,
    codes,
    csrf_of,
    make_app,
    make_static,
    make_totp,
    reload,
    totp_token,
    verified_by,
)

LOGIN = "/account/login?next=/vault"
REVERIFY = "/account/login?next=/vault&reverify=1"


@pytest.fixture
async def device(sessions: Sessions, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice)


async def filled_in(browser: Browser, url: str = LOGIN, token: str = "", **more: str) -> Any:
    csrf_token = csrf_of(await browser.get(url))
    fields = {"csrf_token": csrf_token, "username": "alice", "password": PASSWORD}
    return {**fields, "otp_token": token or totp_token(), **more}


def sent_on(answer: Any) -> bool:
    return (answer.status_code, answer.headers.get("location")) == (303, "/vault")


@pytest.mark.parametrize("chosen", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
async def test_both_clicks_are_sent_on(
    browser: Browser, sessions: Sessions, device: TOTPDevice, chosen: bool, at_once: bool
) -> None:
    """Both answers lead to `next`, whether the second click came before or after the first one's
    answer; the token verified once, no failure is counted, and no signal tells of one."""
    told = []

    async def tell(sender: Any, user: Any, device: Any, **more: Any) -> None:
        told.append(device)

    data = await filled_in(browser, otp_device=device.persistent_id if chosen else "")
    with otp_verified.connected_to(tell), otp_verification_failed.connected_to(tell):
        if at_once:
            answers = await asyncio.gather(*(browser.post(LOGIN, data=data) for _ in range(2)))
        else:
            answers = [await browser.post(LOGIN, data=data) for _ in range(2)]
    assert [sent_on(answer) for answer in answers] == [True, True]
    assert told == [device]
    assert await browser.state() == verified_by(device)
    assert (await reload(sessions, device)).throttling_failure_count == 0


async def test_the_token_alone(browser: Browser, sessions: Sessions, device: TOTPDevice) -> None:
    """The same where the token alone is asked for, in a session."""
    with time_machine.travel(1_800_000_000, tick=False) as clock:
        await browser.log_in(totp_token())
        clock.shift(60)
        data = await filled_in(browser, REVERIFY)
        for _ in range(2):
            assert sent_on(await browser.post(REVERIFY, data=data))
        assert (await reload(sessions, device)).throttling_failure_count == 0
        assert await browser.state() == verified_by(device)


async def test_a_recovery_code(browser: Browser, sessions: Sessions, alice: User) -> None:
    """The same with a recovery code, of which nothing is left after its use."""
    device, (token,) = await make_static(sessions, alice, None)
    assert isinstance(device, StaticDevice)
    data = await filled_in(browser, token=token)
    answers = await asyncio.gather(*(browser.post(LOGIN, data=data) for _ in range(2)))
    assert all(sent_on(answer) for answer in answers)
    assert (await reload(sessions, device)).throttling_failure_count == 0


async def test_it_verifies_nothing_by_itself(
    otp: OTP, browser: Browser, device: TOTPDevice
) -> None:
    """Whoever has no more than the second answer is anonymous, and no page opens."""
    data = await filled_in(browser)
    async with Browser(make_app(otp), cookies=dict(browser.cookies)) as copy:
        assert sent_on(await browser.post(LOGIN, data=data))
        answer = await copy.post(LOGIN, data=data)
        assert sent_on(answer)
        assert "otp_session" not in copy.cookies
        assert await copy.state() == ANONYMOUS
        assert (await copy.get("/vault")).status_code == 303


async def test_another_browser_is_told_that_it_is_wrong(
    otp: OTP, browser: Browser, sessions: Sessions, device: TOTPDevice
) -> None:
    """The token in another browser, or another token in this one, is refused and counted."""
    token = totp_token()
    app = make_app(otp, login_view=CodesView)
    async with Browser(app) as thief:
        assert sent_on(await browser.post(LOGIN, data=await filled_in(browser, token=token)))
        assert codes(await thief.log_in(token)) == ["invalid_token"]
    assert (await reload(sessions, device)).throttling_failure_count == 1
    data = await filled_in(browser, REVERIFY, token="000000")
    assert codes(await browser.post(REVERIFY, data=data)) == ["n_failed_attempts"]


async def test_moments_and_no_longer(
    otp: OTP, browser: Browser, sessions: Sessions, device: TOTPDevice
) -> None:
    """After ten seconds the same click is a second use of its token."""
    with time_machine.travel(1_800_000_000, tick=False) as clock:
        data = await filled_in(browser)
        cookies = dict(browser.cookies)
        assert sent_on(await browser.post(LOGIN, data=data))
        app = make_app(otp, login_view=CodesView)
        for seconds, expected in ((10, True), (1, False)):
            clock.shift(seconds)
            async with Browser(app, cookies=cookies) as late:
                answer = await late.post(LOGIN, data=data)
                assert sent_on(answer) is expected
    assert codes(answer) == ["invalid_token"]


async def test_a_click_of_a_page_elsewhere_is_none(browser: Browser, device: TOTPDevice) -> None:
    """Without the page's CSRF token nobody is known again."""
    data = await filled_in(browser)
    assert sent_on(await browser.post(LOGIN, data=data))
    for csrf_token in ("", "wrong", data["csrf_token"][:-1]):
        answer = await browser.post(LOGIN, data={**data, "csrf_token": csrf_token})
        assert codes(answer) == ["csrf_failed"]
