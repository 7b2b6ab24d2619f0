"""agent, trust_agent, trust_session, revoke_agent, revoke_other_agents: a request's browser."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from starlette.requests import HTTPConnection, Request

from starlette_otp import clock
from starlette_otp.agents.cookies import AgentCookies
from starlette_otp.devices.agents import MOST_DAYS
from starlette_otp.exceptions import AgentRejected, DatabaseUnavailable
from starlette_otp.service.agents import Agents, Known
from starlette_otp.web.trust import browsers_of
from starlette_otp.web.user import unwrapped
from starlette_otp.web.verdict import Verdict, verdict_of


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
        id: of its row, which trust has that is longer than a session.
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

    def shown(self, verdict: Verdict) -> Agent:
        """What the browser is as far as it was read; else one that is not trusted."""
        read: Agent | None = verdict.agent
        return read or Agent(unwrapped(verdict.user))

    async def known_to(self, conn: HTTPConnection, verdict: Verdict, user: Any) -> Agent:
        """What the browser is to a user who is not signed in yet; it gets no other token."""
        user = unwrapped(user)
        token = self._token(conn, verdict, user)
        known = None if token is None else await self.agents.find(user, token, may_rotate=False)
        return Agent(user) if known is None else self._told(conn, verdict, user, known)

    async def session_began(self, conn: HTTPConnection, verdict: Verdict) -> None:
        """Give the browser of a new session another token, if it is trusted."""
        verdict.agent = await self._read(conn, verdict, is_new_session=True)

    async def _read(
        self, conn: HTTPConnection, verdict: Verdict, is_new_session: bool = False
    ) -> Agent:
        user = unwrapped(verdict.user)
        token = self._token(conn, verdict, user)
        if token is not None:
            # What can't be told to the browser any more it shall not have to know.
            may_rotate = conn.scope["type"] == "http" and not verdict.is_answered
            seen = None if is_new_session else verdict.seen_agent
            known = await self.agents.find(user, token, is_new_session, may_rotate, seen)
            if known is not None:
                return self._told(conn, verdict, user, known)
            self.forget(conn, verdict)
        return self._as_long_as_the_session(conn, verdict)

    def _as_long_as_the_session(self, conn: HTTPConnection, verdict: Verdict) -> Agent:
        user, began = unwrapped(verdict.user), verdict.verified_at
        is_cookieless = verdict.bearer is not None
        if verdict.device is None or began is None or is_cookieless or not verdict.trusts_session:
            return Agent(user)
        days = self.agents.model.longest(user)
        end = None if days is None else began + timedelta(days=days)
        if end is not None and end <= clock.now():
            return Agent(user)
        return Agent(
            user=user,
            is_trusted=True,
            is_session=True,
            trusted_at=began,
            trust_expiration=end,
            session=verdict.session_id,
            name=conn.headers.get("user-agent", ""),
            last_seen_at=clock.now(),
            device=verdict.device,
        )

    def _token(self, conn: HTTPConnection, verdict: Verdict, user: Any) -> str | None:
        key = verdict.otp.device_model.user_key(user)
        if key is None or verdict.bearer is not None:
            return None
        return self.cookies.token(conn, key)

    def _told(self, conn: HTTPConnection, verdict: Verdict, user: Any, known: Known) -> Agent:
        """The agent of a browser that was found or made; the answer brings a new token along."""
        row, end, now = known.row, known.expires_at, clock.now()
        if known.token is not None:
            age = timedelta.max if end is None else end - now
            self._forget_former(conn, verdict, row.user_id)
            name = self.cookies.name(row.user_id)
            verdict.agent_cookies[name] = self.cookies.header(conn, name, known.token, age)
        if unwrapped(verdict.user) is user:
            verdict.seen_agent = row.id
        return Agent(
            user=user,
            is_trusted=end is None or end > now,
            trusted_at=row.trusted_at,
            trust_expiration=end,
            trust_days=row.trust_days_given,
            id=row.id,
            name=row.user_agent,
            last_seen_at=row.last_seen_at,
            device=known.device,
        )

    def forget(self, conn: HTTPConnection, verdict: Verdict) -> None:
        """Let the browser forget what it holds for the user, if it holds anything."""
        key = verdict.otp.device_model.user_key(unwrapped(verdict.user))
        verdict.agent, verdict.seen_agent = Agent(unwrapped(verdict.user)), None
        if key is not None:
            verdict.agent_cookies.pop(self.cookies.name(key), None)
            self._forget_former(conn, verdict, key)

    def _forget_former(self, conn: HTTPConnection, verdict: Verdict, key: object) -> None:
        """Let the browser forget what it holds for a user, by whichever key it is named."""
        for name in self.cookies.held(conn, key):
            verdict.agent_cookies[name] = self.cookies.header(conn, name, None)

    async def trust(self, request: Request, days: float | None = None) -> Agent:
        """`trust_agent`."""
        verdict = _of_who_may(request)
        if verdict.user is None:
            return Agent()
        if days is not None and not 0 < days <= MOST_DAYS:
            raise ValueError(f"trust_days is more than 0 days, and at most {MOST_DAYS}.")
        user = unwrapped(verdict.user)
        key = verdict.otp.device_model.user_key(user)
        known = await self.agents.trust(
            user,
            verdict.device,
            days=days,
            user_agent=request.headers.get("user-agent", ""),
            former_token=self._token(request, verdict, user),
            is_allowed=verdict.otp.sessions.still_there(verdict.session_id, key),
        )
        verdict.agent = self._told(request, verdict, user, known)
        return verdict.agent

    async def trust_session(self, request: Request) -> Agent:
        """`trust_session`."""
        verdict = _of_who_may(request)
        if verdict.user is None:
            return Agent()
        await self._forget_lasting(request, verdict)
        if not await self._note_session(request, verdict, True):
            raise AgentRejected("The session has ended, or was given another token, meanwhile.")
        return await self.of(request, verdict)

    async def _forget_lasting(self, request: Request, verdict: Verdict) -> bool:
        """End trust that is longer than the session; whether there was any."""
        user = unwrapped(verdict.user)
        token = self._token(request, verdict, user)
        ended = 0 if token is None else await self.agents.forget(user, token)
        self.forget(request, verdict)
        return ended > 0

    async def _note_session(self, request: Request, verdict: Verdict, is_trusted: bool) -> bool:
        """Note in a verified session whether its browser is trusted as long as it lasts."""
        otp, session_id, verified_at = verdict.otp, verdict.session_id, verdict.verified_at
        if session_id is None or verified_at is None:
            return False
        token = verdict.token or otp.cookie.token(request)
        verdict.agent = None
        noted = await otp.sessions.trust(session_id, token, verdict.device, verified_at, is_trusted)
        verdict.trusts_session = noted and is_trusted
        return noted

    async def revoke(self, request: Request) -> bool:
        """`revoke_agent`."""
        verdict = verdict_of(request)
        if verdict.away:
            raise DatabaseUnavailable()
        ended = await self._forget_lasting(request, verdict)
        if verdict.trusts_session:
            ended = await self._note_session(request, verdict, False) or ended
        return ended

    async def revoke_others(self, request: Request) -> int:
        """`revoke_other_agents`."""
        verdict = verdict_of(request)
        if verdict.away:
            raise DatabaseUnavailable()
        found = await self.of(request, verdict)
        return await self.agents.revoke_others(unwrapped(verdict.user), found.id)


async def agent(request: HTTPConnection, user: Any = None) -> Agent:
    """What this request's browser is to its user; one SELECT, the first time it is asked.

    It is not trusted where the user is anonymous, and never for a client without cookies.

    Args:
        request: behind OTPMiddleware; a websocket, too.
        user: another than the request's: one whose password was accepted just now, for
            `log_in(request, user, agent=)`.

    Raises:
        ConfigurationError: the host declares no class with AgentMixin.
        DatabaseUnavailable: the database is away.
    """
    verdict = verdict_of(request)
    browsers = _browsers_of(verdict)
    if verdict.away:
        raise DatabaseUnavailable()
    if user is not None:
        return await browsers.known_to(request, verdict, user)
    return await browsers.of(request, verdict)


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
    return await _browsers_of(verdict_of(request)).trust(request, trust_days)


async def trust_session(request: Request) -> Agent:
    """Let the user trust this browser as long as this session lasts, in place of lasting trust.

    Args:
        request: behind OTPMiddleware, of a verified session; of an anonymous one nothing happens.

    Raises:
        AgentRejected: the session is not verified, or has no cookies.
        ConfigurationError: the host declares no class with AgentMixin.
        DatabaseUnavailable: the database is away.
    """
    return await _browsers_of(verdict_of(request)).trust_session(request)


async def revoke_agent(request: Request) -> bool:
    """End the trust in this browser.

    Returns:
        Whether it was trusted.

    Raises:
        ConfigurationError: the host declares no class with AgentMixin.
        DatabaseUnavailable: the database is away.
    """
    return await _browsers_of(verdict_of(request)).revoke(request)


async def revoke_other_agents(request: Request) -> int:
    """End the user's trust in all browsers but this one.

    Returns:
        How many there were.

    Raises:
        ConfigurationError: the host declares no class with AgentMixin.
        DatabaseUnavailable: the database is away.
    """
    return await _browsers_of(verdict_of(request)).revoke_others(request)


def _of_who_may(request: Request) -> Verdict:
    """The verdict of who may trust their browser, or of nobody.

    Raises:
        AgentRejected: the session is not verified, or has no cookies.
        DatabaseUnavailable: the database is away.
    """
    verdict = verdict_of(request)
    if verdict.away:
        raise DatabaseUnavailable()
    if verdict.bearer is not None and verdict.user is not None:
        raise AgentRejected("A client that keeps no cookies can't be trusted.")
    if verdict.device is None and verdict.user is not None:
        raise AgentRejected("Only a verified session can make its browser trusted.")
    return verdict


def _browsers_of(verdict: Verdict) -> TrustedBrowsers:
    return cast(TrustedBrowsers, browsers_of(verdict))
