"""log_in, login and log_out: how a session begins, is verified, and ends."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, func, select, update
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from starlette_otp import OTP, DeviceRejected, log_in, log_out, login, requires_otp
from starlette_otp.models import Device, OTPSession, StaticDevice, TOTPDevice, User
from tests.support import (
    ANONYMOUS,
    AUTHENTICATED,
    Browser,
    Sessions,
    door,
    make_app,
    make_static,
    make_totp,
    make_user,
    shown,
    verified_by,
)


def verify(device: Any) -> Route:
    """A route that verifies the session by this device, and says what came of it."""

    async def endpoint(request: Request) -> Response:
        try:
            await login(request, device)
        except DeviceRejected as exc:
            return JSONResponse({"rejected": exc.reason, **shown(request)})
        return JSONResponse(shown(request))

    return Route("/verify", endpoint)


async def leave(request: Request) -> Response:
    await log_out(request)
    return JSONResponse(shown(request))


async def rows(sessions: Sessions) -> list[OTPSession]:
    async with sessions() as session:
        return list(await session.scalars(select(OTPSession).order_by(OTPSession.id)))


async def test_log_in_begins_a_session(otp: OTP, sessions: Sessions, alice: User) -> None:
    """log_in authenticates the browser, and the row holds digests, never the cookie's token."""
    async with Browser(make_app(otp, door(otp, alice)), headers={"user-agent": "X" * 999}) as it:
        assert await it.state() == ANONYMOUS
        await it.get("/enter")
        assert await it.state() == AUTHENTICATED
        [row] = await rows(sessions)
        assert (row.user_id, row.device_id, row.verified_at) == (alice.id, None, None)
        assert row.user_agent == "X" * 255
        assert row.token_digest not in it.cookie
        assert row.expires_at - row.created_at == OTPSession.idle_age


