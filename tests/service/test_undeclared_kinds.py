"""A user whose device is of a kind that this process does not declare."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starlette_otp import OTP, requires_otp
from starlette_otp.models import User
from tests.support import PASSWORD, Browser, door, make_app

JSON = {"accept": "application/json"}


@requires_otp(if_configured=True)
async def lenient(request: Request) -> Response:
    return PlainTextResponse("in")


async def give_a_pager(engine: AsyncEngine, user: User, confirmed: bool) -> None:
    """A device as another process of the host's would make it."""
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO otp_device (kind, user_id, confirmed, created_at)"
                " VALUES ('pager', :owner, :confirmed, now())"
            ),
            {"owner": user.id, "confirmed": confirmed},
        )


async def test_if_configured_counts_every_kind(otp: OTP, engine: AsyncEngine, alice: User) -> None:
    """A confirmed device closes an if_configured guard, whatever process declares its kind; an
    unconfirmed one does not."""
    app = make_app(otp, door(otp, alice), Route("/lenient", lenient))
    async with Browser(app, headers=JSON) as browser:
        await browser.get("/enter")
        await give_a_pager(engine, alice, confirmed=False)
        assert (await browser.get("/lenient")).text == "in"
        await give_a_pager(engine, alice, confirmed=True)
        answer = await browser.get("/lenient")
        assert (answer.status_code, answer.json()["code"]) == (403, "not_verified")


async def test_such_a_user_has_a_device(otp: OTP, engine: AsyncEngine, alice: User) -> None:
    """user_has_device counts every kind, and devices_for_user lists those that can be asked."""
    await give_a_pager(engine, alice, confirmed=True)
    assert await otp.user_has_device(alice) is True
    assert await otp.user_has_device(alice, confirmed=False) is False
    assert await otp.user_has_device(alice, confirmed=None) is True
    assert await otp.devices_for_user(alice, confirmed=None) == []


async def test_two_pages_go_on_to_the_token(otp: OTP, engine: AsyncEngine, alice: User) -> None:
    """Where a password is enough, such a user is not taken for one without a device."""
    otp.password_is_enough = True
    await give_a_pager(engine, alice, confirmed=True)
    async with Browser(make_app(otp)) as browser:
        answer = await browser.submit("/account/login", username="alice", password=PASSWORD)
        assert answer.headers["location"] == "/account/login?next=%2F"
