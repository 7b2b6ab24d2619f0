"""A token that was delivered, or was not, leaves no trace of itself."""

import logging
import re
from email.message import EmailMessage

import pytest

from starlette_otp import OTP, DeliveryFailed
from starlette_otp.exceptions import ConfigurationError, described
from starlette_otp.models import EmailDevice, User
from starlette_otp.signals import otp_challenge_sent
from tests.support import Sessions, add


class Gateway:
    """A mailer that fails, if it does, with the token in its error, as one with URLs does."""

    sender = "no-reply@acme.example"

    def __init__(self, broken: bool) -> None:
        self.broken, self.token = broken, ""

    async def send(self, message: EmailMessage) -> None:
        [self.token] = re.findall("[0-9]{6}", message.get_content())
        if self.broken:
            raise OSError(f"no answer from https://gateway.internal/?text={self.token}")


@pytest.fixture
async def device(otp: OTP, sessions: Sessions, alice: User) -> EmailDevice:
    made: EmailDevice = await add(sessions, EmailDevice(user_id=alice.id, email="a@home.example"))
    return made


async def test_a_delivered_token_is_forgotten(
    otp: OTP, alice: User, device: EmailDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What receivers of the signal get holds the token no more."""
    monkeypatch.setattr(EmailDevice, "mailer", gateway := Gateway(broken=False))
    seen = []

    def receiver(sender: OTP, user: User, device: EmailDevice) -> None:
        seen.append((dict(device.delivery), repr(vars(device))))

    with otp_challenge_sent.connected_to(receiver):
        await otp.generate_challenge(alice, device.persistent_id, ip="192.0.2.1")
    [(delivery, row)] = seen
    assert delivery == {}
    assert gateway.token not in row


async def test_the_log_of_a_failed_delivery_is_silent_on_its_token(
    otp: OTP,
    alice: User,
    device: EmailDevice,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """ASVS 16.2.5: the log names the type of the error and the place, not its text; neither the
    log nor the error that the caller gets carries the gateway's own."""
    monkeypatch.setattr(EmailDevice, "mailer", gateway := Gateway(broken=True))
    with pytest.raises(DeliveryFailed) as caught:
        await otp.generate_challenge(alice, device.persistent_id)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    [record] = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.exc_info is None
    assert f"OSError at {__file__}:" in record.getMessage()
    assert gateway.token not in caplog.text
    assert "gateway.internal" not in caplog.text


def test_an_error_described() -> None:
    """One of ours is told with its text, which holds no secret; one never raised has no place."""
    assert described(ConfigurationError("There is no mailer.")) == (
        "ConfigurationError: There is no mailer."
    )
    assert described(OSError("secret")) == "OSError"
