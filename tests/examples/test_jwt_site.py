"""JWTs of the host's own: they say what happened, and end with the session they came from."""

from starlette_otp import OTP
from starlette_otp.models import User
from tests.api.client import Client
from tests.examples.jwt_site import make_site
from tests.support import SECRET_KEY, Sessions, make_totp, totp_token


async def test_a_jwt_ends_with_its_session(otp: OTP, alice: User, sessions: Sessions) -> None:
    await make_totp(sessions, alice)
    async with Client(make_site(otp, SECRET_KEY), "cookie") as client:
        await client.sign_in(totp_token())
        token = (await client.post("/tokens")).json()["token"]
        service = {"authorization": f"Bearer {token}"}
        assert (await client.get("/service", headers=service)).json() == "user 1 by aal2"
        forged = {"authorization": f"Bearer {token[:-2]}xx"}
        assert (await client.get("/service", headers=forged)).status_code == 401
        await client.ask("DELETE", "/session", status=204)
        answer = await client.get("/service", headers=service)
        assert (answer.status_code, answer.json()["detail"]) == (401, "The session has ended.")


async def test_one_factor_is_not_two(otp: OTP, alice: User) -> None:
    otp.password_is_enough = True
    async with Client(make_site(otp, SECRET_KEY), "cookie") as client:
        await client.sign_in()
        token = (await client.post("/tokens")).json()["token"]
        answer = await client.get("/service", headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == 403
