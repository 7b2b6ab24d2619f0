"""What staff can change: each change, its signal, its line in the log, and its CSRF token."""

import logging
from typing import Any

import pytest
from sqlalchemy import func, select

from starlette_otp import otp_admin_action, otp_device_added, otp_device_removed
from starlette_otp.admin import OTPAdmin
from starlette_otp.models import Device, OTPSession, StaticToken, TOTPDevice, User
from tests.admin.walk import urls
from tests.support import (
    Browser,
    csrf_of,
    door,
    make_app,
    make_static,
    make_totp,
    reload,
    totp_token,
)

Told = list[tuple[str, str, Any, str]]


@pytest.fixture
def told() -> Any:
    """What receivers of the admin's signal were told."""
    heard: Told = []

    async def receiver(otp: Any, user: Any, device: Any, by: Any, action: str) -> None:
        heard.append((by.username, action, user.username, device and device.persistent_id))

    with otp_admin_action.connected_to(receiver):
        yield heard


@pytest.fixture
async def locked(sessions: Any, bob: User) -> TOTPDevice:
    """Bob's device, stopped by a hundred failures."""
    return await make_totp(sessions, bob, throttling_failure_count=100)


async def act(desk: Browser, action: str, device: Any, **data: str) -> Any:
    page = await desk.get(f"/admin/otp-{device.kind}/details/{device.id}")
    assert page.status_code == 200
    url = f"/admin/otp/device/{device.persistent_id}/{action}"
    return await desk.post(url, data={"csrf_token": csrf_of(page), **data})


async def test_a_lock_is_reset(
    desk: Browser, otp: Any, sessions: Any, bob: User, locked: Any, told: Told, caplog: Any
) -> None:
    """A stopped device is reset and verifies at once; signal and log say who did it to whom."""
    assert "until it is reset" in (await desk.get("/admin/otp-totp/list")).text
    with caplog.at_level(logging.INFO, "starlette_otp.admin"):
        answer = await act(desk, "reset-throttling", locked)
    assert answer.headers["location"] == f"/admin/otp-totp/details/{locked.id}"
    assert await otp.verify_token(bob, locked.persistent_id, totp_token()) is not None
    assert told == [("alice", "throttling reset", "bob", locked.persistent_id)]
    (line,) = [r.getMessage() for r in caplog.records if r.name == "starlette_otp.admin"]
    assert "Staff 1: throttling reset, user 2" in line


async def test_a_device_from_a_month_ahead_is_reset(
    desk: Browser, sessions: Any, bob: User, otp: Any
) -> None:
    """One that accepted a token while a clock was wrong is shown as refusing, and verifies again
    after the reset."""
    device = await make_totp(sessions, bob, last_t=2**40)
    page = f"/admin/otp-totp/details/{device.id}"
    assert "until it is reset" in (await desk.get(page)).text
    await act(desk, "reset-throttling", device)
    assert "until it is reset" not in (await desk.get(page)).text
    assert await otp.match_token(bob, totp_token()) == device


async def test_a_device_is_confirmed(desk: Browser, sessions: Any, bob: User, told: Told) -> None:
    """Confirming tells, once, that the user has a device more."""
    device = await make_totp(sessions, bob, confirmed=False)
    added = []

    def receiver(otp: Any, user: Any, device: Any) -> None:
        added.append((user.username, device.persistent_id))

    with otp_device_added.connected_to(receiver):
        await act(desk, "confirm", device)
        await act(desk, "confirm", device)
    assert (await reload(sessions, device)).confirmed
    assert added == [("bob", device.persistent_id)]
    assert [action for _, action, _, _ in told] == ["device confirmed"] * 2


async def test_a_device_is_deleted(desk: Browser, sessions: Any, locked: Any, told: Told) -> None:
    """Deleting goes by OTP's own call, with its signal; the list no longer has the device."""
    removed = []

    def receiver(otp: Any, user: Any, device: Any) -> None:
        removed.append(device.persistent_id)

    with otp_device_removed.connected_to(receiver):
        answer = await act(desk, "delete", locked)
    assert answer.headers["location"] == "/admin/otp-totp/list"
    assert await reload(sessions, locked) is None
    assert removed == [locked.persistent_id]
    assert told == [("alice", "device removed", "bob", locked.persistent_id)]


async def test_sessions_are_revoked(
    desk: Browser, otp: Any, sessions: Any, bob: User, locked: Any, told: Told
) -> None:
    """Of a device: they are unverified; of a user: they are gone, each at their next request."""
    async with Browser(make_app(otp, door(otp, bob, locked))) as browser:
        await browser.get("/enter")
        assert (await browser.state())["verified"]
        await act(desk, "revoke-sessions", locked)
        state = await browser.state()
        assert (state["authenticated"], state["verified"]) == (True, False)
        await desk.submit(f"/admin/otp-users/details/{bob.id}")
        page = await desk.get(f"/admin/otp-users/details/{bob.id}")
        assert "Sessions: 1" in page.text
        data = {"csrf_token": csrf_of(page), "user": str(bob.id)}
        answer = await desk.post("/admin/otp/user/revoke-sessions", data=data)
        assert answer.headers["location"] == f"/admin/otp-users/details/{bob.id}"
        assert not (await browser.state())["authenticated"]
    assert told == [
        ("alice", "sessions revoked", "bob", locked.persistent_id),
        ("alice", "sessions revoked", "bob", None),
    ]


