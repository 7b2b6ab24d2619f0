"""Users are a SQLModel class; devices stand beside it, on SQLModel's own metadata."""

import uuid

from sqlalchemy.orm import DeclarativeBase
from sqlmodel import Field, SQLModel

from starlette_otp.devices import (
    DeviceMixin,
    LoginThrottleMixin,
    OTPSessionMixin,
    TOTPDeviceMixin,
)


class User(SQLModel, table=True):
    """Under these names OTP's own log-in page finds what it wants."""

    __tablename__ = "members"
    id: uuid.UUID = Field(default_factory=uuid.uuid4, primary_key=True)
    username: str = Field(unique=True)
    password_hash: str
    is_active: bool = True


class Base(DeclarativeBase):
    metadata = SQLModel.metadata


class Device(DeviceMixin, Base):
    __user_model__ = User


class TOTPDevice(TOTPDeviceMixin, Device):
    issuer = "Acme"


class OTPSession(OTPSessionMixin, Base):
    __device_model__ = Device


class LoginThrottle(LoginThrottleMixin, Base):
    __device_model__ = Device
