"""Kinds of device that somebody else writes: seen everywhere, with every policy, unregistered."""

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy import String
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Mapped, mapped_column

from starlette_otp import DeliveryFailed, clock
from starlette_otp.devices import CooldownMixin, GenerateNotAllowed
from tests.support import codes, reload
from tests.third_party import WORD, Application, application, pager, password_of_the_day


@pytest.fixture
async def host(empty_engine: AsyncEngine) -> Application:
    return await application(empty_engine, password_of_the_day, pager)


async def test_every_call_sees_it(host: Application) -> None:
    """Enumerating, finding, verifying and matching know a declared kind and load its columns."""
    device = await host.make("word", word=WORD, name="lobby")
    assert device.persistent_id == f"word/{device.id}"
    (found,) = await host.otp.devices_for_user(host.alice)
    assert type(found) is host.kinds["word"]
    assert (found.word, found.name) == (WORD, "lobby")
    async with host.sessions() as session:
        for model in (host.models.Device, host.kinds["word"]):
            again = await model.from_persistent_id(session, device.persistent_id)
            assert again == device
    assert await host.otp.user_has_device(host.alice)
    assert await host.otp.match_token(host.alice, "wrong") is None
    with time_machine.travel(clock.now() + timedelta(minutes=1)):
        assert await host.otp.match_token(host.alice, WORD) == device
    assert (await reload(host.sessions, device)).word is None
    assert await host.otp.remove_device(host.alice, device.persistent_id) == device
    assert not await host.otp.user_has_device(host.alice)


async def test_forms_and_guards_see_it(host: Application) -> None:
    """On the log-in page it is a choice as any other, and what it verified opens the vault."""
    device = await host.make("word", word=WORD, name="lobby")
    async with host.browser() as browser:
        form = await browser.log_in("wrong")
        assert codes(form) == ["invalid_token"]
        assert "Word · lobby" in form.text
        with time_machine.travel(clock.now() + timedelta(minutes=1)):
            answer = await browser.log_in(WORD, otp_device=device.persistent_id)
            assert answer.status_code == 303
            assert (await browser.get("/vault")).text == "hello alice"
            assert (await browser.state())["device"] == device.persistent_id


async def test_the_user_types_what_its_check_gets(host: Application) -> None:
    """A third party's device gets the token as it was typed: spaces, case and dashes."""
    device = await host.make("word", word=" Sword-Fish 1 ")
    assert await host.otp.match_token(host.alice, "Sword-Fish1") is None
    with time_machine.travel(clock.now() + timedelta(minutes=1)):
        assert await host.otp.match_token(host.alice, " Sword-Fish 1 ") == device


async def test_throttling_and_confirmation_are_done_for_it(host: Application) -> None:
    """Its failures lock it, its attempts meanwhile are not counted, and unconfirmed it verifies
    nothing but by confirm_device."""
    device = await host.make("word", word=WORD, confirmed=False)
    key = device.persistent_id
    assert await host.otp.verify_token(host.alice, key, WORD) is None
    assert await host.otp.match_token(host.alice, WORD) is None
    assert await host.otp.confirm_device(host.alice, key, "wrong") is None
    assert await host.otp.confirm_device(host.alice, key, WORD) is None
    stored = await reload(host.sessions, device)
    assert (stored.throttling_failure_count, stored.word, stored.confirmed) == (1, WORD, False)
    with time_machine.travel(clock.now() + timedelta(seconds=2)):
        assert await host.otp.confirm_device(host.alice, key, WORD) == device
    stored = await reload(host.sessions, device)
    assert (stored.throttling_failure_count, stored.word, stored.confirmed) == (0, None, True)


async def test_its_challenge_is_delivered(host: Application) -> None:
    """prepare_challenge changes the row and gives the message; deliver gets what it put into
    `delivery`, the caller's context and the user."""
    device = await host.make("pager", number="17")
    assert device.is_interactive()
    message = await host.otp.generate_challenge(host.alice, device.persistent_id, reason="door")
    assert message == "Look at pager 17."
    (sent,) = host.kinds["pager"].sent
    assert sent == {"code": "code door", "reason": "door", "user": host.alice}
    assert await host.otp.match_token(host.alice, "code door") == device


async def test_its_challenge_on_the_page(host: Application) -> None:
    """The page's button gives its message, and its token logs the user in."""
    device = await host.make("pager", number="17")
    async with host.browser() as browser:
        chosen = {"otp_device": device.persistent_id, "otp_challenge": "1"}
        form = await browser.log_in(**chosen)
        assert codes(form) == ["challenge_message"]
        assert "Look at pager 17." in form.text
        answer = await browser.log_in("code none", otp_device=device.persistent_id)
        assert answer.status_code == 303
        assert (await browser.state())["device"] == device.persistent_id


