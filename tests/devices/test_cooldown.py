"""The wait between challenges."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import time_machine

from starlette_otp.devices import GenerateNotAllowed
from starlette_otp.devices.policies import refusal_in_words
from starlette_otp.models import EmailDevice

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


@pytest.mark.parametrize(("duration", "ahead"), [(60, -3600), (60, 61), (0, 0)])
async def test_when_there_is_no_cooldown(
    monkeypatch: pytest.MonkeyPatch, duration: float, ahead: float
) -> None:
    """A cooldown of 0, one long over, and a time stamp that a clock set back left far ahead."""
    monkeypatch.setattr(EmailDevice, "cooldown_duration", duration)
    device = EmailDevice()
    device.last_generated_timestamp = NOW + timedelta(seconds=ahead)
    assert await device.generate_is_allowed() == (True, None)
    assert device.next_generation_at is None


def test_the_cooldown_is_set_and_reset() -> None:
    """`cooldown_set` begins the wait at once, `cooldown_reset` ends it."""
    device = EmailDevice()
    device.cooldown_set()
    assert device.next_generation_at == NOW + timedelta(seconds=60)
    device.cooldown_reset()
    assert device.next_generation_at is None


def test_a_token_is_valid_for_five_minutes() -> None:
    """Unless set: five minutes' validity, a minute's cooldown."""
    assert (EmailDevice.token_validity, EmailDevice.cooldown_duration) == (300, 60)


COOLING = "You can ask again "


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "in 1 second."), (42, "in 42 seconds."), (90, "in 90 seconds."), (91, "in 2 minutes.")],
)
def test_the_wait_in_words(seconds: float, words: str) -> None:
    """A refusal says how long the wait still is, never less than it is."""
    reason = GenerateNotAllowed.COOLDOWN_DURATION_PENDING
    evidence = {"reason": reason, "next_generation_at": NOW + timedelta(seconds=seconds)}
    assert refusal_in_words(evidence) == COOLING + words


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        ({"error_message": "The office is closed."}, "The office is closed."),
        ({"reason": "OFFICE_HOURS"}, "No code can be sent now."),
        ({}, "No code can be sent now."),
        (None, "No code can be sent now."),
    ],
)
def test_a_third_partys_refusal_in_words(evidence: dict[str, str] | None, words: str) -> None:
    """A device of a third party's says why in its own words, or nothing."""
    assert refusal_in_words(evidence) == words
