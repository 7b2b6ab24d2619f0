"""Devices by JSON: listed, added, confirmed, renamed and removed by whose they are."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.exc import IntegrityError

from starlette_otp.account import qr
from starlette_otp.account.devices import offered
from starlette_otp.account.forms import MAX_NAME
from starlette_otp.account.pending import begun_here, is_waiting, note
from starlette_otp.account.recovery_codes import codes_left
from starlette_otp.api import models
from starlette_otp.api.call import Call, Refused, invalid
from starlette_otp.api.shown import session_of, shown
from starlette_otp.api.tokens import attempt, challenge_by, no_such_device, refused_token
from starlette_otp.devices.otpauth import OTPAuthMixin
from starlette_otp.devices.owner import is_clean_text
from starlette_otp.devices.policies import VerificationFailure
from starlette_otp.devices.static import StaticDeviceMixin
from starlette_otp.devices.users import called
from starlette_otp.devices.words import plain_name, shown_names
from starlette_otp.exceptions import DeviceRejected, LastDevice, TooManyPending
from starlette_otp.web.login import verify_session


async def list_devices(call: Call) -> models.Devices:
    """The user's devices, and those that wait to be confirmed."""
    await call.let_through(changes=False)
    found = await call.otp.enrolment.devices_for_user(call.user, None)
    listed = [one for one in found if one.confirmed or is_waiting(one)]
    labels = shown_names(listed, call.user)
    devices = [shown(call, one, label) for one, label in zip(listed, labels, strict=True)]
    return models.Devices(devices=devices)


async def add_device(call: Call) -> models.Enrolment:
    """Begin a device, which counts once its first token has confirmed it.

    What an app needs is shown this once; a device that sends codes sends the first.
    """
    await call.let_through(enrols=True)
    body = await call.body(models.NewDevice)
    kinds = {kind.__kind__: kind for kind in offered(call.otp.device_model)}
    kind = kinds.get(body.kind)
    if kind is None:
        raise invalid("kind")
    values = _values(kind, body)
    device, unless = _new(kind, _name(body.name), values), None
    if kind.enrolment_fields and not issubclass(kind, OTPAuthMixin):
        # Asked for twice it is the same one.
        unless = begun_here(call.request, kind, values)
    try:
        added = await call.otp.enrolment.add_device(call.user, device, unless)
    except TooManyPending as exc:
        raise Refused(409, "too_many_pending", str(exc)) from None
    except IntegrityError:
        # The user has gone meanwhile.
        raise Refused(401, "session_expired", "The session has ended meanwhile.") from None
    note(call.request, added)
    sent = None
    if added.is_interactive():
        try:
            sent = await challenge_by(call, call.user, added.persistent_id, confirming=True)
        except Refused:
            if added is device:
                await call.otp.enrolment.remove_device(call.user, added.persistent_id)
            raise
    return _enrolment(call, added, sent, _setup(call, added))


async def challenge_again(call: Call) -> models.Enrolment:
    """Let a device that waits to be confirmed send its code once more."""
    await call.let_through(enrols=True)
    device = await _waiting(call)
    sent = await challenge_by(call, call.user, device.persistent_id, confirming=True)
    return _enrolment(call, device, sent, None)


async def confirm_device(call: Call) -> models.Confirmed:
    """Confirm a device with its first token, which is spent by it.

    The first one verifies the session. Recovery codes come along where there are none; they count
    at once.
    """
    await call.let_through(enrols=True)
    body = await call.body(models.Confirmation)
    name = None if body.name is None else _name(body.name)
    device_id = (await _waiting(call)).persistent_id
    tried = await attempt(call, call.user, body.token, device_id, confirming=True)
    if tried.reason is VerificationFailure.NO_DEVICE:
        # Another one was confirmed first, elsewhere: this one wants a verification by that.
        await call.let_through(enrols=True)
    if tried.device is None:
        raise await refused_token(call, tried, device_id)
    device = tried.device
    if name:
        device = await call.otp.enrolment.rename_device(call.user, device_id, name) or device
    return await _confirmed(call, device)


