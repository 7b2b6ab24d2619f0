"""What becomes of a mail on its way: nothing is locked meanwhile, and what fails is taken back."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage

import httpx2
import pytest
import time_machine
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from starlette_otp import OTP, DeliveryFailed, SMTPMailer
from starlette_otp.models import EmailDevice, User
from tests.smtp import Postbox, silent_server, smtp_server
from tests.support import Browser, Sessions, add, codes, reload

SENDER = "no-reply@acme.example"
FAILED = "The code could not be sent. Please try again later."


def through(port: int, timeout: float = 10) -> SMTPMailer:
    return SMTPMailer(f"smtp://127.0.0.1:{port}", sender=SENDER, timeout=timeout)


@pytest.fixture
async def box(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Postbox]:
    async with smtp_server() as box:
        monkeypatch.setattr(EmailDevice, "mailer", through(box.port))
        yield box


@pytest.fixture
async def device(otp: OTP, sessions: Sessions, alice: User) -> EmailDevice:
    made: EmailDevice = await add(sessions, EmailDevice(user_id=alice.id, email="a@home.example"))
    return made


@pytest.fixture(params=["dead", "refusing", "slow", "no host"])
async def trouble(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[str]:
    """A mail server that takes no mail, and what the log will say of it."""
    async with silent_server() as silent, smtp_server() as refusing:
        refusing.answer = "554 no thanks from mail.internal"
        async with smtp_server() as dead:
            pass
        mailer, word = {
            "dead": (through(dead.port), "SMTPConnectError"),
            "refusing": (through(refusing.port), "SMTPDataError"),
            "slow": (through(silent, timeout=0.05), "SMTPConnectTimeoutError"),
            "no host": (SMTPMailer("smtp://mail.invalid", sender=SENDER), "SMTPConnectError"),
        }[request.param]
        monkeypatch.setattr(EmailDevice, "mailer", mailer)
        yield word


def mailed(box: Postbox) -> str:
    found = re.search("[0-9]{6}", box.text())
    assert found
    return found[0]


async def test_nothing_is_locked_while_a_mail_travels(
    otp: OTP, engine: AsyncEngine, alice: User, device: EmailDevice, box: Postbox
) -> None:
    """While the server takes the mail the challenge is committed, and no row or connection held."""
    seen = []

    async def look() -> None:
        async with engine.begin() as connection:
            rows = await connection.execute(
                text("SELECT token_digest FROM otp_device FOR UPDATE NOWAIT")
            )
            await connection.execute(text("SELECT 1 FROM otp_user FOR UPDATE NOWAIT"))
            seen.append((rows.scalar_one(), engine.pool.checkedout()))  # type: ignore[attr-defined]

    box.on_arrival = look
    await otp.generate_challenge(alice, device.persistent_id)
    [(digest, connections)] = seen
    assert digest is not None
    assert connections == 1, "the one that looks"


async def test_a_token_may_be_used_before_its_delivery_is_over(
    otp: OTP,
    sessions: Sessions,
    alice: User,
    device: EmailDevice,
    box: Postbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A token verifies as soon as the mail arrives; if the delivery then fails after all, what the
    success made of the row stays."""

    class Mailer:
        sender = SENDER

        async def send(self, message: EmailMessage) -> None:
            await through(box.port).send(message)
            assert await otp.match_token(alice, mailed(box)) == device
            raise OSError("connection lost after the message")

    monkeypatch.setattr(EmailDevice, "mailer", Mailer())
    with pytest.raises(DeliveryFailed):
        await otp.generate_challenge(alice, device.persistent_id)
    assert (await reload(sessions, device)).last_used_at is not None


async def test_a_failed_delivery_is_taken_back(
    otp: OTP,
    sessions: Sessions,
    alice: User,
    device: EmailDevice,
    trouble: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever is wrong with the server: the error says nothing of it, the log does; the token is
    dead and the cooldown given back."""
    with pytest.raises(DeliveryFailed) as caught:
        await otp.generate_challenge(alice, device.persistent_id)
    assert str(caught.value) == "The challenge could not be delivered."
    assert caught.value.device == device
    assert trouble in caplog.text
    row = await reload(sessions, device)
    assert (row.token_digest, row.valid_until, row.next_generation_at) == (None, None, None)
    assert row.throttling_failure_count == 0


async def test_a_newer_challenge_survives_an_older_failure(
    otp: OTP, sessions: Sessions, alice: User, device: EmailDevice, box: Postbox
) -> None:
    """While a mail hangs another is asked for and arrives: the failure of the first changes
    nothing of it."""
    with time_machine.travel(datetime(2030, 1, 1, tzinfo=UTC), tick=False) as clock:

        async def meanwhile() -> None:
            box.on_arrival = None
            clock.shift(60)
            await otp.generate_challenge(alice, device.persistent_id)
            box.answer = "451 later"

        box.on_arrival = meanwhile
        with pytest.raises(DeliveryFailed):
            await otp.generate_challenge(alice, device.persistent_id)
        row = await reload(sessions, device)
        assert row.next_generation_at == datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=120)
        assert await otp.match_token(alice, mailed(box)) == device


async def ask(browser: Browser, device: EmailDevice) -> httpx2.Response:
    chosen = {"otp_device": device.persistent_id, "otp_challenge": "Send me a code"}
    return await browser.log_in(**chosen)


async def test_the_login_page_sends_the_mail(
    browser: Browser, device: EmailDevice, box: Postbox
) -> None:
    """The button sends it, the page says so as information, and the mailed token logs in."""
    page = await ask(browser, device)
    assert codes(page) == ["challenge_message"]
    [status] = page.text.split('role="status">')[1:]
    assert status.startswith("We sent a code to a…@home.example.")
    assert 'role="alert"' not in page.text
    token = mailed(box)
    assert token not in page.text
    answer = await browser.submit(
        "/account/login", username="alice", otp_device=device.persistent_id, otp_token=token
    )
    assert answer.status_code == 303
    assert (await browser.state())["device"] == device.persistent_id


async def test_the_login_page_says_when_the_next_may_be_sent(
    browser: Browser, device: EmailDevice, box: Postbox
) -> None:
    """A second press within the minute sends nothing and says how long to wait."""
    with time_machine.travel(datetime(2030, 1, 1, tzinfo=UTC), tick=False) as clock:
        await ask(browser, device)
        clock.shift(20)
        page = await ask(browser, device)
    assert codes(page) == ["challenge_message"]
    assert "You can ask again in 40 seconds." in page.text
    assert len(box.mails) == 1


async def test_the_login_page_on_a_failure(
    browser: Browser, device: EmailDevice, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The page shows a fixed sentence and nothing of the server's, which is in the log."""
    page = await ask(browser, device)
    assert codes(page) == ["challenge_exception"]
    assert FAILED in page.text
    for word in (trouble, "127.0.0.1", "internal", "mail.invalid"):
        assert word not in page.text
    assert trouble in caplog.text


async def test_the_login_page_without_a_mailer(browser: Browser, device: EmailDevice) -> None:
    """A host that has set no mailer shows the fixed sentence, too."""
    page = await ask(browser, device)
    assert codes(page) == ["challenge_exception"]
    assert FAILED in page.text
