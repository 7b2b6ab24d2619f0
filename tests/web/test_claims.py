"""Claims: how a session's user was authenticated, told to others and told by others."""

import time
from typing import Any

import pytest
import time_machine
from sqlalchemy import text
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from starlette_otp import OTP, ConfigurationError, log_in, requires_otp, session_claims
from starlette_otp.models import User
from tests.support import Browser, Sessions, door, make_app, make_totp


async def claims(request: Request) -> Response:
    try:
        return JSONResponse(await session_claims(request))
    except ValueError as exc:
        return PlainTextResponse(str(exc), 400)


@requires_otp(accept_amr=("mfa", "hwk"))
async def lenient(request: Request) -> Response:
    return PlainTextResponse("in")


@requires_otp(accept_amr=("mfa",), max_age=300)
async def recent(request: Request) -> Response:
    return PlainTextResponse("in")


@requires_otp
async def strict(request: Request) -> Response:
    return PlainTextResponse("in")


ROUTES = [
    Route("/claims", claims),
    Route("/lenient", lenient),
    Route("/recent", recent),
    Route("/strict", strict),
]


def upstream(otp: OTP, user: Any, amr: Any) -> Route:
    """A log-in by an OpenID provider, which says how."""

    async def enter(request: Request) -> Response:
        await log_in(request, await otp.load_user(request, user.id), amr=amr)
        return PlainTextResponse("in")

    return Route("/upstream", enter)


async def entered(otp: OTP, user: Any, amr: Any) -> Browser:
    browser = Browser(make_app(otp, *ROUTES, upstream(otp, user, amr)))
    browser.headers["accept"] = "application/json"
    await browser.get("/upstream")
    return browser


async def test_of_two_factors(otp: OTP, alice: User, sessions: Sessions) -> None:
    """RFC 8176's names, when, and which session."""
    device = await make_totp(sessions, alice)
    async with Browser(make_app(otp, *ROUTES, door(otp, alice, device))) as browser:
        assert (await browser.get("/claims")).status_code == 400
        await browser.get("/enter")
        said = (await browser.get("/claims")).json()
        assert said["amr"] == ["pwd", "otp", "mfa"]
        assert said["acr"] == "aal2"
        assert abs(said["auth_time"] - time.time()) < 5
        (row,) = await otp.sessions_for_user(alice)
        assert said["sid"] == str(row.id)
        await otp.end_session(alice, int(said["sid"]))
        assert (await browser.get("/claims")).status_code == 400


async def test_of_a_password_alone(otp: OTP, alice: User) -> None:
    """One factor, as old as the log-in."""
    async with Browser(make_app(otp, *ROUTES, door(otp, alice))) as browser:
        await browser.get("/enter")
        with time_machine.travel(time.time() + 100):
            said = (await browser.get("/claims")).json()
            assert (said["amr"], said["acr"]) == (["pwd"], "aal1")
            assert 95 < time.time() - said["auth_time"] < 105


async def test_what_a_provider_did(otp: OTP, alice: User) -> None:
    """It counts where a guard says so, for as long as that guard says, and nowhere else."""
    browser = await entered(otp, alice, ["hwk", "mfa"])
    said = (await browser.get("/claims")).json()
    assert (said["amr"], said["acr"]) == (["hwk", "mfa"], "aal2")
    for path in ("/lenient", "/recent"):
        assert (await browser.get(path)).text == "in"
    assert (await browser.get("/strict")).json()["code"] == "not_verified"
    with time_machine.travel(time.time() + 301):
        assert (await browser.get("/lenient")).text == "in"
        assert (await browser.get("/recent")).json()["code"] == "reverification_required"


async def test_what_did_not_happen_there(otp: OTP, alice: User) -> None:
    """A provider that asked for a password alone, and a name that is the start of another."""
    for amr in (["pwd"], ["mf"], ["mfa2"]):
        browser = await entered(otp, alice, amr)
        assert (await browser.get("/lenient")).json()["code"] == "not_verified"


async def test_it_is_bound_to_the_row(otp: OTP, alice: User, sessions: Sessions) -> None:
    """Who writes `amr` into the database opens nothing by it."""
    browser = await entered(otp, alice, ["pwd"])
    async with sessions.begin() as session:
        await session.execute(text("UPDATE otp_session SET amr = 'mfa'"))
    assert (await browser.get("/lenient")).json()["code"] == "not_authenticated"
    async with sessions.begin() as session:
        await session.execute(text("UPDATE otp_session SET amr = NULL"))
    assert (await browser.get("/lenient")).json()["code"] == "not_authenticated"


LONG = [f"{number}{'x' * 60}" for number in range(3)]


@pytest.mark.parametrize("amr", [[], "mfa", [None], [1], ["a b"], [""], ["x" * 65], LONG])
async def test_names_that_are_none(otp: OTP, alice: User, amr: Any) -> None:
    """A ValueError, and nobody is in."""
    with pytest.raises(ValueError, match="amr"):
        await entered(otp, alice, amr)
    assert await otp.sessions_for_user(alice) == []


async def test_going_on_keeps_it(otp: OTP, alice: User) -> None:
    """`log_in(request, request.user)` makes what a provider did no fresher."""

    async def again(request: Request) -> Response:
        await log_in(request, request.user)
        return PlainTextResponse("in")

    app = make_app(otp, *ROUTES, upstream(otp, alice, ["mfa"]), Route("/again", again))
    async with Browser(app) as browser:
        browser.headers["accept"] = "application/json"
        await browser.get("/upstream")
        with time_machine.travel(time.time() + 301):
            await browser.get("/again")
            assert (await browser.get("/lenient")).text == "in"
            assert (await browser.get("/recent")).json()["code"] == "reverification_required"


def test_a_text_for_names() -> None:
    """A sentence, when the guard is made."""
    with pytest.raises(ConfigurationError, match="accept_amr"):
        requires_otp(accept_amr="mfa")(strict.__wrapped__)  # type: ignore[attr-defined]
