"""The session: signed in, challenged, verified, and ended, by JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from starlette_otp import clock
from starlette_otp.api import models
from starlette_otp.api.call import Call, Refused
from starlette_otp.devices.policies import (
    CooldownMixin,
    GenerateNotAllowed,
    VerificationFailure,
    VerifyNotAllowed,
    refusal_in_words,
)
from starlette_otp.devices.words import shown_names
from starlette_otp.exceptions import RETRY_AFTER_SECONDS, DeliveryFailed, DeviceRejected
from starlette_otp.service.attempts import Attempt
from starlette_otp.service.challenges import Challenge
from starlette_otp.web import ticket
from starlette_otp.web.browser import remember
from starlette_otp.web.claims import acr_of, amr_of
from starlette_otp.web.login import log_in, log_out, login
from starlette_otp.web.password import authenticate
from starlette_otp.web.refusals import DETAILS, NOT_AUTHENTICATED, STATUS
from starlette_otp.web.user import attach
from starlette_otp.web.ways import in_order

_WRONG = "That code is not right, or was used before. Please check it."


async def show(call: Call) -> models.Session:
    """Who is signed in, and what comes next; for anonymous, too."""
    call.refuse_expired()
    if call.user is None and call.transport == "cookie":
        redeemed = await ticket.redeem(call.otp, call.request, "")
        if redeemed is not None:
            return await session_of(call, redeemed[0])
    return await session_of(call)


async def sign_in(call: Call) -> models.Session:
    """Sign in with name and password, and a token, or the token after that."""
    body = await call.body(models.SignIn)
    otp, request = call.otp, call.request
    former = ticket.token_of(otp, request)
    request.session.pop(ticket.TICKET_KEY, None)
    user = None
    if body.username and body.password:
        user = await authenticate(otp, request, body.username, body.password)
    if user is None:
        await otp.tickets.discard(former)
        raise Refused(401, "invalid_login", "That username and password do not match.")
    token = (body.token or "").strip()
    if await otp.requirement.is_lacking(user) or (otp.password_is_enough and not token):
        await otp.tickets.discard(former)
        return await _enter(call, user)
    if not token:
        await _wait(call, body.username, user, former)
        return await session_of(call, user)
    attempt = await _attempt(call, user, token, body.device)
    if attempt.device is None:
        await _wait(call, body.username, user, former)
        raise await refused_token(call, attempt, body.device, user)
    await otp.tickets.discard(former)
    return await _enter(call, attach(user, attempt.device))


async def challenge(call: Call) -> models.Session:
    """Let a device send a code: of who is signed in, or whose log-in waits for the token."""
    body = await call.body(models.ChallengeWanted)
    user, is_waiting = await _whose(call, body.login)
    sent = await challenge_by(call, user, body.device)
    return await session_of(call, user if is_waiting else None, sent)


async def verify(call: Call) -> models.Session:
    """Verify with a device's token: the second step of a log-in, or the step-up of a session."""
    body = await call.body(models.Token)
    user, is_waiting = await _whose(call, body.login)
    if not body.token.strip():
        raise Refused(400, "token_required", "Please enter the code.")
    attempt = await _attempt(call, user, body.token, body.device)
    if attempt.device is None:
        raise await refused_token(call, attempt, body.device, user if is_waiting else None)
    if is_waiting:
        held = ticket.token_of(call.otp, call.request)
        call.request.session.pop(ticket.TICKET_KEY, None)
        if not await call.otp.tickets.discard(held):
            # A copy of it was faster.
            raise _login_expired()
        return await _enter(call, attach(user, attempt.device))
    try:
        await login(call.request, attempt.device)
    except DeviceRejected:
        raise Refused(401, "session_expired", "The session has ended meanwhile.") from None
    return await session_of(call)


async def sign_out(call: Call) -> None:
    """Sign out: the session ends, wherever else its token may be."""
    await log_out(call.request)


async def _enter(call: Call, user: Any) -> models.Session:
    try:
        await log_in(call.request, user)
    except DeviceRejected:
        # The device or the user went between the check and the session.
        raise Refused(401, "invalid_login", "Please sign in again.") from None
    verdict = call.verdict
    has_device = verdict.device is not None or await call.otp.enrolment.user_has_device(user)
    if not has_device and call.otp.password_is_enough and verdict.user is not None:
        remember(call.request, verdict, user)
    if verdict.held is not None:
        verdict.user, verdict.held = verdict.held, None
    return await session_of(call)


async def _wait(call: Call, username: str, user: Any, former: str | None) -> None:
    """Let a ticket stand for the password."""
    otp = call.otp
    if not otp.users.can_be_loaded:
        raise Refused(400, "token_required", "Send name, password and code together.")
    if not await ticket.issue(otp, call.request, username, user, former):
        raise Refused(401, "invalid_login", "That username and password do not match.")


