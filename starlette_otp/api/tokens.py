"""Tokens and challenges by JSON: why one was refused, and when the next may come."""

from __future__ import annotations

from typing import Any

from starlette_otp import clock
from starlette_otp.api import models
from starlette_otp.api.call import Call, Refused
from starlette_otp.api.shown import choices_of
from starlette_otp.devices.policies import (
    CooldownMixin,
    GenerateNotAllowed,
    VerificationFailure,
    VerifyNotAllowed,
    refusal_in_words,
)
from starlette_otp.exceptions import RETRY_AFTER_SECONDS, DeliveryFailed
from starlette_otp.service.attempts import Attempt
from starlette_otp.service.challenges import Challenge
from starlette_otp.web import ticket

_WRONG = "That code is not right, or was used before. Please check it."


async def attempt(
    call: Call, user: Any, token: str, device_id: str | None, confirming: bool = False
) -> Attempt:
    """Put a token to one of the user's devices, or to all of them.

    Raises:
        Refused: there is none.
    """
    if not token.strip():
        raise Refused(400, "token_required", "Please enter the code.")
    return await call.otp.verification.attempt(
        user,
        token,
        device_id,
        confirming=confirming,
        as_first=confirming and call.verdict.device is None,
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
    secret_more: dict[str, Any] = {}
    if waiting is not None:
        secret_more["login"] = call.request.session.get(ticket.TICKET_KEY)
        secret_more["devices"] = await choices_of(call, waiting)
    refusal = attempt.refusal
    if refusal is None:
        return Refused(400, "invalid_token", _WRONG, **secret_more)
    if refusal.get("reason") == VerifyNotAllowed.N_FAILED_ATTEMPTS:
        until = refusal.get("locked_until")
        when = "once it was reset" if until is None else clock.in_words(until)
        detail = f"There were too many wrong codes. Please try again {when}."
        return Refused(429, "n_failed_attempts", detail, locked_until=until, **secret_more)
    detail = str(refusal.get("error_message", "This device can't be used now."))
    return Refused(403, "verification_not_allowed", detail, **secret_more)


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
