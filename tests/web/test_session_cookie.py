"""The cookie of a session: apart from the host's own, told when it changes and at no other time."""

import asyncio
from typing import Any

import httpx2
import pytest
import time_machine
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from starlette_otp import OTP, ConfigurationError, log_in, log_out
from starlette_otp.models import Device, OTPSession, TOTPDevice, User
from tests.hosts import make_host
from tests.support import (
    ANONYMOUS,
    OTHER_KEY,
    PASSWORD,
    SECRET,
    SECRET_KEY,
    Browser,
    Sessions,
    add,
    csrf_of,
    door,
    make_app,
    make_totp,
    password_hash,
    totp_token,
    verified_by,
)

LOGIN = "/account/login"


@pytest.fixture
async def device(sessions: Sessions, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice)


def ours(answer: httpx2.Response, name: str = "otp_session") -> list[str]:
    """The Set-Cookie headers for our cookie."""
    headers = answer.headers.get_list("set-cookie")
    return [header for header in headers if header.startswith(f"{name}=")]


async def test_it_is_set_when_it_changes(otp: OTP, device: TOTPDevice) -> None:
    """A log-in, a verification and a log-out say what the client holds from now on; no other
    request does, and an anonymous log-out has nothing to say."""
    async with Browser(make_app(otp)) as browser:
        for path in ("/state", "/vault", LOGIN):
            assert ours(await browser.get(path)) == []
        assert ours(await browser.log_in(totp_token(), password="wrong")) == []
        with time_machine.travel(0, tick=False) as clock:
            clock.move_to(1_800_000_000)
            (header,) = ours(await browser.log_in(totp_token()))
            assert header == (
                f"otp_session={browser.cookie}; Path=/; Max-Age=1209600; HttpOnly; SameSite=Lax"
            )
            assert ours(await browser.get("/vault")) == []
            clock.shift(60)
            page = f"{LOGIN}?reverify=1"
            (header,) = ours(await browser.submit(page, otp_token=totp_token()))
            assert header.startswith(f"otp_session={browser.cookie}; ")
            page = csrf_of(await browser.get(LOGIN))
            (header,) = ours(await browser.post("/account/logout", data={"csrf_token": page}))
        assert header == "otp_session=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"
        assert "otp_session" not in browser.cookies
        page = csrf_of(await browser.get(LOGIN))
        assert ours(await browser.post("/account/logout", data={"csrf_token": page})) == []


@pytest.mark.parametrize(
    ("settings", "base_url", "told"),
    [
        (
            {},
            "https://site.example",
            "otp_session=T; Path=/; Max-Age=1209600; HttpOnly; SameSite=Lax; Secure",
        ),
        (
            {"cookie_secure": True, "cookie_samesite": "Strict", "max_age": 60},
            "http://site.example",
            "otp_session=T; Path=/; Max-Age=60; HttpOnly; SameSite=Strict; Secure",
        ),
        (
            {"cookie_secure": False, "cookie_path": "/enter"},
            "https://site.example",
            "otp_session=T; Path=/enter; Max-Age=1209600; HttpOnly; SameSite=Lax",
        ),
        (
            {"cookie_name": "acme", "cookie_domain": "site.example"},
            "http://www.site.example",
            "acme=T; Path=/; Max-Age=1209600; HttpOnly; SameSite=Lax; Domain=site.example",
        ),
        (
            {"cookie_name": "__Host-acme"},
            "http://site.example",
            "__Host-acme=T; Path=/; Max-Age=1209600; HttpOnly; SameSite=Lax; Secure",
        ),
        (
            {"cookie_name": "__Secure-acme", "cookie_secure": False},
            "http://site.example",
            "__Secure-acme=T; Path=/; Max-Age=1209600; HttpOnly; SameSite=Lax; Secure",
        ),
    ],
)
async def test_its_settings(
    sessions: Sessions,
    alice: User,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    base_url: str,
    told: str,
) -> None:
    """Name, path, domain, SameSite and Secure are the class's; Secure on https unless it says
    otherwise, HttpOnly always."""
    for name, value in settings.items():
        monkeypatch.setattr(OTPSession, name, value)
    otp = OTP(sessions, Device, secret_key=SECRET_KEY)
    async with Browser(make_app(otp, door(otp, alice)), base_url=base_url) as browser:
        (header,) = ours(await browser.get("/enter"), otp.cookie.name)
    name, _, rest = header.partition("=")
    assert f"{name}=T{rest[43:]}" == told


