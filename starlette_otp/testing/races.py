"""The race certificate, for a site on its own stack; `starlette_otp.testing` hands it out."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from starlette_otp.devices.static import StaticDeviceMixin
from starlette_otp.devices.totp import TOTPDeviceMixin
from starlette_otp.otp import OTP
from starlette_otp.testing.contract import as_another_process, with_factor
from starlette_otp.testing.helpers import make_device, token_at


class RaceContract:
    """Proves on a site's own stack that what is used by many at once is used by one.

        class TestRaces(RaceContract):
            pass

    Its fixtures are `otp`, over the engine that the site runs on, and `user`; a site whose users
    live elsewhere, or whose kinds are its own, overrides `make_device` and `good_token`. The suite
    runs async tests, as for DeviceContract. Those who race are as many processes would be: none
    waits for another one's turn but in the database.
    """

    attempts: ClassVar[int] = 50
    """How many come at once."""
    wrong_token: ClassVar[str] = "000000"
    """Looks like a token, and is none."""

    async def make_device(self, otp: OTP, user: Any) -> Any:
        """A saved, confirmed device of the user's; a TOTP device unless overridden."""
        kinds = otp.device_model.kinds().values()
        model = next((kind for kind in kinds if issubclass(kind, TOTPDeviceMixin)), None)
        assert model is not None, "no kind is TOTP: override make_device and good_token"
        return await make_device(otp, user, model)

    async def good_token(self, otp: OTP, user: Any, device: Any) -> str:
        """A token that the device accepts now."""
        return token_at(device)

    async def test_one_of_many_uses_of_a_token_passes(self, otp: OTP, user: Any) -> None:
        """Of fifty uses at once, to the device by its id or to any, exactly one is accepted."""
        device = await self.make_device(otp, user)
        token = await self.good_token(otp, user, device)
        with with_factor(type(device), 0):
            uses = [
                racer.verify_token(user, device.persistent_id, token)
                if number % 2
                else racer.match_token(user, token)
                for number, racer in enumerate(self._racers(otp))
            ]
            found = await asyncio.gather(*uses)
        accepted = sum(one is not None for one in found)
        assert accepted == 1, f"{accepted} of {len(found)} uses of one token were accepted"

    async def test_every_wrong_token_is_counted(self, otp: OTP, user: Any) -> None:
        """Of fifty wrong ones at once none gets lost: nobody has more tries than allowed."""
        device = await self.make_device(otp, user)
        with with_factor(type(device), 0):
            tries = [
                racer.verify_token(user, device.persistent_id, self.wrong_token)
                for racer in self._racers(otp)
            ]
            assert not any(await asyncio.gather(*tries)), "a wrong token was accepted"
        (stored,) = [one for one in await otp.devices_for_user(user) if one == device]
        counted = stored.throttling_failure_count
        assert counted == len(tries), f"{counted} of {len(tries)} wrong tokens were counted"

    async def test_one_of_many_uses_of_a_recovery_code_passes(self, otp: OTP, user: Any) -> None:
        """Of fifty at once one is accepted, and the code is gone; where there are such codes."""
        kinds = otp.device_model.kinds().values()
        if not any(issubclass(kind, StaticDeviceMixin) for kind in kinds):
            return
        code, _ = await otp.new_recovery_codes(user, 2)
        found = await asyncio.gather(*[r.match_token(user, code) for r in self._racers(otp)])
        accepted = sum(one is not None for one in found)
        assert accepted == 1, f"{accepted} of {len(found)} uses of one code were accepted"
        assert await otp.recovery_codes_left(user) == 1

    def _racers(self, otp: OTP) -> list[OTP]:
        return [as_another_process(otp) for _ in range(self.attempts)]
