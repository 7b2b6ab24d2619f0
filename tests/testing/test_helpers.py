"""What a host's own test suite gets from `starlette_otp.testing`."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
import time_machine
from fastapi import Depends, FastAPI
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.applications import Starlette
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.routing import Mount
from starlette.testclient import TestClient

from starlette_otp import (
    OTP,
    ConfigurationError,
    DeviceRejected,
    OTPMiddleware,
    SessionAuthBackend,
)
from starlette_otp.fastapi import otp_required
from starlette_otp.models import Device, HOTPDevice, OTPSession, StaticDevice, TOTPDevice, User
from starlette_otp.testing import (
    KNOWN_SECRET,
    averify,
    make_device,
    token_at,
    verified_session,
    verify,
)
from tests.support import SECRET_KEY, Browser, make_app, reload


@pytest.fixture
def lonely(database_url: str) -> OTP:
    """An OTP for any event loop: its engine keeps no connection."""
    engine = create_async_engine(database_url, poolclass=NullPool)
    return OTP(async_sessionmaker(engine), Device, secret_key=SECRET_KEY)


@pytest.fixture
async def device(otp: OTP, alice: User) -> Any:
    return await make_device(otp, alice, TOTPDevice)


def client_of(app: Any, base_url: str = "http://site.example") -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=base_url)


async def opens(client: httpx2.AsyncClient, path: str = "/vault") -> bool:
    return (await client.get(path)).text == "hello alice"


def test_verify_inside_with(lonely: OTP, alice: User, device: Any) -> None:
    """In the application's own event loop one line gives a TestClient a verified session."""
    with TestClient(make_app(lonely)) as client:
        assert client.get("/vault", follow_redirects=False).status_code == 401
        verify(client, lonely, alice)
        assert client.get("/vault").text == "hello alice"


def test_verify_inside_with_on_a_pool(database_url: str, alice: User, device: Any) -> None:
    """There the engine may keep its connections, and devices are made in the same loop."""
    engine = create_async_engine(database_url)
    otp = OTP(async_sessionmaker(engine), Device, secret_key=SECRET_KEY)
    with TestClient(make_app(otp)) as client:
        other = client.portal.call(make_device, otp, alice, HOTPDevice)
        verify(client, otp, alice, other)
        assert client.get("/state").json()["device"] == other.persistent_id
        client.portal.call(engine.dispose)


def test_verify_outside_with(lonely: OTP, alice: User, device: Any) -> None:
    """A TestClient that nobody entered gets a verified session, too."""
    client = TestClient(make_app(lonely))
    verify(client, lonely, alice)
    assert client.get("/vault").text == "hello alice"
    assert client.get("/state").json()["device"] == device.persistent_id


def test_verify_a_fastapi_client(lonely: OTP, alice: User, device: Any) -> None:
    """A FastAPI application with middleware added one by one opens its guarded route."""
    api = FastAPI()

    @api.get("/balance", dependencies=[Depends(otp_required())])
    def balance(request: Request) -> str:
        return str(request.user.username)

    api.add_middleware(OTPMiddleware, otp=lonely)
    api.add_middleware(AuthenticationMiddleware, backend=SessionAuthBackend(lonely))
    api.add_middleware(SessionMiddleware, secret_key=SECRET_KEY)
    with TestClient(api) as client:
        assert client.get("/balance").status_code == 401
        verify(client, lonely, alice)
        assert client.get("/balance").json() == "alice"


async def test_averify(otp: OTP, alice: User, bob: User, device: Any) -> None:
    """One line gives an httpx client a verified session; a later one replaces it."""
    bobs = await make_device(otp, bob, HOTPDevice)
    async with Browser(make_app(otp)) as browser:
        await averify(browser, otp, alice)
        assert await opens(browser)
        await averify(browser, otp, bob)
        assert (await browser.get("/vault")).text == "hello bob"
        assert (await browser.state())["device"] == bobs.persistent_id


async def test_the_cookie_is_replaced_by_the_applications(
    otp: OTP, alice: User, device: Any
) -> None:
    """Logging in replaces the cookie that averify gave: it lies in the jar as a real one."""
    async with Browser(make_app(otp)) as browser:
        await averify(browser, otp, alice)
        given = browser.cookie
        assert (await browser.log_in(token_at(device))).status_code == 303
        (left,) = [cookie.value for cookie in browser.cookies.jar if cookie.name == "otp_session"]
        assert left != given
        assert await opens(browser)


@pytest.mark.parametrize(
    ("settings", "base_url"),
    [
        ({"cookie_name": "acme"}, "http://site.example"),
        ({"cookie_secure": True}, "https://site.example"),
        ({"cookie_name": "__Host-acme"}, "https://site.example"),
        ({"cookie_domain": "acme.example"}, "http://www.acme.example"),
        ({"cookie_path": "/vault"}, "http://site.example"),
        ({"cookie_samesite": "Strict"}, "http://testserver"),
    ],
)
async def test_the_cookies_settings_are_honoured(
    sessions: Any,
    alice: User,
    device: Any,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    base_url: str,
) -> None:
    """Another cookie's name, domain, path or flags."""
    for name, value in settings.items():
        monkeypatch.setattr(OTPSession, name, value)
    otp = OTP(sessions, Device, secret_key=SECRET_KEY)
    async with client_of(make_app(otp), base_url) as client:
        await averify(client, otp, alice)
        assert await opens(client)


