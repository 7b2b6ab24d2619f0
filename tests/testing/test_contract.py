"""The device contract: every kind of ours keeps it, and one that does not is found out."""

import asyncio
import hmac
import inspect
import itertools
import secrets
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any

import pytest
from sqlalchemy import String
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    async_object_session,
    async_sessionmaker,
)
from sqlalchemy.orm import Mapped, mapped_column

from starlette_otp import OTP
from starlette_otp.devices import CooldownMixin
from starlette_otp.models import EmailDevice, HOTPDevice, StaticDevice, TOTPDevice, User
from starlette_otp.testing import DeviceContract, make_device, token_at
from tests.hosts import make_host
from tests.support import SECRET_KEY, Sessions, add


@pytest.fixture
def user(alice: User) -> User:
    return alice


@pytest.fixture
def other_user(bob: User) -> User:
    return bob


class Drawer:
    """A mailer that keeps its messages."""

    sender = "otp@acme.example"

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []

    async def send(self, message: EmailMessage) -> None:
        self.messages.append(message)


class TestTOTP(DeviceContract):
    async def make_device(self, otp: OTP, user: Any, **values: Any) -> Any:
        return await make_device(otp, user, TOTPDevice, secret=secrets.token_bytes(20), **values)

    async def good_token(self, otp: OTP, user: Any, device: Any) -> str:
        return token_at(device)


class TestHOTP(DeviceContract):
    async def make_device(self, otp: OTP, user: Any, **values: Any) -> Any:
        return await make_device(otp, user, HOTPDevice, secret=secrets.token_bytes(20), **values)

    async def good_token(self, otp: OTP, user: Any, device: Any) -> str:
        return token_at(device)


class TestStatic(DeviceContract):
    waits = False

    async def make_device(self, otp: OTP, user: Any, **values: Any) -> Any:
        return await make_device(otp, user, StaticDevice, **values)

    async def good_token(self, otp: OTP, user: Any, device: Any) -> str:
        return await otp.add_static_token(user)


class TestEmail(DeviceContract):
    drawer = Drawer()

    @pytest.fixture(autouse=True)
    def _mailer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(EmailDevice, "mailer", self.drawer)
        monkeypatch.setattr(EmailDevice, "body_template", "{{ token }}")

    async def make_device(self, otp: OTP, user: Any, **values: Any) -> Any:
        return await make_device(otp, user, EmailDevice, email="alice@acme.example", **values)

    async def good_token(self, otp: OTP, user: Any, device: Any) -> str:
        await otp.generate_challenge(user, device.persistent_id)
        return str(self.drawer.messages[-1].get_content().strip())


# Kinds of a third party's, good and bad, each made new over tables of its own.


def dial_of(device: Any) -> type[Any]:
    """A combination lock: a column of its own, and the next number each time."""

    class DialDevice(device):
        notch: Mapped[int | None] = mapped_column()

        def number(self) -> str:
            text = f"{self.id} {self.notch}"
            return hmac.digest(self.secret, text.encode(), "sha256").hex()

        async def check_token(self, token: str) -> bool:
            if not hmac.compare_digest(self.number(), token.encode("ascii", "replace").decode()):
                return False
            self.notch = (self.notch or 0) + 1
            return True

    return DialDevice


def question_of(device: Any) -> type[Any]:
    """A challenge of its own: a question with one answer."""

    class QuestionDevice(CooldownMixin, device):
        answer: Mapped[str | None] = mapped_column(String(32))

        async def prepare_challenge(self, **context: Any) -> str:
            self.answer = secrets.token_hex(16)
            return f"What is {self.answer}?"

        async def check_token(self, token: str) -> bool:
            right = self.answer is not None and token == self.answer
            if right:
                self.answer = None
            return right

    return QuestionDevice


@dataclass
class Kind:
    """A kind over tables of its own."""

    model: Any
    user_model: Any
    sessions: Sessions
    otp: OTP

    async def keep(self, contract: type[DeviceContract], name: str) -> None:
        """Run one test of a contract, as pytest would, with users of its own."""
        alice, bob = (self.user_model(username=secrets.token_hex(8)) for _ in range(2))
        await add(self.sessions, alice, bob)
        fixtures = {"otp": self.otp, "user": alice, "other_user": bob}
        test = getattr(contract(), name)
        wanted = inspect.signature(test).parameters
        await test(**{fixture: fixtures[fixture] for fixture in wanted})


@pytest.fixture
async def kind(request: pytest.FixtureRequest, empty_engine: AsyncEngine) -> Kind:
    models = make_host()
    model = request.param(models.Device)
    await models.create_tables(empty_engine)
    sessions = async_sessionmaker(empty_engine, expire_on_commit=False)
    otp = OTP(sessions, models.Device, secret_key=SECRET_KEY)
    return Kind(model, models.User, sessions, otp)


def contract_of(model: Any) -> type[DeviceContract]:
    class Contract(DeviceContract):
        async def make_device(self, otp: OTP, user: Any, **values: Any) -> Any:
            return await make_device(otp, user, model, **values)

        async def good_token(self, otp: OTP, user: Any, device: Any) -> str:
            if not device.is_interactive():
                return str(device.number())
            message = await otp.generate_challenge(user, device.persistent_id)
            return str(message).removeprefix("What is ").removesuffix("?")

    return Contract


NAMES = [name for name in dir(DeviceContract) if name.startswith("test_")]


