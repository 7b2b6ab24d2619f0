"""What programs are told of a refusal: one shape, whoever refuses (RFC 9457)."""

from typing import Any

import pytest
import time_machine
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from starlette_otp import OTP, RequiresOTPMiddleware, requires_otp
from starlette_otp.fastapi import otp_required
from starlette_otp.models import User
from tests.support import Browser, Sessions, door, make_totp, middleware

JSON = {"accept": "application/json"}
SITES = ("/decorator", "/middleware/", "/fastapi/")


def make(otp: OTP, *routes: Route) -> Starlette:
    """One guard of each make, and the account pages."""

    @requires_otp(max_age=60)
    async def decorated(request: Request) -> Response:
        return PlainTextResponse("in")

    inner = FastAPI(dependencies=[Depends(otp_required(max_age=60))])
    inner.get("/")(lambda: "in")
    whole = RequiresOTPMiddleware(PlainTextResponse("in"), max_age=60)
    return Starlette(
        routes=[
            *routes,
            Route("/decorator", decorated),
            Mount("/middleware", whole),
            Mount("/fastapi", inner),
            Mount("/account", routes=otp.routes(), name="otp"),
        ],
        middleware=middleware(otp),
    )


async def problem(browser: Browser, path: str) -> dict[str, Any]:
    answer = await browser.get(path, headers=JSON)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    body: dict[str, Any] = answer.json()
    assert body["status"] == answer.status_code
    challenge = answer.headers.get("www-authenticate", "")
    assert challenge.startswith('Session realm="') or answer.status_code not in (401, 403)
    wants_token = body["code"] in ("not_verified", "reverification_required")
    # RFC 9470 section 3.
    assert ('error="insufficient_user_authentication"' in challenge) == wants_token
    assert (f'max_age="{body["max_age"]}"' in challenge) if "max_age" in body else True
    return body


@pytest.mark.parametrize("path", SITES)
async def test_all_guards_say_the_same(
    otp: OTP, sessions: Sessions, alice: User, path: str
) -> None:
    """Status, title, sentence and code; how old a verification may be where it is too old."""
    device = await make_totp(sessions, alice)
    async with Browser(make(otp)) as browser:
        assert await problem(browser, path) == {
            "type": "about:blank",
            "title": "Unauthorized",
            "status": 401,
            "detail": "Please log in.",
            "code": "not_authenticated",
        }
    async with Browser(make(otp, door(otp, alice))) as browser:
        await browser.get("/enter")
        told = await problem(browser, path)
        assert (told["status"], told["title"], told["code"]) == (403, "Forbidden", "not_verified")
        assert "max_age" not in told
    with time_machine.travel(1_900_000_000, tick=False) as clock:
        async with Browser(make(otp, door(otp, alice, device))) as browser:
            await browser.get("/enter")
            clock.shift(61)
            told = await problem(browser, path)
            assert (told["code"], told["max_age"]) == ("reverification_required", 60)


async def test_the_account_pages_say_it_too(otp: OTP, sessions: Sessions, alice: User) -> None:
    """And how old the verification may be there."""
    device = await make_totp(sessions, alice)
    with time_machine.travel(1_900_000_000, tick=False) as clock:
        async with Browser(make(otp, door(otp, alice, device))) as browser:
            assert (await problem(browser, "/account/"))["code"] == "not_authenticated"
            await browser.get("/enter")
            clock.shift(301)
            told = await problem(browser, "/account/password")
            assert (told["code"], told["max_age"]) == ("reverification_required", 300)


async def test_a_host_has_the_last_word(otp: OTP) -> None:
    """Its own handler for the status answers what FastAPI's guard refuses."""

    async def own(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        return PlainTextResponse("own", exc.status_code)

    app = make(otp)
    inner = app.routes[2].app  # type: ignore[attr-defined]
    inner.add_exception_handler(401, own)
    async with Browser(app) as browser:
        answer = await browser.get("/fastapi/", headers=JSON)
        assert (answer.status_code, answer.text) == (401, "own")
