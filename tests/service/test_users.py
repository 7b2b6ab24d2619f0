"""Users, their passwords, and the default check of both."""

import unicodedata
from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import pytest
from sqlalchemy import insert
from starlette.authentication import SimpleUser

from starlette_otp import OTP
from starlette_otp.devices import users
from starlette_otp.models import User
from starlette_otp.service import passwords
from starlette_otp.web.user import attach, unwrapped
from tests.support import PASSWORD, Sessions, make_user, password_hash

IMPLAUSIBLE = ["", "x" * 1025, "a nul \0 inside", "a lone \ud800"]


@dataclass(frozen=True)
class Frozen:
    """A host's own user."""

    username: str
    is_authenticated: bool = True


def test_a_password_is_hashed_and_checked() -> None:
    """set_password keeps an Argon2id hash, check_password compares with it."""
    user = User(username="alice")
    user.set_password("x" * 1024)
    assert user.password_hash.startswith("$argon2id$")
    assert user.check_password("x" * 1024)
    assert not user.check_password("x" * 1023)


@pytest.mark.parametrize("password", IMPLAUSIBLE)
def test_an_implausible_password_is_refused(password: str) -> None:
    """NUL, lone surrogates, over 1,024 characters, empty: a ValueError when set, never a match."""
    user = User(username="alice", password_hash=password_hash())
    with pytest.raises(ValueError, match="8 to 1024"):
        user.set_password(password)
    assert user.password_hash == password_hash()
    assert not user.check_password(password)


@pytest.mark.parametrize("password", ["seven c", "\u0065\u0301" * 7, "       "])
def test_a_short_password_is_refused(password: str) -> None:
    """NIST SP 800-63B-4 3.1.1.2: under eight characters is refused, a letter with its accent being
    one, and what is stored already goes on working."""
    user = User(username="alice", password_hash=users.hash_password(password))
    with pytest.raises(ValueError, match="8 to 1024"):
        user.set_password(password)
    assert user.check_password(password)
    user.set_password(password + "é")
    assert user.check_password(password + "é")


def test_a_host_refuses_passwords_of_its_list() -> None:
    """`check_new_password` says why a password is refused, and the length is the host's to set."""

    class Strict(User):
        min_password_length = 15

        def check_new_password(self, raw: str) -> None:
            if raw == "correct horse battery":
                raise ValueError("This password is in a list of well-known ones.")

    user = Strict(username="alice")
    with pytest.raises(ValueError, match="15 to 1024"):
        user.set_password("fourteen chars")
    with pytest.raises(ValueError, match="well-known"):
        user.set_password("correct horse battery")
    assert not user.password_hash
    user.set_password("correct horse battery staple")


def test_a_password_is_the_same_however_it_is_composed() -> None:
    """NIST SP 800-63B-4 3.1.1.2: passwords are compared in NFC; compatible characters stay
    different, and so do spaces at the ends."""
    user = User(username="alice")
    user.set_password(" zoë und café")
    assert user.check_password(unicodedata.normalize("NFD", " zoë und café"))
    for other in ("zoë und café", " zoë und café ", " zoë und cafe\u0301 ", "\u00a0zoë und café"):
        assert not user.check_password(other)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_hash_from_elsewhere_goes_on_verifying(form: Any) -> None:
    """What another application hashed as it was typed is right as it was typed."""
    typed = unicodedata.normalize(form, "zoë und café")
    user = User(username="alice", password_hash=users._hasher.hash(typed))
    assert user.check_password(typed)
    assert not user.check_password(typed + "!")


@pytest.mark.parametrize("name", [" zoë\t", "zoe\u0308", "zoë\u00a0", "ｚｏë"])
async def test_a_name_is_stored_and_found_in_one_form(
    otp: OTP, sessions: Sessions, name: str
) -> None:
    """Names are NFKC without spaces at their ends, where users are made and where they log in."""
    user = await make_user(sessions, name)
    assert user.username == "zoë"
    for typed in (name, "zoë", " zoë "):
        found = await attempt(otp, typed, PASSWORD)
        assert found is not None
        assert found.id == user.id
    assert await attempt(otp, "zoe", PASSWORD) is None


async def test_a_name_that_was_stored_otherwise_is_found_as_it_is(
    otp: OTP, sessions: Sessions
) -> None:
    """A user from before, or of a host's own, is found by what is stored, before any other."""
    table = User.__table__
    names = ["zoe\u0308", "zoë", "ann "]
    async with sessions.begin() as session:
        rows = [{"username": name, "password_hash": password_hash()} for name in names]
        await session.execute(insert(table), rows)
    for name in names:
        found = await otp.find_user(name)
        assert found is not None
        assert found.username == name


@pytest.mark.parametrize("stored", ["", "plain", "$argon2id$v=19$nonsense", "!"])
def test_a_hash_that_is_none_matches_nothing(stored: str) -> None:
    """What is no hash of ours matches no password, itself included."""
    user = User(username="alice", password_hash=stored)
    assert not user.check_password(stored)
    assert not user.check_password(PASSWORD)


