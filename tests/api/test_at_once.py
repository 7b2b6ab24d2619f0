"""Several calls of one client at once, on connections of their own."""

import asyncio
import time
from typing import Any

from starlette_otp import OTP, signals
from starlette_otp.models import Device, User
from tests.api.client import Client, make_api, token_of
from tests.support import PASSWORD, SECRET_KEY, Sessions, make_static, make_totp, totp_token


async def test_a_log_in_that_many_redeem(
    api: object, transport: str, alice: User, sessions: Sessions
) -> None:
    """Each has a code that is right, and one gets in."""
    codes = (await make_static(sessions, alice, *[None] * 6))[1]
    async with Client(api, "bearer") as client:
        login = (await client.sign_in())["login"]
        others = [Client(api, transport) for _ in codes]
        answers = await asyncio.gather(
            *(
                other.call("POST", "/session/token", {"token": code, "login": login})
                for other, code in zip(others, codes, strict=True)
            )
        )
        assert sorted(answer.status_code for answer in answers) == [200, *[410] * 5]
        for other in others:
            await other.aclose()


async def test_two_first_devices(client: Client, alice: User, otp: OTP) -> None:
    """Both are confirmed; recovery codes are shown once, and count."""
    otp.password_is_enough = True
    await client.sign_in()
    begun = [await client.ask("POST", "/devices", {"kind": "totp"}, 201) for _ in range(2)]

    async def confirm(one: dict[str, Any]) -> Any:
        body = {"token": token_of(one["setup"], time.time())}
        return await client.ask("POST", f"/devices/{one['device']['id']}/confirm", body)

    done = await asyncio.gather(*map(confirm, begun))
    [codes] = [one["recovery_codes"] for one in done if one["recovery_codes"] is not None]
    for code in codes:
        assert await otp.match_token(alice, code)


async def test_the_last_two_devices(transport: str, alice: User, sessions: Sessions) -> None:
    """Who has to have one keeps one."""
    otp = OTP(sessions, Device, secret_key=SECRET_KEY, require_device=True)
    devices = [await make_totp(sessions, alice) for _ in range(2)]
    async with Client(make_api(otp), transport) as client:
        await client.sign_in(totp_token())
        answers = await asyncio.gather(
            *(client.call("DELETE", f"/devices/{one.persistent_id}") for one in devices)
        )
        assert sorted(answer.status_code for answer in answers) == [204, 403]


async def test_signed_out_while_the_password_changes(
    client: Client, otp: OTP, alice: User, sessions: Sessions
) -> None:
    """The new one counts, and nobody is told of a session that has ended."""
    await make_totp(sessions, alice)
    await client.sign_in(totp_token())

    async def sign_out(sender: object, user: Any, **told: Any) -> None:
        await otp.revoke_sessions(user)

    new = "another good password"
    with signals.otp_password_changed.connected_to(sign_out):
        refused = await client.refused("POST", "/password", {"password": new})
    assert refused == (401, "session_expired")
    client.headers.pop("authorization", None)
    body = {"username": "alice", "password": PASSWORD}
    assert await client.refused("POST", "/session", body) == (401, "invalid_login")
    assert (await client.ask("POST", "/session", {**body, "password": new}))["login"]
