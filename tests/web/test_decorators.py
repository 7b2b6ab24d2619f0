"""requires_otp: who gets through, and what the others are told."""

import functools
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpx2
import pytest
import time_machine
from starlette.authentication import requires
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starlette_otp import OTP, ConfigurationError, clock, requires_otp
from starlette_otp.models import TOTPDevice, User
from tests.support import (
    Browser,
    Sessions,
    csrf_of,
    door,
    grow_old,
    make_app,
    make_totp,
    totp_token,
)

JSON = {"accept": "application/json"}
NOW = 1_800_000_000


@requires_otp
async def coroutine(request: Request) -> Response:
    return PlainTextResponse("in")


@requires_otp
def plain(request: Request) -> Response:
    return PlainTextResponse("in")


class Endpoint(HTTPEndpoint):
    @requires_otp
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("in")

    @requires_otp()
    def post(self, request: Request) -> Response:
        return PlainTextResponse("in")

    async def put(self, request: Request) -> Response:
        return PlainTextResponse("not guarded")


async def greet(greeting: str, request: Request) -> Response:
    return PlainTextResponse(greeting)


def greet_sync(greeting: str, request: Request) -> Response:
    return PlainTextResponse(greeting)


class AsyncCallable:
    async def __call__(self, request: Request) -> Response:
        return PlainTextResponse("in")


class SyncCallable:
    def __call__(self, request: Request) -> Response:
        return PlainTextResponse("in")


class Bound:
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("in")


def injecting(func: Any) -> Any:
    """A decorator of a host's that gives a function something by keyword."""

    @functools.wraps(func)
    async def inject(request: Request) -> Response:
        return await func(request, text="in")

    return inject


def first(func: Any) -> Any:
    """One that gives it first, and takes whatever comes."""

    @functools.wraps(func)
    async def inject(*args: Any, **kwargs: Any) -> Response:
        return await func("in", *args, **kwargs)

    return inject


def first_of_method(func: Any) -> Any:
    """One that gives it to methods, which are not async."""

    @functools.wraps(func)
    def inject(self: Any, request: Request) -> Response:
        return func(self, "in", request)

    return inject


def taking_away(func: Any) -> Any:
    """One that keeps the request to itself."""

    @functools.wraps(func)
    async def inject(request: Request) -> Response:
        return await func("in")

    return inject


def by_name(func: Any) -> Any:
    """One above the guard that passes the request on by another name."""

    @functools.wraps(func)
    async def call(request: Request) -> Response:
        return await func(asked=request)

    return call


@requires_otp
@injecting
async def given_by_keyword(request: Request, text: str) -> Response:
    return PlainTextResponse(text)


@requires_otp
@first
async def given_first(text: str, request: Request) -> Response:
    return PlainTextResponse(text)


@requires_otp
@taking_away
async def given_alone(text: str) -> Response:
    return PlainTextResponse(text)


class GivenFirst(HTTPEndpoint):
    @requires_otp
    @first_of_method
    def get(self, text: str, request: Request) -> Response:
        return PlainTextResponse(text)


def renaming(func: Any) -> Any:
    """One that knows the request by another name than the function."""

    @functools.wraps(func)
    async def call(*args: Any, asked: Request) -> Response:
        return await func(asked)

    return call


@by_name
@requires_otp
@renaming
async def renamed(request: Request) -> Response:
    return PlainTextResponse("in")


@requires("verified", status_code=403)
async def starlettes_own(request: Request) -> Response:
    return PlainTextResponse("in")


