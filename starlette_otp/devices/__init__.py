"""The device mixins, and the other mixins a host declares its tables with."""

from typing import TYPE_CHECKING, Any

from starlette_otp.devices.base import DeviceMixin
from starlette_otp.devices.email import EmailDeviceMixin
from starlette_otp.devices.hotp import HOTPDeviceMixin
from starlette_otp.devices.policies import (
    CooldownMixin,
    GenerateNotAllowed,
    ThrottlingMixin,
    TimestampMixin,
    VerifyNotAllowed,
)
from starlette_otp.devices.side_channel import SideChannelDeviceMixin
from starlette_otp.devices.static import StaticDeviceMixin, StaticTokenMixin
from starlette_otp.devices.totp import TOTPDeviceMixin

if TYPE_CHECKING:
    from starlette_otp.sessions import OTPSessionMixin
    from starlette_otp.users import UserMixin

__all__ = [
    "CooldownMixin",
    "DeviceMixin",
    "EmailDeviceMixin",
    "GenerateNotAllowed",
    "HOTPDeviceMixin",
    "OTPSessionMixin",
    "SideChannelDeviceMixin",
    "StaticDeviceMixin",
    "StaticTokenMixin",
    "TOTPDeviceMixin",
    "ThrottlingMixin",
    "TimestampMixin",
    "UserMixin",
    "VerifyNotAllowed",
]


def __getattr__(name: str) -> Any:
    # These two stand further down and import the devices themselves.
    if name == "OTPSessionMixin":
        from starlette_otp.sessions import OTPSessionMixin

        return OTPSessionMixin
    if name == "UserMixin":
        from starlette_otp.users import UserMixin

        return UserMixin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
