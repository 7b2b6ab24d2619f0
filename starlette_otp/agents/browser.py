"""agent, trust_agent, trust_session, revoke_agent, revoke_other_agents: a request's browser."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from starlette.requests import HTTPConnection, Request

from starlette_otp import clock
from starlette_otp.agents.cookies import AgentCookies
from starlette_otp.exceptions import AgentRejected, ConfigurationError, DatabaseUnavailable
from starlette_otp.service.agents import Agents, Known
from starlette_otp.web.user import unwrapped
from starlette_otp.web.verdict import Verdict, verdict_of

_MOST_DAYS = 36500


@dataclass(frozen=True, slots=True)
class Agent:
    """What a request's browser is to its user; moments are aware and UTC.

    Attributes:
        user: whose it would be; None for anonymous.
        is_trusted: whether the user trusts it, now.
        is_session: whether they do as long as this session lasts.
        trusted_at: since when.
        trust_expiration: until when, as it is in force; None for as long as it is used.
        trust_days: what the call gave that made it trusted.
        session: the id of the session that trust lasts as long as.
        id: of its row.
        name: what it called itself.
        last_seen_at: when it was used last; written once a day.
        device: the one that vouched for it.
    """

    user: Any = None
    is_trusted: bool = False
    is_session: bool = False
    trusted_at: datetime | None = None
    trust_expiration: datetime | None = None
    trust_days: float | None = None
    session: int | None = None
    id: int | None = None
    name: str = ""
    last_seen_at: datetime | None = None
    device: Any = None


class TrustedBrowsers:
    """The browsers that users trust, as requests bring them.

    Args:
        agents: their rows.
        cookies: what browsers hold.
    """

    def __init__(self, agents: Agents, cookies: AgentCookies) -> None:
        self.agents = agents
        self.cookies = cookies

    async def of(self, conn: HTTPConnection, verdict: Verdict) -> Agent:
        """The request's, read once."""
        if verdict.agent is None:
            verdict.agent = await self._read(conn, verdict)
        found: Agent = verdict.agent
        return found

    async def is_trusted(self, conn: HTTPConnection, verdict: Verdict) -> bool:
        """Whether the user of a verdict trusts the browser of a request."""
        return (await self.of(conn, verdict)).is_trusted

    async def session_began(self, conn: HTTPConnection, verdict: Verdict) -> None:
        """Give the browser of a new session another token, if it is trusted."""
        verdict.agent = None
        if self._token(conn, verdict) is not None:
            verdict.agent = await self._read(conn, verdict, is_new_session=True)

    async def _read(
        self, conn: HTTPConnection, verdict: Verdict, is_new_session: bool = False
    ) -> Agent:
        user, token = unwrapped(verdict.user), self._token(conn, verdict)
        if token is None:
            return Agent(user)
        # What can't be told to the browser any more it shall not have to know.
        may_rotate = conn.scope["type"] == "http" and not verdict.is_answered
        known = await self.agents.find(user, token, is_new_session, may_rotate)
        if known is None:
            self.forget(conn, verdict)
            return Agent(user)
        if known.row.session_id not in (None, verdict.session_id):
            return Agent(user)
        return self.told(conn, verdict, known)

    def _token(self, conn: HTTPConnection, verdict: Verdict) -> str | None:
        key = verdict.otp.device_model.user_key(unwrapped(verdict.user))
        if key is None or verdict.bearer is not None:
            return None
        return self.cookies.token(conn, key)

    def told(self, conn: HTTPConnection, verdict: Verdict, known: Known) -> Agent:
        """The agent of a browser that was found or made; the answer brings a new token along."""
        row, user = known.row, unwrapped(verdict.user)
        end = row.expires_at(user)
        if known.token is not None:
            age = timedelta.max if end is None else end - clock.now()
            lasting = None if row.session_id is not None else age
            header = self.cookies.header(conn, row.user_id, known.token, lasting)
            verdict.agent_cookie = header
        return Agent(
            user=user,
            is_trusted=True,
            is_session=row.session_id is not None,
            trusted_at=row.trusted_at,
            trust_expiration=end,
            trust_days=row.trust_days_given,
            session=row.session_id,
            id=row.id,
            name=row.user_agent,
            last_seen_at=row.last_seen_at,
            device=known.device,
        )

    def forget(self, conn: HTTPConnection, verdict: Verdict) -> None:
        """Let the browser forget what it holds for the user, if it holds anything."""
        key = verdict.otp.device_model.user_key(unwrapped(verdict.user))
        verdict.agent = Agent(unwrapped(verdict.user))
        verdict.agent_cookie = None
        if key is not None and self.cookies.is_there(conn, key):
            verdict.agent_cookie = self.cookies.header(conn, key, None)

    async def trust(
        self, request: Request, days: float | None = None, with_session: bool = False
    ) -> Agent:
        """`trust_agent` and `trust_session`."""
        verdict = verdict_of(request)
        if verdict.away:
            raise DatabaseUnavailable()
        if verdict.user is None:
            return Agent()
        if verdict.bearer is not None:
            raise AgentRejected("A client that keeps no cookies can't be trusted.")
        if verdict.device is None:
            raise AgentRejected("Only a verified session can make its browser trusted.")
        if days is not None and not 0 < days <= _MOST_DAYS:
            raise ValueError(f"trust_days is more than 0 days, and at most {_MOST_DAYS}.")
        if with_session and verdict.session_id is None:
            raise AgentRejected("There is no session of ours.")
        known = await self.agents.trust(
            unwrapped(verdict.user),
            verdict.device,
            days=days,
            session_id=verdict.session_id if with_session else None,
            user_agent=request.headers.get("user-agent", ""),
            former_token=self._token(request, verdict),
        )
        verdict.agent = self.told(request, verdict, known)
        return verdict.agent

    async def revoke(self, request: Request) -> bool:
        """`revoke_agent`."""
        verdict = verdict_of(request)
        if verdict.away:
            raise DatabaseUnavailable()
        found = await self.of(request, verdict)
        user = unwrapped(verdict.user)
        ended = found.id is not None and await self.agents.revoke(user, found.id)
        self.forget(request, verdict)
        return ended

    async def revoke_others(self, request: Request) -> int:
        """`revoke_other_agents`."""
        verdict = verdict_of(request)
        if verdict.away:
            raise DatabaseUnavailable()
        found = await self.of(request, verdict)
        return await self.agents.revoke_others(unwrapped(verdict.user), found.id)