ENDPOINTS: dict[str, Any] = {
    "coroutine": coroutine,
    "plain": plain,
    "endpoint": Endpoint,
    "partial": requires_otp(functools.partial(greet, "in")),
    "sync-partial": requires_otp(functools.partial(greet_sync, "in")),
    "callable": requires_otp(AsyncCallable()),
    "sync-callable": requires_otp(SyncCallable()),
    "partial-callable": requires_otp(functools.partial(AsyncCallable())),
    "bound": requires_otp(Bound().get),
    "lambda": requires_otp(lambda request: PlainTextResponse("in")),
    "given-by-keyword": given_by_keyword,
    "given-first": given_first,
    "given-alone": given_alone,
    "given-to-a-method": GivenFirst,
    "renamed": renamed,
    "if-configured": requires_otp(if_configured=True)(plain.__wrapped__),
    "recent": requires_otp(max_age=60)(plain.__wrapped__),
    "recent-if-configured": requires_otp(max_age=60, if_configured=True)(plain.__wrapped__),
    "field": requires_otp(redirect_field_name="return_to")(plain.__wrapped__),
    "starlettes-own": starlettes_own,
}
ROUTES = [Route(f"/{path}", endpoint) for path, endpoint in ENDPOINTS.items()]
GUARDED = [path for path in ENDPOINTS if path not in ("field", "starlettes-own")]


def location(answer: httpx2.Response) -> tuple[str, dict[str, list[str]]]:
    """Where a browser is sent: the URL without its query, and the query."""
    assert answer.status_code == 303, (answer.status_code, answer.text)
    parts = urlsplit(answer.headers["location"])
    return parts._replace(query="").geturl(), parse_qs(parts.query)


def refused(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


@pytest.fixture
async def device(sessions: Sessions, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice)


@pytest.fixture
async def stranger(otp: OTP) -> AsyncIterator[Browser]:
    async with Browser(make_app(otp, *ROUTES)) as browser:
        yield browser


@pytest.fixture
async def half(otp: OTP, alice: User) -> AsyncIterator[Browser]:
    """Alice's, authenticated but not verified."""
    async with Browser(make_app(otp, door(otp, alice), *ROUTES)) as browser:
        await browser.get("/enter")
        yield browser


@pytest.fixture
async def verified(otp: OTP, alice: User, device: TOTPDevice) -> AsyncIterator[Browser]:
    async with Browser(make_app(otp, door(otp, alice, device), *ROUTES)) as browser:
        await browser.get("/enter")
        yield browser


async def test_a_verified_user_gets_through(verified: Browser) -> None:
    """A verified user gets through on functions, methods, partials and callables, sync or not."""
    answers = {path: (await verified.get(f"/{path}")).text for path in ENDPOINTS}
    assert answers == dict.fromkeys(ENDPOINTS, "in")


async def test_an_anonymous_user_does_not(stranger: Browser) -> None:
    """A browser is sent to log in by 303 and told the way back; a program gets 401 in JSON."""
    for path in GUARDED:
        answer = await stranger.get(f"/{path}")
        assert location(answer) == ("/account/login", {"next": [f"/{path}"]})
        assert answer.headers["cache-control"] == "no-store"
        answer = await stranger.get(f"/{path}", headers=JSON)
        assert refused(answer) == (401, "not_authenticated"), path
        assert answer.headers["cache-control"] == "no-store"


async def test_the_password_alone_does_not_do(half: Browser, device: TOTPDevice) -> None:
    """An authenticated user who has a device but is not verified is sent to verify; a program
    gets 403 in JSON."""
    for path in GUARDED:
        assert location(await half.get(f"/{path}")) == ("/account/login", {"next": [f"/{path}"]})
        assert refused(await half.get(f"/{path}", headers=JSON)) == (403, "not_verified"), path


async def test_only_guarded_methods_are_guarded(stranger: Browser, verified: Browser) -> None:
    """On an endpoint's methods each guard is for itself."""
    assert (await stranger.put("/endpoint")).text == "not guarded"
    assert (await stranger.post("/endpoint", headers=JSON)).status_code == 401
    assert (await verified.post("/endpoint")).text == "in"


async def test_starlettes_own_requires_knows_verified(
    stranger: Browser, half: Browser, verified: Browser
) -> None:
    """Starlette's @requires("verified") lets the verified through and nobody else."""
    statuses = [(await b.get("/starlettes-own")).status_code for b in (stranger, half, verified)]
    assert statuses == [403, 403, 200]


async def test_starlettes_own_redirect_comes_back(otp: OTP, device: TOTPDevice) -> None:
    """Starlette's @requires(redirect="otp:login") finds the log-in page, which comes back."""
    guard = requires("verified", redirect="otp:login")(plain.__wrapped__)
    async with Browser(make_app(otp, Route("/own", guard))) as browser:
        refused = await browser.get("/own?a=1")
        answer = await browser.log_in(totp_token(), url=refused.headers["location"])
        assert (answer.status_code, answer.headers["location"]) == (303, "/own?a=1")
        assert (await browser.get("/own?a=1")).text == "in"


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("text/html", 303),
        ("application/json, TEXT/HTML;q=0.5", 303),
        ("application/xhtml+xml", 303),
        ("text/html;q=0", 401),
        ("text/htmlx", 401),
        ("*/*", 401),
        ("application/json", 401),
        ("", 401),
    ],
)
async def test_a_browser_is_who_accepts_html(stranger: Browser, accept: str, status: int) -> None:
    """Who says that it takes text/html is redirected, everybody else is answered in JSON."""
    answer = await stranger.get("/plain", headers={"accept": accept})
    assert answer.status_code == status
    assert "accept" in answer.headers["vary"].lower()


