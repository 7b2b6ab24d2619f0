"""Nobody's inbox is flooded: waits and counts of users and addresses, not of rows."""

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any

import pytest
import time_machine
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from starlette_otp import OTP, DeliveryFailed
from starlette_otp.devices import GenerateNotAllowed
from starlette_otp.models import ChallengeLimit, Device, EmailDevice, User
from tests.hosts import devices_of, int_users, keep, new_base, sessions_of
from tests.support import SECRET_KEY, Sessions, add, make_totp, reload

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
HERS = "alice@home.example"
COOLING = "You can ask again in"


class Box:
    """A mailer that keeps what it got, and may fail after that."""

    sender = "no-reply@acme.example"

    def __init__(self) -> None:
        self.to: list[str] = []
        self.token = ""
        self.broken = False

    async def send(self, message: EmailMessage) -> None:
        self.to.append(message["To"])
        [self.token] = re.findall("[0-9]{6}", message.get_content())
        if self.broken:
            raise OSError("connection lost after the message")


@pytest.fixture(autouse=True)
def box(monkeypatch: pytest.MonkeyPatch) -> Box:
    monkeypatch.setattr(EmailDevice, "mailer", box := Box())
    return box


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


async def mail(sessions: Sessions, user: User, address: str = HERS, **values: Any) -> EmailDevice:
    made: EmailDevice = await add(sessions, EmailDevice(user_id=user.id, email=address, **values))
    return made


async def ask(otp: OTP, user: User, device: EmailDevice) -> str:
    """Ask for a challenge; what the user is told."""
    return str(await otp.generate_challenge(user, device.persistent_id, confirming=True))


async def answer(otp: OTP, user: User, device: EmailDevice, box: Box) -> None:
    assert await otp.verify_token(user, device.persistent_id, box.token) == device


# The wait.


async def test_the_wait_is_the_users(otp: OTP, sessions: Sessions, alice: User, box: Box) -> None:
    """Of a user's devices one sends a token a minute, whatever addresses they have."""
    first, second = await mail(sessions, alice), await mail(sessions, alice, "a@work.example")
    await ask(otp, alice, first)
    assert COOLING in await ask(otp, alice, second)
    assert box.to == [HERS]


@pytest.mark.parametrize("spelling", [HERS, "Alice@HOME.example"])
async def test_the_wait_is_the_addresss(
    otp: OTP,
    sessions: Sessions,
    alice: User,
    bob: User,
    box: Box,
    clock: time_machine.Traveller,
    spelling: str,
) -> None:
    """To an address one token goes in a minute, however many users have it, in any spelling."""
    hers, his = await mail(sessions, alice), await mail(sessions, bob, spelling)
    await ask(otp, alice, hers)
    clock.shift(20)
    refusal = await ask(otp, bob, his)
    assert refusal == "You can ask again in 40 seconds."
    clock.shift(40)
    await ask(otp, bob, his)
    assert len(box.to) == 2


async def test_a_domain_is_one_in_both_spellings(
    otp: OTP, sessions: Sessions, alice: User, bob: User, box: Box
) -> None:
    """A domain and its A-label are the same address, and so are a device's and its user's."""
    await ask(otp, alice, await mail(sessions, alice, "zoe@bücher.example"))
    async with sessions.begin() as session:
        (await session.get_one(User, bob.id)).email = "zoe@xn--bcher-kva.example"
    carol = await reload(sessions, bob)
    assert COOLING in await ask(otp, carol, await add(sessions, EmailDevice(user_id=bob.id)))
    assert len(box.to) == 1


async def test_adding_a_device_again_lifts_nothing(
    otp: OTP, sessions: Sessions, alice: User, box: Box
) -> None:
    """Add, challenge, remove, and again: one mail."""
    for _ in range(4):
        device = EmailDevice(email=HERS, confirmed=False)
        device = await otp.add_device(alice, device)
        await ask(otp, alice, device)
        await otp.remove_device(alice, device.persistent_id)
    assert box.to == [HERS]


async def test_of_many_at_once_one_is_sent(
    otp: OTP, sessions: Sessions, alice: User, bob: User, box: Box
) -> None:
    """Many devices of one address, of two users, asked at once send one token."""
    devices = [(u, await mail(sessions, u)) for u in (alice, bob) for _ in range(4)]
    await asyncio.gather(*(ask(otp, user, device) for user, device in devices * 2))
    assert box.to == [HERS]


async def test_a_success_ends_its_own_wait(
    otp: OTP, sessions: Sessions, alice: User, bob: User, box: Box, clock: time_machine.Traveller
) -> None:
    """After a success the user may ask at once, and another address goes on waiting."""
    mine = await mail(sessions, alice)
    await ask(otp, alice, mine)
    token = box.token
    clock.shift(1)
    his = await mail(sessions, bob, "victim@home.example")
    await ask(otp, bob, his)
    assert await otp.match_token(alice, token) == mine
    clock.shift(1)
    await ask(otp, alice, mine)
    assert COOLING in await ask(otp, alice, await mail(sessions, alice, "victim@home.example"))
    assert box.to == [HERS, "victim@home.example", HERS]


