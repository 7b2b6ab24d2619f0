"""request.user of a host whose class knows nothing of ours, or whose users live elsewhere."""

from dataclasses import dataclass
from html import unescape
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import ForeignKey, inspect
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Mapped, mapped_column, relationship, selectinload
from sqlalchemy.orm.exc import DetachedInstanceError
from starlette.authentication import BaseUser
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from starlette_otp import OTP, ConfigurationError, SessionAuthBackend, log_in, login, requires_otp
from tests.account.pages import ADD_TOTP, visit
from tests.hosts import Host, Subject, make_host
from tests.support import (
    ANONYMOUS,
    AUTHENTICATED,
    HTML,
    SECRET,
    SECRET_KEY,
    Browser,
    Statements,
    add,
    door,
    make_app,
    verified_by,
)


def plain_users(base: Any) -> type[Any]:
    """A user class without UserMixin: no is_authenticated, no display_name, no password."""

    class Person(base):
        __tablename__ = "people"
        id: Mapped[int] = mapped_column(primary_key=True)
        username: Mapped[str]

    return Person


async def whoami(request: Request) -> Response:
    user = request.user
    return JSONResponse([user.username, user.display_name, user.is_authenticated, user.id])


@pytest.fixture
async def engine(empty_url: str) -> Any:
    engine = create_async_engine(empty_url)
    yield engine
    await engine.dispose()


async def test_a_class_without_user_mixin(engine: AsyncEngine) -> None:
    """A host's own class without UserMixin gets otp_device, is_verified() and Starlette's words,
    in one SELECT; the class itself is left as it was."""
    models = make_host(plain_users)
    await models.create_tables(engine)
    before = set(vars(models.User))
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    otp = OTP(sessions, models.Device, secret_key=SECRET_KEY)
    person = await add(sessions, models.User(username="alice"))
    device = await add(sessions, models.TOTPDevice(user_id=person.id, secret=SECRET))
    app = make_app(otp, door(otp, person, device), Route("/whoami", whoami))
    async with Browser(app) as browser:
        assert await browser.state() == ANONYMOUS
        await browser.get("/enter")
        statements = Statements(engine)
        assert await browser.state() == verified_by(device)
        assert len(statements) == 1
        assert (await browser.get("/whoami")).json() == ["alice", "alice", True, person.id]
        assert (await browser.get("/vault")).text == "hello alice"
        page = await browser.get("/account/login?reverify=1")
        assert "Signed in as alice" in page.text
    assert set(vars(models.User)) == before


def related_users(base: Any) -> type[Any]:
    """Users with relationships of every make."""

    class Order(base):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        buyer_id: Mapped[int] = mapped_column(ForeignKey("people.id"))

    class Person(base):
        __tablename__ = "people"
        id: Mapped[int] = mapped_column(primary_key=True)
        username: Mapped[str]
        joined: Mapped[list[Order]] = relationship(lazy="joined", viewonly=True)
        selected: Mapped[list[Order]] = relationship(lazy="selectin", viewonly=True)
        orders: Mapped[list[Order]] = relationship()

    return Person


async def test_relationships_of_the_user(engine: AsyncEngine) -> None:
    """What the mapping loads at once is there; the rest is asked for in a session."""
    models = make_host(related_users)
    await models.create_tables(engine)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    otp = OTP(sessions, models.Device, secret_key=SECRET_KEY)
    User = models.User
    order_model = inspect(User).relationships.orders.mapper.class_
    person = User(username="alice", orders=[order_model(), order_model()])
    async with sessions.begin() as session:
        session.add(person)
        await session.flush()
        device = models.TOTPDevice(user_id=person.id, secret=SECRET)
        session.add(device)

    async def orders(request: Request) -> Response:
        counts = [len(request.user.joined), len(request.user.selected)]
        with pytest.raises(DetachedInstanceError):
            _ = request.user.orders
        user = await otp.read(
            lambda session: session.get(User, request.user.id, options=[selectinload(User.orders)])
        )
        return JSONResponse([*counts, len(user.orders)])

    app = make_app(otp, door(otp, person, device), Route("/orders", requires_otp(orders)))
    async with Browser(app) as browser:
        await browser.get("/enter")
        assert (await browser.get("/orders")).json() == [2, 2, 2]


# Users who live elsewhere.


class Directory:
    """Where the users of another service are; it hands out the same objects every time."""

    def __init__(self, *users: Subject) -> None:
        self.users = {user.identity: user for user in users}
        self.asked: list[tuple[type, Any]] = []

    async def load_user(self, conn: Any, key: Any) -> Subject | None:
        self.asked.append((type(conn), key))
        return self.users.get(key)


async def opaque(engine: AsyncEngine, directory: Directory) -> tuple[Host, OTP, Any]:
    """A host of opaque users, its OTP, and a device of the first of them."""
    models = make_host(None)
    await models.create_tables(engine)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    otp = OTP(sessions, models.Device, secret_key=SECRET_KEY, load_user=directory.load_user)
    device = models.TOTPDevice(user_id=next(iter(directory.users)), secret=SECRET)
    return models, otp, await add(sessions, device)


