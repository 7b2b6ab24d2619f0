"""Bearer tokens: the same sessions, without cookies."""

import time

import pytest
import time_machine
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.routing import Mount, Route

from starlette_otp import OTP, ConfigurationError, OTPMiddleware, SessionAuthBackend
from starlette_otp.models import OTPSession, User
from tests.api.client import Client, make_api
from tests.support import PASSWORD, Browser, Sessions, make_totp, state, totp_token, vault


def make_bare(otp: OTP, **options: object) -> Starlette:
    """An application without SessionMiddleware."""
    given: dict[str, object] = {"transports": ("bearer",), **options}
    return Starlette(
        routes=[
            Route("/vault", vault),
            Route("/state", state),
            Mount("/mobile/auth", routes=otp.api_routes("bearer")),
        ],
        middleware=[
            Middleware(
                AuthenticationMiddleware,
                backend=SessionAuthBackend(otp, **given),  # type: ignore[arg-type]
            ),
            Middleware(OTPMiddleware, otp=otp),
        ],
    )


async def test_without_session_middleware(otp: OTP, alice: User, sessions: Sessions) -> None:
    """Starlette alone: log in, be verified, log out."""
    await make_totp(sessions, alice)
    async with Client(make_bare(otp), "bearer") as client:
        assert (await client.get("/vault")).status_code == 401
        await client.sign_in(totp_token())
        answer = await client.get("/vault")
        assert answer.text == "hello alice"
        assert "set-cookie" not in answer.headers
        await client.ask("DELETE", "/session", status=204)
        assert (await client.get("/vault")).json()["code"] == "session_expired"


async def test_a_browser_that_brings_one_is_not_redirected(otp: OTP, alice: User) -> None:
    """A log-in page is of no use to a bearer, whatever it accepts."""
    async with Client(make_bare(otp), "bearer") as client:
        answer = await client.get("/vault", headers={"accept": "text/html"})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Bearer realm="two-factor"'


async def test_excluded_paths(otp: OTP, alice: User, sessions: Sessions) -> None:
    """There everybody is anonymous, bearers, too."""
    await make_totp(sessions, alice)
    async with Client(make_bare(otp, exclude=("/state",)), "bearer") as client:
        await client.sign_in(totp_token())
        assert (await client.get("/state")).json()["authenticated"] is False
        assert (await client.get("/vault")).status_code == 200


async def test_cookies_are_not_read_beside_it(
    api: object, alice: User, bob: User, sessions: Sessions
) -> None:
    """A request is one session's: that of the token, or nobody's."""
    await make_totp(sessions, alice)
    async with Client(api, "cookie") as browser, Client(api, "bearer") as client:
        await browser.sign_in(totp_token())
        assert (await browser.get("/notes")).json() == "alice"
        browser.headers["authorization"] = "Bearer " + "A" * 43
        assert (await browser.get("/notes")).json()["code"] == "session_expired"
        del browser.headers["authorization"]
        assert (await browser.get("/notes")).json() == "alice"
        # Nor by the bearer's routes.
        client.cookies = browser.cookies
        assert (await client.ask("GET", "/session"))["state"] == "anonymous"
        assert await client.refused("GET", "/devices") == (401, "not_authenticated")
        # A cookie's token is a session's token: the same rows.
        token = browser.cookies["otp_session"]
        client.headers["authorization"] = f"Bearer {token}"
        assert (await client.ask("GET", "/session"))["state"] == "verified"


async def test_the_cookie_session_stays_as_it_is(api: object, alice: User) -> None:
    """A bearer's request neither reads, writes nor clears what the host keeps in a cookie."""
    async with Client(api, "cookie") as browser:
        await browser.sign_in()
        kept = browser.cookies["session"]
        answer = await browser.get("/notes", headers={"authorization": "Bearer x"})
        assert "set-cookie" not in answer.headers
        assert browser.cookies["session"] == kept


async def test_it_ends_when_it_should(api: object, alice: User, sessions: Sessions) -> None:
    """Idle, or revoked: 401, and another log-in with the dead token beside it goes well."""
    await make_totp(sessions, alice)
    now = time.time()
    with time_machine.travel(now):
        async with Client(api, "bearer") as client:
            said = await client.sign_in(totp_token())
            idle = OTPSession.idle_age
            assert abs(said["expires_in"] - idle.total_seconds()) < 5  # type: ignore[union-attr]
            with time_machine.travel(now + said["expires_in"] + 5):
                assert await client.refused("GET", "/session") == (401, "session_expired")
                assert (await client.sign_in(totp_token()))["state"] == "verified"


async def test_routes_that_nobody_reads_tokens_for(otp: OTP, alice: User) -> None:
    """A backend without the transport: said at the first request that brings one."""
    from tests.support import middleware

    app = Starlette(
        routes=[Mount("/mobile/auth", routes=otp.api_routes("bearer"))], middleware=middleware(otp)
    )
    async with Client(app, "bearer") as client:
        client.headers["authorization"] = "Bearer x"
        with pytest.raises(ConfigurationError, match="transports="):
            await client.get("/mobile/auth/session")


async def test_cookie_routes_where_nobody_reads_cookies(otp: OTP) -> None:
    """The same the other way round, whoever comes."""
    app = make_bare(otp)
    app.routes.append(Mount("/auth", routes=otp.api_routes()))
    async with Client(app, "cookie") as client:
        with pytest.raises(ConfigurationError, match="for cookies"):
            await client.get("/auth/session")


@pytest.mark.parametrize("transports", ["bearer", (), ("cookies",), ("bearer", "x")], ids=str)
def test_transports_that_are_none(otp: OTP, transports: object) -> None:
    with pytest.raises(ConfigurationError, match="transports"):
        SessionAuthBackend(otp, transports=transports)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="transport"):
        otp.api_routes("jwt")  # type: ignore[arg-type]


async def test_pages_and_routes_tell_the_same(otp: OTP, alice: User, sessions: Sessions) -> None:
    """One session, by the pages' form and by JSON."""
    await make_totp(sessions, alice)
    app = make_api(otp)
    async with Browser(app, headers={"sec-fetch-site": "same-origin"}) as browser:
        assert (await browser.get("/auth/session")).json()["state"] == "anonymous"
        await browser.submit("/account/login", username="alice", password=PASSWORD)
        said = (await browser.get("/auth/session")).json()
        assert said["state"] == "token_required"
        answer = await browser.post("/auth/session/token", json={"token": totp_token()})
        assert answer.json()["state"] == "verified"
        page = await browser.get("/account/", headers={"accept": "text/html"})
        assert page.status_code == 200
        assert "Authenticator app" in page.text
