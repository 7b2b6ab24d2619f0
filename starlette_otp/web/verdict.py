"""The verdict on a request: who it is and what verified them, kept in the ASGI scope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from starlette.authentication import AuthCredentials, UnauthenticatedUser
from starlette.requests import HTTPConnection
from starlette.types import Scope

from starlette_otp.exceptions import ConfigurationError
from starlette_otp.service.sessions import Found
from starlette_otp.web.site import Site
from starlette_otp.web.user import RequestUser, attach, unwrapped

VERDICT = "starlette_otp.verdict"
"""Where the ASGI scope has it."""
_VERIFIED = ("verified",)
_OURS = ("verified", "trusted")


@dataclass(slots=True)
class Verdict:
    """Who this request is, kept in the ASGI scope, where guards, forms and `login` look.

    `user` is None for anonymous, and `held` who would be it, were they not held back until a device
    verifies them; `device_due` is from when on they have to have one, who have none. `away` says
    that the database could not be asked. `routes` are those of the application below `root_path`,
    where they can be seen. `token` is the session's new one, if it got one in this request;
    `set_cookie` tells the client, and `browser_cookie` makes the browser a known one, and
    `new_browser` says that it was not. `agent` is what its browser is to the user, once that was
    asked, `seen_agent` the id of it, `agent_cookies` let it hold other tokens, by their names, and
    `is_answered` says that it is too late for that. `agent_id` is the trusted browser that the
    session began by instead of a token, and `by_trust` that this browser is trusted in place of a
    verification; `trusts_session` that it is as long as the session lasts; `accepted` is the agent
    that a log-in took for a token, and `wants_trust` what trust was asked for with a token, as long
    as the session or longer. `bearer` is what a client without cookies brings as its token, which
    may be nothing; None of one that keeps them. `amr` is as the session's row has it.
    """

    otp: Site
    root_path: str
    user: Any | None = None
    held: Any | None = None
    device_due: datetime | None = None
    device: Any | None = None
    verified_at: datetime | None = None
    session_id: int | None = None
    own: bool = False
    is_due: bool = False
    away: bool = False
    new_browser: bool = False
    routes: Sequence[Any] = ()
    amr: str | None = None
    bearer: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    set_cookie: str | None = field(default=None, repr=False)
    browser_cookie: str | None = field(default=None, repr=False)
    agent: Any | None = None
    seen_agent: int | None = None
    agent_cookies: dict[str, str] = field(default_factory=dict, repr=False)
    is_answered: bool = False
    agent_id: int | None = None
    by_trust: bool = False
    trusts_session: bool = False
    accepted: Any | None = None
    wants_trust: Literal["session", "agent"] | None = None

    @property
    def known(self) -> Any | None:
        """Whose request it is, also if they are held back."""
        return self.user if self.held is None else self.held

    def take(self, found: Found) -> None:
        """Be what the session's row says."""
        self.user, self.device, self.own = found.user, found.device, found.own
        self.verified_at, self.session_id = found.verified_at, found.session_id
        self.is_due, self.amr = found.is_due, found.amr
        self.agent_id, self.trusts_session = found.agent_id, found.is_trusted
        self.agent, self.by_trust = None, False

    def be_nobody(self) -> None:
        """Be the verdict of anonymous."""
        self.user = self.held = self.device = self.verified_at = self.device_due = None
        self.session_id = self.agent_id = self.amr = self.agent = self.accepted = None
        self.seen_agent = None
        self.is_due = self.by_trust = self.trusts_session = False
        self.wants_trust = None

    @property
    def is_expired(self) -> bool:
        """Whether the client brings a token that is no session's any more, or never was."""
        return bool(self.bearer) and self.known is None and not self.away


def verdict_of(conn: HTTPConnection) -> Verdict:
    """The verdict OTPMiddleware put into the scope.

    Raises:
        ConfigurationError: it did not.
    """
    verdict = conn.scope.get(VERDICT)
    if not isinstance(verdict, Verdict):
        raise ConfigurationError(
            "OTPMiddleware has not seen this request: install Middleware(OTPMiddleware, otp=otp) "
            "after AuthenticationMiddleware."
        )
    return verdict


def is_verified(request: HTTPConnection) -> bool:
    """Whether a device verified the session of this request, whatever the host's users are.

    Args:
        request: behind OTPMiddleware; a websocket, too.

    Raises:
        ConfigurationError: OTPMiddleware has not seen it.
    """
    return verdict_of(request).device is not None


def otp_device(request: HTTPConnection) -> Any | None:
    """The device that verified the session of this request; None if none did.

    Args:
        request: behind OTPMiddleware; a websocket, too.

    Raises:
        ConfigurationError: OTPMiddleware has not seen it.
    """
    return verdict_of(request).device


def session_id(request: HTTPConnection) -> int | None:
    """The `id` of the row of this request's session; None without one of ours.

    Args:
        request: behind OTPMiddleware; a websocket, too.

    Raises:
        ConfigurationError: OTPMiddleware has not seen it.
    """
    return verdict_of(request).session_id


def device_due(request: HTTPConnection) -> datetime | None:
    """From when on the user of this request has to have a device, if they have none.

    For a notice on the host's pages until then; from then on such a user is anonymous there.

    Args:
        request: behind OTPMiddleware; a websocket, too.

    Returns:
        What `OTP(require_device=)` says, an aware datetime; None for who has a device, is verified,
        or need not have one.

    Raises:
        ConfigurationError: OTPMiddleware has not seen it.
    """
    return verdict_of(request).device_due


def show(scope: Scope, verdict: Verdict, scopes: Sequence[str]) -> None:
    """Put the verdict where Starlette's users look: `request.user` and `request.auth`."""
    if verdict.user is not None:
        scope["user"] = verdict.user = attach(verdict.user, verdict.device, verdict.own)
    else:
        scope["user"] = RequestUser(unwrapped(scope["user"]), None)
    others = [name for name in scopes if name not in _OURS]
    # A new object: a backend may hand the same credentials to every request.
    trusted = ["trusted"] if verdict.by_trust else []
    scope["auth"] = AuthCredentials([*others, *(trusted if verdict.device is None else _VERIFIED)])


def show_nobody(scope: Scope) -> None:
    """Make the request anonymous where Starlette's users look."""
    scope["user"] = RequestUser(UnauthenticatedUser(), None)
    scope["auth"] = AuthCredentials()