async def test_a_failing_mailer_gives_the_wait_back_once(
    otp: OTP, sessions: Sessions, alice: User, box: Box, clock: time_machine.Traveller
) -> None:
    """A mailer that hands the mail over and then fails sends two at once, and then one a minute;
    a token accepted makes it once again."""
    device, box.broken = await mail(sessions, alice), True
    for _ in range(2):
        with pytest.raises(DeliveryFailed):
            await ask(otp, alice, device)
    for sent in (3, 4):
        assert COOLING in await ask(otp, alice, device)
        clock.shift(60)
        with pytest.raises(DeliveryFailed):
            await ask(otp, alice, device)
        assert len(box.to) == sent
    clock.shift(60)
    box.broken = False
    await ask(otp, alice, device)
    await answer(otp, alice, device, box)
    clock.shift(1)
    box.broken = True
    for _ in range(2):
        with pytest.raises(DeliveryFailed):
            await ask(otp, alice, device)
    assert COOLING in await ask(otp, alice, device)


# The day.


async def test_twenty_a_day(
    otp: OTP, sessions: Sessions, alice: User, box: Box, clock: time_machine.Traveller
) -> None:
    """Of tokens that nobody answers twenty are sent in any 24 hours; failed deliveries count."""
    devices = [await mail(sessions, alice) for _ in range(3)]
    for sent in range(20):
        box.broken = sent == 3
        try:
            await ask(otp, alice, devices[sent % 3])
        except DeliveryFailed:
            assert box.broken
        clock.shift(60)
    refusal = await ask(otp, alice, devices[0])
    assert refusal == "No more codes are sent today. You can ask again in 24 hours."
    assert len(box.to) == 20
    clock.move_to(NOW + DAY, tick=False)
    await ask(otp, alice, devices[0])
    assert len(box.to) == 21
    clock.shift(59)
    assert "1 second" in await ask(otp, alice, devices[0])


async def test_the_limit_as_data(sessions: Sessions) -> None:
    """Both refusals are data with a reason and a moment; a limit of None is none, one of 0 all."""
    limit = ChallengeLimit(sent_at=[NOW - timedelta(hours=1)] * 20, given_back=False)
    device = EmailDevice()
    assert limit.refusal(device) == {
        "reason": GenerateNotAllowed.DAILY_LIMIT_REACHED,
        "next_generation_at": NOW + timedelta(hours=23),
    }
    limit.note(NOW)
    assert limit.refusal(device) == {
        "reason": GenerateNotAllowed.COOLDOWN_DURATION_PENDING,
        "next_generation_at": NOW + timedelta(seconds=60),
    }
    device.cooldown_duration = device.max_challenges_per_day = 0  # type: ignore[misc]
    assert limit.refusal(device)
    device.max_challenges_per_day = None  # type: ignore[misc]
    assert limit.refusal(device) is None


