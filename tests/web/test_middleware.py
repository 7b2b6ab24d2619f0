"""OTPMiddleware: where it stands, what it attaches, and what it leaves alone."""

import dataclasses
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    SimpleUser,
)
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection
from starlette.routing import Route

from starlette_otp import OTP, ConfigurationError, OTPMiddleware, SessionAuthBackend
from starlette_otp.models import User
from starlette_otp.web.user import RequestUser
from tests.support import (
    ANONYMOUS,
    SECRET_KEY,
    Browser,
    Sessions,
    door,
    make_app,
    make_totp,
    state,
    vault,
)


class Anybody(AuthenticationBackend):
    """Another backend than ours: no session needed."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser]:
        return AuthCredentials(["authenticated"]), SimpleUser("anybody")


SESSION = Middleware(SessionMiddleware, secret_key=SECRET_KEY)
ANYBODY = Middleware(AuthenticationMiddleware, backend=Anybody())


def ours(otp: OTP) -> Middleware:
    return Middleware(AuthenticationMiddleware, backend=SessionAuthBackend(otp))


def third(otp: OTP) -> Middleware:
    return Middleware(OTPMiddleware, otp=otp)


@pytest.mark.parametrize(
    ("order", "says"),
    [
        ((ours, third), r"SessionAuthBackend needs SessionMiddleware\b.*last comes first"),
        ((ours, third, SESSION), r"SessionAuthBackend needs SessionMiddleware\b.*last comes first"),
        ((third,), r"OTPMiddleware needs SessionMiddleware\b.*last comes first"),
        ((ANYBODY, third), r"OTPMiddleware needs SessionMiddleware\b.*last comes first"),
        ((ANYBODY, third, SESSION), r"OTPMiddleware needs SessionMiddleware\b.*last comes first"),
        ((SESSION, third), r"OTPMiddleware needs AuthenticationMiddleware\b.*last comes first"),
        (
            (SESSION, third, ours),
            r"OTPMiddleware needs AuthenticationMiddleware\b.*last comes first",
        ),
        ((), r"OTPMiddleware has not seen this request\b.*\bOTPMiddleware, otp=otp\b"),
        ((SESSION, ours), r"OTPMiddleware has not seen this request\b.*\bOTPMiddleware, otp=otp\b"),
    ],
)
async def test_a_missing_or_misplaced_middleware_is_named(
    otp: OTP, order: tuple[Any, ...], says: str
) -> None:
    """A middleware that is missing or out of order is an error in one sentence that names it."""
    middleware = [each if isinstance(each, Middleware) else each(otp) for each in order]
    app = Starlette(routes=[Route("/vault", vault)], middleware=middleware)
    async with Browser(app) as browser:
        with pytest.raises(ConfigurationError, match=says) as raised:
            await browser.get("/vault")
    assert str(raised.value).count(". ") == 0
    assert str(raised.value).endswith(".")


async def test_lifespan_passes_through(otp: OTP) -> None:
    """Scopes that are neither http nor websocket pass through untouched."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    scope = {"type": "lifespan"}
    await OTPMiddleware(app, otp)(scope, None, None)  # type: ignore[arg-type]
    assert seen == [scope] == [{"type": "lifespan"}]


async def test_anonymous_users_have_the_attributes_too(otp: OTP) -> None:
    """An anonymous request.user has otp_device None and is_verified() False."""
    async with Browser(make_app(otp)) as browser:
        answer = await browser.get("/state")
        assert answer.json() == ANONYMOUS
        assert "cookie" in answer.headers["vary"].lower()
        assert "set-cookie" not in answer.headers


async def test_otps_own_user_gets_the_attributes_directly(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """Behind SessionAuthBackend request.user is the host's own class, loaded for this request."""
    device = await make_totp(sessions, alice)
    users = []

    async def keep(request: Any) -> Any:
        users.append(request.user)
        return await state(request)

    async with Browser(make_app(otp, door(otp, alice, device), Route("/keep", keep))) as browser:
        await browser.get("/enter")
        await browser.get("/keep")
        await browser.get("/keep")
    assert [type(user) for user in users] == [User, User]
    assert users[0] is not users[1]
    assert users[0].otp_device == device
    assert (users[0].identity, users[0].display_name) == (str(alice.id), "alice")


# The proxy for users of other backends.


@dataclasses.dataclass(frozen=True)
class Frozen:
    id: int
    name: str = "frozen"
    is_authenticated = True

    def greet(self) -> str:
        return f"I am {self.name}"

    def __str__(self) -> str:
        return self.name

    def __bool__(self) -> bool:
        return self.id != 0


def test_the_proxy_passes_for_the_hosts_own_user() -> None:
    """request.user is an instance of the host's class, equal to the host's object and hashed
    alike, and shows its attributes, methods, texts and truth."""
    user = Frozen(7)
    seen = RequestUser(user, "device")
    assert isinstance(seen, Frozen)
    assert not isinstance(seen, User)
    assert seen == user
    assert user == seen
    assert seen == RequestUser(Frozen(7), None)
    assert seen != Frozen(8)
    assert {seen: 1}[user] == 1
    assert (seen.id, seen.greet()) == (7, "I am frozen")
    assert (str(seen), f"{seen}", repr(seen)) == ("frozen", "frozen", repr(user))
    assert seen
    assert not RequestUser(Frozen(0), None)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = seen.nonsense


def test_the_proxy_writes_only_the_device_on_itself() -> None:
    """Of what is set on request.user only otp_device stays with this request; the rest goes to
    the host's object, which may refuse it."""
    user = SimpleUser("shared")
    one, two = RequestUser(user, "device"), RequestUser(user, None)
    assert (one.is_verified(), two.is_verified()) == (True, False)
    two.otp_device = "another"
    assert (one.otp_device, two.otp_device) == ("device", "another")
    one.username = "renamed"
    assert (user.username, two.username) == ("renamed", "renamed")
    assert vars(user) == {"username": "renamed"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        RequestUser(Frozen(7), None).name = "changed"