async def _confirmed(call: Call, device: Any) -> models.Confirmed:
    if call.verdict.device is None:
        try:
            await verify_session(call.request, device, is_first=True)
        except DeviceRejected:
            # Removed, or signed out, elsewhere meanwhile.
            raise Refused(401, "session_expired", "The session has ended meanwhile.") from None
    made_tokens = None
    if await codes_left(call.request) == 0:
        made_tokens = await call.otp.recovery_codes.make_first(call.user)
    made = models.Confirmed if call.transport == "cookie" else models.BearerConfirmed
    session: Any = await session_of(call)
    return made(device=shown(call, device), session=session, recovery_codes=made_tokens)


async def rename_device(call: Call) -> models.Device:
    """Give a device another name."""
    await call.let_through()
    body = await call.body(models.NewName)
    name = _name(body.name)
    if not name:
        raise invalid("name")
    device = await call.otp.enrolment.rename_device(call.user, _id_of(call), name)
    if device is None:
        raise no_such_device()
    return shown(call, device)


async def remove_device(call: Call) -> None:
    """Take a device away, or give up one that is not confirmed yet."""
    await call.let_through(enrols=True)
    keeps_one = await call.otp.requirement.is_due(call.user)
    try:
        client = call.client
        removed = await call.otp.enrolment.remove_device(
            call.user, _id_of(call), keeps_one, client.address, client.agent
        )
    except LastDevice:
        detail = "You have to have a device, and this is the last one. Please add another first."
        raise Refused(403, "last_device", detail) from None
    if removed is None:
        raise no_such_device()


async def _waiting(call: Call) -> Any:
    """The device of the path, which waits for its first token."""
    found = await call.otp.enrolment.devices_for_user(call.user, None)
    device = next((one for one in found if one.persistent_id == _id_of(call)), None)
    if device is None or isinstance(device, StaticDeviceMixin):
        raise no_such_device()
    if device.confirmed:
        raise Refused(409, "already_confirmed", "This device is confirmed already.")
    if device.pending_expired:
        raise Refused(410, "enrolment_expired", "This has taken too long. Please begin again.")
    if not device.is_pending:
        raise no_such_device()
    return device


def _id_of(call: Call) -> str:
    parameters = call.request.path_params
    return f"{parameters['kind']}/{parameters['id']}"


def _name(text: str) -> str:
    """A name for a device; it may be nothing."""
    name = plain_name(text)
    if name is None or len(name) > MAX_NAME or not is_clean_text(name):
        raise invalid("name")
    return name


def _values(kind: Any, body: models.NewDevice) -> dict[str, str]:
    """What the kind asks for, each a text that fits its column."""
    columns, given = inspect(kind).columns, body.model_extra or {}
    values = {}
    for field in kind.enrolment_fields:
        text = given.get(field)
        if text is None or text == "":
            raise invalid(field, "required")
        longest = getattr(columns[field].type, "length", None)
        if not isinstance(text, str) or not is_clean_text(text.strip()):
            raise invalid(field)
        if not text.strip() or (longest is not None and len(text.strip()) > longest):
            raise invalid(field)
        values[field] = text.strip()
    return values


def _new(kind: Any, name: str, values: dict[str, str]) -> Any:
    try:
        return kind(confirmed=False, name=name, **values)
    except ValueError as exc:
        # Of the kind's own columns: it says what it takes.
        raise invalid(next(iter(values), "kind"), detail=str(exc)) from None


def _setup(call: Call, device: Any) -> models.Setup | None:
    if not isinstance(device, OTPAuthMixin):
        return None
    app: Any = device
    secret_url = app.config_url(called(call.user)[:64])
    secret = qr.grouped(app.secret).replace(" ", "")
    return models.Setup(secret=secret, otpauth_url=secret_url, qr_svg=qr.svg(secret_url))


def _enrolment(
    call: Call, device: Any, sent: models.Challenge | None, setup: models.Setup | None
) -> models.Enrolment:
    age = device.pending_max_age
    expires_at: datetime | None = (
        None if age is None else device.created_at + timedelta(seconds=age)
    )
    return models.Enrolment(
        device=shown(call, device), setup=setup, challenge=sent, expires_at=expires_at
    )
