"""The queue for Argon2: who finds a place, and who is told to come back."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from starlette_otp import OTP, PasswordQueue
from starlette_otp.exceptions import TooBusy
from starlette_otp.models import Device, User
from starlette_otp.service import passwords
from starlette_otp.service.passwords import Place
from tests.support import PASSWORD, SECRET_KEY, Browser, Sessions, make_app, make_totp, totp_token


@contextmanager
def crowd(queue: PasswordQueue, *places: Place) -> Iterator[None]:
    """As many as these wait in the queue."""
    with ExitStack() as stack:
        for place in places:
            stack.enter_context(queue.taken(place))
        yield


def may_enter(queue: PasswordQueue, place: Place) -> bool:
    """Whether there is such a place."""
    try:
        with queue.taken(place):
            return True
    except TooBusy:
        return False


def test_places_are_given_fairly() -> None:
    """Two for a name and four for an address leave the others theirs, until all are taken; every
    place is free again afterwards."""
    queue = PasswordQueue()
    one_name = [Place("alice", f"10.0.0.{n}") for n in range(2)]
    with crowd(queue, *one_name):
        assert not may_enter(queue, Place("alice", "10.0.0.9"))
        assert may_enter(queue, Place("bob", "10.0.0.0"))
    one_address = [Place(f"user{n}", "10.0.0.1") for n in range(4)]
    with crowd(queue, *one_address):
        assert not may_enter(queue, Place("alice", "10.0.0.1"))
        assert may_enter(queue, Place("alice", "10.0.0.2"))
    everybody = [Place(f"user{n}", f"10.0.0.{n}") for n in range(32)]
    with crowd(queue, *everybody):
        assert not may_enter(queue, Place("alice", "10.0.1.1"))
    assert not queue._taken
    assert may_enter(queue, Place("alice", "10.0.0.1"))


def test_a_known_browser_has_a_place_of_its_own() -> None:
    """Strangers who take every place, and its address, leave a known browser its own; two of
    those, too, are for one browser."""
    queue = PasswordQueue(known_places=3)
    strangers = [Place(f"user{n}", f"10.0.0.{n}") for n in range(32)]
    mine, other, third = (Place(name, "10.0.0.1", True) for name in ("mine", "other", "third"))
    with crowd(queue, *strangers):
        with crowd(queue, mine, mine):
            assert not may_enter(queue, mine)
            assert may_enter(queue, other)
        with crowd(queue, mine, other, third):
            assert not may_enter(queue, Place("fourth", "", True))
        assert may_enter(queue, mine)


def test_its_sizes_are_settings() -> None:
    """How many work, wait, share a name or an address is the host's to say."""
    queue = PasswordQueue(workers=1, places=3, per_name=3, per_address=2)
    with crowd(queue, Place("alice", "a"), Place("alice", "a")):
        assert not may_enter(queue, Place("alice", "a"))
        assert may_enter(queue, Place("alice", "b"))
        with crowd(queue, Place("alice", "b")):
            assert not may_enter(queue, Place("bob", "c"))


async def test_no_place_is_503_and_told(
    sessions: Sessions, alice: User, caplog: pytest.LogCaptureFixture
) -> None:
    """Who finds no place gets 503 with Retry-After, a line in the log; no failure counts."""
    queue = PasswordQueue(places=1)
    otp = OTP(sessions, Device, secret_key=SECRET_KEY, password_queue=queue)
    async with Browser(make_app(otp)) as browser:
        with crowd(queue, Place("bob", "10.0.0.1")):
            answer = await browser.log_in("000000")
    assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
    assert f"A log-in of user {alice.id} was refused (too_busy)" in caplog.text
    assert await otp.throttle._read(otp.throttle.digest("alice")) is None


async def test_the_address_is_the_hosts_to_tell(sessions: Sessions, alice: User) -> None:
    """Behind a proxy, `client_address` says whose place it is."""

    def behind_proxy(request: Any) -> str:
        return str(request.headers["x-real-ip"])

    queue = PasswordQueue(per_address=1)
    otp = OTP(
        sessions,
        Device,
        secret_key=SECRET_KEY,
        password_queue=queue,
        client_address=behind_proxy,
    )
    await make_totp(sessions, alice)
    async with Browser(make_app(otp)) as browser:
        with crowd(queue, Place("bob", "10.0.0.1")):
            browser.headers["x-real-ip"] = "10.0.0.1"
            assert (await browser.log_in(totp_token())).status_code == 503
            browser.headers["x-real-ip"] = "10.0.0.2"
            assert (await browser.log_in(totp_token())).status_code == 303


async def test_honest_log_ins_pass_a_burst_of_strangers(otp: OTP, alice: User) -> None:
    """48 guesses at once at one name take two places at most: who comes then is looked at."""
    queue = passwords.QUEUE
    strangers = [asyncio.ensure_future(queue.run(Place("bob", "10.0.0.1"), int)) for _ in range(48)]
    await asyncio.sleep(0)
    honest = await asyncio.gather(
        *(
            passwords.is_right(alice, PASSWORD, queue, Place(f"user{n}", f"10.0.1.{n}"))
            for n in range(12)
        )
    )
    assert honest == [True] * 12
    refused = await asyncio.gather(*strangers, return_exceptions=True)
    assert len([error for error in refused if isinstance(error, TooBusy)]) == 46
