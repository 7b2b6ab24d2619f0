"""Signals: who hears what, and when."""

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from starlette_otp import (
    OTP,
    DeliveryFailed,
    SMTPMailer,
    oath,
    otp_challenge_sent,
    otp_device_added,
    otp_device_removed,
    otp_verification_failed,
    otp_verified,
)
from starlette_otp.models import EmailDevice, HOTPDevice, TOTPDevice, User
from tests.smtp import Postbox, smtp_server
from tests.support import (
    SECRET,
    Browser,
    Sessions,
    add,
    make_static,
    make_totp,
    reload,
    totp_token,
)

ALL = [
    otp_challenge_sent,
    otp_device_added,
    otp_device_removed,
    otp_verification_failed,
    otp_verified,
]


class Ears:
    """Hears every signal of one OTP; `rows` are the devices as another connection sees them."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self.heard: list[tuple[str, Any, Any]] = []
        self.rows: list[Any] = []

    def ear(self, name: str) -> Any:
        async def receiver(sender: OTP, *, user: Any, device: Any) -> None:
            self.heard.append((name, user, device))
            self.rows.append(device and await reload(self.sessions, device))

        return receiver

    def take(self) -> list[tuple[str, Any, Any]]:
        """What was heard since the last time."""
        heard, self.heard = self.heard, []
        return heard


@pytest.fixture
def ears(otp: OTP, sessions: Sessions) -> Iterator[Ears]:
    ears = Ears(sessions)
    with ExitStack() as stack:
        for signal in ALL:
            stack.enter_context(signal.connected_to(ears.ear(signal.name), sender=otp))
        yield ears


@pytest.fixture
async def box(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Postbox]:
    async with smtp_server() as box:
        mailer = SMTPMailer(f"smtp://127.0.0.1:{box.port}", sender="no-reply@acme.example")
        monkeypatch.setattr(EmailDevice, "mailer", mailer)
        yield box


async def test_tokens_are_told(otp: OTP, sessions: Sessions, alice: User, ears: Ears) -> None:
    """ASVS 6.3.5: every verdict of verify_token and match_token is told with the user and the
    device, which is None when none was chosen; a refusal that tried nothing is told, too."""
    device = await make_totp(sessions, alice)
    mine = device.persistent_id
    await otp.verify_token(alice, mine, totp_token())
    assert ears.take() == [("otp_verified", alice, device)]
    await otp.match_token(alice, totp_token(offset=1))
    assert ears.take() == [("otp_verified", alice, device)]
    await otp.verify_token(alice, mine, "000000")
    assert ears.take() == [("otp_verification_failed", alice, device)]
    await otp.verify_token(alice, mine, "000000")
    assert ears.take() == [("otp_verification_failed", alice, device)], "locked"
    await otp.match_token(alice, "letters")
    assert ears.take() == [("otp_verification_failed", alice, None)]
    for other in ("totp/999999", "", "garbage"):
        await otp.verify_token(alice, other, "000000")
        assert ears.take() == [("otp_verification_failed", alice, None)]


async def test_another_users_device_is_not_told(
    otp: OTP, sessions: Sessions, alice: User, bob: User, ears: Ears
) -> None:
    """A failure with somebody else's device does not hand that device to the receivers."""
    device = await make_totp(sessions, alice)
    await otp.verify_token(bob, device.persistent_id, totp_token())
    assert ears.take() == [("otp_verification_failed", bob, None)]


async def test_resynchronising_is_told(
    otp: OTP, sessions: Sessions, alice: User, ears: Ears
) -> None:
    """Two tokens that resynchronise are told as one acceptance, two that do not as one failure."""
    device = await add(sessions, HOTPDevice(user_id=alice.id, secret=SECRET))
    pair = oath.hotp(SECRET, 50), oath.hotp(SECRET, 51)
    await otp.resynchronize(alice, device.persistent_id, *pair)
    await otp.resynchronize(alice, device.persistent_id, *pair)
    assert ears.take() == [
        ("otp_verified", alice, device),
        ("otp_verification_failed", alice, device),
    ]


async def test_devices_are_told(otp: OTP, alice: User, ears: Ears) -> None:
    """ASVS 6.3.7: a device is told as added when it verifies from now on: at once if it is
    confirmed, else when it is confirmed, once; and as removed when it was."""
    device = await otp.add_device(alice, TOTPDevice(secret=SECRET))
    assert ears.take() == [("otp_device_added", alice, device)]
    await otp.confirm_device(alice, device.persistent_id, totp_token())
    assert ears.take() == [("otp_verified", alice, device)], "it was confirmed before"
    other = await otp.add_device(alice, TOTPDevice(secret=b"another" * 3, confirmed=False))
    assert ears.take() == []
    await otp.confirm_device(alice, other.persistent_id, totp_token(other.secret))
    assert ears.take() == [
        ("otp_verified", alice, other),
        ("otp_device_added", alice, other),
    ]
    await otp.remove_device(alice, device.persistent_id)
    assert ears.take() == [("otp_device_removed", alice, device)]
    await otp.remove_device(alice, device.persistent_id)
    assert ears.take() == []


async def test_the_orm_tells_nothing(sessions: Sessions, alice: User, ears: Ears) -> None:
    """A host's own flushes send no signal."""
    device = await make_totp(sessions, alice)
    async with sessions.begin() as session:
        await session.delete(await session.get_one(TOTPDevice, device.id))
    assert ears.take() == []


async def test_a_recovery_device_is_told_when_it_is_made(otp: OTP, alice: User, ears: Ears) -> None:
    """The first token of `add_static_token` makes a device; further ones add to it."""
    await otp.add_static_token(alice)
    [(name, user, device)] = ears.take()
    assert (name, user, device.kind) == ("otp_device_added", alice, "static")
    await otp.add_static_token(alice)
    assert ears.take() == []


