"""Several calls of one client at once, on connections of their own."""

import asyncio
import time
from typing import Any

from starlette_otp import OTP, signals
from starlette_otp.models import User
from tests.api.client import Client, token_of
from tests.support import PASSWORD, Sessions, make_totp, totp_token


async def test_two_first_devices(client: Client, alice: User, otp: OTP) -> None:
    """One of them is the first; the other wants a verification. Recovery codes come once."""
    otp.password_is_enough = True
    await client.sign_in()
    begun = [await client.ask("POST", "/devices", {"kind": "totp"}, 201) for _ in range(2)]

    async def confirm(one: dict[str, Any]) -> Any:
        body = {"token": token_of(one["setup"], time.time())}
        return await client.call("POST", f"/devices/{one['device']['id']}/confirm", body)

    first, late = sorted(
        await asyncio.gather(*map(confirm, begun)), key=lambda answer: answer.status_code
    )
    assert first.status_code == 200
    assert late.json()["code"] in ("not_verified", "session_expired")
    for code in first.json()["recovery_codes"]:
        assert await otp.match_token(alice, code)


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
