"""OTPMiddleware behind other backends than ours: shared, frozen, foreign and opaque users."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from starlette_otp import OTP, OTPMiddleware, login
from starlette_otp.models import OTPSession, User
from tests.hosts import Subject
from tests.support import (
    AUTHENTICATED,
    HTML,
    SECRET_KEY,
    Browser,
    Sessions,
    Statements,
    make_totp,
    shown,
    state,
    totp_token,
    vault,
    verified_by,
)


@dataclass(frozen=True)
class Frozen:
    id: int
    is_authenticated = True
    username = "frozen"


@dataclass(frozen=True, slots=True)
class Slotted:
    id: int
    username: str = "slotted"
    is_authenticated: bool = True


class Backend(AuthenticationBackend):
    """The header `user` says who it is; the user objects and the credentials are shared."""

    def __init__(self, users: dict[str, Any]) -> None:
        self.users = users
        self.credentials = AuthCredentials(["authenticated"])

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, Any] | None:
        name = conn.headers.get("user")
        return (self.credentials, self.users[name]) if name else None


async def verify(request: Request) -> Response:
    """Verify the session by the user's token in the query."""
    otp = request.app.state.otp
    device = await otp.match_token(request.user, request.query_params["token"])
    if device is not None:
        await login(request, device)
    return JSONResponse(shown(request))


def make(otp: OTP, backend: AuthenticationBackend, *routes: BaseRoute) -> Starlette:
    app = Starlette(
        routes=[*routes, Route("/verify", verify), Route("/state", state), Route("/vault", vault)],
        middleware=[
            Middleware(SessionMiddleware, secret_key=SECRET_KEY),
            Middleware(AuthenticationMiddleware, backend=backend),
            Middleware(OTPMiddleware, otp=otp),
        ],
    )
    app.state.otp = otp
    return app


def attributes(user: Any) -> dict[str, Any]:
    return dict(getattr(user, "__dict__", {}))


KINDS: dict[str, Callable[[User], Any]] = {
    "the ORM's, cached": lambda user: user,
    "frozen": lambda user: Frozen(user.id),
    "frozen with slots": lambda user: Slotted(user.id),
    "an identity alone": lambda user: Subject(str(user.id)),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_nobody_is_verified_by_somebody_elses_token(
    otp: OTP, sessions: Sessions, alice: User, bob: User, kind: str
) -> None:
    """A backend may hand the same user object and the same credentials to every request: whoever
    gave a token is verified, in that browser alone, and nothing is written on what is shared."""
    device = await make_totp(sessions, alice)
    backend = Backend({"alice": KINDS[kind](alice), "bob": KINDS[kind](bob)})
    before = [attributes(user) for user in backend.users.values()]
    app = make(otp, backend)
    hers, his = {"user": "alice"}, {"user": "bob"}
    async with Browser(app) as verified, Browser(app) as other:
        answer = await verified.get("/verify", params={"token": totp_token()}, headers=hers)
        assert answer.json() == verified_by(device)
        assert (await verified.get("/state", headers=hers)).json() == verified_by(device)
        assert (await other.get("/state", headers=hers)).json() == AUTHENTICATED
        assert (await other.get("/vault", headers=hers)).status_code == 303
        assert (await other.get("/state", headers=his)).json() == AUTHENTICATED
        # Bob with the cookie of alice.
        assert (await verified.get("/state", headers=his)).json() == AUTHENTICATED
        assert (await verified.get("/vault", headers=his)).status_code == 303
    assert [attributes(user) for user in backend.users.values()] == before
    assert backend.credentials.scopes == ["authenticated"]


async def test_a_verification_leaves_nothing_of_the_former_users_session(
    otp: OTP, sessions: Sessions, alice: User, bob: User
) -> None:
    """Verified behind another backend, a browser's session of another user before is gone."""
    his, hers = await make_totp(sessions, bob), await make_totp(sessions, alice)
    app = make(otp, Backend({"alice": Frozen(alice.id), "bob": Frozen(bob.id)}))
    async with Browser(app) as browser:
        for name, device in (("bob", his), ("alice", hers)):
            headers = {"user": name}
            answer = await browser.get("/verify", params={"token": totp_token()}, headers=headers)
            assert answer.json() == verified_by(device)
    async with sessions() as session:
        assert list(await session.scalars(select(OTPSession.user_id))) == [alice.id]


async def test_one_select_behind_another_backend(
    otp: OTP, sessions: Sessions, engine: AsyncEngine, alice: User
) -> None:
    """Behind another backend a request with a session is one SELECT, one without costs none."""
    device = await make_totp(sessions, alice)
    app = make(otp, Backend({"alice": Frozen(alice.id)}))
    async with Browser(app, headers={"user": "alice"}) as browser:
        statements = Statements(engine)
        assert await browser.state() == AUTHENTICATED
        assert statements == []
        await browser.get("/verify", params={"token": totp_token()})
        statements.clear()
        assert await browser.state() == verified_by(device)
        assert [statement.split()[0] for statement in statements] == ["SELECT"]
        statements.clear()
        await browser.get("/state", headers={"user": ""})
        assert statements == []


async def test_other_scopes_are_kept(otp: OTP, sessions: Sessions, alice: User) -> None:
    """The backend's own scopes stay beside "verified", also in the request that verifies; and
    "verified" is not the backend's to give."""
    device = await make_totp(sessions, alice)
    backend = Backend({"alice": Frozen(alice.id)})
    backend.credentials = AuthCredentials(["authenticated", "verified", "editor"])
    async with Browser(make(otp, backend), headers={"user": "alice"}) as browser:
        assert (await browser.state())["scopes"] == ["authenticated", "editor"]
        scopes = ["authenticated", "editor", "verified"]
        answer = await browser.get("/verify", params={"token": totp_token()})
        assert answer.json() == {**verified_by(device), "scopes": scopes}
        assert await browser.state() == {**verified_by(device), "scopes": scopes}


@pytest.mark.parametrize("change", ["another device's owner", "inactive", "a new password"])
async def test_the_session_ends_behind_another_backend_too(
    otp: OTP, sessions: Sessions, alice: User, bob: User, change: str
) -> None:
    """A device that moved, an inactive user and a new password leave the session unverified."""
    device = await make_totp(sessions, alice)
    async with Browser(make(otp, Backend({"alice": alice})), headers={"user": "alice"}) as browser:
        await browser.get("/verify", params={"token": totp_token()})
        assert await browser.state() == verified_by(device)
        if change == "inactive":
            alice.is_active = False
        elif change == "a new password":
            alice.password_hash = "another"
        else:
            async with sessions.begin() as session:
                (await session.merge(device)).user_id = bob.id
        assert await browser.state() == AUTHENTICATED


@pytest.mark.parametrize("identity", ["", "alice", "1e1", "99999999999999999999", "\0", "-", "²"])
async def test_an_identity_that_is_no_key_is_nobody(
    otp: OTP, engine: AsyncEngine, identity: str
) -> None:
    """A user whose identity is no key of the user table has no devices and no session, and costs
    no SQL."""
    statements = Statements(engine)
    backend = Backend({"somebody": Subject(identity)})
    async with Browser(make(otp, backend), headers={**HTML, "user": "somebody"}) as browser:
        assert (await browser.state())["verified"] is False
        assert (await browser.get("/vault")).status_code == 303
    assert statements == []