def test_starlettes_words_for_a_user() -> None:
    """A user model is a Starlette user: authenticated, with a name to show and a key as text."""
    user = User(id=7, username="alice")
    assert (user.is_authenticated, user.display_name, user.identity) == (True, "alice", "7")
    assert (user.otp_device, user.is_verified()) == (None, False)


async def attempt(otp: OTP, username: str, password: str) -> Any:
    return await passwords.authenticate(otp.find_user, username, password)


async def test_name_and_password_give_the_user(otp: OTP, alice: User) -> None:
    """The right password gives the user; a wrong one, or another case of the name, nobody."""
    user = await attempt(otp, "alice", PASSWORD)
    assert user.id == alice.id
    assert await attempt(otp, "alice", PASSWORD + "!") is None
    assert await attempt(otp, "ALICE", PASSWORD) is None


async def test_an_inactive_user_is_nobody(otp: OTP, sessions: Sessions) -> None:
    """The right password of an inactive user is refused."""
    await make_user(sessions, "mallory", is_active=False)
    assert await attempt(otp, "mallory", PASSWORD) is None


async def test_a_user_without_a_password_has_no_password(otp: OTP, sessions: Sessions) -> None:
    """No password opens the account of a user who has none, nor of one who does not exist."""
    async with sessions.begin() as session:
        session.add(User(username="passwordless"))
    for password in ("", "nobody's password", "nobody", PASSWORD):
        assert await attempt(otp, "passwordless", password) is None
        assert await attempt(otp, "unknown", password) is None


async def test_any_text_is_a_name(otp: OTP, alice: User) -> None:
    """A name that no user can have is an unknown one, never an error."""
    for name in ("", "nul\0", "lone \ud800", "x" * 151, "x" * 10_000, "é" * 150):
        assert await attempt(otp, name, PASSWORD) is None


@pytest.fixture
def argon2(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passwords that Argon2 has worked on."""
    worked_on: list[str] = []
    argon2 = users._hasher.current_hasher
    verify = argon2.verify

    def noted(password: str, stored: str) -> bool:
        worked_on.append(password)
        return verify(password, stored)

    monkeypatch.setattr(argon2, "verify", noted)
    return worked_on


async def test_an_unknown_name_costs_what_a_known_one_costs(
    otp: OTP, sessions: Sessions, alice: User, argon2: list[str]
) -> None:
    """Argon2 works once on every attempt, so that its time tells nobody who has an account."""
    async with sessions.begin() as session:
        session.add(User(username="passwordless"))
    names = ["alice", "unknown", "passwordless", "nul\0", "x" * 10_000]
    for name in names:
        assert await attempt(otp, name, "wrong") is None
    assert argon2 == ["wrong"] * len(names)


async def test_an_implausible_password_never_reaches_argon2(
    otp: OTP, alice: User, argon2: list[str]
) -> None:
    """Over 1,024 characters, NUL and lone surrogates are refused before Argon2 spends its time."""
    for password in IMPLAUSIBLE[1:]:
        assert await attempt(otp, "alice", password) is None
    assert argon2 == []


def test_a_hosts_user_is_never_written_on() -> None:
    """A frozen or shared user object gets its device through a proxy made for one request."""
    shared = Frozen("alice")
    device = object()
    verified, other = attach(shared, device), attach(shared, None)
    assert (verified.otp_device, verified.is_verified()) == (device, True)
    assert (other.otp_device, other.is_verified()) == (None, False)
    assert not hasattr(shared, "otp_device")
    assert attach(verified, None).otp_device is None, "no proxy of a proxy"
    assert unwrapped(attach(verified, None)) is shared


def test_the_proxy_behaves_as_the_user() -> None:
    """Type, attributes, equality, hash and repr are the user's, and writing goes to the user."""
    user = attach(Frozen("alice"), None)
    assert isinstance(user, Frozen)
    assert user == Frozen("alice")
    assert Frozen("alice") == user
    assert user == attach(Frozen("alice"), object())
    assert user != Frozen("bob")
    assert hash(user) == hash(Frozen("alice"))
    assert (user.username, repr(user)) == ("alice", repr(Frozen("alice")))
    with pytest.raises(FrozenInstanceError):
        user.username = "bob"
    with pytest.raises(AttributeError):
        _ = user.no_such_attribute
    simple = SimpleUser("alice")
    attach(simple, None).username = "bob"
    assert simple.username == "bob"


def test_otps_own_user_carries_its_device_itself() -> None:
    """An instance that OTP loaded for this request alone is given the attributes directly."""
    user, device = User(username="alice"), object()
    assert attach(user, device, own=True) is user
    assert (user.otp_device, user.is_verified()) == (device, True)
    assert type(user) is User
    assert attach(user, None, own=True).is_verified() is False