async def test_of_many_at_once_the_limit_is_sent(
    otp: OTP, sessions: Sessions, alice: User, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for ten at once, three devices send as many as a day allows."""
    monkeypatch.setattr(EmailDevice, "cooldown_duration", 0)
    monkeypatch.setattr(EmailDevice, "max_challenges_per_day", 4)
    devices = [await mail(sessions, alice) for _ in range(3)]
    await asyncio.gather(*(ask(otp, alice, device) for device in devices * 4))
    assert len(box.to) == 4


async def test_whoever_answers_is_not_limited(
    otp: OTP, sessions: Sessions, alice: User, box: Box, clock: time_machine.Traveller
) -> None:
    """A token accepted takes its challenge out of the count: thirty log-ins in an hour."""
    device = await mail(sessions, alice)
    for _ in range(30):
        await ask(otp, alice, device)
        await answer(otp, alice, device, box)
        clock.shift(60)
    assert len(box.to) == 30


async def test_a_success_lifts_nothing_for_others(
    otp: OTP,
    sessions: Sessions,
    bob: User,
    box: Box,
    clock: time_machine.Traveller,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between mails to a victim's address an attacker answers tokens of an own one: the victim
    gets as many as without."""
    monkeypatch.setattr(EmailDevice, "max_challenges_per_day", 3)
    victims = await mail(sessions, bob, "victim@home.example")
    own = await mail(sessions, bob, "bob@home.example")
    for _ in range(8):
        clock.shift(60)
        await ask(otp, bob, victims)
        clock.shift(60)
        if COOLING not in (said := await ask(otp, bob, own)) and "today" not in said:
            await answer(otp, bob, own, box)
    assert box.to.count("victim@home.example") == 3


async def test_strangers_do_not_use_up_an_owners(
    otp: OTP, sessions: Sessions, alice: User, bob: User, box: Box, clock: time_machine.Traveller
) -> None:
    """What unconfirmed devices have sent to an address keeps no confirmed device from it; what
    that sends does count for the others."""
    hers = await mail(sessions, alice)
    for _ in range(20):
        await ask(otp, bob, his := await mail(sessions, bob, confirmed=False))
        clock.shift(60)
    assert "today" in await ask(otp, bob, his)
    await ask(otp, alice, hers)
    await answer(otp, alice, hers, box)
    assert len(box.to) == 21
    clock.move_to(NOW + 2 * DAY, tick=False)
    await ask(otp, alice, hers)
    assert COOLING in await ask(otp, bob, await mail(sessions, bob, confirmed=False))


async def test_the_table_names_nobody(
    otp: OTP, engine: AsyncEngine, sessions: Sessions, alice: User
) -> None:
    """Its rows are found by keyed digests: no address in it, and no user's key."""
    await ask(otp, alice, await mail(sessions, alice))
    async with engine.connect() as connection:
        rows = (await connection.scalars(text("SELECT l::text FROM otp_challenge_limit l"))).all()
    assert len(rows) == 3
    assert all(re.match(r"\([0-9a-f]{64},", row) and "home" not in row for row in rows)


async def test_counts_that_count_no_more_are_swept(
    otp: OTP, sessions: Sessions, alice: User, bob: User, clock: time_machine.Traveller
) -> None:
    """`clear_pending` deletes rows of which nothing is a day old, and no others."""
    await ask(otp, alice, await mail(sessions, alice))
    clock.shift(43_200)
    await ask(otp, bob, await mail(sessions, bob, "bob@home.example"))
    for left in (6, 3):
        await otp.clear_pending(batch=2)
        async with sessions() as session:
            assert await session.scalar(select(func.count()).select_from(ChallengeLimit)) == left
        clock.shift(43_201)


# Who sends nothing.


@pytest.mark.parametrize(
    ("failures", "words"),
    [
        (3, "After wrong codes you have to wait. You can ask again in 4 seconds."),
        (100, "After many wrong codes this is locked until it is reset."),
    ],
)
async def test_a_locked_device_sends_nothing(
    otp: OTP, sessions: Sessions, alice: User, box: Box, failures: int, words: str
) -> None:
    """One that may verify nothing now, or until somebody resets it, sends nothing and says so."""
    values = {"throttling_failure_count": failures, "throttling_failure_timestamp": NOW}
    device = await mail(sessions, alice, **values)
    assert (await ask(otp, alice, device)).startswith(words)
    assert await device.generate_is_allowed() == await device.verify_is_allowed()
    assert await device.generate_challenge() is None
    assert box.to == []


async def test_an_expired_device_sends_nothing(
    otp: OTP, sessions: Sessions, alice: User, box: Box, clock: time_machine.Traveller
) -> None:
    """One that was not confirmed within ten minutes sends nothing and can't be confirmed."""
    device = await mail(sessions, alice, confirmed=False)
    clock.shift(599)
    await ask(otp, alice, device)
    clock.shift(1)
    assert await otp.confirm_device(alice, device.persistent_id, box.token) is None
    clock.shift(60)
    assert await otp.generate_challenge(alice, device.persistent_id, confirming=True) is None
    assert len(box.to) == 1
    row = await reload(sessions, device)
    assert (row.confirmed, row.throttling_failure_count) == (False, 0)


async def test_without_a_table_there_is_one_warning(
    sessions: Sessions, caplog: pytest.LogCaptureFixture, box: Box
) -> None:
    """A host that declares no table for the counts is told so once; one without such kinds, or
    with a table, is not."""
    base: Any = new_base()
    device: Any = devices_of(base, int_users(base))
    sessions_of(base, device)
    caplog.clear()
    OTP(sessions, device, secret_key=SECRET_KEY)
    OTP(sessions, Device, secret_key=SECRET_KEY)
    assert "ChallengeLimitMixin" not in caplog.text

    @keep
    class PagerDevice(EmailDevice.__mro__[1], device):  # type: ignore[misc]
        mailer = box

    OTP(sessions, device, secret_key=SECRET_KEY)
    assert caplog.text.count("declare a class with ChallengeLimitMixin") == 1


async def test_totp_is_not_concerned(otp: OTP, sessions: Sessions, alice: User) -> None:
    """A passive device counts nothing."""
    device = await make_totp(sessions, alice)
    assert await otp.generate_challenge(alice, device.persistent_id) is None
    async with sessions() as session:
        assert (await session.scalars(select(ChallengeLimit))).all() == []
