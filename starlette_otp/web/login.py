"""log_in, login and log_out: the session of a request begins, is verified, and ends."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from starlette.requests import Request

from starlette_otp.exceptions import AgentRejected, DatabaseUnavailable, DeviceRejected
from starlette_otp.service.sessions import Begun
from starlette_otp.web.base_form import CSRF_KEY
from starlette_otp.web.browser import NAME_KEY, remember
from starlette_otp.web.claims import joined_amr
from starlette_otp.web.held import judge
from starlette_otp.web.journal import logged_in, logged_out, new_browser
from starlette_otp.web.notice import note_failures
from starlette_otp.web.ticket import TICKET_KEY, token_of
from starlette_otp.web.user import device_of, unwrapped
from starlette_otp.web.verdict import Verdict, show, show_nobody, verdict_of


async def log_in(
    request: Request, user: Any, *, amr: Sequence[str] | None = None, agent: Any = None
) -> None:
    """Begin the session of an authenticated user, in place of the former one.

    What the host keeps in `request.session` stays if it is theirs, or was nobody's until now; what
    is another user's goes. A user who has an `otp_device` is verified by it, too (as `login`
    does), at the moment when it accepted its last token, or was made if it has not yet: one that
    was not asked makes nothing fresh. Who has to have a device (`OTP(require_device=)`) stays
    anonymous without one. With `request.user` itself the session goes on under a new token,
    verified when it was: after a new password, say.

    Args:
        request: behind OTPMiddleware.
        user: the user whose first factor was accepted.
        amr: how, by the names of RFC 8176, if not by their password: what an OpenID provider says
            in its own `amr`, which `requires_otp(accept_amr=)` may let count.
        agent: `await agent(request, user)`, whose trust stands for a token: the session has the
            scope "trusted", and ends with that trust. `OTP(accept_trusted_agents=True)` alone.

    Raises:
        ValueError: these are no such names.
        AgentRejected: the user does not trust the browser, or the site accepts none.
        DeviceRejected: the user's `otp_device` is not theirs, not confirmed, or gone; or the
            verified session that was to go on has ended.
        DatabaseUnavailable: the database is away; the session is as it was.
    """
    verdict = verdict_of(request)
    former, was_device = verdict.known, verdict.device
    device = device_of(user)
    is_same = user is former and device is was_device
    given, agent_id = joined_amr(amr), _vouching(verdict, user, device, agent, is_same and not amr)
    if is_same and device is not None and verdict.session_id is not None and amr is None:
        begun = await _go_on(request, verdict, verdict.session_id, user)
    else:
        verdict.trusts_session = False  # That was another session.
        kept = await _kept(verdict) if is_same and amr is None else (given, None)
        begun = await _begin(request, verdict, user, device, *kept, agent_id=agent_id)
        verdict.amr, verdict.agent_id = kept[0], agent_id
    noted = request.session.get(NAME_KEY)
    if device is not None or agent is not None or verdict.accepted is not None:
        remember(request, verdict, user)
    _take_over(request, verdict, user)
    if device is None and noted is not None:
        request.session[NAME_KEY] = noted
    verdict.own = verdict.own and is_same
    verdict.user, verdict.held, verdict.accepted = user, None, None
    _enter(request, verdict, begun, device, ["authenticated"])
    if not is_same:
        if former is not None:
            await logged_out(verdict.otp, request, former, was_device, "replaced")
        await logged_in(verdict.otp, request, user, device)
        if verdict.new_browser:
            await new_browser(verdict.otp, request, user, device)
    if verdict.otp.browsers is not None:
        # The session has begun, whatever becomes of the rest.
        with suppress(DatabaseUnavailable):
            await verdict.otp.browsers.session_began(request, verdict)
    await _trust_if_wanted(request, verdict)
    await judge(request.scope, verdict)


def _vouching(verdict: Verdict, user: Any, device: Any, agent: Any, goes_on: bool) -> int | None:
    """The id of the trusted browser that a session begins by, and ends with.

    Where the password is enough it needs none, and ends with nothing.
    """
    otp, found = verdict.otp, verdict.accepted if agent is None else agent
    if device is not None:
        return None
    if found is None:
        return verdict.agent_id if goes_on else None
    key = otp.device_model.user_key
    is_theirs = found.is_trusted and not found.is_session and key(unwrapped(user)) is not None
    is_theirs = is_theirs and key(unwrapped(found.user)) == key(unwrapped(user))
    if not is_theirs or not otp.accepts_trusted_agents or verdict.bearer is not None:
        if agent is None:
            return None
        raise AgentRejected("This browser is not trusted by this user, or by this site.")
    return None if otp.password_is_enough else int(found.id)


async def go_on(request: Request, user: Any) -> None:
    """Let the session go on under a new token, verified when it was, after a new password.

    Args:
        request: behind OTPMiddleware.
        user: with the new hash.

    Raises:
        DeviceRejected: the session has ended.
    """
    verdict = verdict_of(request)
    if verdict.device is not None and verdict.session_id is not None:
        begun = await _go_on(request, verdict, verdict.session_id, user)
    else:
        kept, agent_id = await _kept(verdict), verdict.agent_id
        begun = await _begin(request, verdict, user, None, *kept, agent_id=agent_id)
    _take_over(request, verdict, user)
    verdict.user, verdict.own = user, False
    _enter(request, verdict, begun, verdict.device, request.auth.scopes)


async def login(request: Request, device: Any) -> None:
    """Persist in the current session that `device` verified its user.

    The session gets a new token (OWASP ASVS 7.2.4): a cookie from before opens nothing afterwards.
    Behind another backend than ours this begins a row.

    Args:
        request: behind OTPMiddleware, of an authenticated user.
        device: a confirmed device of that user that has just accepted a token.

    Raises:
        DeviceRejected: it is another user's, unconfirmed or gone; or the session has ended.
        DatabaseUnavailable: the database is away; the session is as it was.
    """
    await verify_session(request, device)


async def verify_session(request: Request, device: Any, is_first: bool = False) -> None:
    """`login`; of a first device that has just been added its owner is told by that already."""
    verdict = verdict_of(request)
    if verdict.away:
        raise DatabaseUnavailable()
    user, otp = verdict.known, verdict.otp
    if otp.device_model.user_key(user) is None:
        raise DeviceRejected(device, "This device is not the user's.")
    is_new = verdict.session_id is None
    if verdict.session_id is None:
        begun = await _begin(request, verdict, user, device)
    else:
        begun = await _renew(request, verdict, user, device, verdict.session_id)
    remember(request, verdict, user)
    scopes = request.auth.scopes if verdict.held is None else ["authenticated"]
    verdict.user, verdict.held = user, None
    _enter(request, verdict, begun, device, scopes)
    if is_new:
        await logged_in(otp, request, user, device)
    if verdict.new_browser and not is_first:
        await new_browser(otp, request, user, device)
    await _trust_if_wanted(request, verdict)


async def _trust_if_wanted(request: Request, verdict: Verdict) -> None:
    """Trust the browser, if that was asked for with the token that has just been accepted."""
    wanted, verdict.wants_trust = verdict.wants_trust, None
    browsers = verdict.otp.browsers
    if wanted == "agent" and browsers is not None and verdict.device is not None:
        # The device may have gone in this moment, or the database: signed in, and not trusted.
        with suppress(AgentRejected, DatabaseUnavailable):
            await browsers.trust(request)


async def log_out(request: Request) -> None:
    """End the session: its row is deleted, so that a copied cookie is worth nothing (ASVS 7.4.1).

    Raises:
        DatabaseUnavailable: the database is away; the session is as it was.
    """
    verdict = verdict_of(request)
    user, device = verdict.known, verdict.device
    token = _token(request, verdict)
    ticket_token = token_of(verdict.otp, request)
    await verdict.otp.sessions.end(token, verdict.session_id, user, ticket_token)
    request.session.clear()
    verdict.be_nobody()
    verdict.token = None
    verdict.bearer = None if verdict.bearer is None else ""
    if token is not None:
        _tell(request, verdict)
    show_nobody(request.scope)
    if user is not None:
        await logged_out(verdict.otp, request, user, device, "log_out")


async def _kept(verdict: Verdict) -> tuple[str | None, datetime | None]:
    """What another than the password said of the user, and when: nothing makes it fresh."""
    if verdict.amr is None or verdict.session_id is None:
        return None, None
    span = await verdict.otp.session_list.span(verdict.session_id)
    return verdict.amr, None if span is None else span[0]


async def _begin(
    request: Request,
    verdict: Verdict,
    user: Any,
    device: Any,
    amr: str | None = None,
    since: datetime | None = None,
    agent_id: int | None = None,
) -> Begun:
    return await verdict.otp.sessions.begin(
        unwrapped(user),
        device,
        user_agent=_agent(request),
        former_token=_token(request, verdict),
        former_id=verdict.session_id,
        amr=amr,
        since=since,
        agent_id=agent_id,
        is_trusted=_trusts_session(verdict),
    )


def _trusts_session(verdict: Verdict) -> bool:
    return verdict.trusts_session or verdict.wants_trust == "session"


async def _renew(
    request: Request, verdict: Verdict, user: Any, device: Any, session_id: int
) -> Begun:
    return await verdict.otp.sessions.renew(
        unwrapped(user),
        device,
        session_id,
        _token(request, verdict),
        _agent(request),
        # Without its browser it was worth nothing, and is to be worth no more for the moment.
        forget_former=verdict.agent_id is not None,
        amr=verdict.amr,
        is_trusted=_trusts_session(verdict),
    )


async def _go_on(request: Request, verdict: Verdict, session_id: int, user: Any) -> Begun:
    # The token of before may be in hands that the new password is to shut out; trust ends with it.
    verdict.trusts_session = False
    return await verdict.otp.sessions.renew(
        unwrapped(user),
        verdict.device,
        session_id,
        _token(request, verdict),
        _agent(request),
        verdict.verified_at,
        forget_former=True,
        amr=verdict.amr,
    )


def _take_over(request: Request, verdict: Verdict, user: Any) -> None:
    """Leave the host's session to its owner: to this user, if it is theirs or was nobody's."""
    otp, session = verdict.otp, request.session
    key, former = (str(otp.device_model.user_key(one)) for one in (user, verdict.known))
    owner = session.get(otp.cookie.owner_key)
    is_known = owner is None or otp.keyring.digest_matches("owner", key, str(owner))
    if not is_known or (verdict.known is not None and former != key):
        session.clear()
    # Whoever knows a page or a ticket from before shall not know one of afterwards.
    for name in (CSRF_KEY, TICKET_KEY):
        session.pop(name, None)
    session[otp.cookie.owner_key] = otp.keyring.digests("owner", key)[0]


def _token(request: Request, verdict: Verdict) -> str | None:
    """What the client holds, or will hold after this answer."""
    held_token = verdict.bearer if verdict.bearer is not None else verdict.otp.cookie.token(request)
    return verdict.token or held_token


def _tell(request: Request, verdict: Verdict) -> None:
    """Let the answer say what the client shall hold from now on; a bearer is told in its body."""
    if verdict.bearer is not None:
        return
    cookie = verdict.otp.cookie
    verdict.set_cookie = cookie.header(request.scope.get("scheme", "http"), verdict.token)


def _agent(request: Request) -> str:
    return request.headers.get("user-agent", "")


def _enter(
    request: Request, verdict: Verdict, begun: Begun, device: Any | None, scopes: Sequence[str]
) -> None:
    verdict.token, verdict.is_due = begun.token, False
    verdict.trusts_session = device is not None and _trusts_session(verdict)
    verdict.by_trust = False
    if device is not None:
        verdict.agent_id = None
    _tell(request, verdict)
    verdict.session_id, verdict.verified_at = begun.session_id, begun.verified_at
    verdict.device, verdict.device_due = device, None
    note_failures(request, verdict.otp, verdict.user, device)
    show(request.scope, verdict, scopes)
