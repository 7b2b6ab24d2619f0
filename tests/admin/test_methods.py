"""Methods: none but GET is taken for safe, whatever its name promises."""

from typing import Any

import pytest
from sqladmin import ModelView, action, expose
from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from starlette_otp.admin import OTPAdmin
from starlette_otp.models import Base, Device, User
from tests.admin.walk import urls
from tests.support import Browser, Sessions, csrf_of, make_totp

NEIGHBOUR = {"origin": "http://blog.site.example", "sec-fetch-site": "same-site"}
"""What a browser says of a page of another origin on the same site: the cookie goes along."""
FIELDS = {"username": "made", "email": "", "user": "1", "name": "made", "save": "Save"}


class MemberAdmin(ModelView, model=User):
    """A host's own view, whose own pages take every method but GET for a change, as sqladmin's."""

    column_list = ["username"]
    form_columns = ["username", "email", "is_active"]

    async def make(self) -> None:
        async with self.session_maker() as session:
            session.add(User(username="made"))
            await session.commit()

    @action("multiply", "Multiply")
    async def multiply(self, request: Request) -> Response:
        await self.make()
        return PlainTextResponse("multiplied")

    @expose("/hire", methods=["GET", "POST", "OPTIONS", "TRACE", "BREW"])
    async def hire(self, request: Request) -> Response:
        if request.method != "GET":
            await self.make()
        return PlainTextResponse("a form to hire somebody")


@pytest.fixture
async def members(admin: OTPAdmin, sessions: Sessions, bob: User) -> OTPAdmin:
    admin.add_view(MemberAdmin)
    await make_totp(sessions, bob, confirmed=False, throttling_failure_count=3)
    return admin


async def everything(sessions: Sessions) -> dict[str, list[Any]]:
    """All rows of all tables."""
    async with sessions() as session:
        tables = Base.metadata.sorted_tables
        return {t.name: sorted(map(repr, await session.execute(select(t)))) for t in tables}


@pytest.mark.parametrize("headers", [{}, NEIGHBOUR], ids=["own page", "neighbour"])
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "BREW"])
async def test_no_method_changes_anything_without_a_token(
    desk: Browser, members: OTPAdmin, sessions: Sessions, method: str, headers: dict[str, str]
) -> None:
    """On every URL, by methods that are called safe and by made-up ones, nothing changes."""
    before = await everything(sessions)
    walked = set()
    for url, _ in urls(members, pk=["2"], kind=["totp", "static"], column_name=["username"]):
        answer = await desk.request(method, url, params={"pks": "2"}, data=FIELDS, headers=headers)
        allowed = (200, 400, 403, 404, 405) if method == "HEAD" else (403,)
        assert answer.status_code in allowed, (url, answer.status_code)
        walked.add(url.removeprefix("/admin"))
    assert await everything(sessions) == before
    assert {"/user/create", "/user/edit/2", "/user/hire", "/user/action/multiply"} <= walked
    assert (await desk.get("/state")).json()["verified"]


@pytest.mark.parametrize("path", ["/admin/", "/admin/user/create", "/admin/static/admin.js"])
async def test_head_is_get_without_its_body(desk: Browser, members: OTPAdmin, path: str) -> None:
    """HEAD has the status and the headers of GET, and nothing after them."""
    got, head = await desk.get(path), await desk.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(got.content))
    assert head.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize("method", ["OPTIONS", "BREW"])
async def test_any_method_passes_with_the_token(
    desk: Browser, members: OTPAdmin, sessions: Sessions, method: str
) -> None:
    """A host's page that answers other methods is reached by them, with the token of our pages."""
    token = csrf_of(await desk.get("/admin/"))
    answer = await desk.request(method, "/admin/user/hire", headers={"x-csrf-token": token})
    assert answer.text == "a form to hire somebody"
    async with sessions() as session:
        assert await session.scalar(select(User).where(User.username == "made"))


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "BREW"])
async def test_the_doors_are_opened_by_get_and_post_alone(
    desk: Browser, admin: OTPAdmin, sessions: Sessions, method: str
) -> None:
    """Log-in and log-out do nothing by any other method."""
    for path in ("/admin/login", "/admin/logout"):
        answer = await desk.request(method, path)
        assert answer.status_code in (200, 303, 405), path
    assert (await desk.get("/state")).json()["verified"]
    async with sessions() as session:
        assert len(list(await session.scalars(select(Device)))) == 1


async def test_another_origin_is_refused_though_it_has_the_token(
    desk: Browser, members: OTPAdmin, sessions: Sessions
) -> None:
    """A change from another origin is 403 with a token of our pages, too."""
    headers = {"x-csrf-token": csrf_of(await desk.get("/admin/"))}
    path = "/admin/otp/device/totp/2/confirm"
    for foreign in (NEIGHBOUR, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
        assert (await desk.post(path, headers=headers | foreign)).status_code == 403
    assert not (await bobs_device(sessions)).confirmed
    own = {"sec-fetch-site": "same-origin", "origin": "http://site.example"}
    assert (await desk.post(path, headers=headers | own)).status_code == 303
    assert (await bobs_device(sessions)).confirmed


async def bobs_device(sessions: Sessions) -> Any:
    async with sessions() as session:
        return await session.get(Device, 2)