async def test_log_in_verifies_a_user_with_an_otp_device(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """log_in of a user who has an otp_device verifies the session, too, as login does."""
    device = await make_totp(sessions, alice)
    async with Browser(make_app(otp, door(otp, alice, device))) as browser:
        await browser.get("/enter")
        assert await browser.state() == verified_by(device)
    [row] = await rows(sessions)
    assert (row.device_id, row.verified_at) == (device.id, device.last_used_at)


@pytest.mark.parametrize("used_before", [None, 3600, 10])
@pytest.mark.parametrize("is_loaded", [True, False])
async def test_a_device_that_was_not_asked_makes_nothing_fresh(
    otp: OTP, sessions: Sessions, alice: User, used_before: int | None, is_loaded: bool
) -> None:
    """A session is verified since the device's last token, or since it was made: a guard with a
    max_age asks for a token if that is too long ago."""
    now = datetime.now(UTC)
    made = now - timedelta(days=3)
    used = None if used_before is None else now - timedelta(seconds=used_before)
    device = await make_totp(sessions, alice, created_at=made, last_used_at=used)
    since = used or made

    @requires_otp(max_age=60)
    async def recent(request: Request) -> Response:
        return Response("recent")

    async def enter(request: Request) -> Response:
        user: Any = await otp.load_user(request, alice.id)
        async with sessions() as session:
            user.otp_device = await session.get(Device, device.id)
            if not is_loaded:
                session.expire(user.otp_device, ["last_used_at"])
        if request.path_params["by"] == "log_in":
            await log_in(request, user)
        else:
            await log_in(request, await otp.load_user(request, alice.id))
            await login(request, user.otp_device)
        return Response("in")

    app = make_app(otp, Route("/enter/{by}", enter), Route("/recent", recent))
    for by in ("log_in", "login"):
        async with Browser(app) as browser:
            await browser.get(f"/enter/{by}")
            assert await browser.state() == verified_by(device)
            assert (await browser.get("/recent")).status_code == (200 if used_before == 10 else 303)
    assert {row.verified_at for row in await rows(sessions)} == {since}


async def test_log_in_leaves_nothing_of_the_former_session(
    otp: OTP, sessions: Sessions, alice: User, bob: User
) -> None:
    """Whoever logs in on a browser inherits neither values nor rows, and a copy of the cookie
    from before opens nothing (ASVS 7.2.4)."""
    device = await make_totp(sessions, alice)

    async def put(request: Request) -> Response:
        request.session["basket"] = "alice's"
        return PlainTextResponse("put")

    async def enter_bob(request: Request) -> Response:
        await log_in(request, await otp.load_user(request, bob.id))
        return JSONResponse({"session": sorted(request.session), **shown(request)})

    routes = (door(otp, alice, device), Route("/put", put), Route("/enter-bob", enter_bob))
    app = make_app(otp, *routes)
    async with Browser(app) as browser:
        await browser.get("/enter")
        await browser.get("/put")
        copied = browser.cookie
        answer = await browser.get("/enter-bob")
        assert answer.json() == {"session": ["otp_session_owner"], **AUTHENTICATED}
        assert await browser.state() == AUTHENTICATED
    assert [row.user_id for row in await rows(sessions)] == [bob.id]
    async with Browser(app, cookies={"otp_session": copied}) as thief:
        assert await thief.state() == ANONYMOUS


async def test_login_verifies_the_current_session(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """login verifies the session at once and for good, in the same row; what the host keeps in
    the session stays."""
    device = await make_totp(sessions, alice)

    async def put(request: Request) -> Response:
        request.session["basket"] = "alice's"
        return PlainTextResponse("put")

    async def basket(request: Request) -> Response:
        return PlainTextResponse(request.session["basket"])

    routes = (door(otp, alice), verify(device), Route("/put", put), Route("/basket", basket))
    async with Browser(make_app(otp, *routes)) as browser:
        await browser.get("/enter")
        await browser.get("/put")
        [before] = await rows(sessions)
        assert (await browser.get("/verify")).json() == verified_by(device)
        assert await browser.state() == verified_by(device)
        assert (await browser.get("/basket")).text == "alice's"
    [after] = await rows(sessions)
    assert (after.id, after.created_at) == (before.id, before.created_at)
    assert after.token_digest != before.token_digest


async def test_the_cookie_from_before_a_verification_opens_nothing(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """Every verification draws a new session token, also the second one, and an old cookie opens
    nothing (ASVS 7.2.4); the last one still says who it is, for some seconds."""
    device = await make_totp(sessions, alice)
    app = make_app(otp, door(otp, alice), verify(device))
    copied = []
    async with Browser(app) as browser:
        for path in ("/enter", "/verify", "/verify"):
            await browser.get(path)
            copied.append(browser.cookie)
        assert await browser.state() == verified_by(device)
    assert len(set(copied)) == 3
    for value, worth in zip(copied, (ANONYMOUS, AUTHENTICATED), strict=False):
        async with Browser(app, cookies={"otp_session": value}) as thief:
            assert await thief.state() == worth
            assert (await thief.get("/vault")).status_code == 303


async def test_log_out_ends_the_session(otp: OTP, sessions: Sessions, alice: User) -> None:
    """log_out deletes the row and empties the session, within the request already; a copied
    cookie opens nothing afterwards (ASVS 7.4.1)."""
    device = await make_totp(sessions, alice)
    app = make_app(otp, door(otp, alice, device), Route("/leave", leave))
    async with Browser(app) as browser:
        await browser.get("/enter")
        copied = browser.cookie
        assert (await browser.get("/leave")).json() == ANONYMOUS
        assert "otp_session" not in browser.cookies
        assert await rows(sessions) == []
        assert (await browser.get("/leave")).json() == ANONYMOUS
    async with Browser(app, cookies={"otp_session": copied}) as thief:
        assert await thief.state() == ANONYMOUS


async def test_log_out_ends_this_session_only(otp: OTP, sessions: Sessions, alice: User) -> None:
    """The same user's session in another browser goes on."""
    app = make_app(otp, door(otp, alice), Route("/leave", leave))
    async with Browser(app) as one, Browser(app) as two:
        await one.get("/enter")
        await two.get("/enter")
        await one.get("/leave")
        assert await two.state() == AUTHENTICATED


async def test_only_somebody_logs_in(otp: OTP, alice: User) -> None:
    """log_in of nobody is a programmer's error and begins nothing."""

    async def enter(request: Request) -> Response:
        with pytest.raises(ValueError, match="authenticated"):
            await log_in(request, request.user)
        return JSONResponse(shown(request))

    async with Browser(make_app(otp, Route("/enter", enter))) as browser:
        assert (await browser.get("/enter")).json() == ANONYMOUS
        assert "otp_session" not in browser.cookies


# DeviceRejected.


async def unconfirm(sessions: Sessions, device: Any) -> None:
    async with sessions.begin() as session:
        await session.execute(update(TOTPDevice).values(confirmed=False))


async def give_away(sessions: Sessions, device: Any) -> None:
    heir = await make_user(sessions, "heir")
    async with sessions.begin() as session:
        await session.execute(update(TOTPDevice).values(user_id=heir.id))


async def remove(sessions: Sessions, device: Any) -> None:
    async with sessions.begin() as session:
        await session.execute(delete(TOTPDevice))


async def end(sessions: Sessions, device: Any) -> None:
    async with sessions.begin() as session:
        await session.execute(delete(OTPSession))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (unconfirm, "not confirmed"),
        (give_away, "not the user's"),
        (remove, "gone"),
        (end, "ended"),
    ],
)
async def test_login_rejects_a_device(
    otp: OTP,
    sessions: Sessions,
    alice: User,
    change: Callable[[Sessions, Any], Any],
    reason: str,
) -> None:
    """login rejects a device that is unconfirmed, another user's or gone, and a session that has
    ended meanwhile; the session is as it was."""
    device = await make_totp(sessions, alice)

    async def endpoint(request: Request) -> Response:
        await change(sessions, device)
        with pytest.raises(DeviceRejected, match=reason) as rejected:
            await login(request, device)
        assert rejected.value.device is device
        return JSONResponse(shown(request))

    app = make_app(otp, door(otp, alice), Route("/verify", endpoint))
    async with Browser(app) as browser:
        await browser.get("/enter")
        before = browser.cookie
        assert (await browser.get("/verify")).json() == AUTHENTICATED
        assert browser.cookie == before
        assert await browser.state() == (ANONYMOUS if change is end else AUTHENTICATED)


@pytest.mark.parametrize("offered", ["totp", "no device at all"])
async def test_login_wants_a_device_of_the_sessions_user(
    otp: OTP, sessions: Sessions, alice: User, bob: User, offered: str
) -> None:
    """Another user's device verifies nobody, and neither does what is no device, not even an
    anonymous request."""
    device = await make_totp(sessions, bob) if offered == "totp" else offered
    app = make_app(otp, door(otp, alice), verify(device))
    async with Browser(app) as browser:
        assert (await browser.get("/verify")).json()["rejected"] == "This device is not the user's."
        await browser.get("/enter")
        assert (await browser.get("/verify")).json()["rejected"] == "This device is not the user's."
        assert await browser.state() == AUTHENTICATED


@pytest.mark.parametrize("change", [unconfirm, give_away, remove])
async def test_log_in_rejects_a_device_and_begins_nothing(
    otp: OTP, sessions: Sessions, alice: User, change: Callable[[Sessions, Any], Any]
) -> None:
    """log_in of a user whose otp_device is no good begins no session."""
    device = await make_totp(sessions, alice)
    await change(sessions, device)

    async def enter(request: Request) -> Response:
        user = await otp.load_user(request, alice.id)
        user.otp_device = device
        with pytest.raises(DeviceRejected):
            await log_in(request, user)
        return JSONResponse(shown(request))

    async with Browser(make_app(otp, Route("/enter", enter))) as browser:
        assert (await browser.get("/enter")).json() == ANONYMOUS
        assert "otp_session" not in browser.cookies
    assert await rows(sessions) == []


async def test_of_two_verifications_of_one_session_the_later_is_the_device(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """Verified again by another device, the session is that device's."""
    first = await make_totp(sessions, alice)
    second, _ = await make_static(sessions, alice)
    assert isinstance(second, StaticDevice)
    async with Browser(make_app(otp, door(otp, alice, first), verify(second))) as browser:
        await browser.get("/enter")
        await browser.get("/verify")
        assert await browser.state() == verified_by(second)
        async with sessions.begin() as session:
            await session.execute(update(TOTPDevice).values(confirmed=False))
            assert await session.scalar(select(func.count()).select_from(OTPSession)) == 1
        assert await browser.state() == verified_by(second)


@pytest.mark.parametrize("how", ["log_out", "revoke_user", "revoke_device", "unconfirm"])
async def test_a_session_that_ended_does_not_go_on(
    otp: OTP, sessions: Sessions, alice: User, how: str
) -> None:
    """`log_in(request, request.user)` in a view that took its time brings nothing back that a
    log-out or a revocation has ended meanwhile."""
    device = await make_totp(sessions, alice)

    async def change_password(request: Request) -> Response:
        if how == "log_out":
            await otp.sessions.end(request.cookies["otp_session"])
        elif how == "unconfirm":
            async with sessions.begin() as session:
                row = await session.get(type(device), device.id)
                row.confirmed = False
            async with sessions.begin() as session:
                row = await session.get(type(device), device.id)
                row.confirmed = True
        else:
            await otp.revoke_sessions(alice if how == "revoke_user" else device)
        with pytest.raises(DeviceRejected):
            await log_in(request, request.user)
        return PlainTextResponse("refused")

    async def go_on(request: Request) -> Response:
        await log_in(request, request.user)
        return PlainTextResponse("on")

    routes = Route("/change", change_password), Route("/on", go_on)
    async with Browser(make_app(otp, door(otp, alice, device), *routes)) as browser:
        await browser.get("/enter")
        before = browser.cookie
        assert (await browser.get("/on")).text == "on"
        assert (browser.cookie != before, await browser.state()) == (True, verified_by(device))
        assert (await browser.get("/change")).text == "refused"
        assert (await browser.state())["verified"] is False
