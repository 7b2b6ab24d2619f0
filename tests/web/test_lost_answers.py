"""The token from before a verification, whose answer may be lost on its way."""

from collections.abc import Iterator
from typing import Any

import pytest
import time_machine

from starlette_otp import OTP
from starlette_otp.models import Device, TOTPDevice, User
from tests.support import (
    ANONYMOUS,
    AUTHENTICATED,
    OTHER_KEY,
    SECRET_KEY,
    Browser,
    Sessions,
    csrf_of,
    door,
    make_app,
    make_totp,
    totp_token,
    verified_by,
)

REVERIFY = "/account/login?next=/vault&reverify=1"


@pytest.fixture
def clock() -> Iterator[Any]:
    with time_machine.travel(1_800_000_000, tick=False) as moving:
        yield moving


@pytest.fixture
async def device(sessions: Sessions, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice)


async def verified_elsewhere(browser: Browser, app: Any, clock: Any) -> dict[str, str]:
    """Log in, and verify again, but the browser never sees the answer: the cookies of it."""
    await browser.log_in(totp_token())
    clock.shift(60)
    async with Browser(app, cookies=dict(browser.cookies)) as lost:
        answer = await lost.submit(REVERIFY, otp_token=totp_token())
        assert answer.status_code == 303
        (cookie,) = [c.value for c in lost.cookies.jar if c.name == "otp_session" and c.domain]
        return {"otp_session": str(cookie)}


async def test_it_is_worth_authenticated_for_thirty_seconds(
    otp: OTP, browser: Browser, device: TOTPDevice, clock: Any
) -> None:
    """The old token still says who it is, verifies nothing, and is worth nothing after 30 seconds;
    the new one is verified all the time."""
    app = make_app(otp)
    renewed = await verified_elsewhere(browser, app, clock)
    clock.shift(29)
    assert await browser.state() == AUTHENTICATED
    assert (await browser.get("/vault")).status_code == 303
    clock.shift(1)
    assert await browser.state() == ANONYMOUS
    async with Browser(app, cookies=renewed) as other:
        assert await other.state() == verified_by(device)


async def test_it_asks_for_a_token_again_and_not_for_the_password(
    otp: OTP, browser: Browser, device: TOTPDevice, clock: Any
) -> None:
    """A token more verifies the session again, in the same row."""
    renewed = await verified_elsewhere(browser, make_app(otp), clock)
    clock.shift(20)
    page = await browser.get("/vault", follow_redirects=True)
    assert 'name="otp_token"' in page.text
    assert 'type="password"' not in page.text
    clock.shift(9)
    # The next step's token: the last one's was spent by what was lost.
    fields = {"csrf_token": csrf_of(page), "otp_token": totp_token(offset=1)}
    assert (await browser.post(str(page.url), data=fields)).status_code == 303
    assert await browser.state() == verified_by(device)
    clock.shift(30)
    assert await browser.state() == verified_by(device)
    async with Browser(make_app(otp), cookies=renewed) as other:
        assert await other.state() == ANONYMOUS


@pytest.mark.parametrize("ends", ["a log-out", "revoked", "a log-in"])
async def test_what_ends_the_session_ends_it(
    otp: OTP, browser: Browser, alice: User, device: TOTPDevice, clock: Any, ends: str
) -> None:
    """A log-out with either token, and what else ends a session, ends both; a new log-in leaves
    no former token."""
    app = make_app(otp, door(otp, alice))
    renewed = await verified_elsewhere(browser, app, clock)
    async with Browser(app, cookies=renewed) as other:
        if ends == "a log-out":
            page = csrf_of(await browser.get("/account/login"))
            await browser.post("/account/logout", data={"csrf_token": page})
        elif ends == "revoked":
            await otp.revoke_sessions(alice)
        else:
            await other.get("/enter")
            assert await browser.state() == ANONYMOUS
            return
        assert await other.state() == ANONYMOUS
    assert await browser.state() == ANONYMOUS


async def test_it_outlives_a_change_of_keys(
    browser: Browser, sessions: Sessions, otp: OTP, device: TOTPDevice, clock: Any
) -> None:
    """A verification under the new key knows the token that the former key made."""
    rotated = OTP(sessions, Device, secret_key=[OTHER_KEY, SECRET_KEY])
    app = make_app(rotated)
    await verified_elsewhere(browser, app, clock)
    async with Browser(app, cookies={"otp_session": browser.cookie}) as again:
        assert await again.state() == AUTHENTICATED
