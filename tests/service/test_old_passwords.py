"""Passwords that users brought along log in, hashed anew before the session begins."""

import asyncio
import logging
from typing import Any

import pytest
from pwdlib.hashers.bcrypt import BcryptHasher
from sqlalchemy import ForeignKey, String, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Mapped, mapped_column, relationship
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from starlette_otp import OTP, ConfigurationError, DatabaseUnavailable
from starlette_otp.devices import users
from starlette_otp.hashers import DjangoHasher, FlaskSecurityHasher
from starlette_otp.models import Device, User
from starlette_otp.service import old_passwords
from starlette_otp.service.old_passwords import Formats
from tests.api.client import Client, make_api
from tests.hosts import keep, make_host
from tests.support import (
    PASSWORD,
    SECRET,
    SECRET_KEY,
    Browser,
    CodesView,
    Sessions,
    add,
    codes,
    door,
    make_app,
    make_totp,
    reload,
    totp_token,
)
from tests.test_hashers import DJANGO, FLASK, LONG, SALT, WEAK
from tests.test_hashers import PASSWORD as BROUGHT
from tests.test_user_classes import deferring_users, raising_users, renaming_users

HASHERS = [DjangoHasher(weak=True, iterations=600), FlaskSecurityHasher(SALT), BcryptHasher(4)]
PBKDF2 = DJANGO["pbkdf2_sha256"][0]


def make_otp(sessions: Sessions, device: Any = Device, **settings: Any) -> OTP:
    given = {"secret_key": SECRET_KEY, "password_hashers": HASHERS, **settings}
    return OTP(sessions, device, **given)


@pytest.fixture
def moved(sessions: Sessions) -> OTP:
    """Of a site that has moved in from elsewhere."""
    return make_otp(sessions)


@pytest.fixture
async def browser(moved: OTP) -> Any:
    async with Browser(make_app(moved, login_view=CodesView)) as browser:
        yield browser


async def bring(sessions: Sessions, stored: str, **values: Any) -> User:
    """Alice, with a hash from elsewhere and an app."""
    user: User = await add(sessions, User(username="alice", password_hash=stored, **values))
    await make_totp(sessions, user)
    return user


def request_of() -> Request:
    return Request({"type": "http", "headers": []})


STORED = {
    **{f"Django's {name}": hashes for name, hashes in DJANGO.items()},
    **{f"Flask-Security's {name}": hashes for name, hashes in FLASK.items()},
    **{name: (stored, "") for name, stored in WEAK.items()},
    "fastapi-users' bcrypt": (BcryptHasher(4).hash(BROUGHT), ""),
    "fastapi-users' argon2": (users._hasher.hash(BROUGHT), ""),
}


@pytest.mark.parametrize("name", STORED)
async def test_a_password_logs_in_and_is_hashed_anew(
    browser: Browser, sessions: Sessions, name: str
) -> None:
    """A wrong one does not and changes nothing; the right one begins a session that lasts, its hash
    is Argon2id then, and it logs in again, without the hashers, too."""
    user = await bring(sessions, STORED[name][0])
    wrong = await browser.log_in(totp_token(), password=BROUGHT + "!")
    assert codes(wrong) == ["invalid_login"]
    assert (await reload(sessions, user)).password_hash == STORED[name][0]
    right = await browser.log_in(totp_token(), password=BROUGHT)
    assert right.status_code == 303
    assert (await browser.get("/vault")).text == "hello alice"
    stored = (await reload(sessions, user)).password_hash
    assert stored.startswith("$argon2id$")
    assert users.check_password(BROUGHT, stored)
    if name == "fastapi-users' argon2":
        assert stored == STORED[name][0], "which is as ours are"
    for otp in (make_otp(sessions), OTP(sessions, Device, secret_key=SECRET_KEY)):
        assert await otp.authenticate(request_of(), "alice", BROUGHT)
        assert await otp.authenticate(request_of(), "alice", BROUGHT + "!") is None
    assert (await reload(sessions, user)).password_hash == stored


