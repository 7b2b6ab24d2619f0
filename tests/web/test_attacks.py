"""Ways in that attackers tried."""

import pickle
from copy import copy
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starlette_otp import (
    OTP,
    ConfigurationError,
    DeviceRejected,
    log_in,
    log_out,
    login,
)
from starlette_otp.fastapi import otp_required
from starlette_otp.models import Device, OTPSession, TOTPDevice, User
from starlette_otp.web.user import attach
from starlette_otp.web.verdict import VERDICT
from tests.support import (
    PASSWORD,
    SECRET,
    SECRET_KEY,
    Browser,
    Sessions,
    make_app,
    make_totp,
    middleware,
    reload,
    totp_token,
)


async def test_the_dependency_without_parentheses_guards(otp: OTP) -> None:
    """`Depends(otp_required)` opens nothing: it is an error that says what to write."""
    app = FastAPI(middleware=list(middleware(otp)))

    @app.get("/open")
    async def open_(user: Annotated[Any, Depends(otp_required)]) -> str:
        return "OPEN"

    async with Browser(app) as browser:
        with pytest.raises(ConfigurationError, match=r"Depends\(otp_required\(\)\)"):
            await browser.get("/open?login_url=/x&max_age=1")


async def test_a_cached_user_object_verifies_nobody_else(sessions: Sessions, alice: User) -> None:
    """A host that caches what `find_user` gave it: the thief's password alone verifies nothing."""
    cache: dict[str, Any] = {}

    async def authenticate(request: Request, username: str, password: str) -> Any:
        if password != PASSWORD:
            return None
        if username not in cache:
            cache[username] = await otp.find_user(username)
        return cache[username]

    otp = OTP(sessions, Device, secret_key=SECRET_KEY, authenticate=authenticate)
    await make_totp(sessions, alice)
    async with Browser(make_app(otp)) as owner:
        assert (await owner.log_in(totp_token())).status_code == 303
        assert (await owner.state())["verified"]
    otp.password_is_enough = True
    async with Browser(make_app(otp)) as thief:
        await thief.submit("/account/login", username="alice", password=PASSWORD)
        assert await thief.state() | {"scopes": 0} == {
            "authenticated": True,
            "verified": False,
            "device": None,
            "scopes": 0,
        }


def test_a_stored_user_forgets_that_it_was_verified() -> None:
    """A user object that a host pickles carries no verification into another request."""
    user = attach(User(username="alice"), object(), own=True)
    assert user.is_verified()
    assert pickle.loads(pickle.dumps(user)).is_verified() is False
    assert copy(attach("alice", None)) == "alice"


async def test_no_id_is_no_device(otp: OTP, sessions: Sessions, alice: User) -> None:
    """A missing device id names no device: nothing is removed, challenged or resynchronized."""
    device = await make_totp(sessions, alice)
    missing: Any = None
    assert await otp.remove_device(alice, missing) is None
    assert await otp.resynchronize(alice, missing, "000000", "000000") is None
    assert await otp.generate_challenge(alice, missing) is None
    assert await reload(sessions, device) == device


async def expired(engine: AsyncEngine, username: str) -> tuple[Any, Any, Any]:
    """A session with SQLAlchemy's default, a user and a device that its commit has expired."""
    session = async_sessionmaker(engine)()
    user = await session.scalar(select(User).where(User.username == username))
    device = await session.scalar(select(TOTPDevice))
    await session.commit()
    return session, user, device


async def test_expired_instances_log_in_and_verify(
    otp: OTP, engine: AsyncEngine, sessions: Sessions, alice: User
) -> None:
    """With a sessionmaker's default, a commit expires user and device; log-in takes them so."""
    made = await make_totp(sessions, alice)

    async def enter(request: Request) -> Response:
        session, user, device = await expired(engine, "alice")
        await log_in(request, user)
        await login(request, device)
        await session.close()
        return PlainTextResponse("in")

    async with Browser(make_app(otp, Route("/enter", enter))) as browser:
        assert (await browser.get("/enter")).text == "in"
        assert (await browser.state())["device"] == made.persistent_id


def twin(request: Request) -> Request:
    """A second request of the same cookie, past the middleware before either writes."""
    scope = {**request.scope, VERDICT: copy(request.scope[VERDICT])}
    return Request({**scope, "session": dict(request.session)})


async def test_a_log_out_ends_a_session_that_is_just_being_verified(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """A verification renews the session's token; a log-out of the old one ends it all the same."""
    device = await make_totp(sessions, alice)

    async def both(request: Request) -> Response:
        other = twin(request)
        await login(request, device)
        await log_out(other)
        return PlainTextResponse("out")

    otp.password_is_enough = True
    async with Browser(make_app(otp, Route("/both", both))) as browser:
        await browser.submit("/account/login", username="alice", password=PASSWORD)
        await browser.get("/both")
        assert (await browser.state())["authenticated"] is False


async def test_a_verification_does_not_revive_a_session_that_ended(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """The other way round: after the log-out the verification is rejected."""
    device = await make_totp(sessions, alice)

    async def both(request: Request) -> Response:
        other = twin(request)
        await log_out(other)
        with pytest.raises(DeviceRejected, match="ended"):
            await login(request, device)
        return PlainTextResponse("out")

    otp.password_is_enough = True
    async with Browser(make_app(otp, Route("/both", both))) as browser:
        await browser.submit("/account/login", username="alice", password=PASSWORD)
        assert (await browser.get("/both")).text == "out"
        assert (await browser.state())["authenticated"] is False


async def test_logging_in_again_as_oneself_verifies_nothing_anew(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """`log_in(request, request.user)` keeps when the session was verified: no step-up for free."""
    await make_totp(sessions, alice)

    async def again(request: Request) -> Response:
        await log_in(request, request.user)
        return PlainTextResponse("again")

    async def verified_at() -> Any:
        async with sessions() as session:
            return await session.scalar(select(OTPSession.verified_at))

    async with Browser(make_app(otp, Route("/again", again))) as browser:
        await browser.log_in(totp_token())
        before = await verified_at()
        assert (await browser.get("/again")).text == "again"
        assert await verified_at() == before
        assert (await browser.state())["verified"]


async def test_an_unconfirmed_device_gives_its_owner_a_challenge_to_confirm(
    otp: OTP, alice: User
) -> None:
    """Enrolling a device that sends its tokens: a challenge only when it is asked for by name."""
    device = await otp.add_device(alice, TOTPDevice(secret=SECRET, confirmed=False))
    assert await otp.generate_challenge(alice, device.persistent_id, confirming=True) is None
    assert await otp.confirm_device(alice, device.persistent_id, totp_token()) == device


async def test_a_query_that_is_not_ascii_is_no_error(otp: OTP) -> None:
    """Some servers pass raw bytes of a query on: guards redirect, and our views say 400."""
    app = make_app(otp)

    async def get(path: str) -> tuple[int, bytes]:
        sent: list[Any] = []
        scope = {"type": "http", "method": "GET", "path": path, "query_string": b"a=\xff&b=%41[]"}
        scope |= {"headers": [(b"accept", b"text/html"), (b"host", b"site.example")]}

        async def receive() -> Any:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope, receive, send)
        return sent[0]["status"], dict(sent[0]["headers"]).get(b"location", b"")

    assert await get("/vault") == (
        303,
        b"/account/login?next=%2Fvault%3Fa%3D%25FF%26b%3D%2541%5B%5D",
    )
    assert (await get("/account/login"))[0] == 400
