"""What a kind of device is called, what it starts with, and how a host may map it."""

from typing import Any

import pytest
from sqlalchemy import BigInteger, Integer, String, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import Mapped, mapped_column, relationship

from starlette_otp import OTP, ConfigurationError
from starlette_otp.devices import (
    DeviceMixin,
    EmailDeviceMixin,
    HOTPDeviceMixin,
    StaticDeviceMixin,
    TOTPDeviceMixin,
)
from starlette_otp.testing import averify
from tests import hosts
from tests.hosts import make_host
from tests.support import SECRET_KEY, add, totp_token
from tests.third_party import WORD, application, password_of_the_day

MIXINS = (TOTPDeviceMixin, HOTPDeviceMixin, EmailDeviceMixin, StaticDeviceMixin)


def of_mixin(mixin: Any) -> Any:
    return lambda device: type(f"{mixin.__kind__}Device", (mixin, device), {})


@pytest.mark.parametrize("order", [MIXINS, MIXINS[::-1], MIXINS[2:] + MIXINS[:2]])
async def test_the_order_of_kinds_changes_no_default(
    empty_engine: AsyncEngine, order: tuple[Any, ...]
) -> None:
    """Kinds share columns with others, a third party's among them, but no default."""
    base = hosts.new_base()
    device = hosts.devices_of(base, hosts.int_users(base))

    def other(device: Any) -> type[Any]:
        class OtherDevice(device):
            digits: Mapped[int | None] = mapped_column(Integer, use_existing_column=True)
            counter: Mapped[int | None] = mapped_column(BigInteger, use_existing_column=True)
            __kind_defaults__ = {"digits": 9}

        return OtherDevice

    first, second, *rest = [of_mixin(mixin) for mixin in order]
    kinds = [declare(device) for declare in (first, second, other, *rest)]
    hosts.tokens_of(base, device)
    hosts.sessions_of(base, device)
    async with empty_engine.begin() as connection:
        await connection.run_sync(base.metadata.create_all)
    sessions = async_sessionmaker(empty_engine, expire_on_commit=False)
    OTP(sessions, device, secret_key=SECRET_KEY)
    alice = await add(sessions, device.__user_model__(username="alice"))
    await add(sessions, *(kind(user_id=alice.id) for kind in kinds))
    names = "digits, tolerance, algorithm, step, t0, drift, last_t, counter, token_shape, confirmed"
    async with empty_engine.connect() as connection:
        rows = await connection.execute(text(f"SELECT kind, {names} FROM otp_device"))
        values = {kind: tuple(rest) for kind, *rest in rows}
    assert values == {
        "totp": (6, 1, "SHA1", 30, 0, 0, -1, None, None, True),
        "hotp": (6, 5, "SHA1", None, None, None, None, 0, None, True),
        "email": (*[None] * 9, True),
        "static": (*[None] * 8, "made", True),
        "other": (9, *[None] * 8, True),
    }


def named(class_name: str, **members: Any) -> Any:
    def declare(device: Any) -> type[Any]:
        async def check_token(self: Any, token: str) -> bool:
            return bool(token == self.word)

        own = {"check_token": check_token, "word": mapped_column(String(32), nullable=True)}
        return type(class_name, (device,), {**own, **members})

    return declare


@pytest.mark.parametrize(
    ("class_name", "members", "kind"),
    [
        ("YubiKeyDevice", {}, "yubikey"),
        ("Badge", {}, "badge"),
        ("Device", {}, "device"),
        ("SMSDevice", {"__kind__": "acme.sms-2"}, "acme.sms-2"),
        ("Beeper", {"__mapper_args__": {"polymorphic_identity": "beep"}}, "beep"),
    ],
)
async def test_the_name_of_a_kind(
    empty_engine: AsyncEngine, class_name: str, members: dict[str, Any], kind: str
) -> None:
    """It is the class's name, or `__kind__`, or the mapper's own identity; each is found with its
    columns by every call."""
    host = await application(empty_engine, named(class_name, **members))
    (model,) = host.kinds.values()
    device = await add(host.sessions, model(user_id=host.alice.id, word=WORD))
    assert device.persistent_id == f"{kind}/{device.id}"
    assert host.otp.device_model.kinds()[kind] is model
    (found,) = await host.otp.devices_for_user(host.alice)
    assert found.word == WORD
    assert await host.otp.verify_token(host.alice, device.persistent_id, WORD) == device
    assert await host.otp.match_token(host.alice, WORD) == device
    async with host.browser() as browser:
        await averify(browser, host.otp, host.alice)
        assert (await browser.state())["device"] == device.persistent_id


@pytest.mark.parametrize(
    ("declare", "words"),
    [
        (named("X" * 40), "kind"),
        (named("_Card"), "'_card'"),
        (named("Card", __mapper_args__={"polymorphic_identity": "Smart card"}), "'Smart card'"),
        (named("StaticCard", __kind__="static"), "StaticDevice and StaticCard are both"),
    ],
)
async def test_a_kind_that_cannot_be_one(declare: Any, words: str) -> None:
    """What does not fit into a persistent id, or is taken, is refused when OTP is made."""
    models = make_host()
    _declared = declare(models.Device)  # SQLAlchemy holds it weakly
    with pytest.raises(ConfigurationError, match=words):
        OTP(async_sessionmaker(), models.Device, secret_key=SECRET_KEY)


async def test_a_kind_derived_from_a_third_partys(empty_engine: AsyncEngine) -> None:
    """A kind under a kind has its parent's columns and check, and its own."""

    def declare(device: Any) -> type[Any]:
        class LoudWordDevice(password_of_the_day(device)):
            __kind__ = "loud"
            volume: Mapped[int | None] = mapped_column()

        return LoudWordDevice

    host = await application(empty_engine, declare)
    device = await host.make("loud", word=WORD, volume=11)
    (found,) = await host.otp.devices_for_user(host.alice)
    assert (type(found), found.volume) == (host.kinds["loud"], 11)
    assert await host.otp.match_token(host.alice, WORD) == device


@pytest.mark.parametrize("lazy", ["joined", "selectin", "select"])
async def test_a_relationship_loaded_eagerly(empty_engine: AsyncEngine, lazy: Any) -> None:
    """However a host loads its device's user, verifying locks the row and joins nothing."""
    base = hosts.new_base()
    user_model = hosts.int_users(base)

    class Device(DeviceMixin, base):
        __user_model__ = user_model
        user = relationship(user_model, lazy=lazy)

    totp = hosts.totp_of(Device)
    hosts.sessions_of(base, Device)
    async with empty_engine.begin() as connection:
        await connection.run_sync(base.metadata.create_all)
    sessions = async_sessionmaker(empty_engine, expire_on_commit=False)
    otp = OTP(sessions, Device, secret_key=SECRET_KEY)
    alice = await add(sessions, user_model(username="alice"))
    device = await add(sessions, totp(user_id=alice.id, secret=b"12345678901234567890"))
    found = await otp.verify_token(alice, device.persistent_id, totp_token())
    assert found == device
    if lazy != "select":
        assert found.user.username == "alice"
    assert await otp.match_token(alice, totp_token()) is None