# The way back.


@pytest.mark.parametrize(
    "target",
    [
        "/plain?a=1&b=2",
        "/plain?next=/other&x=%26%3D%2B",
        "/plain?q=caf%C3%A9%20%23",
        "/files/a%20b.txt",
        "/files/caf%C3%A9",
        "/files/100%25",
        "/files/what%3Fis%23this",
        "/files/%2B+&=",
    ],
)
async def test_the_way_back_is_the_very_url(otp: OTP, target: str) -> None:
    """The redirect carries path and query as they were asked for, whatever characters they hold."""
    app = make_app(otp, *ROUTES, Route("/files/{name:path}", requires_otp(plain.__wrapped__)))
    async with Browser(app) as browser:
        _, found = location(await browser.get(target))
    [back] = found["next"]
    back_path, _, back_query = back.partition("?")
    path, _, query = target.partition("?")
    assert (unquote(back_path), back_query) == (unquote(path), query)


async def test_a_redirect_field_of_ones_own(stranger: Browser) -> None:
    """redirect_field_name names the parameter that carries the way back."""
    assert location(await stranger.get("/field")) == ("/account/login", {"return_to": ["/field"]})


@pytest.mark.parametrize(
    ("login_url", "expected"),
    [
        ("/sso", "/sso?next=%2Fhere%3Fa%3D1"),
        ("/sso?tenant=7", "/sso?tenant=7&next=%2Fhere%3Fa%3D1"),
        ("https://id.example/in", "https://id.example/in?next=http%3A%2F%2Fsite.example%2Fhere%3Fa%3D1"),
        ("//id.example/in", "//id.example/in?next=http%3A%2F%2Fsite.example%2Fhere%3Fa%3D1"),
        (None, "/account/login?next=%2Fhere%3Fa%3D1"),
    ],
)  # fmt: skip
async def test_a_login_url_of_ones_own(otp: OTP, login_url: str | None, expected: str) -> None:
    """login_url takes the place of OTP's: a path, one with a query, or another site, which is told
    the whole way back."""
    guard = requires_otp(login_url=login_url)(plain.__wrapped__)
    async with Browser(make_app(otp, Route("/here", guard))) as browser:
        assert (await browser.get("/here?a=1")).headers["location"] == expected


# if_configured.


