"""Several at once, on connections of their own: one is let in, and one rule holds."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import pytest
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from starlette_otp import OTP, requires_otp, still_verified
from starlette_otp.models import Device, User
from starlette_otp.service.requirement import Requirement
from tests.api.client import Client, make_api, token_of
from tests.support import SECRET_KEY, Sessions, make_static, make_totp, totp_token


async def at_once(*calls: Awaitable[Any]) -> list[int]:
    return sorted(answer.status_code for answer in await asyncio.gather(*calls))


async def test_one_log_in_lets_one_in(
    api: Any, transport: str, alice: User, sessions: Sessions
) -> None:
    """Whoever copies a pending log-in and has codes, too."""
    _, codes = await make_static(sessions, alice, *[None] * 6)
    async with Client(api, transport) as client:
        said = await client.sign_in()
        copies = [Client(api, transport) for _ in codes]
        for copy in copies:
            copy.cookies.update(client.cookies)
        path = client.root + "/session/token"
        calls = [
            copy.post(path, json={"token": code, "login": said["login"]})
            for copy, code in zip(copies, codes, strict=True)
        ]
        assert await at_once(*calls) == [200] + [410] * 5
    for copy in copies:
        await copy.aclose()


async def test_one_token_verifies_once(client: Client, alice: User, sessions: Sessions) -> None:
    """Sent six times at once, it is right once."""
    await make_totp(sessions, alice, throttling_failure_count=0)
    said = await client.sign_in()
    body = {"token": totp_token(), **client.with_login(said)}
    path = client.root + "/session/token"
    found = await at_once(*(client.post(path, json=body) for _ in range(6)))
    assert found.count(200) == 1
    assert set(found) <= {200, 400, 410, 429}


async def test_the_last_two_devices(
    otp: OTP, client: Client, alice: User, sessions: Sessions
) -> None:
    """Removed at once by who has to have one: one of them stays."""
    otp.requirement = Requirement(True, otp.enrolment)
    first = await make_totp(sessions, alice)
    other = await make_totp(sessions, alice, secret=b"98765432109876543210")
    await client.sign_in(totp_token())
    paths = [f"{client.root}/devices/{device.persistent_id}" for device in (first, other)]
    # The other one comes too late, or from a session that is verified no more.
    first_one, late = await at_once(*map(client.delete, paths))
    assert first_one == 204
    assert late in (401, 403)
    assert len(await otp.devices_for_user(alice)) == 1


async def test_a_confirmation_and_a_removal(
    otp: OTP, client: Client, alice: User, sessions: Sessions
) -> None:
    """At once: the device is confirmed and then removed, or never confirmed."""
    await make_totp(sessions, alice)
    await client.sign_in(totp_token())
    begun = await client.ask("POST", "/devices", {"kind": "totp"}, 201)
    path = f"{client.root}/devices/{begun['device']['id']}"
    confirm = client.post(f"{path}/confirm", json={"token": token_of(begun["setup"], time.time())})
    found = await at_once(confirm, client.delete(path))
    assert found in ([200, 204], [204, 404])
    assert len(await otp.devices_for_user(alice, None)) - (found[0] == 200) <= 1


async def test_two_new_passwords(otp: OTP, client: Client, alice: User, sessions: Sessions) -> None:
    """At once: the account has one of them."""
    await make_totp(sessions, alice)
    await client.sign_in(totp_token())
    words = ["another good password", "a third good password"]
    calls = [client.post(client.root + "/password", json={"password": word}) for word in words]
    found = await at_once(*calls)
    assert found[0] == 200
    changed = await otp.find_user("alice")
    assert sum(changed.check_password(word) for word in words) == 1


async def test_a_websocket_by_bearer(database_url: str, alice: User, sessions: Sessions) -> None:
    """It opens with the token, and ends when that does."""
    await make_totp(sessions, alice)
    # In two event loops.
    engine = create_async_engine(database_url, poolclass=NullPool)
    otp = OTP(async_sessionmaker(engine), Device, secret_key=SECRET_KEY)
    app = make_api(otp)

    @requires_otp
    async def feed(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_json([websocket.user.username, await still_verified(websocket)])
        await websocket.receive_text()
        await websocket.send_json(await still_verified(websocket))

    app.router.add_websocket_route("/feed", feed)
    async with Client(app, "bearer") as client:
        await client.sign_in(totp_token())
        headers = {"authorization": client.headers["authorization"]}

    def listen() -> None:
        with TestClient(app) as browser:
            with browser.websocket_connect("/feed", headers=headers) as socket:
                assert socket.receive_json() == ["alice", True]
                gone = browser.delete("/mobile/auth/session", headers=headers)
                assert gone.status_code == 204
                socket.send_text("and now")
                assert socket.receive_json() is False
            with (
                pytest.raises(WebSocketDisconnect) as closed,
                browser.websocket_connect("/feed", headers=headers),
            ):
                pass
            assert closed.value.reason == "session_expired"

    await asyncio.to_thread(listen)
