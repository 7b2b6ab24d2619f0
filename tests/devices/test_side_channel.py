"""Devices whose token is made here and delivered elsewhere."""

import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
import time_machine
from sqlalchemy import String, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Mapped, mapped_column

from starlette_otp import OTP, DeliveryFailed
from starlette_otp.devices import GenerateNotAllowed, SideChannelDeviceMixin
from tests.hosts import devices_of, int_users, new_base, sessions_of, totp_of
from tests.support import OTHER_KEY, SECRET_KEY, Sessions, add, reload

NOW = datetime(2030, 1, 1, tzinfo=UTC)

Base: Any = new_base()
User = int_users(Base)
Device = devices_of(Base, User)
TOTPDevice = totp_of(Device)


class MessageDevice(SideChannelDeviceMixin, Device):
    """Tokens by text message, through a gateway that a test can break."""

    number: Mapped[str | None] = mapped_column(String(16), use_existing_column=True)
    sent: ClassVar[list[dict[str, Any]]] = []
    broken: ClassVar[bool] = False

    async def deliver(self, token: str, **context: Any) -> None:
        if self.broken:
            raise OSError("gateway.internal refused")
        self.sent.append({"token": token, "number": self.number, **context})


OTPSession = sessions_of(Base, Device)


@pytest.fixture
async def engine(empty_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(empty_url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


@pytest.fixture
def sessions(engine: AsyncEngine) -> Sessions:
    return async_sessionmaker(engine, expire_on_commit=False)


@pytest.fixture
def otp(sessions: Sessions) -> OTP:
    return OTP(sessions, Device, secret_key=SECRET_KEY)


@pytest.fixture
async def alice(sessions: Sessions) -> Any:
    return await add(sessions, User(username="alice"))


@pytest.fixture
async def phone(otp: OTP, sessions: Sessions, alice: Any) -> MessageDevice:
    device: MessageDevice = await add(sessions, MessageDevice(user_id=alice.id, number="+4912345"))
    return device


@pytest.fixture(autouse=True)
def sent() -> list[dict[str, Any]]:
    """What the gateway sent in this test."""
    MessageDevice.sent.clear()
    return MessageDevice.sent


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


def wrong(token: str) -> str:
    return f"{(int(token) + 1) % 10**6:06}"


async def challenge(otp: OTP, user: Any, device: Any, **context: Any) -> str:
    """Ask for a challenge; the token that was sent."""
    assert await otp.generate_challenge(user, device.persistent_id, **context)
    return str(MessageDevice.sent[-1]["token"])


async def test_a_token_travels_and_verifies_once(
    otp: OTP, sessions: Sessions, alice: Any, phone: MessageDevice, sent: list[dict[str, Any]]
) -> None:
    """ASVS 6.5.1: the token is delivered with the caller's context and the user, and good once."""
    message = await otp.generate_challenge(alice, phone.persistent_id, ip="192.0.2.1")
    assert message == "We sent you a code."
    [delivered] = sent
    token = delivered.pop("token")
    assert delivered == {"number": "+4912345", "user": alice, "ip": "192.0.2.1"}
    assert re.fullmatch("[0-9]{6}", token)
    typed = f" {token[:3]}-{token[3:]} "
    assert await otp.verify_token(alice, phone.persistent_id, typed) == phone
    assert await otp.verify_token(alice, phone.persistent_id, token) is None
    row = await reload(sessions, phone)
    assert (row.token_digest, row.valid_until) == (None, None)


async def test_the_row_has_a_keyed_digest_only(
    otp: OTP, engine: AsyncEngine, sessions: Sessions, alice: Any, phone: MessageDevice
) -> None:
    """ASVS 6.5.2: the database does not hold the token, nor a digest that can be guessed without
    the application's key: under another key it matches nothing."""
    token = await challenge(otp, alice, phone)
    async with engine.connect() as connection:
        [dump] = await connection.scalars(text("SELECT d::text FROM otp_device d"))
    assert re.search(rf"\b{token}\b", dump) is None
    row = await reload(sessions, phone)
    assert re.fullmatch("[0-9a-f]{64}", row.token_digest)
    OTP(sessions, Device, secret_key=OTHER_KEY)
    assert not await row.check_token(token)
    OTP(sessions, Device, secret_key=[OTHER_KEY, SECRET_KEY])
    assert await row.check_token(token), "a key that still verifies"


async def test_tokens_are_random(otp: OTP, phone: MessageDevice) -> None:
    """ASVS 6.5.3, 6.5.4: six digits with zeros in front, from all of the range."""
    tokens = set()
    for _ in range(300):
        await phone.prepare_challenge()
        tokens.add(phone.delivery["token"])
    assert all(re.fullmatch("[0-9]{6}", token) for token in tokens)
    assert len(tokens) > 290
    assert {token[0] for token in tokens} == set("0123456789")


async def test_a_digest_copied_to_another_device_is_useless(
    otp: OTP, engine: AsyncEngine, sessions: Sessions, alice: Any, phone: MessageDevice
) -> None:
    """Who can write rows can't log in with a token that was sent to somebody else's device."""
    mallory = await add(sessions, User(username="mallory"))
    theirs = await add(sessions, MessageDevice(user_id=mallory.id))
    token = await challenge(otp, mallory, theirs)
    row = await reload(sessions, theirs)
    copied = {"token_digest": row.token_digest, "valid_until": row.valid_until}
    async with engine.begin() as connection:
        table = Device.__table__
        await connection.execute(update(table).where(table.c.id == phone.id).values(copied))
    assert await otp.verify_token(alice, phone.persistent_id, token) is None
    assert await otp.verify_token(mallory, theirs.persistent_id, token) == theirs


@pytest.mark.parametrize(("validity", "seconds"), [(300, 299.9), (30, 29.9), (0.5, 0.4)])
async def test_a_token_is_valid_for_its_time(
    otp: OTP,
    alice: Any,
    phone: MessageDevice,
    clock: time_machine.Traveller,
    monkeypatch: pytest.MonkeyPatch,
    validity: float,
    seconds: float,
) -> None:
    """ASVS 6.5.5: a token is good until `token_validity` is over, and not at that moment."""
    monkeypatch.setattr(MessageDevice, "token_validity", validity)
    monkeypatch.setattr(MessageDevice, "cooldown_duration", 0)
    token = await challenge(otp, alice, phone)
    clock.move_to(NOW + timedelta(seconds=validity), tick=False)
    assert await otp.verify_token(alice, phone.persistent_id, token) is None
    clock.shift(1000)
    token, start = await challenge(otp, alice, phone), NOW + timedelta(seconds=validity + 1000)
    clock.move_to(start + timedelta(seconds=seconds), tick=False)
    assert await otp.verify_token(alice, phone.persistent_id, token) == phone


async def test_a_newer_challenge_kills_the_older(
    otp: OTP, sessions: Sessions, alice: Any, phone: MessageDevice, clock: time_machine.Traveller
) -> None:
    """Only the newest token is good; a wrong one leaves it good."""
    old = await challenge(otp, alice, phone)
    clock.shift(60)
    new = await challenge(otp, alice, phone)
    if old != new:
        assert await otp.verify_token(alice, phone.persistent_id, old) is None
        clock.shift(1)
    assert await otp.verify_token(alice, phone.persistent_id, wrong(new)) is None
    clock.shift(2)
    assert await otp.verify_token(alice, phone.persistent_id, new) == phone


async def test_a_second_challenge_waits(
    otp: OTP,
    sessions: Sessions,
    alice: Any,
    phone: MessageDevice,
    clock: time_machine.Traveller,
    sent: list[dict[str, Any]],
) -> None:
    """Within the cooldown nothing is made or sent: the message says when, in words, and the data
    say it as a moment; the token that is out stays good."""
    token = await challenge(otp, alice, phone)
    clock.shift(18)
    refusal = await otp.generate_challenge(alice, phone.persistent_id)
    assert refusal == "You can ask again in 42 seconds."
    row = await reload(sessions, phone)
    assert await row.generate_is_allowed() == (
        False,
        {
            "reason": GenerateNotAllowed.COOLDOWN_DURATION_PENDING,
            "next_generation_at": NOW + timedelta(seconds=60),
        },
    )
    assert await row.generate_challenge() is None
    assert len(sent) == 1
    assert await otp.verify_token(alice, phone.persistent_id, token) == phone
    clock.move_to(NOW + timedelta(seconds=60), tick=False)
    assert await row.generate_is_allowed() == (True, None)


async def test_without_a_cooldown_every_challenge_is_sent(
    otp: OTP,
    alice: Any,
    phone: MessageDevice,
    sent: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`cooldown_duration = 0` disables the wait."""
    monkeypatch.setattr(MessageDevice, "cooldown_duration", 0)
    for _ in range(3):
        await challenge(otp, alice, phone)
    assert len(sent) == 3


async def test_a_success_resets_throttle_and_cooldown(
    otp: OTP, sessions: Sessions, alice: Any, phone: MessageDevice, clock: time_machine.Traveller
) -> None:
    """After a success failures are forgotten and the next challenge may be made at once."""
    token = await challenge(otp, alice, phone)
    assert await otp.match_token(alice, wrong(token)) is None
    assert (await reload(sessions, phone)).throttling_failure_count == 1
    clock.shift(1)
    assert await otp.match_token(alice, token) == phone
    row = await reload(sessions, phone)
    assert (row.throttling_failure_count, row.last_generated_timestamp) == (0, None)
    assert row.last_used_at == NOW + timedelta(seconds=1)
    await challenge(otp, alice, phone)


async def test_a_throttled_device_refuses_a_good_token(
    otp: OTP, alice: Any, phone: MessageDevice, clock: time_machine.Traveller
) -> None:
    """Guesses at a mailed token are throttled as any, and a new challenge forgets none of them."""
    token = await challenge(otp, alice, phone)
    for _ in range(2):
        assert await otp.match_token(alice, wrong(token)) is None
        clock.shift(1)
    clock.shift(60)
    token = await challenge(otp, alice, phone)
    assert await otp.match_token(alice, wrong(token)) is None
    clock.shift(3)
    assert await otp.match_token(alice, token) is None
    clock.shift(1)
    assert await otp.match_token(alice, token) == phone


@pytest.mark.parametrize("state", ["none out", "expired", "letters"])
async def test_match_token_asks_who_waits_for_a_token(
    otp: OTP,
    sessions: Sessions,
    alice: Any,
    phone: MessageDevice,
    clock: time_machine.Traveller,
    state: str,
) -> None:
    """A device that has sent nothing is not asked and counts no failure for a mistyped token."""
    totp = await add(sessions, TOTPDevice(user_id=alice.id))
    if state != "none out":
        await challenge(otp, alice, phone)
    if state == "expired":
        clock.shift(300)
    assert await otp.match_token(alice, "letters" if state == "letters" else "000000") is None
    counts = [(await reload(sessions, row)).throttling_failure_count for row in (phone, totp)]
    assert counts == [0, 0 if state == "letters" else 1]


async def test_a_failed_delivery_gives_all_back(
    otp: OTP,
    sessions: Sessions,
    alice: Any,
    phone: MessageDevice,
    clock: time_machine.Traveller,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The error names the device and says nothing of the exception, which is in the log; the token
    is dead, the cooldown given back, and no failure is counted."""
    monkeypatch.setattr(MessageDevice, "broken", True)
    with pytest.raises(DeliveryFailed) as caught:
        await otp.generate_challenge(alice, phone.persistent_id)
    assert caught.value.device == phone
    assert str(caught.value) == "The challenge could not be delivered."
    assert caught.value.__cause__ is None
    assert "OSError at " in caplog.text
    assert "gateway.internal refused" not in caplog.text
    row = await reload(sessions, phone)
    assert (row.token_digest, row.valid_until, row.last_generated_timestamp) == (None,) * 3
    assert row.throttling_failure_count == 0
    assert (
        await otp.verify_token(alice, phone.persistent_id, caught.value.device.delivery["token"])
        is None
    )
    monkeypatch.setattr(MessageDevice, "broken", False)
    clock.shift(1)  # the wrong token's wait
    await challenge(otp, alice, phone)


async def test_a_late_failure_leaves_a_newer_challenge_alone(
    otp: OTP,
    sessions: Sessions,
    alice: Any,
    phone: MessageDevice,
    clock: time_machine.Traveller,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A delivery that fails after a newer challenge was made kills neither its token nor its
    cooldown."""
    newer = ""

    async def deliver(self: Any, token: str, **context: Any) -> None:
        nonlocal newer
        monkeypatch.undo()
        clock.shift(60)
        newer = await challenge(otp, alice, phone)
        raise OSError("too late")

    monkeypatch.setattr(MessageDevice, "deliver", deliver)
    with pytest.raises(DeliveryFailed):
        await otp.generate_challenge(alice, phone.persistent_id)
    assert (await reload(sessions, phone)).next_generation_at == NOW + timedelta(seconds=120)
    assert await otp.verify_token(alice, phone.persistent_id, newer) == phone


async def test_a_failure_is_taken_back_whatever_became_of_the_device(
    otp: OTP,
    sessions: Sessions,
    alice: Any,
    phone: MessageDevice,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A token that was not delivered is dead, also if its device was unconfirmed meanwhile."""

    async def deliver(self: Any, token: str, **context: Any) -> None:
        async with sessions.begin() as session:
            (await session.get_one(MessageDevice, phone.id)).confirmed = False
        raise OSError("gateway.internal")

    monkeypatch.setattr(MessageDevice, "deliver", deliver)
    with pytest.raises(DeliveryFailed):
        await otp.generate_challenge(alice, phone.persistent_id)
    row = await reload(sessions, phone)
    assert (row.token_digest, row.last_generated_timestamp) == (None, None)


@pytest.mark.parametrize("whose", ["another user's", "unconfirmed", "passive", "unknown", "nobody"])
async def test_who_gets_no_challenge(
    otp: OTP,
    sessions: Sessions,
    alice: Any,
    phone: MessageDevice,
    sent: list[dict[str, Any]],
    whose: str,
) -> None:
    """Another user's, an unconfirmed, a passive or unknown device gives None and sends nothing."""
    bob = await add(sessions, User(username="bob"))
    unconfirmed = await add(sessions, MessageDevice(user_id=alice.id, confirmed=False))
    totp = await add(sessions, TOTPDevice(user_id=alice.id))
    user, device_id = {
        "another user's": (bob, phone.persistent_id),
        "unconfirmed": (alice, unconfirmed.persistent_id),
        "passive": (alice, totp.persistent_id),
        "unknown": (alice, "message/999999"),
        "nobody": (None, phone.persistent_id),
    }[whose]
    assert await otp.generate_challenge(user, device_id) is None
    assert sent == []
    assert (await reload(sessions, phone)).token_digest is None


async def test_a_context_cannot_choose_the_token(
    otp: OTP, alice: Any, phone: MessageDevice, sent: list[dict[str, Any]]
) -> None:
    """What the caller passes along never stands in for the token that was made."""
    await otp.generate_challenge(alice, phone.persistent_id, token="123456")
    [delivered] = sent
    assert await otp.verify_token(alice, phone.persistent_id, delivered["token"]) == phone