async def test_if_configured_lets_users_without_a_device_pass(
    half: Browser, stranger: Browser, sessions: Sessions, alice: User
) -> None:
    """if_configured: an authenticated user without a confirmed device passes, and no longer once
    there is one; anonymous users never pass."""
    for path in ("/if-configured", "/recent-if-configured"):
        assert (await half.get(path)).text == "in"
        assert (await stranger.get(path)).status_code == 303
    await make_totp(sessions, alice, confirmed=False)
    assert (await half.get("/if-configured")).text == "in"
    assert refused(await half.get("/plain", headers=JSON)) == (403, "not_verified")
    await make_totp(sessions, alice)
    assert refused(await half.get("/if-configured", headers=JSON)) == (403, "not_verified")


# max_age.


@pytest.mark.parametrize(
    ("age", "passes"), [(0, True), (60, True), (61, False), (-5, True), (-6, False), (-3600, False)]
)
async def test_max_age_asks_again(
    verified: Browser, sessions: Sessions, age: int, passes: bool
) -> None:
    """Verified longer than max_age ago, or in the future by more than servers' clocks may differ,
    asks again (ASVS 7.5.3): a program is told reverification_required, other pages stay open."""
    with time_machine.travel(clock.now(), tick=False):
        await grow_old(sessions, age)
        answer = await verified.get("/recent", headers=JSON)
        assert (await verified.get("/plain")).status_code == 200
    if passes:
        assert answer.text == "in"
    else:
        assert refused(answer) == (403, "reverification_required")


async def test_the_step_up_is_the_token_alone(otp: OTP, alice: User, device: TOTPDevice) -> None:
    """The browser of a user verified too long ago is shown the token form alone, and comes back
    with the guard open again; the cookie from before opens nothing."""
    app = make_app(otp, door(otp, alice, device), *ROUTES)
    with time_machine.travel(NOW, tick=False) as time:
        async with Browser(app) as browser:
            await browser.get("/enter")
            copied = browser.cookie
            time.shift(61)
            answer = await browser.get("/recent?a=1")
            url, query = location(answer)
            assert (url, query["next"]) == ("/account/login", ["/recent?a=1"])
            page = await browser.get(answer.headers["location"])
            assert 'name="otp_token"' in page.text
            assert 'name="password"' not in page.text
            fields = {"csrf_token": csrf_of(page), "otp_token": totp_token()}
            answer = await browser.post(answer.headers["location"], data=fields)
            assert (answer.status_code, answer.headers["location"]) == (303, "/recent?a=1")
            assert (await browser.get("/recent?a=1")).text == "in"
        async with Browser(app, cookies={"otp_session": copied}) as thief:
            assert (await thief.get("/plain")).status_code == 303


# Decoration.


@pytest.mark.parametrize("wrong", [lambda: None, lambda req: None, Endpoint])
def test_an_endpoint_without_a_request_is_named(wrong: Any) -> None:
    """A function without an argument named request or websocket is refused when decorated, and
    so is a class, whose methods are to be decorated."""
    with pytest.raises(ConfigurationError, match="request or websocket"):
        requires_otp(wrong)


def without_a_request(func: Any) -> Any:
    """A decorator that loses the request."""

    @functools.wraps(func)
    async def call(request: Request) -> Any:
        return await func()

    return call


@without_a_request
@requires_otp
async def lost(request: Request) -> Response:
    return PlainTextResponse("in")


async def test_a_call_without_a_request_is_named(otp: OTP) -> None:
    """A guard that is called without a request opens nothing, and says so."""
    async with Browser(make_app(otp, Route("/lost", lost))) as browser:
        with pytest.raises(ConfigurationError, match="called without a request"):
            await browser.get("/lost")


def test_the_guard_looks_like_the_endpoint() -> None:
    """Name, docstring and signature stay, so that routes are named as before."""
    assert (coroutine.__name__, Route("/", coroutine).name) == ("coroutine", "coroutine")
    assert Endpoint.get.__qualname__ == "Endpoint.get"
