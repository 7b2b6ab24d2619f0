"""What is said of sessions and devices in JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from starlette_otp import clock
from starlette_otp.api import models
from starlette_otp.api.call import Call
from starlette_otp.devices.users import called
from starlette_otp.devices.words import shown_names
from starlette_otp.web import ticket
from starlette_otp.web.claims import acr_of, amr_of
from starlette_otp.web.ways import in_order


async def session_of(
    call: Call, waiting: Any | None = None, sent: models.Challenge | None = None
) -> models.Session:
    """What is said of the session after the call.

    Args:
        call: the request.
        waiting: whose log-in waits for a token, if one does.
        sent: a code that was sent just now.
    """
    verdict, otp = call.verdict, call.otp
    user = call.user if waiting is None else waiting
    devices = await choices_of(call, user)
    began, expires_at = await _span(call) if waiting is None else (None, None)
    session: dict[str, Any] = {
        "state": "challenge_sent" if sent else await _state(call, waiting, devices),
        "login": None,
        "devices": devices,
        "challenge": sent,
        "user": None,
        "device": None,
        "verified_at": None,
        "expires_at": expires_at,
        "max_age_left": None,
        "trusted": verdict.by_trust,
        "amr": [],
        "acr": None,
    }
    if waiting is not None:
        session["login"] = call.request.session.get(ticket.TICKET_KEY)
    elif user is not None:
        session |= {"user": _user(call), "amr": amr_of(verdict), "acr": acr_of(verdict)}
        if verdict.device is not None:
            session["device"], session["verified_at"] = (
                shown(call, verdict.device),
                verdict.verified_at,
            )
        since = verdict.verified_at or (None if devices else began)
        session["max_age_left"] = None if since is None else _left(since, otp.reauthenticate_after)
    if call.transport == "cookie":
        return models.Session(**session)
    if verdict.token is not None and expires_at is not None:
        seconds = int((expires_at - clock.now()).total_seconds())
        session |= {"access_token": verdict.token, "token_type": "bearer", "expires_in": seconds}
    return models.BearerSession(**session)


async def _state(call: Call, waiting: Any | None, devices: Sequence[Any]) -> str:
    verdict = call.verdict
    if waiting is not None:
        return "token_required"
    if verdict.user is None:
        return "anonymous"
    if verdict.device is not None:
        return "verified"
    if not await call.otp.requirement.is_due(call.user):
        return "authenticated"
    if await call.otp.enrolment.user_has_device(call.user):
        return "authenticated" if call.otp.password_is_enough else "token_required"
    return "enrolment_required"


async def _span(call: Call) -> tuple[datetime | None, datetime | None]:
    session_id = call.verdict.session_id
    span = None if session_id is None else await call.otp.session_list.span(session_id)
    return (None, None) if span is None else span


def _left(since: datetime, max_age: float) -> int:
    return max(0, int((since + timedelta(seconds=max_age) - clock.now()).total_seconds()))


def _user(call: Call) -> models.User:
    key, user = call.otp.device_model.user_key(call.user), call.user
    return models.User(id=key if isinstance(key, int) else str(key), name=called(user))


async def choices_of(call: Call, user: Any | None) -> list[models.DeviceChoice]:
    """The confirmed devices that a user could be asked for, the one that was used last first."""
    if user is None:
        return []
    found = await call.otp.enrolment.devices_for_user(user)
    devices = in_order([device for device in found if device.missing_setting() is None])
    names = shown_names(devices, user)
    return [
        models.DeviceChoice(**_choice(device, name))
        for device, name in zip(devices, names, strict=True)
    ]


def shown(call: Call, device: Any, label: str | None = None) -> models.Device:
    """A device of the user's, called by its own name unless it has a label among others."""
    return models.Device(
        **_choice(device, label or device.shown_name(call.user)),
        confirmed=device.confirmed,
        created_at=device.created_at,
        last_used_at=device.last_used_at,
    )


def _choice(device: Any, label: str) -> dict[str, Any]:
    return {
        "id": device.persistent_id,
        "kind": device.kind,
        "name": device.name,
        "label": label,
        "interactive": device.is_interactive(),
        "locked_until": device.locked_until,
    }