async def test_static_tokens_are_replaced_and_shown_once(
    desk: Browser, otp: Any, sessions: Any, bob: User, told: Told
) -> None:
    """The old tokens die, the new ones are on this page alone, and they work."""
    device, old = await make_static(sessions, bob, None)
    answer = await act(desk, "replace-tokens", device)
    assert answer.headers["cache-control"] == "no-store"
    new = answer.text.partition("otp-tokens")[2].split("<code>")[1:]
    tokens = [text.partition("<")[0] for text in new]
    assert len(tokens) == 10
    assert await otp.match_token(bob, tokens[0]) is not None
    assert await otp.match_token(bob, old[0]) is None
    shown = await desk.get(f"/admin/otp-static/details/{device.id}")
    assert tokens[1] not in shown.text
    assert "<td>9</td>" in shown.text
    assert told == [("alice", "static tokens replaced", "bob", device.persistent_id)]


async def snapshot(sessions: Any) -> list[Any]:
    async with sessions() as session:
        devices = await session.execute(
            select(Device.id, Device.confirmed, Device.throttling_failure_count)
        )
        counts = [
            await session.scalar(select(func.count()).select_from(model))
            for model in (StaticToken, OTPSession, User)
        ]
        return [sorted(map(tuple, devices)), *counts]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
async def test_nothing_changes_without_a_token(
    desk: Browser, admin: OTPAdmin, sessions: Any, bob: User, locked: Any, method: str
) -> None:
    """On every URL: GET changes nothing at all, and other methods want the CSRF token."""
    device, _ = await make_static(sessions, bob, None)
    before = await snapshot(sessions)
    walked = urls(admin, pk=[str(locked.id), str(device.id)], column_name=["name"])
    for url, _ in walked:
        answer = await desk.request(method, url)
        expected = (200, 400, 403, 404, 405) if method in ("GET", "HEAD") else (403,)
        assert answer.status_code in expected, url
    assert await snapshot(sessions) == before


@pytest.mark.parametrize(
    "token",
    ["", "forged", "IjQ5ZjA5NTU3YmM1Y2M5OWJiNmYwZTYxNTFiODI4NzZlYWU4MmI0NGQi.x.y", "\0"],
)
async def test_a_wrong_token_is_none(desk: Browser, sessions: Any, locked: Any, token: str) -> None:
    """A token that is forged, in the field or in the header, changes nothing."""
    url = f"/admin/otp/device/{locked.persistent_id}/delete"
    assert (await desk.post(url, data={"csrf_token": token})).status_code == 403
    if token.isprintable():
        answer = await desk.post(url, headers={"x-csrf-token": token})
        assert answer.status_code == 403
    assert await reload(sessions, locked) is not None


async def test_another_sessions_token_is_none(
    desk: Browser, anyone: Browser, app: Any, sessions: Any, locked: Any
) -> None:
    """The token of another browser's page does not do."""
    async with Browser(app) as other:
        token = csrf_of(await other.get("/admin/login"))
    url = f"/admin/otp/device/{locked.persistent_id}/delete"
    assert (await desk.post(url, data={"csrf_token": token})).status_code == 403


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\xff\xfe", "application/x-www-form-urlencoded"),
        (b"--x\r\nbroken", "multipart/form-data; boundary=x"),
        (b"broken", "multipart/form-data"),
        (b'{"csrf_token": 1}', "application/json"),
        (b"", "text/plain"),
    ],
)
async def test_bodies_of_garbage(desk: Browser, content: bytes, kind: str) -> None:
    """A body that is no form has no token, and is 403."""
    answer = await desk.post(
        "/admin/otp/device/totp/1/delete", content=content, headers={"content-type": kind}
    )
    assert answer.status_code == 403


async def test_a_huge_body_is_not_read(desk: Browser, admin: OTPAdmin) -> None:
    """A body over the limit is refused."""
    admin.max_body_size = 1000
    answer = await desk.post("/admin/otp/add/totp", content=b"x" * 1001)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "path",
    [
        "device/totp/99/delete",
        "device/totp/99999999999999999999999/delete",
        "device/totp/x/delete",
        "device/nokind/1/delete",
        "device/static/1/delete",
        "device/totp/1/nothing",
        "device/totp/1/replace-tokens",
        "add/nokind",
    ],
)
async def test_what_is_not_there_is_404(desk: Browser, sessions: Any, path: str) -> None:
    """An unknown device, kind or action is 404 and changes nothing."""
    token = csrf_of(await desk.get("/admin/"))
    answer = await desk.post(f"/admin/otp/{path}", data={"csrf_token": token})
    assert answer.status_code == 404
