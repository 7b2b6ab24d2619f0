"""The gate: who gets in, on every URL and by every method."""

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from starlette_otp import OTP, ConfigurationError
from starlette_otp.admin import OTPAdmin
from starlette_otp.admin.login import is_staff
from starlette_otp.models import Device
from tests.admin.walk import urls
from tests.hosts import Subject
from tests.support import (
    Browser,
    csrf_of,
    door,
    make_app,
    make_totp,
    make_user,
    middleware,
)

OUTSIDERS = {
    "anonymous": {},
    "staff without a token": {"is_staff": True, "verified": False},
    "verified, not staff": {"is_staff": False, "verified": True},
    "inactive, verified staff": {"is_staff": True, "verified": True, "is_active": False},
}


async def outsider(otp: OTP, sessions: Any, persona: dict[str, bool]) -> tuple[Browser, Any]:
    """A browser of that persona's, and the site it stands before."""
    user = await make_user(sessions, "mallory", is_staff=persona.get("is_staff", False))
    device = await make_totp(sessions, user)
    app = make_app(otp, door(otp, user, device if persona.get("verified") else None))
    admin = OTPAdmin(app, sessions, otp=otp)
    browser = Browser(app)
    if persona:
        await browser.get("/enter")
    if not persona.get("is_active", True):
        user.is_active = False
        async with sessions.begin() as session:
            await session.merge(user)
    return browser, admin


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("persona", OUTSIDERS.values(), ids=OUTSIDERS)
async def test_nobody_else_gets_in(
    otp: OTP, sessions: Any, persona: dict[str, bool], method: str
) -> None:
    """On every URL of the site, by every method, all but verified staff are sent to its log-in."""
    browser, admin = await outsider(otp, sessions, persona)
    token = csrf_of(await browser.get("/admin/login"))
    walked = 0
    for url, _ in urls(admin):
        answer = await browser.request(method, url, headers={"x-csrf-token": token})
        assert answer.status_code == 303, url
        assert answer.headers["location"].startswith("/admin/login?next="), url
        walked += 1
    assert walked > 60
    async with sessions() as session:
        assert await session.get(Device, 1) is not None


