"""What a host's test suite needs: verified clients, devices with a known secret, the contract."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from datetime import datetime
from typing import Any, ClassVar

import itsdangerous
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.middleware.sessions import SessionMiddleware

from starlette_otp import clock, oath
from starlette_otp.exceptions import ConfigurationError
from starlette_otp.service import OTP
from starlette_otp.sessions import SESSION_KEY, new_row

KNOWN_SECRET = b"12345678901234567890"
"""The secret of the test vectors of RFC 4226 and RFC 6238."""


async def make_device(otp: OTP, user: object, model: type[Any], **values: Any) -> Any:
    """A device of the user's, in the database, with the known secret.

    Args:
        otp: the application's.
        user: whose device it will be.
        model: the kind, as `TOTPDevice`.
        values: its other columns.
    """
    device = model(**{"secret": KNOWN_SECRET, "user_id": model.user_key(user), **values})

    async def work(session: AsyncSession) -> Any:
        session.add(device)
        return device

    return await otp.write(work)


def token_at(device: Any, moment: datetime | None = None, steps: int = 0) -> str:
    """The token that the prover of a TOTP or HOTP device shows.

    Args:
        device: TOTP or HOTP.
        moment: for TOTP, when; now unless given.
        steps: so many steps, or for HOTP counters, later.
    """
    if device.kind == "hotp":
        counter = device.counter
    else:
        now = (moment or clock.now()).timestamp()
        counter = oath.time_step(now, device.step, device.t0)
    return oath.hotp(device.secret, counter + steps, device.digits, device.algorithm)


async def verified_session(otp: OTP, user: Any, device: Any | None = None) -> dict[str, str]:
    """A new session of the user's, verified by the device, as what `request.session` holds.

    Args:
        otp: the application's.
        user: the user.
        device: a confirmed device of theirs; the first one unless given.
    """
    if device is None:
        devices = await otp.devices_for_user(user)
        if not devices:
            raise ConfigurationError("The user has no confirmed device to be verified by.")
        device = devices[0]
    token, row = new_row(otp, user, device)

    async def work(session: AsyncSession) -> None:
        await session.execute(insert(otp.session_model).values(row))

    await otp.write(work)
    return {SESSION_KEY: token}


async def averify(client: Any, otp: OTP, user: Any, device: Any | None = None) -> None:
    """Give an httpx AsyncClient over an ASGITransport a verified session of the user's."""
    _set_cookie(client, client._transport.app, await verified_session(otp, user, device))


def verify(client: Any, otp: OTP, user: Any, device: Any | None = None) -> None:
    """Give a TestClient a verified session of the user's.

    Inside `with TestClient(app)` it runs in the application's event loop; without it the engine
    has to be one that keeps no connection (NullPool), as for any other request.
    """
    with client._portal_factory() as portal:
        session = portal.call(verified_session, otp, user, device)
    _set_cookie(client, client.app, session)


def _set_cookie(client: Any, app: Any, session: dict[str, str]) -> None:
    layers = [
        layer for layer in getattr(app, "user_middleware", []) if layer.cls is SessionMiddleware
    ]
    if not layers:
        raise ConfigurationError("The client's application has no SessionMiddleware of its own.")
    settings = layers[0].kwargs
    signer = itsdangerous.TimestampSigner(str(settings["secret_key"]))
    value = signer.sign(b64encode(json.dumps(session).encode())).decode()
    client.cookies.set(settings.get("session_cookie", "session"), value)


