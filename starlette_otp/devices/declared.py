"""What a host has declared, checked when an OTP is made over it."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import inspect

from starlette_otp.devices.base import DeviceMixin
from starlette_otp.devices.owner import user_key_column
from starlette_otp.devices.persistent_id import parse_persistent_id
from starlette_otp.devices.policies import CooldownMixin
from starlette_otp.devices.static import StaticDeviceMixin
from starlette_otp.exceptions import ConfigurationError

logger = logging.getLogger("starlette_otp")


def check_declared(device_model: Any) -> None:
    """Refuse a device model that can't work.

    Raises:
        ConfigurationError: a class that is missing, two of one kind, a kind that can't be one or
            has a table of its own, a composite user key; in one sentence.
    """
    name = getattr(device_model, "__name__", type(device_model).__name__)
    if not isinstance(device_model, type) or not issubclass(device_model, DeviceMixin):
        raise ConfigurationError(
            f"OTP takes the class of the devices, and {name} does not mix in DeviceMixin."
        )
    mapper = inspect(device_model, raiseerr=False)
    if mapper is None:
        raise ConfigurationError(
            f"OTP takes the class of the devices, and {name} has no table: "
            "put DeviceMixin on a DeclarativeBase of yours."
        )
    if mapper.inherits is not None:
        raise ConfigurationError(
            f"{name} is one kind of device, and OTP takes the class of all kinds: "
            f"OTP(..., {mapper.base_mapper.class_.__name__})."
        )
    _check_kinds(device_model)
    if device_model.__user_model__ is not None:
        user_key_column(device_model.__user_model__)
    if device_model.__session_model__ is None:
        raise ConfigurationError(
            f"There is no session table for {name}: declare a class with OTPSessionMixin "
            f"and __device_model__ = {name}."
        )
    static = [c.__name__ for c in device_model.kinds().values() if issubclass(c, StaticDeviceMixin)]
    if static and device_model.__static_token_model__ is None:
        raise ConfigurationError(
            f"{static[0]} has no table for its tokens: declare a class with StaticTokenMixin "
            f"and __device_model__ = {name}."
        )


def warn_of_missing(device_model: type[DeviceMixin]) -> None:
    """Log one warning for each declared class that can't do its part, or not all of it."""
    for kind in device_model.kinds().values():
        if (missing := kind.missing_setting()) is not None:
            logger.warning("%s These devices are offered to nobody.", missing)
    waiting = [kind for kind in device_model.kinds().values() if issubclass(kind, CooldownMixin)]
    if waiting and device_model.__challenge_limit_model__ is None:
        logger.warning(
            "There is no table that counts challenges, so that every device waits alone and sends "
            "any number a day: declare a class with ChallengeLimitMixin and __device_model__ = %s.",
            device_model.__name__,
        )
    for name in ("is_verified", "otp_device"):
        user_model = device_model.__user_model__
        if user_model is not None and has_own(user_model, name):
            logger.warning(
                "%s.%s is yours and stays what it is; starlette_otp.%s(request) says ours.",
                *(user_model.__name__, name, name),
            )


def has_own(model: type[Any], name: str) -> bool:
    """Whether a class has an attribute of that name, from itself or a base, that is not ours."""
    owner = next((cls for cls in model.__mro__ if name in vars(cls)), None)
    return owner is not None and not owner.__module__.startswith("starlette_otp.")


def _check_kinds(device_model: type[DeviceMixin]) -> None:
    seen: dict[str, str] = {}
    for mapper in inspect(device_model).self_and_descendants:
        name = mapper.class_.__name__
        kind = mapper.polymorphic_identity or getattr(mapper.class_, "__kind__", None)
        if kind is None:
            continue
        if parse_persistent_id(f"{kind}/1")[0] != kind:
            raise ConfigurationError(
                f"{name} has the kind {kind!r}; a __kind__ is a letter and up to 31 letters, "
                "digits and marks of a-z, 0-9, '_', '.' and '-'."
            )
        if mapper.local_table is not inspect(device_model).local_table:
            raise ConfigurationError(
                f"{name} has a table of its own, and all kinds of device are in one: "
                f"leave out its __tablename__, and its columns are added to those of the devices."
            )
        if kind in seen:
            raise ConfigurationError(
                f"{seen[kind]} and {name} are both of kind {kind!r}; "
                "give one of them another __kind__."
            )
        seen[kind] = name
        fields = mapper.class_.enrolment_fields
        missing = [field for field in fields if field not in mapper.columns]
        if isinstance(fields, str) or missing:
            raise ConfigurationError(
                f"{name}.enrolment_fields is a tuple of the names of its columns, "
                f"as ('email',), and not {fields!r}."
            )
