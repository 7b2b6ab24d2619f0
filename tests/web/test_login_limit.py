"""Wrong passwords are counted by name and make it wait; known browsers have tries of their own."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starlette_otp import OTP, TooManyAttempts, clock
from starlette_otp.models import Device, LoginThrottle, User
from tests.hosts import make_host
from tests.service.test_statements import Transactions
from tests.support import (
    PASSWORD,
    SECRET_KEY,
    Browser,
    CodesView,
    Sessions,
    Statements,
    codes,
    make_app,
    make_totp,
    totp_token,
)

COOKIE = "otp_browser"
LIMIT = ["too_many_attempts"]
WRONG = ["invalid_login"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong passwords are known without Argon2, which these tests are not about."""

    def fits(password: str, stored: str | None) -> bool:
        return stored is not None and password == PASSWORD

    monkeypatch.setattr("starlette_otp.service.passwords._fits", fits)


pytestmark = pytest.mark.usefixtures("quick")


def request_of(cookies: str = "") -> Request:
    headers = [(b"cookie", cookies.encode())] if cookies else []
    return Request({"type": "http", "headers": headers})


async def attempt(otp: OTP, username: str, password: str = "wrong") -> Any:
    """The user, None, or the seconds to wait."""
    try:
        return await otp.authenticate(request_of(), username, password)
    except TooManyAttempts as exc:
        return exc.seconds


async def failures(sessions: Sessions) -> list[int]:
    async with sessions() as session:
        return list(await session.scalars(select(LoginThrottle.failure_count)))


@pytest.mark.parametrize("username", ["alice", "nobody"])
async def test_waits_grow(otp: OTP, alice: User, username: str) -> None:
    """Five wrong passwords are free, then a name waits 1, 2, 4 ... seconds, at most 15 minutes; one
    that nobody has waits as one that somebody has, and what is tried meanwhile counts nothing."""
    waits = []
    with time_machine.travel(clock.now(), tick=False) as traveller:
        for _ in range(5):
            assert await attempt(otp, username) is None
        for _ in range(12):
            wait = await attempt(otp, username)
            assert await attempt(otp, username, PASSWORD) == wait, "the right one waits, too"
            waits.append(wait)
            traveller.shift(wait)
            assert await attempt(otp, username) is None
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]


async def test_a_success_forgets(otp: OTP, sessions: Sessions, alice: User) -> None:
    """The right password is the end of a count; without one nothing is deleted."""
    for _ in range(4):
        await attempt(otp, "alice")
    assert await failures(sessions) == [4]
    assert (await attempt(otp, "alice", PASSWORD)).id == alice.id
    assert await failures(sessions) == []


async def test_names_are_counted_apart(otp: OTP, sessions: Sessions, alice: User) -> None:
    """One name's wait is no other's; writings of one name are one, and none stands in the row."""
    for name in ("alice", " alice", "ALICE", "\uff41lice", "alice\u00a0"):
        assert await attempt(otp, name) is None
    assert await attempt(otp, "alice") == pytest.approx(1, abs=0.9)
    for name in ("bob", "", "nul\0", "lone \ud800", "x" * 10_000):
        assert await attempt(otp, name) is None
    async with sessions() as session:
        keys = list(await session.scalars(select(LoginThrottle.key)))
    assert len(keys) == 6
    assert all(len(key) == 64 and key.isalnum() for key in keys)


