"""Trust in a request's browser: what it lets through, and what a log-in asks of it."""

from __future__ import annotations

from typing import Any

from starlette.requests import HTTPConnection, Request

from starlette_otp.exceptions import ConfigurationError
from starlette_otp.web.site import Browsers
from starlette_otp.web.verdict import Verdict, verdict_of


def browsers_of(verdict: Verdict) -> Browsers:
    """Those of the request's OTP.

    Raises:
        ConfigurationError: it has none.
    """
    if verdict.otp.browsers is None:
        raise ConfigurationError(
            "There are no trusted browsers: declare a class with AgentMixin and "
            f"__device_model__ = {verdict.otp.device_model.__name__}."
        )
    return verdict.otp.browsers


async def is_trusted(conn: HTTPConnection, verdict: Verdict) -> bool:
    """Whether the user trusts the browser of a request.

    Raises:
        ConfigurationError: the host declares no class with AgentMixin.
        DatabaseUnavailable: the database is away.
    """
    return bool((await browsers_of(verdict).of(conn, verdict)).is_trusted)


async def weigh_trust(conn: HTTPConnection, verdict: Verdict) -> None:
    """Say whether the user's trust in their browser stands for a verification.

    Whose session began by it alone is nobody without it.

    Raises:
        DatabaseUnavailable: the database is away.
    """
    otp, is_bound = verdict.otp, verdict.agent_id is not None
    verdict.by_trust = False
    if otp.accepts_trusted_agents and (is_bound or otp.password_is_enough):
        found: Any = otp.browsers and await otp.browsers.of(conn, verdict)
        is_it = found is not None and verdict.agent_id in (None, found.id)
        verdict.by_trust = is_it and found.is_trusted
    if is_bound and not verdict.by_trust:
        verdict.be_nobody()


async def stands_for_a_token(request: Request, user: Any) -> bool:
    """Whether a user whose password was right trusts this browser, where the site accepts that.

    The session that begins then does so by it.
    """
    verdict = verdict_of(request)
    otp = verdict.otp
    if otp.browsers is None or not otp.accepts_trusted_agents:
        return False
    found = await otp.browsers.known_to(request, verdict, user)
    verdict.accepted = found if found.is_trusted else None
    return bool(found.is_trusted)


def can_trust(verdict: Verdict) -> bool:
    """Whether the client of a request can be trusted at all, and here."""
    return verdict.otp.browsers is not None and verdict.bearer is None


def want_trust(verdict: Verdict, is_lasting: bool) -> None:
    """Let the session that a token has just verified have the trust that was asked for."""
    agents = verdict.otp.agents
    if agents is not None and can_trust(verdict):
        by_default = agents.model.trust_session_by_default
        verdict.wants_trust = "agent" if is_lasting else "session" if by_default else None