class DeviceContract:
    """What every kind of device has to keep; the author of a kind inherits it in a test class.

    The suite runs async tests and has fixtures `otp`, `user` and `other_user` over a real database.
    The class says how to make a device, and a token that it accepts.
    """

    attempts: ClassVar[int] = 20
    """How many uses of one token race."""
    wrong_token: ClassVar[str] = "000000"

    async def make_device(self, otp: OTP, user: Any, **values: Any) -> Any:
        """A saved device of the user's, with these values for common columns."""
        raise AssertionError("a contract test says how to make its device")

    async def good_token(self, otp: OTP, user: Any, device: Any) -> str:
        """A token that the device accepts now."""
        raise AssertionError("a contract test says what token its device accepts")

    async def stored(self, otp: OTP, device: Any) -> Any:
        """The device as its row is now."""

        async def work(session: AsyncSession) -> Any:
            return await session.get(type(device), device.id)

        return await otp.read(work)

    async def test_a_token_is_accepted_once(self, otp: OTP, user: Any) -> None:
        """A good token verifies, and never again (RFC 6238 section 5.2, ASVS 6.5.1)."""
        device = await self.make_device(otp, user)
        token = await self.good_token(otp, user, device)
        assert await otp.verify_token(user, device.persistent_id, token) == device
        assert await otp.verify_token(user, device.persistent_id, token) is None

    async def test_match_token_finds_the_device(self, otp: OTP, user: Any) -> None:
        """Without a chosen device the token finds it, and stamps its last use."""
        device = await self.make_device(otp, user)
        assert await otp.match_token(user, await self.good_token(otp, user, device)) == device
        assert (await self.stored(otp, device)).last_used_at is not None

    async def test_one_of_many_concurrent_uses_wins(self, otp: OTP, user: Any) -> None:
        """Of many uses of one token at once exactly one is accepted."""
        device = await self.make_device(otp, user)
        token = await self.good_token(otp, user, device)
        uses = [otp.verify_token(user, device.persistent_id, token) for _ in range(self.attempts)]
        assert sum(found is not None for found in await asyncio.gather(*uses)) == 1

    async def test_failures_lock_the_device(self, otp: OTP, user: Any) -> None:
        """A wrong token counts and locks; a good one is refused meanwhile and not counted."""
        device = await self.make_device(otp, user)
        token = await self.good_token(otp, user, device)
        assert await otp.verify_token(user, device.persistent_id, self.wrong_token) is None
        assert await otp.verify_token(user, device.persistent_id, token) is None
        stored = await self.stored(otp, device)
        assert stored.throttling_failure_count == 1
        allowed, evidence = await stored.verify_is_allowed()
        assert not allowed
        assert evidence["failure_count"] == 1
        assert evidence["locked_until"] > clock.now()

    async def test_another_users_device_is_none(self, otp: OTP, user: Any, other_user: Any) -> None:
        """With another user's device id a good token is worth nothing, and nothing changes."""
        device = await self.make_device(otp, user)
        token = await self.good_token(otp, user, device)
        assert await otp.verify_token(other_user, device.persistent_id, token) is None
        assert (await self.stored(otp, device)).throttling_failure_count == 0
        assert await otp.verify_token(user, device.persistent_id, token) == device

    async def test_an_unconfirmed_device_verifies_nothing(self, otp: OTP, user: Any) -> None:
        """Only `confirm_device` asks an unconfirmed device, and then it verifies."""
        device = await self.make_device(otp, user)
        token = await self.good_token(otp, user, device)
        await self._set_confirmed(otp, device, False)
        assert await otp.verify_token(user, device.persistent_id, token) is None
        assert await otp.match_token(user, token) is None
        assert (await self.stored(otp, device)).throttling_failure_count == 0
        assert await otp.confirm_device(user, device.persistent_id, token) == device
        assert (await self.stored(otp, device)).confirmed

    async def test_any_garbage_is_refused(self, otp: OTP, user: Any) -> None:
        """Letters, nothing, NUL bytes and ten thousand characters are wrong tokens, no errors."""
        device = await self.make_device(otp, user)
        for token in ("", "letters", "\0", "\ud800", "9" * 10_000, "\uff11" * 6):
            assert await otp.match_token(user, token) is None
            assert await otp.verify_token(user, device.persistent_id, token) is None

    async def _set_confirmed(self, otp: OTP, device: Any, confirmed: bool) -> None:
        async def work(session: AsyncSession) -> None:
            row = await session.get(type(device), device.id)
            assert row is not None
            row.confirmed = confirmed

        await otp.write(work)