async def test_a_burst_is_counted(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Of forty guesses at once five are tried."""
    with time_machine.travel(clock.now(), tick=False):
        answers = await asyncio.gather(*(attempt(otp, "alice") for _ in range(40)))
    assert sorted(answers, key=str) == [1.0] * 35 + [None] * 5
    assert await failures(sessions) == [5]


async def test_two_processes_take_turns(sessions: Sessions, alice: User) -> None:
    """When a wait ends, one of those who come at once in several processes is let through."""
    processes = [OTP(sessions, Device, secret_key=SECRET_KEY) for _ in range(8)]
    with time_machine.travel(clock.now(), tick=False) as traveller:
        for _ in range(6):
            await attempt(processes[0], "alice")
        traveller.shift(2)
        answers = await asyncio.gather(*(attempt(otp, "alice") for otp in processes))
        assert answers.count(None) == 1
        assert await failures(sessions) == [6]


async def test_a_check_that_fails_counts_nothing(otp: OTP, sessions: Sessions) -> None:
    """An exception of a check says nothing about the password."""

    async def broken() -> Any:
        raise ZeroDivisionError

    for _ in range(7):
        with pytest.raises(ZeroDivisionError):
            await otp.limited(request_of(), "alice", broken)
    assert await failures(sessions) == []


async def test_the_page_says_how_long(browser: Browser, alice: User) -> None:
    """The page is the same for a name that nobody has, whatever the password: how long to wait."""
    for name in ("alice", "nobody"):
        with time_machine.travel(clock.now(), tick=False):
            for _ in range(6):
                page = await browser.log_in(username=name, password="wrong")
            assert codes(page) == LIMIT
            assert "too many wrong passwords. Please try again in 1 second." in page.text
            assert codes(await browser.log_in(username=name)) == LIMIT


async def test_programs_get_429(browser: Browser, alice: User) -> None:
    """A program gets 429 with the code and Retry-After."""
    with time_machine.travel(clock.now(), tick=False):
        for _ in range(7):
            await attempt_by(browser, "wrong")
        await browser.get("/account/login")
        browser.headers["accept"] = "application/json"
        answer = await attempt_by(browser, PASSWORD)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert answer.json()["code"] == "too_many_attempts"


async def attempt_by(browser: Browser, password: str) -> Any:
    return await browser.log_in(password=password)


async def test_a_host_may_refuse_an_attempt(sessions: Sessions, alice: User) -> None:
    """`allow_attempt` is asked with the request and the name before a password is looked at; its
    no looks the same on the page, and is counted nowhere."""
    asked = []

    async def allow(request: Request, username: str) -> bool:
        asked.append((request.client and request.client.host, username))
        return username != "alice"

    otp = OTP(sessions, Device, secret_key=SECRET_KEY, allow_attempt=allow)
    async with Browser(make_app(otp, login_view=CodesView)) as browser:
        page = await browser.log_in()
        assert codes(page) == LIMIT
        assert "Please try again later." in page.text
        assert codes(await browser.log_in(username="bob")) == WRONG
        browser.headers["accept"] = "*/*"
        answer = await browser.log_in()
        assert (answer.status_code, "retry-after" in answer.headers) == (429, False)
    assert asked == [("127.0.0.1", name) for name in ("alice", "bob", "alice")]
    assert await failures(sessions) == [1]


# A host's own look at a password.


async def test_a_hosts_own_check_is_limited(sessions: Sessions, alice: User) -> None:
    """What is passed as `authenticate` is called within the limit, also if it asks itself."""
    calls = []

    async def look(username: str, password: str) -> Any:
        calls.append(username)
        return alice if password == PASSWORD else None

    async def plain(request: Request, username: str, password: str) -> Any:
        return await look(username, password)

    async def asking(request: Request, username: str, password: str) -> Any:
        return await own.limited(request, username, lambda: look(username, password))

    for function in (plain, asking):
        own = OTP(sessions, Device, secret_key=SECRET_KEY, authenticate=function)
        calls.clear()
        for _ in range(3):
            await attempt(own, "alice")
        assert await failures(sessions) == [3], "each once"
        assert await attempt(own, "alice", PASSWORD) is alice
        for _ in range(9):
            await attempt(own, "alice")
        assert len(calls) == 9
        async with sessions.begin() as session:
            for row in await session.scalars(select(LoginThrottle)):
                await session.delete(row)


async def test_one_call_limits_a_log_in_of_ones_own(
    otp: OTP, engine: AsyncEngine, alice: User
) -> None:
    """A view that does not go through OTP limits its look at a password by one call, and what it
    does not catch is 429."""

    async def enter(request: Request) -> Response:
        async def look() -> str | None:
            return "alice" if request.query_params["pin"] == "1234" else None

        found = await otp.limited(request, "alice", look)
        return PlainTextResponse(str(found))

    async with Browser(make_app(otp, Route("/enter", enter))) as browser:
        answers = [await browser.get("/enter?pin=0000") for _ in range(6)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        assert answers[5].headers["retry-after"] == "1"


# Without the table.


async def test_without_the_table_there_is_no_limit(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """A host without the table is told so once, when its OTP is made, and has no limit."""
    host = make_host()
    await host.create_tables(engine)
    otp = OTP(async_sessionmaker(engine), host.Device, secret_key=SECRET_KEY)
    told = [r for r in caplog.records if "LoginThrottleMixin" in r.getMessage()]
    assert [(r.levelno, r.name) for r in told] == [(logging.WARNING, "starlette_otp")]
    for _ in range(8):
        assert await attempt(otp, "alice") is None
    assert await otp.clear_sessions() == 0
    caplog.clear()
    OTP(async_sessionmaker(engine), make_host(None).Device, secret_key=SECRET_KEY)
    assert caplog.records == [], "nobody has a password there"


async def test_old_counts_are_swept(otp: OTP, sessions: Sessions) -> None:
    """`clearsessions` deletes counts that nobody tried again for a day, in batches."""
    for name in ("one", "two", "three"):
        await attempt(otp, name)
    with time_machine.travel(clock.now() + timedelta(hours=23)):
        await attempt(otp, "one")
        await otp.clear_sessions()
        assert len(await failures(sessions)) == 3
    with time_machine.travel(clock.now() + timedelta(hours=25)):
        await otp.clear_sessions(batch=1)
        assert await failures(sessions) == [2]


async def test_a_clock_that_was_set_back_locks_nobody_out(otp: OTP, sessions: Sessions) -> None:
    """A count whose last attempt is further ahead than its wait does not wait for that time."""
    with time_machine.travel(clock.now() + timedelta(days=365)):
        for _ in range(6):
            await attempt(otp, "alice")
    assert await attempt(otp, "alice") is None


# Known browsers.


@pytest.fixture
async def known(otp: OTP, sessions: Sessions, alice: User) -> AsyncIterator[Browser]:
    """A browser that alice has signed in with, and out."""
    await make_totp(sessions, alice)
    async with Browser(make_app(otp, login_view=CodesView)) as browser:
        assert (await browser.log_in(totp_token())).status_code == 303
        browser.cookies.delete("session")
        yield browser


async def lock(otp: OTP, sessions: Sessions, name: str = "alice") -> None:
    """As strangers who guess at a name have it wait for a quarter of an hour."""
    key = otp.throttle.digest(name)
    async with sessions.begin() as session:
        session.add(LoginThrottle(key=key, failure_count=20, attempted_at=clock.now()))


async def test_strangers_lock_no_known_browser_out(
    otp: OTP, sessions: Sessions, known: Browser
) -> None:
    """A name that strangers have locked lets its owner in from a browser that has signed in
    before, whose own wrong passwords are counted apart, and lock nobody else."""
    with time_machine.travel(clock.now() + timedelta(minutes=1), tick=False) as traveller:
        await lock(otp, sessions)
        async with Browser(make_app(otp, login_view=CodesView)) as stranger:
            assert codes(await stranger.log_in()) == LIMIT
        for _ in range(5):
            assert codes(await known.log_in(password="wrong")) == WRONG
        assert codes(await known.log_in(password="wrong")) == LIMIT
        assert sorted(await failures(sessions)) == [5, 20]
        traveller.shift(1)
        assert (await known.log_in(totp_token())).status_code == 303
        assert await attempt(otp, "alice", PASSWORD) == 899
    assert await failures(sessions) == [20], "its own count is forgotten, theirs is not"


async def test_the_cookie_is_written_anew_once_a_day(known: Browser) -> None:
    """So that who signs in now and then stays known, and who does so all day costs nothing."""

    def cookie() -> str | None:
        return known.cookies.get(COOKIE)

    made = cookie()
    for later, is_new in ((timedelta(hours=23), False), (timedelta(hours=25), True)):
        with time_machine.travel(clock.now() + later, tick=False):
            known.cookies.delete("otp_session")
            assert (await known.log_in(totp_token())).status_code == 303
            assert (cookie() != made) == is_new


async def test_a_browser_is_known_for_its_own_accounts(
    otp: OTP, sessions: Sessions, known: Browser, bob: User
) -> None:
    """It is a stranger to every other account."""
    await lock(otp, sessions, "bob")
    assert codes(await known.log_in(username="bob")) == LIMIT


async def test_the_cookie_is_signed_and_readable_by_nobody(
    otp: OTP, sessions: Sessions, known: Browser
) -> None:
    """The cookie is HttpOnly, Lax and long-lived, names nobody, and stands no change."""
    (cookie,) = [c for c in known.cookies.jar if c.name == COOKIE]
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.get_nonstandard_attr("SameSite") == "lax"
    assert cookie.expires is not None
    assert cookie.expires > clock.now().timestamp() + 179 * 86400
    assert "alice" not in str(cookie.value)
    await lock(otp, sessions)
    value = str(cookie.value)
    signed, _, signature = value.rpartition(".")
    changed = ("A" if signature[0] != "A" else "B") + signature[1:]
    for forged in (f"{signed}.{changed}", "garbage", value[5:]):
        known.cookies.delete(COOKIE)
        known.cookies.set(COOKIE, forged, domain="site.example")
        assert codes(await known.log_in()) == LIMIT


async def test_a_password_alone_makes_no_browser_known(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """Who has but the password of an account with a device gets no cookie; a token gives it, on
    the second page, too."""
    await make_totp(sessions, alice)
    otp.password_is_enough = True
    async with Browser(make_app(otp, login_view=CodesView)) as browser:
        await browser.submit("/account/login", username="alice", password=PASSWORD)
        assert COOKIE not in browser.cookies
        answer = await browser.submit("/account/login", otp_token=totp_token())
        assert (answer.status_code, COOKIE in browser.cookies) == (303, True)
        browser.cookies.delete("session")
        await lock(otp, sessions)
        answer = await browser.submit("/account/login", username="alice", password=PASSWORD)
        assert answer.status_code == 303


async def test_an_account_without_a_device_has_known_browsers(otp: OTP, alice: User) -> None:
    """Where the password is all there is, it is enough."""
    otp.password_is_enough = True
    async with Browser(make_app(otp, login_view=CodesView)) as browser:
        await browser.submit("/account/login", username="alice", password=PASSWORD)
        assert COOKIE in browser.cookies


async def test_several_accounts_of_one_browser(
    otp: OTP, sessions: Sessions, known: Browser, bob: User
) -> None:
    """A browser that two people share is known to both."""
    await make_totp(sessions, bob, secret=b"another secret of 20")
    answer = await known.log_in(totp_token(b"another secret of 20"), username="bob")
    assert answer.status_code == 303
    known.cookies.delete("session")
    for name in ("alice", "bob"):
        await lock(otp, sessions, name)
        assert codes(await known.log_in("000000", username=name)) == ["invalid_token"]


# What it costs.


async def test_a_log_in_costs_seven_statements(
    otp: OTP, sessions: Sessions, engine: AsyncEngine, alice: User
) -> None:
    """A good log-in without a former session reads the count, the user, locks and writes the
    device in one transaction, and writes the session: seven statements."""
    await make_totp(sessions, alice)
    async with Browser(make_app(otp)) as browser:
        page = await browser.get("/account/login")
        statements, transactions = Statements(engine), Transactions(engine)
        fields = {"username": "alice", "password": PASSWORD, "otp_token": totp_token()}
        token = page.text.split('name="csrf_token"')[1].split('value="')[1].split('"')[0]
        answer = await browser.post("/account/login", data={"csrf_token": token, **fields})
        assert answer.status_code == 303
        await asyncio.sleep(0)
    assert len(statements) + len(transactions) <= 7, (statements, transactions)
