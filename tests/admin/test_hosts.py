"""Hosts with models and views of their own, whose things stay as they were."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqladmin import BaseView, ModelView, action, expose
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starlette_otp import OTP, log_in
from starlette_otp.admin import OTPAdmin
from starlette_otp.models import User
from starlette_otp.web.user import attach
from tests.hosts import Host, Subject, int_users, make_host, uuid_users
from tests.support import (
    SECRET,
    SECRET_KEY,
    Browser,
    csrf_of,
    door,
    make_app,
    password_hash,
    reload,
)


@dataclass(frozen=True)
class Clerk(Subject):
    """A user who lives elsewhere, where it is also known who is staff."""

    is_staff: bool = True


CLERKS = {key: Clerk(key, name) for key, name in (("x|alice/1", "alice"), ("x|bob/2", "bob"))}


async def load_clerk(conn: Any, key: Any) -> Clerk | None:
    return CLERKS.get(key)


async def refuse(request: Request, username: str, password: str) -> None:
    return None


@pytest.fixture
async def empty_engine(empty_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(empty_url)
    yield engine
    await engine.dispose()


async def people_of(host: Host, sessions: async_sessionmaker[AsyncSession]) -> list[Any]:
    """Alice, who is staff, and Bob."""
    if host.User is Subject:
        return list(CLERKS.values())
    made = [
        host.User(username=name, password_hash=password_hash(), is_staff=True)
        for name in ("alice", "bob")
    ]
    async with sessions.begin() as session:
        session.add_all(made)
    return made


def entrance(otp: OTP, user: Any, device: Any) -> Route:
    async def enter(request: Request) -> Response:
        found = await otp.load_user(request, otp.device_model.user_key(user))
        await log_in(request, attach(found, device))
        return PlainTextResponse("in")

    return Route("/enter", enter)


@pytest.mark.parametrize("users", [int_users, uuid_users, None])
async def test_the_site_is_the_same_for_users_of_any_kind(
    empty_engine: AsyncEngine, users: Any
) -> None:
    """Users with numbers, UUIDs and opaque keys: from adding a device to deleting it."""
    host = make_host(users)
    await host.create_tables(empty_engine)
    sessions = async_sessionmaker(empty_engine, expire_on_commit=False)
    elsewhere = {} if users else {"load_user": load_clerk, "authenticate": refuse}
    otp = OTP(sessions, host.Device, secret_key=SECRET_KEY, **elsewhere)  # type: ignore[arg-type]  # the functions of one kind of host
    alice, bob = await people_of(host, sessions)
    phone = await otp.add_device(alice, host.TOTPDevice(secret=SECRET, name="phone"))
    app = make_app(otp, entrance(otp, alice, phone))
    OTPAdmin(app, empty_engine, otp=otp)
    async with Browser(app) as browser:
        await browser.get("/enter")
        key = str(otp.device_model.user_key(bob))
        page = await browser.submit("/admin/otp/add/totp", user=key, name="pad", confirmed="y")
        assert "<svg" in page.text, page.text
        (device,) = await otp.devices_for_user(bob)
        listed = await browser.get("/admin/otp-totp/list", params={"search": "bob"})
        assert "pad" in listed.text
        assert "phone" not in listed.text
        assert key in (await browser.get("/admin/otp-totp/export/csv")).text
        if users:
            assert "pad" in (await browser.get(f"/admin/otp-users/details/{key}")).text
            assert "bob" in (await browser.get("/admin/otp-users/list")).text
        else:
            assert (await browser.get("/admin/otp-users/list")).status_code == 404
        for do in ("reset-throttling", "confirm", "revoke-sessions", "delete"):
            url = f"/admin/otp/device/totp/{device.id}/{do}"
            assert (await browser.get(f"/admin/otp-totp/details/{device.id}")).status_code == 200
            answer = await browser.post(url, data={"csrf_token": csrf_of(page)})
            assert answer.status_code == 303, do
        assert await otp.devices_for_user(bob) == []
        unknown = await browser.submit("/admin/otp/add/totp", user="nobody")
        assert "There is no such user." in unknown.text


async def test_the_sessionmaker_stays_as_it_was(
    app: Starlette, otp: OTP, engine: AsyncEngine
) -> None:
    """sqladmin reconfigures the sessionmaker that it is given: it is given another."""
    sessions = async_sessionmaker(engine, expire_on_commit=False, autoflush=True, info={"a": 1})
    before = dict(sessions.kw)
    admin = OTPAdmin(app, sessions, otp=otp)
    assert sessions.kw == before
    assert admin.session_maker is not sessions
    assert admin.session_maker.kw["bind"] is engine
    assert admin.session_maker.kw["info"] == {"a": 1}


async def test_the_session_cookie_stays_the_hosts(otp: OTP, staff: Any, phone: Any) -> None:
    """What the host keeps in its session is there on the site and after it."""

    async def keep(request: Request) -> Response:
        request.session["cart"] = "full"
        return PlainTextResponse("kept")

    async def cart(request: Request) -> Response:
        return PlainTextResponse(request.session.get("cart", ""))

    app = make_app(otp, door(otp, staff, phone), Route("/keep", keep), Route("/cart", cart))
    admin = OTPAdmin(app, otp.transactions.sessionmaker, otp=otp)
    assert admin.admin.user_middleware == []
    async with Browser(app) as browser:
        await browser.get("/enter")
        await browser.get("/keep")
        for path in ("/admin/", "/admin/otp-totp/list", "/admin/login"):
            answer = await browser.get(path)
            assert len(answer.headers.get_list("set-cookie")) <= 1, path
        assert (await browser.get("/cart")).text == "full"
        assert set(browser.cookies) == {"session", "otp_session", "otp_browser"}


class AccountAdmin(ModelView, model=User):
    """A host's own view, of the model that our users' view has, too."""

    column_list = ["username"]
    form_columns = ["username", "email", "is_active"]

    @action("block", "Block", confirmation_message="Sure?")
    async def block(self, request: Request) -> Response:
        async with self.session_maker() as session:
            user = await session.get(User, int(request.query_params["pks"]))
            user.is_active = False
            await session.commit()
        return PlainTextResponse("blocked")


class ReportAdmin(BaseView):
    name = "Report"

    @expose("/report", methods=["GET", "POST"])
    async def report(self, request: Request) -> Response:
        async with request.form() as form:
            return PlainTextResponse(f"{request.method} {form.get('text')}")


@pytest.fixture
def own(admin: OTPAdmin) -> OTPAdmin:
    admin.add_view(AccountAdmin)
    admin.add_view(ReportAdmin)
    return admin


async def test_a_hosts_own_view_is_guarded_too(
    desk: Browser, own: OTPAdmin, sessions: Any, bob: User
) -> None:
    """sqladmin's forms, its DELETE and its actions want the token, in a field or in the header."""
    pages = [f"/admin/user/{name}" for name in ("list", "create", f"edit/{bob.id}")]
    for path in pages:
        page = await desk.get(path)
        assert page.status_code == 200
        assert '<meta name="otp-csrf-token"' in page.text
        assert "/admin/static/admin.js" in page.text
    token = csrf_of(page)
    block = f"/admin/user/action/block?pks={bob.id}"
    assert (await desk.get(block)).status_code == 405
    assert (await desk.post(block)).status_code == 403
    assert (await reload(sessions, bob)).is_active
    assert (await desk.post(block, data={"csrf_token": token})).text == "blocked"
    assert not (await reload(sessions, bob)).is_active
    fields = {"username": "robert", "email": "", "save": "Save"}
    edit = f"/admin/user/edit/{bob.id}"
    assert (await desk.post(edit, data=fields)).status_code == 403
    answer = await desk.post(edit, data={**fields, "csrf_token": token})
    assert answer.status_code == 302
    assert (await reload(sessions, bob)).username == "robert"
    delete = f"/admin/user/delete?pks={bob.id}"
    assert (await desk.delete(delete)).status_code == 403
    assert await reload(sessions, bob) is not None
    assert (await desk.delete(delete, headers={"x-csrf-token": token})).status_code == 200
    assert await reload(sessions, bob) is None


async def test_a_body_arrives_whole_behind_the_gate(desk: Browser, own: OTPAdmin) -> None:
    """What the gate has read for its token, the page behind it reads again; files, too."""
    token = csrf_of(await desk.get("/admin/"))
    data = {"csrf_token": token, "text": "x" * 70_000}
    assert (await desk.post("/admin/report", data=data)).text == f"POST {'x' * 70_000}"
    files = {"file": ("a.txt", b"content")}
    answer = await desk.post("/admin/report", data=data | {"text": "y"}, files=files)
    assert answer.text == "POST y"
    assert (await desk.post("/admin/report", data={"text": "y"}, files=files)).status_code == 403


async def test_the_views_can_be_left_out(app: Starlette, sessions: Any, otp: OTP) -> None:
    """Without `views` the site is empty until they are registered."""
    admin = OTPAdmin(app, sessions, otp=otp, views=False)
    assert admin.views == []
    admin.add_otp_views()
    identities = {view.identity for view in admin.views}
    devices = {"otp-totp", "otp-hotp", "otp-email", "otp-static"}
    assert identities == {*devices, "otp-tokens", "otp-users"}