@pytest.mark.parametrize("kind", [dial_of, question_of], indirect=True)
async def test_a_third_partys_kind_keeps_the_contract(kind: Kind) -> None:
    """A kind with its own column and check, and one with a challenge of its own, pass it all."""
    assert len(NAMES) > 8
    for name in NAMES:
        await kind.keep(contract_of(kind.model), name)


def broken(**members: Any) -> Any:
    """Makes the dial with something in it done wrongly."""

    def make(device: Any) -> type[Any]:
        return type("BrokenDevice", (dial_of(device),), {"__kind__": "broken", **members})

    return make


def replayable(device: Any) -> type[Any]:
    """Its check forgets to spend the token."""

    async def check_token(self: Any, token: str) -> bool:
        return bool(self.number() == token)

    return broken(check_token=check_token)(device)


def rewindable(device: Any) -> type[Any]:
    """It remembers only the last token it accepted."""

    async def check_token(self: Any, token: str) -> bool:
        if not token.startswith("good") or self.name == token:
            return False
        self.name = token
        return True

    numbers = itertools.count()
    return broken(check_token=check_token, number=lambda self: f"good {next(numbers)}")(device)


def unlocked(device: Any) -> type[Any]:
    """Its check commits between looking and writing, which lets the lock go."""

    async def check_token(self: Any, token: str) -> bool:
        right = bool(self.number() == token)
        await async_object_session(self).commit()
        await asyncio.sleep(0.05)
        self.notch = (self.notch or 0) + right
        return right

    return broken(check_token=check_token)(device)


def unthrottled(device: Any) -> type[Any]:
    """It answers for the policies itself."""

    async def verify_is_allowed(self: Any) -> Any:
        return True, None

    return broken(verify_is_allowed=verify_is_allowed)(device)


def uncounted(device: Any) -> type[Any]:
    """It does not count what it refuses."""
    return broken(throttle_increment=lambda self: None)(device)


def resetting(device: Any) -> type[Any]:
    """Its check forgets failures whenever it is asked."""

    async def check_token(self: Any, token: str) -> bool:
        self.throttle_reset()
        return bool(await super(type(self), self).check_token(token))

    return broken(check_token=check_token)(device)


def spending(device: Any) -> type[Any]:
    """Its check goes on to the next token whatever was typed."""

    async def check_token(self: Any, token: str) -> bool:
        right = bool(self.number() == token)
        self.notch = (self.notch or 0) + 1
        return right

    return broken(check_token=check_token)(device)


def shared(device: Any) -> type[Any]:
    """Its tokens lie in one place for all devices: it ignores whose they are."""
    known: set[str] = set()

    def number(self: Any) -> str:
        token = secrets.token_hex(16)
        known.add(token)
        return token

    async def check_token(self: Any, token: str) -> bool:
        right = token in known
        known.discard(token)
        return right

    return broken(check_token=check_token, number=number)(device)


def unseen(device: Any) -> type[Any]:
    """It says that no token can be one of its own."""
    return broken(accepts=lambda self, token: False)(device)


def credulous(device: Any) -> type[Any]:
    """It takes the empty token of a device that has none yet."""

    async def check_token(self: Any, token: str) -> bool:
        return bool(await super(type(self), self).check_token(token)) or token == ""

    return broken(check_token=check_token)(device)


def silent(device: Any) -> type[Any]:
    """It has a challenge, and nothing to say."""

    async def prepare_challenge(self: Any, **context: Any) -> str:
        return ""

    return broken(prepare_challenge=prepare_challenge)(device)


CULPRITS = {
    replayable: "a_token_is_accepted_once one_of_many_concurrent_uses_wins",
    rewindable: "a_token_is_accepted_once",
    unlocked: "one_of_many_concurrent_uses_wins",
    unthrottled: "failures_lock_the_device",
    uncounted: "failures_lock_the_device",
    resetting: "failures_lock_the_device",
    spending: "failures_lock_the_device",
    shared: "a_token_is_its_own_devices",
    unseen: "match_token_finds_the_device",
    credulous: "any_garbage_is_refused",
    silent: "its_challenge_is_its_owners",
}


@pytest.mark.parametrize(("kind", "names"), CULPRITS.items(), indirect=["kind"])
async def test_the_contract_finds_out(kind: Kind, names: str) -> None:
    """A kind that breaks a rule fails the test of the contract that states it."""
    await kind.keep(contract_of(kind.model), "test_it_is_seen")
    for name in names.split():
        with pytest.raises(AssertionError):
            await kind.keep(contract_of(kind.model), f"test_{name}")


@pytest.mark.parametrize("kind", [dial_of], indirect=True)
async def test_a_contract_that_makes_nothing_says_so(kind: Kind) -> None:
    """An author who forgot to say how to make a device, or a token, is told."""
    with pytest.raises(AssertionError, match="how to make its device"):
        await kind.keep(DeviceContract, "test_it_is_seen")
    with pytest.raises(AssertionError, match="what token"):
        await DeviceContract().good_token(kind.otp, None, None)


async def test_devices_of_one_secret_are_told(otp: OTP, user: User, other_user: User) -> None:
    """The helper's known secret is one for all; the contract says what its author forgot."""

    class Careless(TestTOTP):
        async def make_device(self, otp: OTP, user: Any, **values: Any) -> Any:
            return await make_device(otp, user, TOTPDevice, **values)

    with pytest.raises(AssertionError, match="its own secret"):
        await Careless().test_a_token_is_its_own_devices(otp, user, other_user)
