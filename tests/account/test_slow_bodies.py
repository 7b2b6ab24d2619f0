"""A body that comes long after its request has begun is judged by what is so then."""

import asyncio
import json
import time
from typing import Any
from urllib.parse import urlencode

import pytest

from starlette_otp import OTP
from starlette_otp.models import Device, User
from tests.account.pages import ADD_TOTP, app_token, enter, key_of, press, visit
from tests.api.client import Client, make_api, token_of
from tests.support import (
    PASSWORD,
    SECRET_KEY,
    Browser,
    Sessions,
    csrf_of,
    grow_old,
    make_app,
    make_totp,
    reload,
)

NEW = "another good password"


class Held:
    """A POST whose headers are there, and whose body waits."""

    def __init__(self, app: Any, client: Any, path: str, body: bytes, content_type: str) -> None:
        self._gate, self._begun = asyncio.Event(), asyncio.Event()
        self._sent: list[Any] = []
        cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        headers = {
            "host": "site.example",
            "accept": client.headers["accept"],
            "cookie": cookies,
            "sec-fetch-site": "same-origin",
            "content-type": content_type,
            "content-length": str(len(body)),
        }
        if "authorization" in client.headers:
            headers["authorization"] = client.headers["authorization"]

        async def receive() -> Any:
            self._begun.set()
            await self._gate.wait()
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            self._sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "server": ("site.example", 80),
            "client": ("127.0.0.1", 1),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        self._task = asyncio.create_task(app(scope, receive, send))

    async def begin(self) -> None:
        await self._begun.wait()

    async def end(self) -> int:
        """Let the body come; the status of the answer."""
        self._gate.set()
        await self._task
        return int(self._sent[0]["status"])


async def held_form(browser: Browser, page: Any, **fields: str) -> Held:
    body = urlencode({"csrf_token": csrf_of(page), **fields}).encode()
    app: Any = browser._transport
    path, form = page.request.url.path, "application/x-www-form-urlencoded"
    held = Held(app.app, browser, path, body, form)
    await held.begin()
    return held


async def held_json(app: Any, client: Client, path: str, body: Any) -> Held:
    text = json.dumps(body).encode()
    held = Held(app, client, client.root + path, text, "application/json")
    await held.begin()
    return held


async def test_a_thief_is_not_second(sessions: Sessions, alice: User) -> None:
    """Who has the password alone, and holds a confirmation back until the owner has confirmed a
    device, confirms none."""
    otp = OTP(sessions, Device, secret_key=SECRET_KEY, require_device=True)
    app = make_app(otp)
    async with Browser(app) as owner, Browser(app) as thief:
        for browser in (owner, thief):
            await browser.submit("/account/login", username="alice", password=PASSWORD)
        page = await visit(thief, ADD_TOTP)
        held = await held_form(thief, page, otp_token=app_token(key_of(page), time.time()))
        page = await visit(owner, ADD_TOTP)
        await press(owner, page, otp_token=app_token(key_of(page), time.time()))
        assert await held.end() == 303
        assert len(await otp.devices_for_user(alice)) == 1
        assert (await thief.state())["verified"] is False


@pytest.mark.parametrize("transport", ["cookie", "bearer"])
async def test_a_thief_is_not_second_by_json(
    sessions: Sessions, alice: User, transport: str
) -> None:
    """Nor by JSON."""
    otp = OTP(sessions, Device, secret_key=SECRET_KEY, require_device=True)
    app = make_api(otp)
    async with Client(app, transport) as owner, Client(app, transport) as thief:
        paths, tokens = [], []
        for client in (owner, thief):
            await client.sign_in()
            begun = await client.ask("POST", "/devices", {"kind": "totp"}, 201)
            paths.append(f"/devices/{begun['device']['id']}/confirm")
            tokens.append({"token": token_of(begun["setup"], time.time())})
        held = await held_json(app, thief, paths[1], tokens[1])
        await owner.ask("POST", paths[0], tokens[0])
        assert await held.end() == (401 if transport == "bearer" else 403)
        found = await otp.devices_for_user(alice)
        assert [one.persistent_id for one in found if one.kind == "totp"] == [paths[0][9:-8]]


async def test_two_first_devices(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Confirmed at once from two browsers that know the password alone: one is the first."""
    browsers = [await enter(otp, alice) for _ in range(2)]
    pages = [await visit(browser, ADD_TOTP) for browser in browsers]
    await asyncio.gather(
        *(
            press(browser, page, otp_token=app_token(key_of(page), time.time()))
            for browser, page in zip(browsers, pages, strict=True)
        )
    )
    confirmed = [one for one in await otp.devices_for_user(alice) if one.kind == "totp"]
    assert len(confirmed) == 1


async def test_a_session_that_has_ended(otp: OTP, sessions: Sessions, alice: User) -> None:
    """What was begun before is not done after it."""
    device = await make_totp(sessions, alice)
    browser = await enter(otp, alice, device)
    page = await visit(browser, f"/account/devices/{device.persistent_id}/remove")
    held = await held_form(browser, page)
    await otp.revoke_sessions(alice)
    assert await held.end() == 303
    assert len(await otp.devices_for_user(alice)) == 1


async def test_a_verification_that_grew_old(otp: OTP, sessions: Sessions, alice: User) -> None:
    """A new password wants one of now."""
    device = await make_totp(sessions, alice)
    browser = await enter(otp, alice, device)
    held = await held_form(browser, await visit(browser, "/account/password"), password=NEW)
    await grow_old(sessions, 3600)
    assert await held.end() == 303
    assert not (await reload(sessions, alice)).check_password(NEW)