@pytest.mark.parametrize(
    ("name", "value"), [("cookie_secure", True), ("cookie_domain", "acme.example")]
)
async def test_a_cookie_that_the_client_would_not_send(
    otp: OTP, alice: User, device: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    """One sentence says that the client's base_url is not one for the cookie."""
    monkeypatch.setattr(OTPSession, name, value)
    async with client_of(make_app(otp)) as client:
        with pytest.raises(ConfigurationError, match="base_url") as caught:
            await averify(client, otp, alice)
    assert sentence(caught)


def sentence(caught: Any) -> bool:
    text = str(caught.value)
    return text.endswith(".") and ". " not in text and "\n" not in text


@pytest.mark.parametrize(
    "wrap",
    [
        lambda app: app,
        lambda app: CORSMiddleware(app, allow_origins=["*"]),
        lambda app: CORSMiddleware(CORSMiddleware(app), allow_origins=["*"]),
    ],
)
async def test_an_application_in_a_wrapper(otp: OTP, alice: User, device: Any, wrap: Any) -> None:
    """Middleware wrapped around the application, or around its routes, is looked through."""
    async with client_of(wrap(make_app(otp))) as client:
        await averify(client, otp, alice)
        assert await opens(client)


async def test_a_mounted_application(otp: OTP, alice: User, device: Any) -> None:
    """An application inside another one, which knows nothing of ours."""
    outer = Starlette(routes=[Mount("/inner", app=make_app(otp))])
    async with client_of(outer) as client:
        await averify(client, otp, alice)
        assert await opens(client, "/inner/vault")


async def test_a_user_without_a_device(otp: OTP, alice: User) -> None:
    """There is nothing to be verified by, and the error says so; an unconfirmed one is none."""
    await make_device(otp, alice, TOTPDevice, confirmed=False)
    with pytest.raises(ConfigurationError, match="no confirmed device") as caught:
        await verified_session(otp, alice)
    assert sentence(caught)


async def test_a_device_that_is_not_the_users(otp: OTP, alice: User, bob: User) -> None:
    """Another user's device, or an unconfirmed one, is refused, as `login` refuses it."""
    await make_device(otp, alice, TOTPDevice)
    unconfirmed = await make_device(otp, alice, TOTPDevice, confirmed=False)
    for device in (await make_device(otp, bob, TOTPDevice), unconfirmed):
        with pytest.raises(DeviceRejected, match="confirmed device of the user's"):
            await verified_session(otp, alice, device)


async def test_the_session_is_a_real_one(otp: OTP, alice: User, device: Any) -> None:
    """Revoking what averify gave takes effect at the next request, as with any session."""
    async with Browser(make_app(otp)) as browser:
        await averify(browser, otp, alice, device)
        await otp.revoke_sessions(device)
        assert (await browser.state())["verified"] is False


async def test_a_device_with_a_known_secret(otp: OTP, sessions: Any, alice: User) -> None:
    """A made device is stored, confirmed, the user's, with the vectors' secret or one given."""
    device = await make_device(otp, alice, TOTPDevice, name="phone", digits=8)
    stored = await reload(sessions, device)
    assert (stored.secret, stored.user_id) == (KNOWN_SECRET, alice.id)
    assert (stored.name, stored.digits, stored.confirmed) == ("phone", 8, True)
    other = await make_device(otp, alice, HOTPDevice, secret=b"a secret of its own")
    assert (await reload(sessions, other)).secret == b"a secret of its own"


async def test_a_device_of_nobodys(otp: OTP) -> None:
    """A user without a key is refused in words, not by the database."""
    for nobody in (None, User(username="unsaved")):
        with pytest.raises(ValueError, match="authenticated user"):
            await make_device(otp, nobody, TOTPDevice)


@pytest.mark.parametrize(
    ("moment", "token"),
    [
        (59, "94287082"),
        (1111111109, "07081804"),
        (1234567890, "89005924"),
        (20000000000, "65353130"),
    ],
)
def test_the_token_of_a_moment(otp: OTP, moment: int, token: str) -> None:
    """RFC 6238 appendix B: what the prover shows at that moment, or steps away from it."""
    device = TOTPDevice(secret=KNOWN_SECRET, digits=8)
    at = datetime.fromtimestamp(moment, UTC)
    assert token_at(device, at) == token
    assert token_at(device, at + timedelta(minutes=1), steps=-2) == token
    with time_machine.travel(at, tick=False):
        assert token_at(device) == token


def test_the_token_of_a_counter(otp: OTP) -> None:
    """RFC 4226 appendix D: what the prover shows at the device's counter, or presses later."""
    device = HOTPDevice(secret=KNOWN_SECRET, counter=3)
    assert [token_at(device, steps=steps) for steps in (-3, 0, 6)] == ["755224", "969429", "520489"]


def test_a_device_without_a_prover(otp: OTP) -> None:
    """Other kinds have no token of a moment, and the error names the class."""
    with pytest.raises(TypeError, match="StaticDevice is no TOTP or HOTP device"):
        token_at(StaticDevice())


async def test_a_token_verifies_on_the_page(otp: OTP, alice: User, device: Any) -> None:
    """The token of a made device logs its user in."""
    async with Browser(make_app(otp)) as browser:
        assert (await browser.log_in(token_at(device))).status_code == 303
        assert await opens(browser)