@pytest.mark.parametrize("name", STORED)
async def test_without_hashers_it_is_no_password(otp: OTP, sessions: Sessions, name: str) -> None:
    """Who has not asked for a format does not let people in by it."""
    await bring(sessions, STORED[name][0])
    found = await otp.authenticate(request_of(), "alice", BROUGHT)
    assert (found is not None) == (name == "fastapi-users' argon2")


@pytest.mark.parametrize("stored", ["", "!9JLRHh1Yiidze7Zw2uqgwSRytdeusr16NgVW4CEr", "plain"])
async def test_nobodys_password(moved: OTP, sessions: Sessions, stored: str) -> None:
    """No password opens an account without one, or whose is not hashed."""
    await bring(sessions, stored)
    for password in ("", stored, BROUGHT):
        assert await moved.authenticate(request_of(), "alice", password) is None
        assert await moved.authenticate(request_of(), "unknown", password) is None


async def test_two_pages(browser: Browser, sessions: Sessions) -> None:
    """The ticket between password and token is for the new hash."""
    user = await bring(sessions, PBKDF2)
    page = await browser.submit("/account/login", username="alice", password=BROUGHT)
    assert codes(page) == ["token_required"]
    assert (await reload(sessions, user)).password_hash.startswith("$argon2id$")
    answer = await browser.submit("/account/login", username="alice", otp_token=totp_token())
    assert answer.status_code == 303
    assert (await browser.get("/vault")).text == "hello alice"


@pytest.mark.parametrize("transport", ["cookie", "bearer"])
async def test_by_json(moved: OTP, sessions: Sessions, transport: str) -> None:
    """The JSON routes take it, and the log-in that waits for the token is for the new hash."""
    user = await bring(sessions, PBKDF2)
    given = {"username": "alice", "password": BROUGHT}
    async with Client(make_api(moved), transport) as client:
        said = await client.ask("POST", "/session", given)
        assert (await reload(sessions, user)).password_hash.startswith("$argon2id$")
        token = client.with_login(said) | {"token": totp_token()}
        said = await client.ask("POST", "/session/token", token)
        assert said["state"] == "verified"


async def test_log_ins_at_once(moved: OTP, sessions: Sessions) -> None:
    """Of two at the same time both get in, and stay in: one hash is written."""
    user = await bring(sessions, PBKDF2)
    found = await asyncio.gather(
        *(moved.authenticate(request_of(), "alice", BROUGHT) for _ in range(2))
    )
    stored = (await reload(sessions, user)).password_hash
    assert [one.password_hash for one in found] == [stored, stored]
    assert stored.startswith("$argon2id$")


