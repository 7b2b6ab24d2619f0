"""Names of ours that a host's users have already: theirs stay, and functions of ours say ours."""

from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import Mapped, mapped_column
from starlette.authentication import UnauthenticatedUser
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from starlette_otp import OTP, is_verified, log_in, login, otp_device
from starlette_otp.web.user import attach
from tests.hosts import Host, make_host
from tests.support import SECRET, SECRET_KEY, Browser, add, make_app


def confirmed_addresses(base: Any) -> type[Any]:
    """Users whose `is_verified` says that their address is confirmed, as fastapi-users has it."""

    class Person(base):
        __tablename__ = "people"
        id: Mapped[int] = mapped_column(primary_key=True)
        username: Mapped[str]
        is_verified: Mapped[bool] = mapped_column(default=False)

        @property
        def otp_device(self) -> str:
            return "the host's own"

    return Person


def refusing(base: Any) -> type[Any]:
    """Users that refuse attributes which they do not know."""

    class Person(base):
        __tablename__ = "people"
        id: Mapped[int] = mapped_column(primary_key=True)
        username: Mapped[str]

        def __setattr__(self, name: str, value: Any) -> None:
            if not name.startswith("_sa_") and name not in ("id", "username"):
                raise ValueError(name)
            super().__setattr__(name, value)

    return Person


async def show(request: Request) -> Response:
    user, device = request.user, otp_device(request)
    theirs = user.is_verified if isinstance(user.is_verified, bool) else user.is_verified()
    ours = [is_verified(request), device and device.persistent_id, request.auth.scopes]
    return JSONResponse([theirs, *ours])


async def site(engine: AsyncEngine, users: Any) -> tuple[Host, OTP, Any, Any]:
    models = make_host(users)
    await models.create_tables(engine)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    otp = OTP(sessions, models.Device, secret_key=SECRET_KEY)
    person = await add(sessions, models.User(username="alice"))
    device = models.TOTPDevice(user_id=person.id, secret=SECRET)
    return models, otp, person, await add(sessions, device)


def entrance(user: Any, device: Any = None) -> Route:
    """A view that logs the user in, with the device if there is one, and shows what came of it."""

    async def enter(request: Request) -> Response:
        await log_in(request, user)
        assert request.user.is_authenticated
        if device is not None:
            await login(request, device)
        return await show(request)

    return Route("/enter" if device is not None else "/password", enter)


async def test_what_is_theirs_stays(
    empty_engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """An address that is not confirmed is not confirmed by a token; what OTP says of it, once."""
    _, otp, person, device = await site(empty_engine, confirmed_addresses)
    told = [r.getMessage() for r in caplog.records if "is yours and stays" in r.getMessage()]
    assert [line.split()[0] for line in told] == ["Person.is_verified", "Person.otp_device"]
    async with Browser(make_app(otp, entrance(person, device), Route("/show", show))) as browser:
        await browser.get("/enter")
        verified = [False, True, device.persistent_id, ["authenticated", "verified"]]
        assert (await browser.get("/show")).json() == verified
        assert (await browser.get("/vault")).status_code == 200


async def test_a_device_of_theirs_verifies_nobody(empty_engine: AsyncEngine) -> None:
    """What a host's own attribute `otp_device` gives is no token that was accepted."""
    models, otp, person, device = await site(empty_engine, confirmed_addresses)
    models.User.otp_device = property(lambda user: device)  # type: ignore[attr-defined]

    app = make_app(otp, entrance(person), Route("/show", show))
    async with Browser(app) as browser:
        for path in ("/password", "/show"):
            assert (await browser.get(path)).json() == [False, False, None, ["authenticated"]]
        assert (await browser.get("/vault")).status_code == 303


async def test_a_class_that_refuses_attributes(empty_engine: AsyncEngine) -> None:
    """It gets them all the same, in every request, and in the one that logs in, too."""
    _, otp, person, device = await site(empty_engine, refusing)

    app = make_app(otp, entrance(person), entrance(person, device), Route("/show", show))
    async with Browser(app) as browser:
        for path in ("/password", "/show"):
            assert (await browser.get(path)).json() == [False, False, None, ["authenticated"]]
        verified = [True, True, device.persistent_id, ["authenticated", "verified"]]
        for path in ("/enter", "/show"):
            assert (await browser.get(path)).json() == verified


def test_an_object_from_another_request_is_not_verified_by_it() -> None:
    """What was set on a user that a host keeps says nothing in the next request."""
    kept = attach(SimpleNamespace(username="alice"), object(), own=True)
    assert kept.is_verified()
    assert not attach(kept, None).is_verified()
    assert attach(kept, None).otp_device is None
    theirs = attach(SimpleNamespace(is_verified=False), object())
    assert theirs.is_verified is False


class Lazy:
    """Stands before a user who is found when asked for, as Werkzeug's LocalProxy does."""

    def __init__(self, user: Any) -> None:
        self._user = user

    def __getattr__(self, name: str) -> Any:
        return getattr(self._user, name)


def test_a_lazy_object_says_itself_who_is_authenticated() -> None:
    """Nobody stays nobody; what verified a user is ours to say."""
    assert attach(Lazy(UnauthenticatedUser()), None).is_authenticated is False
    device = object()
    bare = attach(Lazy(SimpleNamespace(username="alice")), device)
    assert (bare.is_authenticated, bare.display_name) == (True, "alice")
    kept = attach(SimpleNamespace(username="alice"), device, own=True)
    assert attach(Lazy(kept), None).otp_device is None
    assert not attach(Lazy(kept), None).is_verified()