def enter(path: str, user: Subject, device: Any = None) -> Route:
    async def endpoint(request: Request) -> Response:
        await log_in(request, user)
        if device is not None:
            await login(request, device)
        return PlainTextResponse("in")

    return Route(path, endpoint)


async def test_users_who_live_elsewhere(engine: AsyncEngine) -> None:
    """Users are loaded by their key with load_user, beside one SELECT; though they are frozen
    and shared, each request has its own verdict."""
    alice, bob = Subject("oidc|alice"), Subject("oidc|bob", "bob")
    directory = Directory(alice, bob)
    _, otp, device = await opaque(engine, directory)
    routes = enter("/verified", alice, device), enter("/half", alice), enter("/bob", bob)
    app = make_app(otp, *routes)
    async with Browser(app) as verified, Browser(app) as half, Browser(app) as his:
        await verified.get("/verified")
        await half.get("/half")
        await his.get("/bob")
        directory.asked.clear()
        statements = Statements(engine)
        assert await verified.state() == verified_by(device)
        assert len(statements) == len(directory.asked) == 1
        assert directory.asked[0][1] == "oidc|alice"
        assert await half.state() == AUTHENTICATED
        assert await his.state() == AUTHENTICATED
        assert await verified.state() == verified_by(device)
    assert alice == Subject("oidc|alice")


async def test_a_user_who_is_gone_elsewhere(engine: AsyncEngine) -> None:
    """A user whom load_user does not find any more, or finds inactive, is anonymous."""
    alice = Subject("oidc|alice")
    directory = Directory(alice)
    _, otp, device = await opaque(engine, directory)
    async with Browser(make_app(otp, enter("/enter", alice, device))) as browser:
        await browser.get("/enter")
        assert await browser.state() == verified_by(device)
        directory.users.clear()
        assert await browser.state() == ANONYMOUS
        inactive = Subject("oidc|alice")
        object.__setattr__(inactive, "is_active", False)
        directory.users["oidc|alice"] = inactive
        assert await browser.state() == ANONYMOUS


@pytest.mark.parametrize("away", [True, False])
async def test_a_directory_that_is_away(engine: AsyncEngine, away: bool) -> None:
    """A load_user that cannot reach its service is 503; one with a bug raises it."""
    alice = Subject("oidc|alice")
    directory = Directory(alice)
    _, otp, device = await opaque(engine, directory)
    async with Browser(make_app(otp, enter("/enter", alice, device)), headers=HTML) as browser:
        await browser.get("/enter")
        directory.users = None if not away else Unreachable()  # type: ignore[assignment]
        if away:
            assert (await browser.get("/vault")).status_code == 503
            assert await browser.state() == ANONYMOUS
        else:
            with pytest.raises(AttributeError):
                await browser.get("/vault")


class Unreachable:
    def get(self, key: Any) -> Any:
        raise ConnectionRefusedError(key)


async def test_users_who_live_elsewhere_need_load_user(engine: AsyncEngine) -> None:
    """Without load_user SessionAuthBackend says so in one sentence when it is made."""
    otp = OTP(async_sessionmaker(engine), make_host(None).Device, secret_key=SECRET_KEY)
    with pytest.raises(ConfigurationError, match="load_user="):
        SessionAuthBackend(otp)


@dataclass(frozen=True)
class Addressee:
    """A user who lives elsewhere, and is known by an address alone."""

    identity: str
    email: str = "carol@mail.example"


class Unnamed(BaseUser):
    """One of Starlette's, which does not say what it is called."""

    email = "dan@mail.example"
    identity = "1"
    is_authenticated = True


NAMED: list[tuple[Any, str]] = [(Subject("1"), "alice"), (Addressee("1"), "carol@mail.example")]
NAMED += [(Unnamed(), "dan@mail.example")]


@pytest.mark.parametrize(("user", "called"), NAMED)
async def test_their_account_pages_call_them_by_what_they_have(
    engine: AsyncEngine, user: Any, called: str
) -> None:
    """A frozen user without Starlette's `display_name` sets up an app, which shows whose account it
    is, and gets recovery codes: by the name, else by the address."""
    _, otp, device = await opaque(engine, Directory(user))
    routes = enter("/enter", user, device), Mount("/auth", routes=otp.api_routes())
    async with Browser(make_app(otp, *routes)) as browser:
        await browser.get("/enter")
        assert f"Signed in as {called}" in (await browser.get("/account/")).text
        app = await visit(browser, ADD_TOTP)
        assert f"otpauth://totp/{quote(called)}?" in unescape(app.text)
        codes = await browser.submit("/account/recovery-codes", new="1", sure="1")
        assert codes.status_code == 200
        assert quote(f"Recovery codes of {called} for") in codes.text
        origin = {"origin": "http://site.example"}
        begun = await browser.post("/auth/devices", json={"kind": "totp"}, headers=origin)
        url = begun.json()["setup"]["otpauth_url"]
        assert url.startswith(f"otpauth://totp/{quote(called)}?")
