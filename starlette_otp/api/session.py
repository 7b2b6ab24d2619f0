"""The session: signed in, challenged, verified, and ended, by JSON."""

from __future__ import annotations

from typing import Any

from starlette_otp.api import models, tokens
from starlette_otp.api.agents import refuse_trust
from starlette_otp.api.call import Call, Refused
from starlette_otp.api.shown import session_of
from starlette_otp.exceptions import DeviceRejected
from starlette_otp.web import ticket
from starlette_otp.web.browser import remember
from starlette_otp.web.login import log_in, log_out, login
from starlette_otp.web.password import authenticate
from starlette_otp.web.refusals import DETAILS, NOT_AUTHENTICATED, STATUS
from starlette_otp.web.trust import stands_for_a_token, want_trust
from starlette_otp.web.user import attach

_NO_MATCH = "That username and password do not match."


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
    refuse_trust(call, body.trust)
    otp, request = call.otp, call.request
    former_token = ticket.token_of(otp, request)
    request.session.pop(ticket.TICKET_KEY, None)
    user = None
    if body.username and body.password:
        user = await authenticate(otp, request, body.username, body.password)
    if user is None:
        await otp.tickets.discard(former_token)
        raise Refused(401, "invalid_login", _NO_MATCH)
    token = (body.token or "").strip()
    if not token and await stands_for_a_token(request, user):
        await otp.tickets.discard(former_token)
        return await _enter(call, user)
    if await otp.requirement.is_lacking(user) or (otp.password_is_enough and not token):
        await otp.tickets.discard(former_token)
        return await _enter(call, user)
    if not token:
        await _wait(call, body.username, user, former_token)
        return await session_of(call, user)
    attempt = await tokens.attempt(call, user, token, body.device)
    if attempt.device is None:
        await _wait(call, body.username, user, former_token)
        raise await tokens.refused_token(call, attempt, body.device, user)
    await otp.tickets.discard(former_token)
    want_trust(call.verdict, body.trust)
    return await _enter(call, attach(user, attempt.device))


async def challenge(call: Call) -> models.Session:
    """Let a device send a code: of who is signed in, or whose log-in waits for the token."""
    body = await call.body(models.ChallengeWanted)
    user, is_waiting = await _whose(call, body.login)
    sent = await tokens.challenge_by(call, user, body.device)
    return await session_of(call, user if is_waiting else None, sent)


async def verify(call: Call) -> models.Session:
    """Verify with a device's token: the second step of a log-in, or the step-up of a session."""
    body = await call.body(models.Token)
    refuse_trust(call, body.trust)
    user, is_waiting = await _whose(call, body.login)
    attempt = await tokens.attempt(call, user, body.token, body.device)
    if attempt.device is None:
        raise await tokens.refused_token(call, attempt, body.device, user if is_waiting else None)
    want_trust(call.verdict, body.trust)
    if is_waiting:
        held_token = ticket.token_of(call.otp, call.request)
        call.request.session.pop(ticket.TICKET_KEY, None)
        if not await call.otp.tickets.discard(held_token):
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


async def _wait(call: Call, username: str, user: Any, former_token: str | None) -> None:
    """Let a ticket stand for the password."""
    otp = call.otp
    if not otp.users.can_be_loaded:
        raise Refused(400, "token_required", "Send name, password and code together.")
    if not await ticket.issue(otp, call.request, username, user, former_token):
        raise Refused(401, "invalid_login", _NO_MATCH)


async def _whose(call: Call, login_token: str | None) -> tuple[Any, bool]:
    """The user who is to be verified, and whether their log-in waits for it."""
    if login_token is None and call.user is not None:
        return call.user, False
    if login_token is None and ticket.TICKET_KEY not in call.request.session:
        call.refuse_expired()
        raise Refused(STATUS[NOT_AUTHENTICATED], NOT_AUTHENTICATED, DETAILS[NOT_AUTHENTICATED])
    redeemed = await ticket.redeem(call.otp, call.request, "", login_token)
    if redeemed is None:
        raise _login_expired()
    return redeemed[0], True


def _login_expired() -> Refused:
    return Refused(410, "login_expired", "This log-in has taken too long. Please begin again.")