async def agent(request: HTTPConnection) -> Agent:
    """What this request's browser is to its user; one SELECT, the first time it is asked.

    It is not trusted where the user is anonymous, and never for a client without cookies.

    Args:
        request: behind OTPMiddleware; a websocket, too.

    Raises:
        ConfigurationError: the host declares no class with AgentMixin.
        DatabaseUnavailable: the database is away.
    """
    verdict = verdict_of(request)
    return await browsers_of(verdict).of(request, verdict)


async def trust_agent(request: Request, trust_days: float | None = None) -> Agent:
    """Let the user trust this browser; what it held before is worth nothing.

    Args:
        request: behind OTPMiddleware, of a verified session; of an anonymous one nothing happens.
        trust_days: how long, at most; of this and of the class's `trust_days` the strictest.

    Returns:
        What the browser is now.

    Raises:
        AgentRejected: the session is not verified, or has no cookies.
        ValueError: `trust_days` is no number of days.
        ConfigurationError: the host declares no class with AgentMixin.
        DatabaseUnavailable: the database is away.
    """
    return await browsers_of(verdict_of(request)).trust(request, trust_days)


async def trust_session(request: Request) -> Agent:
    """Let the user trust this browser as long as this session lasts, in place of lasting trust.

    Args:
        request: behind OTPMiddleware, of a verified session; of an anonymous one nothing happens.

    Raises:
        AgentRejected: the session is not verified, or has no cookies.
        ConfigurationError: the host declares no class with AgentMixin.
        DatabaseUnavailable: the database is away.
    """
    return await browsers_of(verdict_of(request)).trust(request, with_session=True)


async def revoke_agent(request: Request) -> bool:
    """End the trust in this browser.

    Returns:
        Whether it was trusted.

    Raises:
        ConfigurationError: the host declares no class with AgentMixin.
        DatabaseUnavailable: the database is away.
    """
    return await browsers_of(verdict_of(request)).revoke(request)


async def revoke_other_agents(request: Request) -> int:
    """End the user's trust in all browsers but this one.

    Returns:
        How many there were.

    Raises:
        ConfigurationError: the host declares no class with AgentMixin.
        DatabaseUnavailable: the database is away.
    """
    return await browsers_of(verdict_of(request)).revoke_others(request)


def browsers_of(verdict: Verdict) -> TrustedBrowsers:
    """Those of the request's OTP.

    Raises:
        ConfigurationError: it has none.
    """
    browsers: Any = verdict.otp.browsers
    if browsers is None:
        name = verdict.otp.device_model.__name__
        raise ConfigurationError(
            f"There are no trusted browsers: declare a class with AgentMixin and "
            f"__device_model__ = {name}."
        )
    found: TrustedBrowsers = browsers
    return found
