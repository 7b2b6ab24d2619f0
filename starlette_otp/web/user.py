"""`request.user`: a user object with this request's device attached, itself or behind a proxy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from starlette.authentication import UnauthenticatedUser


class Anonymous(UnauthenticatedUser):
    """Nobody, of one request."""

    otp_device: Any = None

    def is_verified(self) -> bool:
        """False."""
        return False


class RequestUser:
    """A user object of the host's with this request's `otp_device` and `is_verified()`.

    It passes everything else on: the host may share one user object between requests, or have
    frozen it, so nothing is ever written on it.
    """

    __slots__ = ("__wrapped__", "otp_device")

    def __init__(self, user: Any, device: Any | None) -> None:
        object.__setattr__(self, "__wrapped__", user)
        object.__setattr__(self, "otp_device", device)

    def is_verified(self) -> bool:
        return self.otp_device is not None

    @property  # type: ignore[misc]  # typeshed has it settable
    def __class__(self) -> type[Any]:
        # isinstance(request.user, User) goes on being true.
        cls: type[Any] = type(self.__wrapped__)
        return cls

    def __getattr__(self, name: str) -> Any:
        if name in self.__slots__:  # being copied: there is no user yet to ask
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __setattr__(self, name: str, value: Any) -> None:
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

    Args:
        user: the user.
        device: what verified them, or None.
        own: nobody but this request has this object, so attributes may be set on it.
    """
    if not own:
        return RequestUser(unwrapped(user), device)
    user.otp_device = device
    for name in _lacking(user.__class__):
        setattr(user, name, _OURS[name](user))
    return user


_OURS: dict[str, Callable[[Any], Any]] = {
    "is_verified": lambda user: lambda: user.otp_device is not None,
    "is_authenticated": lambda user: True,
    "display_name": lambda user: str(getattr(user, "username", "")),
}


@cache
def _lacking(model: type[Any]) -> Sequence[str]:
    return [name for name in _OURS if not hasattr(model, name)]
