"""Users are advanced-alchemy's UUIDBase; devices stand on a base of the same registry."""

from advanced_alchemy.base import DefaultBase, UUIDBase, orm_registry

from starlette_otp.devices import (
    DeviceMixin,
    LoginThrottleMixin,
    OTPSessionMixin,
    TOTPDeviceMixin,
    UserMixin,
)


class User(UserMixin, UUIDBase):
    __tablename__ = "members"


class Base(DefaultBase):
    __abstract__ = True
    registry = orm_registry


class Device(DeviceMixin, Base):
    __user_model__ = User


class TOTPDevice(TOTPDeviceMixin, Device):
    issuer = "Acme"


class OTPSession(OTPSessionMixin, Base):
    __device_model__ = Device


class LoginThrottle(LoginThrottleMixin, Base):
    __device_model__ = Device
