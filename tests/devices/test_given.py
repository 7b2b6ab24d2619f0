"""What a host gives a device: its name, and a secret as people have it."""

import base64
from typing import Any

import pytest
from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

import starlette_otp
from starlette_otp import OTP, devices
from starlette_otp.devices import DeviceMixin, TOTPDeviceMixin, secret_from_base32
from starlette_otp.models import TOTPDevice, User
from tests.hosts import int_users, new_base
from tests.support import SECRET, Sessions, make_totp

BAD_NAMES = ["n" * 65, "nul\0", "lone \ud800", None, 7]


@pytest.mark.parametrize("name", BAD_NAMES, ids=["long", "nul", "surrogate", "none", "number"])
async def test_a_name_that_no_row_can_hold(
    otp: OTP, sessions: Sessions, alice: User, name: Any
) -> None:
    """It is a ValueError when it is set, in the constructor or later, and no error of SQL."""
    with pytest.raises(ValueError, match="name "):
        TOTPDevice(name=name)
    device = await make_totp(sessions, alice, name="n" * 64)
    with pytest.raises(ValueError, match="name "):
        device.name = name
    assert device.name == "n" * 64


def test_a_longer_name_where_the_host_has_room() -> None:
    """A host's own column says how long a name may be."""
    base = new_base()

    class Device(DeviceMixin, base):
        __user_model__ = int_users(base)
        name: Mapped[str] = mapped_column(String(100), default="")

    class TOTPDevice(TOTPDeviceMixin, Device): ...

    assert TOTPDevice(name="n" * 100).name == "n" * 100
    with pytest.raises(ValueError, match="at most 100 characters"):
        TOTPDevice(name="n" * 101)


WRITTEN = [
    "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ",
    "gezd gnbv gy3t qojq gezd gnbv gy3t qojq",
    "GEZD-GNBV-GY3T-QOJQ-gezd-gnbv-gy3t-qojq",
    "gezd\u00a0gnbv\u2013gy3tqojq\tgezdgnbvgy3tqojq\r\n",
]


@pytest.mark.parametrize("text", WRITTEN)
def test_a_secret_in_base_32(text: str) -> None:
    """RFC 4648 section 6: lower case, spaces, dashes are nothing."""
    assert secret_from_base32(text) == SECRET
    assert TOTPDevice(secret=secret_from_base32(text)).secret == SECRET


@pytest.mark.parametrize("length", range(16, 33))
def test_padding_may_be_there_or_not(length: int) -> None:
    """A secret of any length reads alike with its padding and without."""
    secret = bytes(range(length))
    written = base64.b32encode(secret).decode()
    assert secret_from_base32(written) == secret_from_base32(written.rstrip("=")) == secret


@pytest.mark.parametrize(
    "text", ["GEZDGNB1", "GEZDGNB0", "G", "GEZ=DG", "geßd", "\uff27\uff25\uff3a\uff24", "\ud800"]
)
def test_what_is_no_base_32(text: str) -> None:
    """It is a ValueError that says so and does not show what was typed."""
    with pytest.raises(ValueError, match="no base 32") as raised:
        secret_from_base32(text)
    assert text not in str(raised.value)


@pytest.mark.parametrize("secret", [WRITTEN[0], WRITTEN[1], None, bytearray(20)])
def test_a_secret_that_is_not_bytes(secret: Any) -> None:
    """The error says that a secret is bytes, and what makes them of base 32."""
    with pytest.raises(ValueError, match=r"is bytes, 16 bytes or more .*; secret_from_base32"):
        TOTPDevice(secret=secret)


def test_where_a_user_would_look() -> None:
    """The helper is in the package and among the devices."""
    assert starlette_otp.secret_from_base32 is devices.secret_from_base32
