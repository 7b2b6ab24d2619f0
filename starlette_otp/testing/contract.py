"""The device contract, for the author of a kind; `starlette_otp.testing` hands it out."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp import clock
from starlette_otp.otp import OTP
from starlette_otp.service.verification import Verification


class DeviceContract:
    """What every kind of device has to keep; the author of a kind inherits it in a test class.

        class TestPager(DeviceContract):
            async def make_device(self, otp, user, **values):
                return await make_device(otp, user, Pager, number=random_number(), **values)

            async def good_token(self, otp, user, device):
                return the_token_of(device)

    The suite runs async tests (`@pytest.mark.asyncio` on the class, in pytest-asyncio's strict
    mode) and has fixtures `otp`, `user` and `other_user` over a real database: those of
    `starlette_otp.testing.plugin`, or its own.
    """

    attempts: ClassVar[int] = 20
    """How many uses of one token race."""
    wrong_token: ClassVar[str] = "000000"
    """Looks like a token, and is none."""
    waits: ClassVar[bool] = True
    """Whether failures lock the device; not where tokens are too long to be guessed."""

    async def make_device(self, otp: OTP, user: Any, **values: Any) -> Any:
        """A saved device of the user's, whose tokens no other accepts; `values` are columns."""
        raise AssertionError("a contract test says how to make its device")

    async def good_token(self, otp: OTP, user: Any, device: Any) -> str:
        """A token that the device accepts now; of an interactive one, by challenging it."""
        raise AssertionError("a contract test says what token its device accepts")

    async def stored(self, otp: OTP, device: Any) -> Any:
        """The device as its row is now."""

        async def work(session: AsyncSession) -> Any:
            return await session.get(type(device), device.id)

        return await otp.read(work)

    async def test_it_is_seen(self, otp: OTP, user: Any, other_user: Any) -> None:
        """The user has the device, as an instance of its class, and nobody else has."""
        device = await self.make_device(otp, user)
        (found,) = await otp.devices_for_user(user)
        assert found == device
        assert type(found) is type(device)
        assert await otp.devices_for_user(other_user) == []

    async def test_a_token_is_accepted_once(self, otp: OTP, user: Any) -> None:
        """A good token verifies, and never again, not even after another one (RFC 6238 section
        5.2, ASVS 6.5.1)."""
        device = await self.make_device(otp, user)
        token = await self.good_token(otp, user, device)
        assert await otp.verify_token(user, device.persistent_id, token) == device
        await self._assert_spent(otp, user, device, token)
        another = await self.good_token(otp, user, await self.stored(otp, device))
        if another != token:  # a TOTP device has one for each time step
            assert await otp.verify_token(user, device.persistent_id, another) == device
            await self._assert_spent(otp, user, device, another)
            await self._assert_spent(otp, user, device, token)

    async def _assert_spent(self, otp: OTP, user: Any, device: Any, token: str) -> None:
        assert await otp.verify_token(user, device.persistent_id, token) is None, "accepted twice"
        await self._change(otp, device, throttling_failure_count=0)
        assert await otp.match_token(user, token) is None, "accepted twice"
        await self._change(otp, device, throttling_failure_count=0)

    async def test_match_token_finds_the_device(self, otp: OTP, user: Any) -> None:
        """Without a chosen device the token finds it, and stamps its last use."""
        device = await self.make_device(otp, user)
        assert await otp.match_token(user, await self.good_token(otp, user, device)) == device
        assert (await self.stored(otp, device)).last_used_at is not None

    async def test_one_of_many_concurrent_uses_wins(self, otp: OTP, user: Any) -> None:
        """Of many uses of one token at once exactly one is accepted."""
        device = await self.make_device(otp, user)
        token = await self.good_token(otp, user, device)
        # Not through one OTP, which lets those who try one device wait for their turn.
        racers = [as_another_process(otp) for _ in range(self.attempts)]
        uses = [racer.verify_token(user, device.persistent_id, token) for racer in racers]
        with with_factor(type(device), type(device).throttle_max_delay):
            assert sum(found is not None for found in await asyncio.gather(*uses)) == 1
        if self.waits:
            assert (await self.stored(otp, device)).throttling_failure_count <= 1, "not locked"

    async def test_failures_lock_the_device(self, otp: OTP, user: Any) -> None:
        """Each wrong token counts as one failure and spends nothing; failures lock the device,
        if its kind `waits`, and what is tried then is refused and not counted."""
        device = await self.make_device(otp, user)
        token = await self.good_token(otp, user, device)
        for count in (1, 2):
            assert await otp.verify_token(user, device.persistent_id, self.wrong_token) is None
            assert (await self.stored(otp, device)).throttling_failure_count == count
            await self._change(otp, device, throttling_failure_timestamp=None)
        # Enough of them for a wait that no slow machine outlasts.
        await self._change(
            otp, device, throttling_failure_count=9, throttling_failure_timestamp=clock.now()
        )
        if self.waits and device.throttle_factor:
            assert await otp.verify_token(user, device.persistent_id, token) is None, "not locked"
            assert await otp.match_token(user, token) is None, "not locked"
            stored = await self.stored(otp, device)
            assert stored.throttling_failure_count == 9
            allowed, evidence = await stored.verify_is_allowed()
            assert not allowed
            assert evidence["failure_count"] == 9
            await self._change(otp, device, throttling_failure_count=0)
        assert await otp.verify_token(user, device.persistent_id, token) == device
        assert (await self.stored(otp, device)).throttling_failure_count == 0

    async def test_another_users_device_is_none(self, otp: OTP, user: Any, other_user: Any) -> None:
        """With another user's device id a good token is worth nothing, and nothing changes."""
        device = await self.make_device(otp, user)
        token = await self.good_token(otp, user, device)
        assert await otp.verify_token(other_user, device.persistent_id, token) is None
        assert await otp.confirm_device(other_user, device.persistent_id, token) is None
        assert (await self.stored(otp, device)).throttling_failure_count == 0
        assert await otp.verify_token(user, device.persistent_id, token) == device

    async def test_a_token_is_its_own_devices(self, otp: OTP, user: Any, other_user: Any) -> None:
        """Another user's device of this kind does not accept the token, nor spend it."""
        device = await self.make_device(otp, user)
        theirs = await self.make_device(otp, other_user)
        token = await self.good_token(otp, user, device)
        assert await otp.verify_token(other_user, theirs.persistent_id, token) is None, (
            "another user's device accepts it: make_device has to give each its own secret"
        )
        await self._change(otp, theirs, throttling_failure_count=0)
        assert await otp.match_token(other_user, token) is None
        assert await otp.verify_token(user, device.persistent_id, token) == device

    async def test_an_unconfirmed_device_verifies_nothing(self, otp: OTP, user: Any) -> None:
        """Only `confirm_device` asks an unconfirmed device, and then it verifies."""
        device = await self.make_device(otp, user)
        token = await self.good_token(otp, user, device)
        await self._change(otp, device, confirmed=False)
        assert await otp.verify_token(user, device.persistent_id, token) is None
        assert await otp.match_token(user, token) is None
        assert (await self.stored(otp, device)).throttling_failure_count == 0
        assert await otp.confirm_device(user, device.persistent_id, token) == device
        assert (await self.stored(otp, device)).confirmed

    async def test_any_garbage_is_refused(self, otp: OTP, user: Any) -> None:
        """Letters, nothing, NUL bytes, lone surrogates, full-width digits and ten thousand
        characters are wrong tokens, each a failure, and no errors."""
        device = await self.make_device(otp, user)
        for token in ("", "letters", "\0", "\ud800", "9" * 10_000, "\uff11" * 6):
            assert await otp.verify_token(user, device.persistent_id, token) is None
            assert (await self.stored(otp, device)).throttling_failure_count == 1
            await self._change(otp, device, throttling_failure_count=0)
            assert await otp.match_token(user, token) is None
            await self._change(otp, device, throttling_failure_count=0)

    async def test_its_challenge_is_its_owners(self, otp: OTP, user: Any, other_user: Any) -> None:
        """An interactive device has a message for its owner and none for anybody else, and none
        when it is unconfirmed; a passive one has none."""
        device = await self.make_device(otp, user)
        assert await otp.generate_challenge(other_user, device.persistent_id) is None
        await self._change(otp, device, confirmed=False)
        assert await otp.generate_challenge(user, device.persistent_id) is None
        await self._change(otp, device, confirmed=True)
        message = await otp.generate_challenge(user, device.persistent_id)
        assert bool(message) is device.is_interactive()

    async def _change(self, otp: OTP, device: Any, **values: Any) -> None:
        async def work(session: AsyncSession) -> None:
            row = await session.get(type(device), device.id)
            assert row is not None
            for name, value in values.items():
                setattr(row, name, value)

        await otp.write(work)


def as_another_process(otp: OTP) -> OTP:
    """The same OTP, as another process would have it."""
    other = copy.copy(otp)
    other.verification = Verification(
        otp.transactions, otp.device_model, otp.recovery_codes, sender=otp
    )
    return other


@contextmanager
def with_factor(model: Any, factor: float) -> Iterator[None]:
    """Failures lock for that many seconds, twice as many each time: 0 for never, or for longer
    than the slowest machine takes; where they never do, that stays."""
    own, former = "throttle_factor" in vars(model), model.throttle_factor
    model.throttle_factor = former and factor
    try:
        yield
    finally:
        if own:
            model.throttle_factor = former
        else:
            del model.throttle_factor
