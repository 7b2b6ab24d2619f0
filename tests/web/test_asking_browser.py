"""ASVS 6.6.2: a token that was sent is good in the browser that asked for it."""

import re
from email.message import EmailMessage

import httpx2
import pytest

from starlette_otp import OTP
from starlette_otp.models import EmailDevice, User
from tests.support import Browser, CodesView, Sessions, add, codes, door, make_app, reload


class Box:
    sender = "no-reply@acme.example"
    token = ""

    async def send(self, message: EmailMessage) -> None:
        [self.token] = re.findall("[0-9]{6}", message.get_content())


@pytest.fixture(autouse=True)
def box(monkeypatch: pytest.MonkeyPatch) -> Box:
    monkeypatch.setattr(EmailDevice, "mailer", box := Box())
    return box


@pytest.fixture
async def device(otp: OTP, sessions: Sessions, alice: User) -> EmailDevice:
    made: EmailDevice = await add(sessions, EmailDevice(user_id=alice.id, email="a@home.example"))
    return made


async def ask(browser: Browser, device: EmailDevice) -> None:
    chosen = {"otp_device": device.persistent_id, "otp_challenge": "1"}
    assert codes(await browser.log_in(**chosen)) == ["challenge_message"]


async def typed(browser: Browser, token: str, chosen: str = "") -> httpx2.Response:
    return await browser.log_in(token, otp_device=chosen)


@pytest.mark.parametrize("is_chosen", [True, False])
async def test_another_browser_is_refused(
    otp: OTP, browser: Browser, device: EmailDevice, box: Box, is_chosen: bool
) -> None:
    """What one browser asked for verifies in no other, and then in that one."""
    await ask(browser, device)
    chosen = device.persistent_id if is_chosen else ""
    async with Browser(make_app(otp, login_view=CodesView)) as other:
        assert codes(await typed(other, box.token, chosen)) == ["invalid_token"]
    if is_chosen:
        await forget_failures(otp, device)
    assert (await typed(browser, box.token, chosen)).status_code == 303
    assert (await browser.state())["device"] == device.persistent_id


async def forget_failures(otp: OTP, device: EmailDevice) -> None:
    async def work(session: object) -> None:
        row = await session.get_one(EmailDevice, device.id)  # type: ignore[attr-defined]
        assert row.throttling_failure_count == 1
        row.throttle_reset()

    await otp.write(work)


async def test_what_no_browser_asked_for_is_good_in_any(
    otp: OTP, browser: Browser, alice: User, device: EmailDevice, box: Box, sessions: Sessions
) -> None:
    """A call without a request binds nothing, and its token verifies in a call and in a form."""
    for _ in range(2):
        await otp.generate_challenge(alice, device.persistent_id, browser="a word of the mail's")
        assert (await reload(sessions, device)).asked_by is None
        assert await otp.match_token(alice, box.token) == device
    await otp.generate_challenge(alice, device.persistent_id)
    assert (await typed(browser, box.token)).status_code == 303


async def test_a_call_has_no_browser(
    otp: OTP, browser: Browser, alice: User, device: EmailDevice, box: Box, sessions: Sessions
) -> None:
    """What a form asked for is worth nothing in a call without a request; the next challenge
    binds anew."""
    await ask(browser, device)
    assert await otp.match_token(alice, box.token) is None
    assert re.fullmatch("[0-9a-f]{64}", (await reload(sessions, device)).asked_by)
    assert (await typed(browser, box.token)).status_code == 303
    row = await reload(sessions, device)
    assert (row.asked_by, row.token_digest) == (None, None)


@pytest.mark.parametrize("is_enough", [False, True])
async def test_the_tokens_page_is_bound_too(
    otp: OTP, alice: User, device: EmailDevice, box: Box, is_enough: bool
) -> None:
    """Who is authenticated already asks on the token's page, and types there what was sent."""
    otp.password_is_enough = is_enough
    app = make_app(otp, door(otp, alice), login_view=CodesView)
    async with Browser(app) as browser, Browser(app) as other:
        for visitor in (browser, other):
            await visitor.get("/enter")
        chosen = {"otp_device": device.persistent_id}
        await browser.submit("/account/login", otp_challenge="1", **chosen)
        page = await other.submit("/account/login", otp_token=box.token)
        assert codes(page) == ["invalid_token"]
        answer = await browser.submit("/account/login", otp_token=box.token)
        assert answer.status_code == 303
        assert (await browser.state())["verified"]
