"""Pending devices: begun and not confirmed yet, and known to the browser that began them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_
from starlette.requests import Request

from starlette_otp import clock
from starlette_otp.devices.otpauth import OTPAuthMixin
from starlette_otp.devices.static import StaticDeviceMixin

_KEY = "otp_pending"
"""Where the session has the ids of devices that this browser has begun. No secret."""
_MOST = 5


def note(request: Request, device: Any) -> None:
    """Note that this browser has begun a device."""
    known = [one for one in _known(request) if one != device.id]
    request.session[_KEY] = " ".join(map(str, [*known, device.id][-_MOST:]))


def is_from_here(request: Request, device: Any) -> bool:
    """Whether this browser may go on with a device; with one that has a key, whether it began it.

    No other is shown the key: who has the password alone must neither see that of a device that
    its owner is about to confirm, nor have them confirm one whose key is known.
    """
    return not isinstance(device, OTPAuthMixin) or device.id in _known(request)


def begun_here(request: Request, kind: Any, values: dict[str, Any]) -> ColumnElement[bool]:
    """The condition on a device of that kind, with these values, that this browser goes on with."""
    wanted = [getattr(kind, name) == value for name, value in values.items()]
    wanted += [kind.confirmed.is_(False), kind.last_used_at.is_(None)]
    if issubclass(kind, OTPAuthMixin):
        wanted.append(kind.id.in_(_known(request)))
    if kind.pending_max_age is not None:
        since = clock.now() - timedelta(seconds=kind.pending_max_age)
        wanted.append(kind.created_at > since)
    return and_(*wanted)


def is_waiting(device: Any) -> bool:
    """Whether a device can still be confirmed; recovery codes have a page of their own."""
    is_static = isinstance(device, StaticDeviceMixin)
    return device.is_pending and not device.pending_expired and not is_static


def _known(request: Request) -> list[int]:
    ids = str(request.session.get(_KEY, "")).split()
    return [int(one) for one in ids if one.isascii() and one.isdigit()]