@pytest.mark.parametrize(
    ("name", "value"), [("cookie_path", "/shop"), ("cookie_domain", "site.example")]
)
def test_a_name_that_browsers_would_refuse(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """A name with __Host- wants the path / and no domain, and one sentence says so."""
    monkeypatch.setattr(OTPSession, "cookie_name", "__Host-acme")
    monkeypatch.setattr(OTPSession, name, value)
    with pytest.raises(ConfigurationError, match='cookie_path = "/" and without a cookie_domain'):
        OTP(sessions, Device, secret_key=SECRET_KEY)


async def test_every_answer_that_depends_on_it_says_so(
    otp: OTP, alice: User, device: TOTPDevice
) -> None:
    """Vary: Cookie, anonymous or not, also where the host never looks into its session."""
    async with Browser(make_app(otp, door(otp, alice, device))) as browser:
        for path in ("/state", "/enter", "/state", "/vault"):
            assert "cookie" in (await browser.get(path)).headers["vary"].lower(), path


async def test_it_says_so_in_the_header_that_is_there(otp: OTP) -> None:
    """An answer that depends on something else, too, has one Vary header; Cookie is in it once."""

    async def page(request: Request) -> Response:
        if "look" in request.query_params:
            request.session.get("anything")
        return PlainTextResponse("", headers={"Vary": "Accept"})

    async with Browser(make_app(otp, Route("/page", page))) as browser:
        for path in ("/page", "/page?look"):
            answer = await browser.get(path)
            assert answer.headers.get_list("vary") == ["Accept, Cookie"], path


async def test_it_goes_along_with_an_error_of_the_hosts(otp: OTP, alice: User) -> None:
    """An answer made from an exception takes the new cookie along, too."""

    async def enter(request: Request) -> Response:
        await log_in(request, await otp.load_user(request, alice.id))
        raise HTTPException(418)

    async with Browser(make_app(otp, Route("/enter", enter))) as browser:
        assert (await browser.get("/enter")).status_code == 418
        assert (await browser.state())["authenticated"]


async def test_a_log_in_and_a_log_out_in_one_request(otp: OTP, alice: User) -> None:
    """What counts is what the client shall hold in the end: nothing."""

    async def both(request: Request) -> Response:
        await log_in(request, await otp.load_user(request, alice.id))
        await log_out(request)
        return PlainTextResponse("out")

    async with Browser(make_app(otp, Route("/both", both))) as browser:
        (header,) = ours(await browser.get("/both"))
        assert "Max-Age=0" in header
        assert await browser.state() == ANONYMOUS


# What used to throw a session away.


async def test_a_double_click_on_log_in(otp: OTP, device: TOTPDevice) -> None:
    """The second of two clicks does not take the session of the first one away."""
    async with Browser(make_app(otp)) as browser:
        csrf_token = csrf_of(await browser.get(LOGIN))
        data = {"csrf_token": csrf_token, "username": "alice", "password": PASSWORD}
        data["otp_token"] = totp_token()
        await asyncio.gather(*(browser.post(LOGIN, data=data) for _ in range(2)))
        assert await browser.state() == verified_by(device)


async def test_a_late_answer_of_another_tab(otp: OTP, alice: User, device: TOTPDevice) -> None:
    """Another tab's answer that writes the host's session does not bring the old token back."""
    arrived, verified = asyncio.Event(), asyncio.Event()

    async def poll(request: Request) -> Response:
        request.session["seen"] = request.session.get("seen", 0) + 1
        arrived.set()
        await verified.wait()
        return PlainTextResponse("polled")

    with time_machine.travel(1_800_000_000, tick=False) as clock:
        async with Browser(make_app(otp, Route("/poll", poll))) as browser:
            await browser.log_in(totp_token())
            clock.shift(60)
            other = asyncio.ensure_future(browser.get("/poll"))
            await arrived.wait()
            answer = await browser.submit(f"{LOGIN}?reverify=1", otp_token=totp_token())
            assert answer.status_code == 303
            verified.set()
            await other
            clock.shift(60)
            assert await browser.state() == verified_by(device)


# Two OTPs in one process.


async def test_two_otps_do_not_log_each_other_out(
    sessions: Sessions, empty_engine: AsyncEngine, otp: OTP, alice: User, device: TOTPDevice
) -> None:
    """Two applications on one host, each with an OTP, share the host's session and nothing else:
    whoever logs in or out at one of them stays what they are at the other."""
    host = make_host()
    host.OTPSession.cookie_name = "other_session"
    await host.create_tables(empty_engine)
    maker = async_sessionmaker(empty_engine, expire_on_commit=False)
    other = OTP(maker, host.Device, secret_key=SECRET_KEY)
    user = await add(maker, host.User(username="alice", password_hash=password_hash()))
    others = await add(maker, host.TOTPDevice(secret=SECRET, user_id=user.id))
    outer = Starlette(routes=[Mount("/one", make_app(otp)), Mount("/two", make_app(other))])
    async with Browser(outer) as browser:

        async def state(path: str) -> Any:
            return (await browser.get(f"{path}/state")).json()

        for path in ("/one", "/two"):
            answer = await browser.log_in(totp_token(), url=f"{path}{LOGIN}")
            assert answer.status_code == 303
        assert await state("/one") == verified_by(device)
        assert await state("/two") == verified_by(others)
        assert {"otp_browser", "other_browser"} <= set(browser.cookies)
        page = csrf_of(await browser.get(f"/two{LOGIN}"))
        await browser.post("/two/account/logout", data={"csrf_token": page})
        assert await state("/two") == ANONYMOUS
        assert await state("/one") == verified_by(device)


# The host's own session data.


async def put(request: Request) -> Response:
    request.session["basket"] = request.path_params["what"]
    return PlainTextResponse("put")


async def basket(request: Request) -> Response:
    return JSONResponse(request.session.get("basket"))


@pytest.fixture
def shop(otp: OTP, alice: User, bob: User) -> Starlette:
    def enter(user: User) -> Any:
        async def endpoint(request: Request) -> Response:
            await log_in(request, await otp.load_user(request, user.id))
            return PlainTextResponse("in")

        return endpoint

    async def leave(request: Request) -> Response:
        await log_out(request)
        return PlainTextResponse("out")

    routes = [
        Route("/put/{what}", put),
        Route("/basket", basket),
        Route("/alice", enter(alice)),
        Route("/bob", enter(bob)),
        Route("/leave", leave),
    ]
    return make_app(otp, *routes)


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        (["put/nobodys", "alice"], "nobodys"),
        (["alice", "put/hers", "alice"], "hers"),
        (["alice", "put/hers", "ended", "alice"], "hers"),
        (["alice", "put/hers", "ended", "put/still-hers", "alice"], "still-hers"),
        (["alice", "put/hers", "bob"], None),
        (["alice", "put/hers", "ended", "bob"], None),
        (["put/nobodys", "alice", "ended", "bob"], None),
        (["alice", "put/hers", "leave"], None),
    ],
)
async def test_a_basket_is_its_owners(
    shop: Starlette, otp: OTP, alice: User, paths: list[str], found: str | None
) -> None:
    """What the host keeps in its session survives its owner's log-in, also after their session
    ended by itself; it goes when another user logs in, and at a log-out."""
    async with Browser(shop) as browser:
        for path in paths:
            if path == "ended":
                await otp.revoke_sessions(alice)
            else:
                await browser.get(f"/{path}")
        assert (await browser.get("/basket")).json() == found


async def test_a_basket_outlives_a_change_of_keys(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """Whose a session is can still be told under the former key."""
    rotated = OTP(sessions, Device, secret_key=[OTHER_KEY, SECRET_KEY])
    routes = Route("/put/{what}", put), Route("/basket", basket)
    async with Browser(make_app(otp, door(otp, alice), *routes)) as browser:
        await browser.get("/enter")
        await browser.get("/put/hers")
        cookies = {"session": browser.cookies["session"]}
    app = make_app(rotated, door(rotated, alice), *routes)
    async with Browser(app, cookies=cookies) as browser:
        await browser.get("/enter")
        assert (await browser.get("/basket")).json() == "hers"
