"""Site: what everything that knows a request asks of the OTP of its application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from starlette.requests import HTTPConnection
from starlette.templating import Jinja2Templates

from starlette_otp.keyring import Keyring
from starlette_otp.service.agents import Agents
from starlette_otp.service.challenges import Challenges
from starlette_otp.service.enrolment import Enrolment
from starlette_otp.service.recovery_codes import RecoveryCodes
from starlette_otp.service.requirement import Requirement
from starlette_otp.service.session_list import SessionList
from starlette_otp.service.sessions import Sessions
from starlette_otp.service.throttle import Throttle
from starlette_otp.service.tickets import Tickets
from starlette_otp.service.transactions import Transactions
from starlette_otp.service.users import Users
from starlette_otp.service.verification import Verification
from starlette_otp.web.cookie import SessionCookie

AllowAttempt = Callable[[Any, str], Awaitable[bool]]
ClientAddress = Callable[[Any], str | None]


class Browsers(Protocol):
    """The browsers that users trust."""

    async def of(self, conn: HTTPConnection, verdict: Any) -> Any:
        """What the browser of a request is to the user of its verdict, read once."""

    def shown(self, verdict: Any) -> Any:
        """The same as far as it was read, for pages; else a browser that is not trusted."""

    async def known_to(self, conn: HTTPConnection, verdict: Any, user: Any) -> Any:
        """What the browser of a request is to a user who is not signed in yet."""

    async def trust(self, request: Any, days: float | None = None) -> Any:
        """`trust_agent`."""

    async def session_began(self, conn: HTTPConnection, verdict: Any) -> None:
        """A new session has begun in the browser."""


class Site(Protocol):
    """The collaborators and settings of an OTP, which is made at the foot of the ladder."""

    device_model: type[Any]
    login_url: str
    login_redirect_url: str
    allowed_origins: Sequence[str]
    password_is_enough: bool
    accepts_trusted_agents: bool
    reauthenticate_after: float
    templates: Jinja2Templates
    cookie: SessionCookie
    keyring: Keyring
    transactions: Transactions
    users: Users
    enrolment: Enrolment
    requirement: Requirement
    has_account_pages: bool
    recovery_codes: RecoveryCodes
    verification: Verification
    challenges: Challenges
    sessions: Sessions
    session_list: SessionList
    tickets: Tickets
    throttle: Throttle
    agents: Agents | None
    browsers: Browsers | None
    allow_attempt: AllowAttempt | None
    client_address: ClientAddress

    async def revoke_sessions(self, device_or_user: object) -> None:
        """Take back what sessions are worth, and trust in browsers."""