async def _whose(call: Call, login_given: str | None) -> tuple[Any, bool]:
    """The user who is to be verified, and whether their log-in waits for it."""
    if login_given is not None:
        call.request.session[ticket.TICKET_KEY] = login_given
    elif call.user is not None:
        return call.user, False
    call_has_none = ticket.TICKET_KEY not in call.request.session
    if call_has_none:
        call.refuse_expired()
        raise Refused(STATUS[NOT_AUTHENTICATED], NOT_AUTHENTICATED, DETAILS[NOT_AUTHENTICATED])
    redeemed = await ticket.redeem(call.otp, call.request, "")
    if redeemed is None:
        raise _login_expired()
    return redeemed[0], True


def _login_expired() -> Refused:
    return Refused(410, "login_expired", "This log-in has taken too long. Please begin again.")


async def _attempt(call: Call, user: Any, token: str, device_id: str | None) -> Attempt:
    return await call.otp.verification.attempt(
        user,
        token,
        device_id,
        asking_browser=call.asking_browser,
        address=call.client.address,
        agent=call.client.agent,
    )


async def refused_token(
    call: Call, attempt: Attempt, device_id: str | None, waiting: Any | None = None
) -> Refused:
    """Why no device accepted a token.

    Args:
        call: the request.
        attempt: what became of it.
        device_id: of the one device that was to be asked, or None when it was any.
        waiting: whose log-in still waits for a token, if one does.
    """
    if device_id is not None and attempt.reason is VerificationFailure.NO_DEVICE:
        return no_such_device()
    more: dict[str, Any] = {}
    if waiting is not None:
        more["login"] = call.request.session.get(ticket.TICKET_KEY)
        more["devices"] = await choices_of(call, waiting)
    refusal = attempt.refusal
    if refusal is None:
        return Refused(400, "invalid_token", _WRONG, **more)
    if refusal.get("reason") == VerifyNotAllowed.N_FAILED_ATTEMPTS:
        until = refusal.get("locked_until")
        when = "once it was reset" if until is None else clock.in_words(until)
        detail = f"There were too many wrong codes. Please try again {when}."
        return Refused(429, "n_failed_attempts", detail, locked_until=until, **more)
    detail = str(refusal.get("error_message", "This device can't be used now."))
    return Refused(403, "verification_not_allowed", detail, **more)


def no_such_device() -> Refused:
    """404: none of the user's devices has that id."""
    return Refused(404, "no_such_device", "There is no such device.")


async def challenge_by(
    call: Call, user: Any, device_id: str, confirming: bool = False
) -> models.Challenge:
    """Let one of the user's devices send a code.

    Raises:
        Refused: it is none of theirs, sends none, or not now.
    """
    try:
        given = await call.otp.challenges.ask(
            user, device_id, call.asking_browser, confirming=confirming
        )
    except DeliveryFailed:
        detail = "The code could not be sent. Please try again later."
        raise Refused(503, "challenge_exception", detail, retry_after=RETRY_AFTER_SECONDS) from None
    if given.refusal is not None:
        raise _no_challenge(given.refusal)
    if given.message is None:
        devices = await call.otp.enrolment.devices_for_user(user, None if confirming else True)
        if all(device.persistent_id != device_id for device in devices):
            raise no_such_device()
        raise Refused(400, "not_interactive", "This device sends no codes.")
    return _challenge(given)


def _no_challenge(refusal: dict[str, Any]) -> Refused:
    detail = refusal_in_words(refusal)
    if refusal.get("reason") == VerifyNotAllowed.N_FAILED_ATTEMPTS:
        until = refusal.get("locked_until")
        return Refused(429, "n_failed_attempts", detail, locked_until=until)
    if refusal.get("reason") in list(GenerateNotAllowed):
        return Refused(429, "cooldown", detail, next_at=refusal.get("next_generation_at"))
    return Refused(403, "verification_not_allowed", detail)


def _challenge(given: Challenge) -> models.Challenge:
    device = given.device
    return models.Challenge(
        message=given.message or "",
        expires_at=getattr(device, "valid_until", None),
        next_at=device.next_generation_at if isinstance(device, CooldownMixin) else None,
    )


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
    said: dict[str, Any] = {
        "state": "challenge_sent" if sent else await _state(call, waiting, devices),
        "login": None,
        "devices": devices,
        "challenge": sent,
        "user": None,
        "device": None,
        "verified_at": None,
        "expires_at": expires_at,
        "max_age_left": None,
        "amr": [],
        "acr": None,
    }
    if waiting is not None:
        said["login"] = call.request.session.get(ticket.TICKET_KEY)
    elif user is not None:
        said |= {"user": _user(call), "amr": amr_of(verdict), "acr": acr_of(verdict)}
        if verdict.device is not None:
            said["device"], said["verified_at"] = shown(call, verdict.device), verdict.verified_at
        since = verdict.verified_at or (None if devices else began)
        said["max_age_left"] = None if since is None else _left(since, otp.reauthenticate_after)
    if call.transport == "cookie":
        return models.Session(**said)
    if verdict.token is not None and expires_at is not None:
        seconds = int((expires_at - clock.now()).total_seconds())
        said |= {"access_token": verdict.token, "token_type": "bearer", "expires_in": seconds}
    return models.BearerSession(**said)


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
    names = (getattr(user, name, None) for name in ("username", "display_name", "email"))
    known = next((name for name in names if name), "")
    return models.User(id=key if isinstance(key, int) else str(key), name=str(known))


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
