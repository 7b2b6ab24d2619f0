"""`request.user`: a user object with this request's device attached, itself or behind a proxy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from starlette.authentication import UnauthenticatedUser

from starlette_otp.devices.declared import has_own
from starlette_otp.devices.users import called


class Anonymous(UnauthenticatedUser):
    """Nobody, of one request."""

    otp_device: Any = None

    def is_verified(self) -> bool:
        """False."""
        return False


class RequestUser:
    """A user object of the host's with this request's `otp_device` and `is_verified()`.

    It passes everything else on, and these too where the host has its own: the host may share one
    user object between requests, or have frozen it, so nothing is ever written on it.
    """

    __slots__ = ("__wrapped__", "_verified_by")

    def __init__(self, user: Any, device: Any | None) -> None:
        object.__setattr__(self, "__wrapped__", user)
        object.__setattr__(self, "_verified_by", device)

    @property  # type: ignore[misc]  # typeshed has it settable
    def __class__(self) -> type[Any]:
        # isinstance(request.user, User) goes on being true.
        cls: type[Any] = type(self.__wrapped__)
        return cls

    def __getattr__(self, name: str) -> Any:
        if name in self.__slots__:  # being copied: there is no user yet to ask
            raise AttributeError(name)
        user = self.__wrapped__
        if name not in _OURS or is_theirs(user, name):
            return getattr(user, name)
        ours = _OURS[name](user, self._verified_by)
        # Whether they are authenticated a lazy object may know from another that stands behind it.
        return getattr(user, name, ours) if name in _LACKED else ours

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "otp_device" and not is_theirs(self.__wrapped__, name):
            name = "_verified_by"
        if name in self.__slots__:
            object.__setattr__(self, name, value)
        else:
            setattr(self.__wrapped__, name, value)

    def __eq__(self, other: object) -> bool:
        return bool(self.__wrapped__ == unwrapped(other))

    def __hash__(self) -> int:
        return hash(self.__wrapped__)

    def __bool__(self) -> bool:
        return bool(self.__wrapped__)

    def __str__(self) -> str:
        return str(self.__wrapped__)

    def __repr__(self) -> str:
        return repr(self.__wrapped__)


def unwrapped(user: Any) -> Any:
    """The host's own user object."""
    return user.__wrapped__ if type(user) is RequestUser else user


def attach(user: Any, device: Any | None, own: bool = False) -> Any:
    """`user` with `otp_device` and `is_verified()`: itself or a proxy.

    What the host's class or object has of these names stays the host's.

    Args:
        user: the user.
        device: what verified them, or None.
        own: nobody but this request has this object, so attributes may be set on it.
    """
    attributes = getattr(user, "__dict__", None) if own else None
    if attributes is None or type(user) is RequestUser:
        return RequestUser(unwrapped(user), device)
    for name in _settable(user.__class__):
        if not is_theirs(user, name):
            # Past the class, which may refuse a name that it does not know.
            attributes[name] = _OURS[name](user, device)
    return user


def device_of(user: Any) -> Any | None:
    """What `otp_device` says of a user, where that name is ours; None where it is the host's."""
    if type(user) is RequestUser:
        return user._verified_by
    is_ours = not _has_own(type(user), "otp_device")
    return getattr(user, "otp_device", None) if is_ours else None


def is_theirs(user: Any, name: str) -> bool:
    """Whether a user object has an attribute of that name that is the host's own.

    `otp_device` is that by its class alone: an object may have it from another request.
    """
    if _has_own(type(user), name):
        return True
    value = None if name == "otp_device" else getattr(user, "__dict__", _NOTHING).get(name)
    return value is not None and type(value) is not _Answer


class _Answer:
    """What `is_verified()` answers, without holding on to the user who has it."""

    __slots__ = ("verified",)

    def __init__(self, verified: bool) -> None:
        self.verified = verified

    def __call__(self) -> bool:
        return self.verified


_NOTHING: dict[str, Any] = {}
_OURS: dict[str, Callable[[Any, Any], Any]] = {
    "otp_device": lambda user, device: device,
    "is_verified": lambda user, device: _Answer(device is not None),
    "is_authenticated": lambda user, device: True,
    "display_name": lambda user, device: called(user),
}
_LACKED = ("is_authenticated", "display_name")
"""Those that say nothing of a device: ours only for want of the host's."""

_has_own: Callable[[Any, str], bool] = cache(has_own)


@cache
def _settable(model: Any) -> Sequence[str]:
    """The device, and what the class has not got from UserMixin."""
    return [name for name in _OURS if name == "otp_device" or not hasattr(model, name)]