@pytest.mark.parametrize(
    ("persona", "status"), [({}, 401), ({"is_staff": False, "verified": True}, 403)]
)
async def test_programs_get_a_status(
    otp: OTP, sessions: Any, persona: dict[str, bool], status: int
) -> None:
    """A client that takes no HTML gets 401 or 403, not a page."""
    browser, _ = await outsider(otp, sessions, persona)
    answer = await browser.get("/admin/otp-users/list", headers={"accept": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (status, "not_permitted")


@pytest.mark.parametrize(
    "path", ["/admin/login/", "/admin//login", "/admin/static/../otp-users/list"]
)
async def test_paths_like_a_door_are_none(anyone: Browser, path: str) -> None:
    """Only the doors themselves are open, and no path that looks like one."""
    answer = await anyone.get(path)
    assert answer.status_code == 303
    assert "next" in answer.headers["location"]


async def test_staff_get_in_and_no_page_is_kept(desk: Browser, admin: OTPAdmin) -> None:
    """Verified staff open every page; none may be stored or framed."""
    for url, methods in urls(admin, pk=["1"], kind=["totp"], action=[], column_name=[]):
        if "GET" in methods and "/delete" not in url:
            answer = await desk.get(url)
            assert answer.status_code in (200, 400, 403, 404), url
            assert answer.headers["cache-control"] == "no-store", url
            assert answer.headers["x-frame-options"] == "DENY", url


@pytest.mark.parametrize("path", ["/admin/static/admin.js", "/admin/statics/css/main.css"])
async def test_scripts_and_styles_are_public(anyone: Browser, path: str) -> None:
    """Who sees the log-in gets its style, and nothing else."""
    assert (await anyone.get(path)).status_code == 200


@pytest.mark.parametrize("answer", [True, False])
async def test_has_permission_narrows(
    app: Starlette, sessions: Any, otp: OTP, answer: bool
) -> None:
    """A subclass may ask for more, in an async method, too; the log-in tells who is refused."""

    class Narrow(OTPAdmin):
        async def has_permission(self, request: Request) -> bool:
            return bool(super().has_permission(request)) and answer

    Narrow(app, sessions, otp=otp)
    async with Browser(app) as browser:
        await browser.get("/enter")
        page = await browser.get("/admin/")
        assert page.status_code == (200 if answer else 303)
        if not answer:
            shown = await browser.get(page.headers["location"])
            assert "You are signed in as alice, who may not use this site." in shown.text


@pytest.mark.parametrize(
    ("user", "staff"),
    [
        (None, False),
        (Subject("x"), False),
        (type("U", (), {"is_staff": True})(), True),
        (type("U", (), {"is_staff": True, "is_active": False})(), False),
    ],
)
def test_who_is_staff(user: Any, staff: bool) -> None:
    """Staff says so and is not inactive; a user without the attribute is none."""
    assert is_staff(user) is staff


async def test_a_database_that_is_away_is_503(stranger: Browser) -> None:
    """Without a database the whole site answers 503 with Retry-After, its doors too."""
    app: Any = stranger._transport.app
    otp = app.user_middleware[-1].kwargs["otp"]
    OTPAdmin(app, otp.transactions.sessionmaker, otp=otp)
    stranger.cookies.set("otp_session", "A" * 43)
    for path in ("/admin/", "/admin/otp-users/list", "/admin/login"):
        answer = await stranger.get(path)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5"), path


async def test_a_database_that_is_away_on_a_page_is_503(app: Starlette, otp: OTP) -> None:
    """A database that is there for the gate and away for the page is 503, no traceback."""
    engine = create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:1/nothing")
    OTPAdmin(app, engine, otp=otp)
    async with Browser(app) as browser:
        await browser.get("/enter")
        answer = await browser.get("/admin/otp-totp/list")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "127.0.0.1" not in answer.text
    await engine.dispose()


async def test_the_middleware_is_missed_by_name(sessions: Any, otp: OTP) -> None:
    """Without OTPMiddleware the first request says so in one sentence."""
    app = Starlette()
    OTPAdmin(app, sessions, otp=otp)
    async with Browser(app) as browser:
        with pytest.raises(ConfigurationError, match="OTPMiddleware has not seen this request"):
            await browser.get("/admin/")


async def test_names_are_found_wherever_the_site_is(otp: OTP, sessions: Any) -> None:
    """Two sites, of other names, one of them in an application that is mounted itself."""
    inner = make_app(otp)
    user = await make_user(sessions, "alice", is_staff=True)
    device = await make_totp(sessions, user)
    OTPAdmin(inner, sessions, otp=otp, name="inner", base_url="/office")
    outer = Starlette(
        routes=[door(otp, user, device), Mount("/shop", app=inner)], middleware=middleware(otp)
    )
    OTPAdmin(outer, sessions, otp=otp)
    assert str(outer.url_path_for("otpadmin:index")) == "/admin/"
    async with Browser(outer) as browser:
        await browser.get("/enter")
        office = await browser.get("/shop/office/")
        assert "http://site.example/shop/office/otp-users/list" in office.text
        assert "http://site.example/admin/otp-users/list" in (await browser.get("/admin/")).text
        assert (await browser.get("/shop/office/otp-totp/details/1")).status_code == 200


async def test_websockets_are_refused_before_they_are_accepted(
    app: Starlette, admin: OTPAdmin
) -> None:
    """A websocket that a host adds to the site is behind the gate, too."""

    async def tell(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    admin.admin.router.routes.insert(0, WebSocketRoute("/news", tell))
    client = TestClient(app)
    with pytest.raises(WebSocketDisconnect) as caught, client.websocket_connect("/admin/news"):
        pass
    assert caught.value.code == 1008


def test_another_authentication_is_refused(app: Starlette, sessions: Any, otp: OTP) -> None:
    """sqladmin's authentication would install a SessionMiddleware; it is refused in a sentence."""
    with pytest.raises(ConfigurationError, match="has_permission"):
        OTPAdmin(app, sessions, otp=otp, authentication_backend=object())
    with pytest.raises(ConfigurationError, match="AsyncEngine"):
        OTPAdmin(app, object(), otp=otp)  # type: ignore[arg-type]  # what is tested