@pytest.fixture
def meanwhile(moved: OTP, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets statements run when a password has been looked at, and nothing was written yet."""
    assert moved.users._brought is not None
    renew, values_of = moved.users._brought._renew, []

    async def later(*arguments: Any) -> Any:
        if values_of:
            async with sessions.begin() as session:
                await session.execute(values_of.pop(0))
        return await renew(*arguments)

    monkeypatch.setattr(moved.users._brought, "_renew", later)
    return values_of.append


@pytest.mark.parametrize("password", [BROUGHT, PASSWORD])
async def test_a_new_password_wins(
    moved: OTP, sessions: Sessions, meanwhile: Any, password: str
) -> None:
    """A password that is set while the old one is looked at stays, and the old one is no more
    right than it is then."""
    user = await bring(sessions, PBKDF2)
    changed = users.hash_password(password)
    meanwhile(update(User).values(password_hash=changed))
    found = await moved.authenticate(request_of(), "alice", BROUGHT)
    assert (found is not None) == (password == BROUGHT)
    assert (await reload(sessions, user)).password_hash == changed
    assert found is None or found.password_hash == changed


@pytest.mark.parametrize(
    "what", [text("DELETE FROM otp_user"), update(User).values(is_active=False)]
)
async def test_a_user_who_goes_meanwhile(
    moved: OTP, sessions: Sessions, meanwhile: Any, what: Any
) -> None:
    """Who is deleted or made inactive while the password is looked at does not get in."""
    await add(sessions, User(username="alice", password_hash=PBKDF2))
    meanwhile(what)
    assert await moved.authenticate(request_of(), "alice", BROUGHT) is None


async def test_rivals_without_end(moved: OTP, sessions: Sessions, meanwhile: Any) -> None:
    """A hash that is another each time is given up on, as if the database were away."""
    await bring(sessions, PBKDF2)
    others = [DJANGO["bcrypt"][0], WEAK["md5"], WEAK["sha1"]]
    for stored in others:
        meanwhile(update(User).values(password_hash=stored))
    with pytest.raises(DatabaseUnavailable):
        await moved.authenticate(request_of(), "alice", BROUGHT)
    assert (await moved.authenticate(request_of(), "alice", BROUGHT)) is not None


async def test_an_inactive_user_stays_as_they_were(moved: OTP, sessions: Sessions) -> None:
    """The right password of an inactive user is refused and not hashed anew."""
    user = await bring(sessions, PBKDF2, is_active=False)
    assert await moved.authenticate(request_of(), "alice", BROUGHT) is None
    assert (await reload(sessions, user)).password_hash == PBKDF2


async def test_a_session_does_not_end_by_its_owners_password(sessions: Sessions) -> None:
    """Of who is signed in, by another way than the password, the password is asked for, is right,
    and is not hashed anew, which would end the session."""
    user = await add(sessions, User(username="alice", password_hash=PBKDF2))
    otp = make_otp(sessions, password_is_enough=True)

    async def mine(request: Request) -> Response:
        found = await otp.authenticate(request, "alice", BROUGHT)
        return JSONResponse(found is not None)

    async with Browser(make_app(otp, door(otp, user), Route("/mine", mine))) as browser:
        assert (await browser.get("/enter")).text == "in"
        assert (await browser.get("/mine")).json() is True
        wrong = await browser.submit("/account/reauthenticate", current_password=BROUGHT + "!")
        assert "That is not your password." in wrong.text
        right = await browser.submit("/account/reauthenticate", current_password=BROUGHT)
        assert right.status_code == 303
        assert (await reload(sessions, user)).password_hash == PBKDF2
        assert (await browser.state())["authenticated"]
        changed = await browser.submit(
            "/account/password", current_password=BROUGHT, password=PASSWORD
        )
        assert changed.status_code == 303
        assert (await browser.state())["authenticated"]
    assert (await reload(sessions, user)).check_password(PASSWORD)


async def test_another_users_session_does_not_matter(sessions: Sessions) -> None:
    """Who logs in where somebody else is signed in has the password hashed anew."""
    bob = await add(sessions, User(username="bob"))
    user = await bring(sessions, PBKDF2)
    otp = make_otp(sessions)

    async def enter_as_alice(request: Request) -> Response:
        assert await otp.authenticate(request, "alice", BROUGHT) is not None
        return Response()

    route = Route("/alice", enter_as_alice)
    async with Browser(make_app(otp, door(otp, bob), route)) as browser:
        await browser.get("/enter")
        assert (await browser.get("/alice")).status_code == 200
    assert (await reload(sessions, user)).password_hash.startswith("$argon2id$")


async def test_long_passwords(browser: Browser, sessions: Sessions) -> None:
    """One of 2,000 characters, which elsewhere was no matter, logs in and does so again; over 4,096
    none is looked at."""
    long = LONG * 2
    user = await bring(sessions, HASHERS[0].hash(long))
    for password, right in [(long, True), (long, True), (long + "!", False), ("x" * 4097, False)]:
        await browser.post("/account/logout")
        browser.cookies.clear()
        answer = await browser.submit("/account/login", username="alice", password=password)
        assert codes(answer) == (["token_required"] if right else ["invalid_login"])
        assert (await reload(sessions, user)).password_hash.startswith("$argon2id$")


async def test_more_than_bcrypt_looks_at(moved: OTP, sessions: Sessions) -> None:
    """A password of over 72 bytes under a bcrypt hash of pwdlib's is wrong and no error."""
    await bring(sessions, BcryptHasher(4).hash("x" * 72))
    assert await moved.authenticate(request_of(), "alice", "x" * 100) is None
    assert await moved.authenticate(request_of(), "alice", "x" * 72) is not None


async def test_a_database_that_only_reads(database_url: str, sessions: Sessions) -> None:
    """Nobody could log in anyway: 503, and nothing has changed."""
    user = await bring(sessions, PBKDF2)
    settings = {"default_transaction_read_only": "on"}
    engine = create_async_engine(database_url, connect_args={"server_settings": settings})
    otp = make_otp(async_sessionmaker(engine))
    with pytest.raises(DatabaseUnavailable):
        await otp.authenticate(request_of(), "alice", BROUGHT)
    async with Browser(make_app(otp)) as browser:
        assert (await browser.log_in(totp_token(), password=BROUGHT)).status_code == 503
    await engine.dispose()
    assert (await reload(sessions, user)).password_hash == PBKDF2


async def test_users_who_can_not_be_written(
    browser: Browser, sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the table of the users is not for this role to write, or has no room for an Argon2id
    hash, people get in by the old one, and the log says why, without a hash."""
    user = await bring(sessions, PBKDF2)
    short = text("ALTER TABLE otp_user ALTER password_hash TYPE varchar(90)")
    async with sessions.begin() as session:
        await session.execute(short)
    with caplog.at_level(logging.WARNING, "starlette_otp"):
        answer = await browser.log_in(totp_token(), password=BROUGHT)
    assert answer.status_code == 303
    assert (await browser.get("/vault")).text == "hello alice"
    assert (await reload(sessions, user)).password_hash == PBKDF2
    said = f"The password of user {user.id} could not be hashed anew: "
    assert f"{said}StringDataRightTruncationError (22001)." in caplog.text
    assert "$" not in caplog.text


def joined_users(base: Any) -> type[Any]:
    """Users in two tables, with rows of a third loaded along."""

    class Person(base):
        __tablename__ = "people"
        id: Mapped[int] = mapped_column(primary_key=True)
        role: Mapped[str]
        password_hash: Mapped[str] = mapped_column(String(255))
        __mapper_args__ = {"polymorphic_on": "role", "polymorphic_identity": "person"}

    class Member(Person):
        __tablename__ = "members"
        id: Mapped[int] = mapped_column(ForeignKey("people.id"), primary_key=True)
        username: Mapped[str]
        accounts: Mapped[list[Any]] = relationship(lambda: Account, lazy="joined")
        __mapper_args__ = {"polymorphic_identity": "member"}

    @keep
    class Account(base):
        __tablename__ = "accounts"
        id: Mapped[int] = mapped_column(primary_key=True)
        member_id: Mapped[int] = mapped_column(ForeignKey("members.id"))

    return Member


@pytest.mark.parametrize("make", [deferring_users, raising_users, renaming_users, joined_users])
async def test_users_of_the_hosts_own(make: Any, empty_engine: AsyncEngine) -> None:
    """However a user class keeps its hash, it is read, replaced, and bound to the session."""
    models = make_host(make)
    await models.create_tables(empty_engine)
    sessions = async_sessionmaker(empty_engine, expire_on_commit=False)
    values = {"is_staff": False} if make is raising_users else {}
    person = models.User(username="alice", password_hash=PBKDF2, **values)
    otp = make_otp(sessions, models.Device)
    await add(sessions, person)
    await add(sessions, models.TOTPDevice(user_id=person.id, secret=SECRET))
    async with Browser(make_app(otp)) as browser:
        await browser.submit("/account/login", username="alice", password=BROUGHT)
        answer = await browser.submit("/account/login", username="alice", otp_token=totp_token())
        assert answer.status_code == 303
        assert (await browser.get("/vault")).text == "hello alice"
    found = await otp.authenticate(request_of(), "alice", BROUGHT)
    assert found is not None
    assert found.password_hash.startswith("$argon2id$")


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whose hashes a password was tried with."""
    done: list[str] = []
    argon2 = users._hasher.current_hasher
    for name, hasher in (("ours", argon2), ("django", HASHERS[0]), ("flask", HASHERS[1])):

        def noted(password: str, stored: str, name: str = name, verify: Any = hasher.verify) -> Any:
            done.append(name)
            return verify(password, stored)

        monkeypatch.setattr(hasher, "verify", noted)
    return done


async def test_a_wrong_password_takes_the_same_time_for_everybody(
    moved: OTP, sessions: Sessions, worked: list[str]
) -> None:
    """An unknown name, an inactive user, one without a password, one who was hashed anew and one of
    the commonest format: Argon2 works once and the first of the hashers does."""
    people = {
        "moved": PBKDF2,
        "renewed": users.hash_password(BROUGHT),
        "passwordless": "!",
        "inactive": PBKDF2,
    }
    for name, stored in people.items():
        active = name != "inactive"
        await add(sessions, User(username=name, password_hash=stored, is_active=active))
    for name in (*people, "unknown"):
        worked.clear()
        assert await moved.authenticate(request_of(), name, "wrong") is None
        # Flask-Security's hashes look like ours.
        expected = ["flask", "ours"] if name == "renewed" else ["django", "ours"]
        assert sorted(worked) == expected, name
    worked.clear()
    assert await moved.authenticate(request_of(), "inactive", BROUGHT) is None
    assert sorted(worked) == ["django", "ours"]


def test_argon2_alone_beside_django(worked: list[str]) -> None:
    """Where only Django's are recognized, a wrong password of a hash of ours is tried with both."""
    formats = Formats([HASHERS[0]])
    for stored in (users.hash_password(BROUGHT), "", PBKDF2):
        worked.clear()
        assert formats.look("wrong", stored) == (False, None)
        assert sorted(worked) == ["django", "ours"]


@pytest.mark.parametrize("hashers", [[DjangoHasher], [PASSWORD], [object()]])
def test_what_is_no_hasher_is_said(sessions: Sessions, hashers: Any) -> None:
    """A class, a text or anything else for a hasher is an error in one sentence."""
    with pytest.raises(ConfigurationError, match=r"list of pwdlib's hashers, as \[DjangoHasher"):
        make_otp(sessions, password_hashers=hashers)


def test_hashers_want_passwords_that_otp_looks_at(sessions: Sessions) -> None:
    """With a check of the host's own, without users or without their names they would not be
    asked; a hash that only reads could not be replaced."""

    async def authenticate(request: Any, username: str, password: str) -> Any:
        return None

    with pytest.raises(ConfigurationError, match="without authenticate="):
        make_otp(sessions, authenticate=authenticate)
    with pytest.raises(ConfigurationError, match="users with username and password_hash"):
        make_otp(sessions, make_host(None).Device)

    def reading_users(base: Any) -> type[Any]:
        class Member(base):
            __tablename__ = "members"
            id: Mapped[int] = mapped_column(primary_key=True)
            username: Mapped[str]
            hashed: Mapped[str]

            @property
            def password_hash(self) -> str:
                return self.hashed

        return Member

    with pytest.raises(ConfigurationError, match=r"Member\.password_hash needs a setter"):
        make_otp(sessions, make_host(reading_users).Device)


def test_lengths(otp: OTP, moved: OTP) -> None:
    """Longer passwords are looked at where they may have been brought along."""
    assert old_passwords.MAX_BROUGHT_LENGTH == 4096
    for one, length in ((otp, 1024), (moved, 4096)):
        assert one.users.may_be_password("x" * length)
        assert not one.users.may_be_password("x" * (length + 1))
        assert not one.users.may_be_password("nul\0")
