"""What is stored: the mixins a host declares its tables with, one file a kind of device."""

from starlette_otp.devices.agents import AgentMixin
from starlette_otp.devices.base import DeviceMixin
from starlette_otp.devices.email import EmailDeviceMixin
from starlette_otp.devices.hotp import HOTPDeviceMixin
from starlette_otp.devices.limits import ChallengeLimitMixin
from starlette_otp.devices.policies import (
    CooldownMixin,
    GenerateNotAllowed,
    ThrottlingMixin,
    TimestampMixin,
    VerificationFailure,
    VerifyNotAllowed,
)
from starlette_otp.devices.sessions import OTPSessionMixin
from starlette_otp.devices.side_channel import SideChannelDeviceMixin
from starlette_otp.devices.static import StaticDeviceMixin, StaticTokenMixin
from starlette_otp.devices.throttle import LoginThrottleMixin
from starlette_otp.devices.totp import TOTPDeviceMixin
from starlette_otp.devices.users import UserMixin, normal_name
from starlette_otp.oath import secret_from_base32

__all__ = [
    "AgentMixin",
    "ChallengeLimitMixin",
    "CooldownMixin",
    "DeviceMixin",
    "EmailDeviceMixin",
    "GenerateNotAllowed",
    "HOTPDeviceMixin",
    "LoginThrottleMixin",
    "OTPSessionMixin",
    "SideChannelDeviceMixin",
    "StaticDeviceMixin",
    "StaticTokenMixin",
    "TOTPDeviceMixin",
    "ThrottlingMixin",
    "TimestampMixin",
    "UserMixin",
    "VerificationFailure",
    "VerifyNotAllowed",
    "normal_name",
    "secret_from_base32",
]