async def test_challenges_are_told(
    otp: OTP, sessions: Sessions, alice: User, box: Postbox, ears: Ears
) -> None:
    """A challenge is told once it was delivered; not one that failed, and no refusal."""
    device = await add(sessions, EmailDevice(user_id=alice.id, email="a@home.example"))
    box.answer = "554 no"
    with pytest.raises(DeliveryFailed):
        await otp.generate_challenge(alice, device.persistent_id)
    assert ears.take() == []
    box.answer = "250 OK"
    for _ in range(2):
        await otp.generate_challenge(alice, device.persistent_id)
    assert ears.take() == [("otp_challenge_sent", alice, device)]


async def test_the_forms_tell(
    browser: Browser, sessions: Sessions, alice: User, box: Postbox, ears: Ears
) -> None:
    """A log-in through the pages tells the challenge, the failure and the success."""
    device = await add(sessions, EmailDevice(user_id=alice.id, email="a@home.example"))
    chosen = {"otp_device": device.persistent_id}
    await browser.log_in(**chosen, otp_challenge="Send me a code")
    token = box.text().split()[3]
    await browser.log_in("letters", **chosen)
    async with sessions.begin() as session:
        (await session.get_one(EmailDevice, device.id)).throttle_reset()
    assert (await browser.log_in(token, **chosen)).status_code == 303
    assert [(name, user.id, of) for name, user, of in ears.take()] == [
        ("otp_challenge_sent", alice.id, device),
        ("otp_verification_failed", alice.id, device),
        ("otp_verified", alice.id, device),
    ]


async def test_signals_come_after_the_commit(
    otp: OTP, sessions: Sessions, alice: User, box: Postbox, ears: Ears
) -> None:
    """A receiver sees on a connection of its own what the call has done."""
    mail = await otp.add_device(alice, EmailDevice(email="a@home.example"))
    assert ears.rows.pop() == mail
    await otp.generate_challenge(alice, mail.persistent_id)
    assert ears.rows.pop().token_digest is not None
    await otp.verify_token(alice, mail.persistent_id, "letters")
    assert ears.rows.pop().throttling_failure_count == 1
    totp = await otp.add_device(alice, TOTPDevice(secret=SECRET, confirmed=False))
    await otp.confirm_device(alice, totp.persistent_id, totp_token())
    assert [row.confirmed for row in ears.rows[-2:]] == [True, True]
    assert ears.rows[-1].last_used_at is not None
    await otp.remove_device(alice, totp.persistent_id)
    assert ears.rows.pop() is None


async def test_a_removed_device_can_still_be_described(otp: OTP, alice: User) -> None:
    """Who hears of a removal can tell which device it was, by name and id."""
    device = await otp.add_device(alice, TOTPDevice(name="old phone"))
    said = []

    def receiver(sender: OTP, *, user: Any, device: Any) -> None:
        said.append((device.name, device.persistent_id, device.user_id, repr(device)))

    with otp_device_removed.connected_to(receiver, sender=otp):
        await otp.remove_device(alice, device.persistent_id)
    assert said == [("old phone", device.persistent_id, alice.id, repr(device))]


async def test_receivers_are_called_one_by_one(
    otp: OTP, sessions: Sessions, alice: User, caplog: pytest.LogCaptureFixture
) -> None:
    """Sync and async receivers are called in turn, each to its end; one that raises is logged and
    keeps neither the others nor the verdict back."""
    static, (token,) = await make_static(sessions, alice, None)
    running, calls = [], []

    async def slow(sender: OTP, *, user: Any, device: Any) -> None:
        running.append("slow")
        await otp.devices_for_user(user)
        assert running == ["slow"], "two at once"
        running.clear()
        calls.append("slow")

    def quick(sender: OTP, **data: Any) -> None:
        assert running == [], "two at once"
        more = {"failures_before": 0, "address": "", "agent": ""}
        assert (sender, data) == (otp, {"user": alice, "device": static, **more})
        calls.append("quick")

    def broken(sender: OTP, **data: Any) -> None:
        raise RuntimeError("a broken receiver")

    async def broken_later(sender: OTP, **data: Any) -> None:
        raise RuntimeError("another broken receiver")

    with ExitStack() as stack:
        for receiver in (slow, broken, quick, broken_later):
            stack.enter_context(otp_verified.connected_to(receiver, sender=otp))
        assert await otp.match_token(alice, token) == static
    assert sorted(calls) == ["quick", "slow"]
    assert "a broken receiver" in caplog.text
    assert "another broken receiver" in caplog.text
    assert await otp.match_token(alice, token) is None, "the success is committed"


async def test_a_broken_receiver_of_a_failure(
    otp: OTP, sessions: Sessions, alice: User, caplog: pytest.LogCaptureFixture
) -> None:
    """The failure is counted whatever its receivers do."""
    device = await make_totp(sessions, alice)

    def broken(sender: OTP, **data: Any) -> None:
        raise RuntimeError("a broken receiver")

    with otp_verification_failed.connected_to(broken, sender=otp):
        assert await otp.match_token(alice, "000000") is None
    assert (await reload(sessions, device)).throttling_failure_count == 1
    assert "A receiver of otp_verification_failed failed." in caplog.text


async def test_a_muted_signal_is_silent(otp: OTP, alice: User, ears: Ears) -> None:
    """blinker's `muted()` silences a signal, as with its own `send`."""
    with otp_device_added.muted():
        await otp.add_device(alice, TOTPDevice())
    assert ears.take() == []
