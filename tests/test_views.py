"""Logging in and out, through HTTP."""

from starlette_otp import OTP
from starlette_otp.models import User
from tests.support import Browser, Sessions, make_app, make_totp, totp_token


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