async def test_the_cooldown_is_done_for_it(host: Application) -> None:
    """A kind that mixes in CooldownMixin waits between challenges, without a line of its own; a
    token accepted ends the wait."""
    device = await host.make("pager", number="17")
    key = device.persistent_id
    await host.otp.generate_challenge(host.alice, key)
    refusal = await host.otp.generate_challenge(host.alice, key)
    assert str(refusal) == "You can ask again in 60 seconds."
    allowed, evidence = await (await reload(host.sessions, device)).generate_is_allowed()
    assert not allowed
    assert evidence["reason"] == GenerateNotAllowed.COOLDOWN_DURATION_PENDING
    assert evidence["next_generation_at"] > clock.now()
    assert len(host.kinds["pager"].sent) == 1
    assert await host.otp.match_token(host.alice, "code none") == device
    assert await host.otp.generate_challenge(host.alice, key) == "Look at pager 17."


async def test_a_cooldown_named_after_the_device(empty_engine: AsyncEngine) -> None:
    """The order of the base classes takes no policy away."""

    def declare(device: Any) -> type[Any]:
        class BellDevice(device, CooldownMixin):
            async def prepare_challenge(self, **context: Any) -> str:
                return "It rings."

        return BellDevice

    host = await application(empty_engine, declare)
    device = await host.make("bell")
    asked = [await host.otp.generate_challenge(host.alice, device.persistent_id) for _ in "12"]
    assert asked[0] == "It rings."
    assert str(asked[1]).startswith("You can ask again")


async def test_a_delivery_that_fails_gives_the_cooldown_back(
    host: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another challenge may be asked for at once, without a retract_challenge of the kind's own."""
    device = await host.make("pager", number="17")
    monkeypatch.setattr(host.kinds["pager"], "broken", True)
    with pytest.raises(DeliveryFailed):
        await host.otp.generate_challenge(host.alice, device.persistent_id)
    monkeypatch.setattr(host.kinds["pager"], "broken", False)
    message = await host.otp.generate_challenge(host.alice, device.persistent_id)
    assert message == "Look at pager 17."


async def test_a_check_that_raises(empty_engine: AsyncEngine) -> None:
    """The exception reaches the caller, nothing is accepted, and nothing is written."""

    def declare(device: Any) -> type[Any]:
        class BrittleDevice(device):
            async def check_token(self, token: str) -> bool:
                self.name = "changed"
                return bool(int(token))

        return BrittleDevice

    host = await application(empty_engine, declare)
    device = await host.make("brittle")
    for call in (
        host.otp.match_token(host.alice, "letters"),
        host.otp.verify_token(host.alice, device.persistent_id, "letters"),
        host.otp.confirm_device(host.alice, device.persistent_id, "letters"),
    ):
        with pytest.raises(ValueError, match="letters"):
            await call
    stored = await reload(host.sessions, device)
    assert (stored.name, stored.throttling_failure_count, stored.last_used_at) == ("", 0, None)
    async with host.browser() as browser:
        with pytest.raises(ValueError, match="letters"):
            await browser.log_in("letters")
        assert (await browser.state())["authenticated"] is False
    assert await host.otp.verify_token(host.alice, device.persistent_id, "1") == device


async def test_on_success_only_the_accepting_device_changes(empty_engine: AsyncEngine) -> None:
    """What the check of a device that refused the token wrote into its row is not kept, when
    another device accepts it; it is when none does."""

    def declare(device: Any) -> type[Any]:
        class CuriousDevice(device):
            seen: Mapped[str | None] = mapped_column(String(32))

            async def check_token(self, token: str) -> bool:
                self.seen = token
                return False

        return CuriousDevice

    host = await application(empty_engine, declare, password_of_the_day)
    curious, word = await host.make("curious"), await host.make("word", word=WORD)
    assert await host.otp.match_token(host.alice, WORD) == word
    stored = await reload(host.sessions, curious)
    assert (stored.seen, stored.throttling_failure_count) == (None, 0)
    assert await host.otp.match_token(host.alice, "wrong") is None
    stored = await reload(host.sessions, curious)
    assert (stored.seen, stored.throttling_failure_count) == ("wrong", 1)


async def test_a_way_of_counting_of_its_own(empty_engine: AsyncEngine) -> None:
    """A kind that counts failures otherwise is counted its way, in match_token too."""

    def declare(device: Any) -> type[Any]:
        class StrictDevice(device):
            def throttle_increment(self) -> None:
                super().throttle_increment()
                self.throttling_failure_count += 2

        return StrictDevice

    host = await application(empty_engine, declare, password_of_the_day)
    strict, word = await host.make("strict"), await host.make("word")
    assert await host.otp.match_token(host.alice, "wrong") is None
    counts = [(await reload(host.sessions, row)).throttling_failure_count for row in (strict, word)]
    assert counts == [3, 1]
