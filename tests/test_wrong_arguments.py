"""Wrong arguments are errors that say what is meant, never a "no"."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Mapped, mapped_column, sessionmaker

from starlette_otp import OTP, ConfigurationError
from starlette_otp.devices import DeviceMixin, TOTPDeviceMixin, UserMixin
from starlette_otp.models import Device, TOTPDevice, User
from starlette_otp.web.user import attach
from tests import hosts
from tests.support import (
    SECRET_KEY,
    Browser,
    Sessions,
    add,
    door,
    make_app,
    make_totp,
    reload,
    totp_token,
)

CALLS: dict[str, Callable[[OTP, Any, Any], Any]] = {
    "verify_token": lambda otp, user, device: otp.verify_token(user, device, "000000"),
    "confirm_device": lambda otp, user, device: otp.confirm_device(user, device, "000000"),
    "generate_challenge": lambda otp, user, device: otp.generate_challenge(user, device),
    "remove_device": lambda otp, user, device: otp.remove_device(user, device),
    "resynchronize": lambda otp, user, device: otp.resynchronize(user, device, "1", "2"),
}


async def test_a_device_is_named_by_its_persistent_id(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """A device, its number or anything else for its persistent id is a TypeError that says so;
    nothing was tried, counted or removed. A missing id names no device."""
    device = await make_totp(sessions, alice)
    for name, call in CALLS.items():
        for wrong in (device, device.id, True, b"totp/1", [device.persistent_id]):
            with pytest.raises(TypeError, match="named by its persistent_id, a str"):
                await call(otp, alice, wrong)
        assert await call(otp, alice, None) is None, name
    found = await reload(sessions, device)
    assert found.throttling_failure_count == 0
    assert await otp.verify_token(alice, device.persistent_id, totp_token()) == device


async def test_sessions_are_revoked_of_a_device_or_a_user(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """An id or a class revokes nothing, and says so; the sessions go with the device itself."""
    device = await make_totp(sessions, alice)
    async with Browser(make_app(otp, door(otp, alice, device))) as browser:
        await browser.get("/enter")
        for wrong in (device.persistent_id, alice.id, "alice", TOTPDevice, User):
            with pytest.raises(TypeError, match="takes a device or a user"):
                await otp.revoke_sessions(wrong)
        assert (await browser.state())["verified"]
        await otp.revoke_sessions(device)
        assert not (await browser.state())["verified"]


ENGINE = create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:1/nothing")
MAKER = async_sessionmaker(ENGINE)


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (ENGINE, Device, r"not AsyncEngine: OTP\(async_sessionmaker\(engine\)"),
        (ENGINE.sync_engine, Device, "not Engine"),
        (sessionmaker(), Device, "not sessionmaker"),
        (MAKER(), Device, "not AsyncSession"),
        (async_scoped_session(MAKER, lambda: 1), Device, "not async_scoped_session"),
        (str(ENGINE.url), Device, "not str"),
        (None, Device, "not NoneType"),
        (MAKER, TOTPDevice, r"TOTPDevice is one kind of device.*: OTP\(\.\.\., Device\)\.$"),
        (MAKER, User, "User does not mix in DeviceMixin"),
        (MAKER, DeviceMixin, "DeviceMixin has no table"),
        (MAKER, TOTPDeviceMixin, "TOTPDeviceMixin"),
        (MAKER, "Device", "str does not mix in DeviceMixin"),
        (MAKER, None, "NoneType does not mix in DeviceMixin"),
    ],
)
def test_otp_is_made_of_a_sessionmaker_and_the_class_of_all_devices(
    first: Any, second: Any, says: str
) -> None:
    """Anything else is refused in a sentence that says what is meant."""
    with pytest.raises(ConfigurationError, match=says) as caught:
        OTP(first, second, secret_key=SECRET_KEY)
    assert str(caught.value).endswith(".")


async def test_a_user_of_another_class_is_nobody(empty_engine: AsyncEngine) -> None:
    """A row of another table that happens to have the same id is not our user: with a UserMixin
    of its own, behind a proxy, not yet saved, and a device, too."""
    models = hosts.make_host()

    base: Any = models.Device.__bases__[-1]

    class Admin(UserMixin, base):
        __tablename__ = "admins"
        id: Mapped[int] = mapped_column(primary_key=True)

    await models.create_tables(empty_engine)
    sessions = async_sessionmaker(empty_engine, expire_on_commit=False)
    otp = OTP(sessions, models.Device, secret_key=SECRET_KEY)
    alice = await add(sessions, models.User(username="alice"))
    admin = await add(sessions, Admin(username="admin"))
    device = await otp.add_device(alice, models.TOTPDevice())

    assert admin.id == alice.id
    for nobody in (admin, Admin(id=alice.id), attach(admin, None), device):
        assert await otp.devices_for_user(nobody, None) == []
        assert not await otp.user_has_device(nobody, None)
        with pytest.raises(ValueError, match="authenticated user"):
            await otp.add_device(nobody, models.TOTPDevice())
    assert await otp.devices_for_user(alice) == [device]
