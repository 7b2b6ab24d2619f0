"""OTP: the object an application makes, a table of contents over its collaborators."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Literal

from pwdlib.hashers import HasherProtocol
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from starlette.datastructures import Secret
from starlette.endpoints import HTTPEndpoint
from starlette.requests import HTTPConnection, Request
from starlette.routing import BaseRoute
from typing_extensions import TypeVar

from starlette_otp.account import routes as account_pages
from starlette_otp.agents.browser import TrustedBrowsers
from starlette_otp.agents.cookies import AgentCookies
from starlette_otp.devices.base import DeviceMixin
from starlette_otp.devices.declared import check_declared, warn_of_missing
from starlette_otp.devices.owner import table_of
from starlette_otp.exceptions import (
    ConfigurationError,
    DatabaseUnavailable,
    install_hint,
    is_missing,
)
from starlette_otp.keyring import Keyring
from starlette_otp.mailer import Mailer
from starlette_otp.service.agents import Agents
from starlette_otp.service.attempts import Attempt
from starlette_otp.service.challenges import Challenges
from starlette_otp.service.enrolment import Enrolment
from starlette_otp.service.notices import Notices, Notify
from starlette_otp.service.passwords import QUEUE, PasswordQueue
from starlette_otp.service.recovery_codes import NUMBER, RecoveryCodes
from starlette_otp.service.requirement import RequireDevice, Requirement
from starlette_otp.service.session_list import SessionList
from starlette_otp.service.session_rows import SessionRows
from starlette_otp.service.sessions import Sessions
from starlette_otp.service.throttle import Throttle
from starlette_otp.service.tickets import Tickets
from starlette_otp.service.transactions import Reads, Transactions
from starlette_otp.service.users import Authenticate, LoadUser, Users
from starlette_otp.service.verification import Verification
from starlette_otp.web import journal, new_password, views
from starlette_otp.web import password as password_check
from starlette_otp.web.cookie import SessionCookie
from starlette_otp.web.origin import checked_origins
from starlette_otp.web.site import AllowAttempt, Browsers, ClientAddress
from starlette_otp.web.templates import Templates, jinja_templates
from starlette_otp.web.verdict import verdict_of

logger = logging.getLogger("starlette_otp")

# A default, so that `otp: OTP` alone is a type, too.
D = TypeVar("D", bound=DeviceMixin, default=Any)
T = TypeVar("T")


class OTP(Generic[D]):
    """One-time passwords over a host's device model.

    Verification owns its transaction: it is committed whatever becomes of the request, so that
    every failure is counted, and it is READ COMMITTED whatever the engine's default is.

    Args:
        sessionmaker: the host's; sessions are made with `expire_on_commit=False` and left alone.
        device_model: the class that mixes in DeviceMixin.
        secret_key: 32 characters or more; of several the first seals and signs, all still open.
        login_url: where guards send people; one leading `/` goes under the app's root path.
        login_redirect_url: where people go after log-in without a `next`.
        password_is_enough: a right password begins a session, authenticated and not verified, and
            then the token is asked for; who has no device goes on. Without it the session begins
            with the token.
        accept_trusted_agents: in a browser that its user trusts the password is enough to log in;
            the session has the scope "trusted" and ends with that trust. Guards go on to ask for
            the token, but those with `accept_trusted_agent`.
        site_name: what your site is called, on its pages, in its mails, and in people's apps where
            a kind has no `issuer`.
        forgot_password_url: of a page of yours, for a link on the log-in page.
        lost_devices_url: of a page of yours for who can't use their devices, likewise.
        authenticate: `async (request, username, password) -> user | None`, instead of the default.
        allow_attempt: `async (request, username) -> bool`, asked before a password is looked at;
            False is 429. For limits of the host's own, by address, say.
        client_address: `(request) -> str | None`, by default the connection's, as
            `request.client.host`; for the log, and for what one address may have at a time.
        password_queue: how many may wait for Argon2, and who; one for the process by default.
        password_hashers: pwdlib's, for passwords that another library has hashed, as
            `[DjangoHasher()]` of starlette_otp.hashers; the first is that of most users. A right
            password is hashed anew at the log-in, by Argon2id.
        load_user: `async (conn, key) -> user | None`, for users who live elsewhere.
        templates: a folder, several, or a Jinja2Templates, looked into before the shipped ones.
        allowed_origins: whose pages may send to this site, besides its own: `https://app.example`.
        reauthenticate_after: seconds; to change devices, password or sessions on the account pages
            people have to be verified, or without a device signed in, no longer ago than that.
        require_device: who has to have a device: True for everybody, or `async (user) -> bool |
            datetime`, from when on. Who has none then gets to the pages to set one up, after the
            password, and is anonymous everywhere else; before that moment the password is enough
            for them, and a notice tells of it. It is asked at each request of an unverified user.
        reads: "transaction" behind a pooler that gives each transaction a connection of its own, as
            PgBouncer with `pool_mode = transaction`; a read is in one, too, then.
        mailer: mails owners of accounts what happens to them: a device more or less, recovery codes
            used or made anew, a new password, a new browser, wrong tokens.
        notify: `async (user, notice, data)`, told of it instead; `notice` is a Notice.

    Raises:
        ConfigurationError: a short key, a class that is missing or there twice, an engine for a
            sessionmaker, a kind or a user for the device model, hashers for passwords that OTP
            does not look at or can't write, or a cookie that browsers would not take.
    """

    def __init__(
        self,
        sessionmaker: async_sessionmaker[AsyncSession],
        device_model: type[D],
        *,
        secret_key: str | Secret | Sequence[str | Secret],
        login_url: str = "/account/login",
        login_redirect_url: str = "/",
        password_is_enough: bool = False,
        accept_trusted_agents: bool = False,
        site_name: str = "",
        forgot_password_url: str | None = None,
        lost_devices_url: str | None = None,
        authenticate: Authenticate | None = None,
        allow_attempt: AllowAttempt | None = None,
        client_address: ClientAddress = journal.peer,
        password_queue: PasswordQueue = QUEUE,
        password_hashers: Sequence[HasherProtocol] = (),
        load_user: LoadUser | None = None,
        templates: Templates = None,
        allowed_origins: Sequence[str] = (),
        reauthenticate_after: float = 300,
        require_device: RequireDevice = False,
        reads: Reads = "autocommit",
        mailer: Mailer | None = None,
        notify: Notify | None = None,
    ) -> None:
        check_declared(device_model)
        warn_of_missing(device_model)
        self.transactions = Transactions(sessionmaker, device_model, reads)
        self.device_model = device_model
        self.login_url = login_url
        self.login_redirect_url = login_redirect_url
        self.password_is_enough = password_is_enough
        self.accepts_trusted_agents = accept_trusted_agents
        self.allowed_origins = checked_origins(allowed_origins)
        self.reauthenticate_after = reauthenticate_after
        self.keyring = device_model.__keyring__ = Keyring(
            secret_key, table_of(device_model).fullname
        )
        help_urls = {"forgot_password": forgot_password_url, "lost_devices": lost_devices_url}
        self.templates = jinja_templates(templates, login_url, site_name, help_urls)
        device_model.__environment__, device_model.__site_name__ = self.templates.env, site_name
        self.users = Users(
            self.transactions,
            device_model,
            authenticate,
            load_user,
            password_queue,
            password_hashers,
        )
        self.enrolment = Enrolment(self.transactions, device_model, sender=self)
        self.requirement = Requirement(require_device, self.enrolment)
        self.has_account_pages = False
        self.recovery_codes = RecoveryCodes(self.transactions, device_model, sender=self)
        self.verification = Verification(
            self.transactions, device_model, self.recovery_codes, sender=self
        )
        self.challenges = Challenges(self.transactions, device_model, sender=self)
        rows = SessionRows(device_model, self.keyring)
        self.sessions = Sessions(self.transactions, rows, sender=self)
        self.session_list = SessionList(self.transactions, rows, sender=self)
        self.tickets = Tickets(self.transactions, rows)
        self.cookie = SessionCookie(self.sessions.model)
        self.notices = Notices(self.transactions, mailer, notify, self.templates.env, site_name)
        self.notices.listen_to(self)
        self.agents: Agents | None = None
        self.browsers: Browsers | None = None
        if device_model.__agent_model__ is not None:
            self.agents = Agents(self.transactions, device_model, self.keyring, sender=self)
            cookies = AgentCookies(self.agents.model, self.keyring)
            self.browsers = TrustedBrowsers(self.agents, cookies)
        elif accept_trusted_agents:
            raise ConfigurationError(
                "OTP(accept_trusted_agents=True) needs a class with AgentMixin and "
                f"__device_model__ = {device_model.__name__}."
            )
        self.throttle = Throttle(self.transactions, device_model, self.keyring)
        self.allow_attempt = allow_attempt
        self.client_address = client_address
        if self.throttle.model is None and self.users.has_passwords:
            logger.warning(
                "Guesses at passwords have no limit: declare a class with LoginThrottleMixin and "
                "__device_model__ = %s.",
                device_model.__name__,
            )

    # Devices.

    async def devices_for_user(
        self,
        user: object,
        confirmed: bool | None = True,
        *,
        for_verify: bool = False,
        session: AsyncSession | None = None,
    ) -> list[D]:
        """The user's devices by id; none for anonymous.

        Args:
            user: the user.
            confirmed: only the confirmed, only the unconfirmed, or None for all.
            for_verify: lock them, in the order of their ids, in the caller's transaction.
            session: the caller's session; needed with `for_verify`.

        Raises:
            TransactionRequired: `for_verify` without a READ COMMITTED transaction.
        """
        return await self.enrolment.devices_for_user(
            user, confirmed, for_verify=for_verify, session=session
        )

    async def user_has_device(self, user: object, confirmed: bool | None = True) -> bool:
        """Whether the user has such a device (one EXISTS).

        Devices of a kind that this process does not declare count, too: it can't ask them, but
        they are there, and who has one is not without.
        """
        return await self.enrolment.user_has_device(user, confirmed)

    async def add_device(self, user: object, device: T) -> T:
        """Give the user a device: it is saved as theirs.

        Returns:
            The device. A confirmed one is told as `otp_device_added`, an unconfirmed one when
            `confirm_device` confirms it.

        Raises:
            ValueError: the user is nobody.
            TooManyPending: it is unconfirmed, and so are `max_pending` others of the user's.
        """
        await self.enrolment.add_device(user, device)
        return device

    async def remove_device(self, user: object, device_id: str) -> D | None:
        """Take a device from the user; what sessions it verified are unverified from now on.

        Whether the user has to have one (`require_device`) is for the pages to mind: staff may
        take the last one, too.

        Returns:
            The device that was, or None if the user has no such device.
        """
        return await self.enrolment.remove_device(user, device_id)

    async def reset_device(self, user: object, device_id: str) -> D | None:
        """Let a device of the user's verify again at once.

        Its failures are forgotten, and so is a TOTP device's `last_t` that our clock has not
        reached: after a server's clock was ahead the device would refuse all tokens until then.

        Returns:
            The device, or None if the user has no such device.
        """
        return await self.enrolment.reset_device(user, device_id)

    async def add_static_token(self, user: object, token: str | None = None) -> str:
        """Add a token to the user's first static device, which is made if there is none.

        Returns:
            The plain token, shown this once.

        Raises:
            ConfigurationError: the host has no static devices.
            ValueError: the user is nobody, or the chosen token can't be one.
        """
        return await self.enrolment.add_static_token(user, token)

    async def rename_device(self, user: object, device_id: str, name: str) -> D | None:
        """Give one of the user's devices another name; nothing else changes.

        Returns:
            The device, or None.

        Raises:
            ValueError: the name is empty, over 64 characters, or no clean text.
        """
        return await self.enrolment.rename_device(user, device_id, name)

    async def new_recovery_codes(
        self, user: object, number: int = NUMBER, *, lost: bool = False
    ) -> list[str]:
        """Make recovery codes for a user in place of all they had, on a device for them.

        Args:
            user: the user.
            number: how many.
            lost: theirs may be in wrong hands: the trust in all of their browsers ends, too.

        Returns:
            The codes, shown this once: only their digests are stored.

        Raises:
            ConfigurationError: there is no static device's class.
            ValueError: the user is nobody, or the number is not 1 to 100.
        """
        made_codes = await self.recovery_codes.renew(user, number)
        if lost and self.agents is not None:
            await self.agents.revoke_of(user)
        return made_codes

    async def recovery_codes_left(self, user: object) -> int:
        """How many recovery codes the user has that were not used.

        Raises:
            ConfigurationError: there is no static device's class.
        """
        return await self.recovery_codes.left(user)

    # Tokens.

    async def verify_token(self, user: object, device_id: str, token: str) -> D | None:
        """Verify a token with one of the user's confirmed devices: lock, verify, commit.

        Args:
            user: whose device it has to be.
            device_id: its persistent id; another user's is as good as none.
            token: what the user typed.

        Returns:
            The device, or None.

        Raises:
            TypeError: the id is the device itself, or anything else that is no str.
        """
        # A missing id names no device; None would ask all of them.
        return (await self.attempt(user, token, device_id or "")).device

    async def match_token(self, user: object, token: str) -> D | None:
        """Verify a token with the first of the user's devices that accepts it.

        Only that device changes. When none accepts, each that was asked counts a failure; locked
        devices are not asked, nor those whose tokens can't look like that.

        Returns:
            The device, or None.
        """
        return (await self.attempt(user, token)).device

    async def confirm_device(self, user: object, device_id: str, token: str) -> D | None:
        """Confirm the user's own device with one of its tokens, throttled as any; no log-in.

        Returns:
            The device, now confirmed, or None.
        """
        return (await self.attempt(user, token, device_id or "", confirming=True)).device

    async def attempt(
        self, user: object, token: str, device_id: str | None = None, confirming: bool = False
    ) -> Attempt:
        """One attempt to verify, with one device or with all, and why none was asked."""
        return await self.verification.attempt(user, token, device_id, confirming=confirming)

    async def resynchronize(
        self, user: object, device_id: str, first_token: str, second_token: str
    ) -> D | None:
        """Find an HOTP device's counter again by two consecutive tokens (RFC 4226 section 7.4).

        It looks further ahead than a verification does, as far as `resync_window`; it is
        throttled as any, and verifies no session.

        Returns:
            The device, its counter past the second token, or None.
        """
        return await self.verification.resynchronize(user, device_id, first_token, second_token)

    async def generate_challenge(
        self, user: object, device_id: str, *, confirming: bool = False, **context: Any
    ) -> str | None:
        """Challenge the user with one of their confirmed devices: prepare, commit, then deliver.

        Nothing is locked while the challenge is on its way. One that does not arrive is dead, and
        the cooldown is given back.

        Args:
            user: whose device it has to be.
            device_id: its persistent id.
            confirming: an unconfirmed device gives a challenge, too, for `confirm_device`.
            context: for the device and its templates.

        Returns:
            The message for the user, which may say why there is no challenge now; None from a
            passive, unknown or another user's device.

        Raises:
            DeliveryFailed: the challenge could not be delivered; the log says why.
        """
        return await self.challenges.generate(user, device_id, confirming=confirming, **context)

    # Users and their sessions.

    @property
    def user_model(self) -> type[Any] | None:
        """The class of the users, where they live in this database."""
        return self.users.model

    @property
    def session_model(self) -> type[Any]:
        """The class of the sessions."""
        return self.sessions.model

    async def authenticate(self, request: Request, username: str, password: str) -> Any | None:
        """The user with that name and password, or None.

        Wrong passwords are counted by name, whether or not somebody has it, and make it wait: five
        are free, then 1, 2, 4 seconds, at most 15 minutes (LoginThrottleMixin's settings); a right
        one is the end of that. A browser that has signed in to this account before has a count of
        its own. Refusals are told as `otp_login_failed`.

        Raises:
            TooManyAttempts: the name has to wait, or `allow_attempt` says so.
            TooBusy: too many others wait for their turn.
        """
        return await password_check.authenticate(self, request, username, password)

    async def change_password(self, request: Request, password: str) -> None:
        """Give the request's user a new password (ASVS 6.2.2, 7.4.3).

        It is hashed in a thread. This session goes on under a new token, verified when it was; all
        others of the user end, and tickets do. That the user may is the caller's to ask, as by
        `@requires_otp(max_age=300)`, or for the password of before by `authenticate`.

        Args:
            request: behind OTPMiddleware, of an authenticated user.
            password: the new one, for the `set_password` of the user's class.

        Raises:
            ValueError: the password can't be one, and why; or the user is nobody.
            ConfigurationError: the users are not of a model with `set_password`.
            TooBusy: too many others wait for Argon2.
            DeviceRejected: the session has ended meanwhile; the password is the old one.
        """
        await new_password.change_password(self, request, password)

    async def limited(
        self, request: Request, username: str, check: Callable[[], Awaitable[T | None]]
    ) -> T | None:
        """The same limit, log and signals around a host's own look at a password.

        `OTP(authenticate=)` is called within it; this is for log-ins that do not go through OTP.

        Args:
            request: the request.
            username: the name that was typed.
            check: gives the user, or None for a wrong password, which counts.

        Returns:
            What `check` gives.

        Raises:
            TooManyAttempts: `check` was not called.
        """
        return await password_check.limited(self, request, username, check)

    async def find_user(self, username: str) -> Any | None:
        """The user with that name in the user model, or None; in one without names nobody has one.

        Raises:
            ConfigurationError: there is no user model.
        """
        return await self.users.find(username)

    async def load_user(self, conn: HTTPConnection, key: object) -> Any | None:
        """The user with that key, from the user model or by the host's `load_user`; or None."""
        return await self.users.load(conn, key)

    async def sessions_for_user(self, user: object) -> list[Any]:
        """Where the user is signed in: rows of `session_model`, the last seen first.

        Each has `id`, `created_at`, `seen_at`, `verified_at`, `expires_at`, `user_agent` and
        `device_id`; it is the one of a request whose `session_id(request)` is its `id`.
        """
        return await self.session_list.of_user(user)

    async def end_session(self, user: object, session_id: int) -> bool:
        """End one of the user's sessions (ASVS 7.5.2).

        Args:
            user: whose session it has to be; another user's stays as it is.
            session_id: the `id` of its row.

        Returns:
            Whether there was one to end.
        """
        return await self.session_list.end(user, session_id)

    async def end_other_sessions(self, request: HTTPConnection) -> int:
        """End all sessions of the request's user but the request's own, and all their tickets.

        Returns:
            How many sessions there were.

        Raises:
            DatabaseUnavailable: the database is away; they are as they were.
        """
        verdict = verdict_of(request)
        if verdict.away:
            raise DatabaseUnavailable()
        return await self.session_list.end_others(verdict.user, verdict.session_id)

    async def revoke_sessions(self, device_or_user: object) -> None:
        """Take back what sessions are worth, from their next request on.

        Args:
            device_or_user: sessions of a device become unverified, those of a user are gone; so is
                the trust in browsers that the device has vouched for, or the user has.

        Raises:
            TypeError: it is the id of one, or a class.
        """
        await self.session_list.revoke(device_or_user)
        if self.agents is not None:
            await self.agents.revoke_of(device_or_user)

    async def clear_sessions(self, batch: int = 1000) -> int:
        """Delete expired sessions, browsers that are trusted no more, and forgotten counts of wrong
        passwords, `batch` rows at a time.

        Returns:
            How many sessions there were.
        """
        await self.throttle.clear(batch)
        if self.agents is not None:
            await self.agents.clear(batch)
        return await self.sessions.clear(batch)

    async def clear_pending(self, batch: int = 1000) -> int:
        """Delete devices that were not confirmed in time, and counts of challenges of days ago.

        Returns:
            How many devices there were.
        """
        await self.challenges.clear(batch)
        return await self.enrolment.clear_pending(batch)

    # Transactions of ours, for a host that writes next to it.

    async def read(self, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Run `work` in a session that only reads: no BEGIN, no ROLLBACK."""
        return await self.transactions.read(work)

    async def write(self, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Run `work` in a READ COMMITTED transaction of its own and commit.

        Raises:
            DatabaseUnavailable: the database is away; nothing was written that this call knows of.
        """
        return await self.transactions.write(work)

    # Pages.

    def routes(
        self, login_view: type[HTTPEndpoint] | None = None, account: bool = True
    ) -> Sequence[BaseRoute]:
        """Log-in, log-out, account pages and their stylesheet, to mount: `Mount(..., name="otp")`.

        Args:
            login_view: a subclass of LoginView in its place.
            account: with the pages on which users manage their own devices, recovery codes,
                sessions and password, from `/` on.

        Raises:
            ConfigurationError: without them nobody could set up the device that they have to have.
        """
        if not account and self.requirement.is_set:
            raise ConfigurationError(
                "OTP(require_device=) needs the account pages: otp.routes(account=True)."
            )
        self.has_account_pages = self.has_account_pages or account
        pages = account_pages.routes() if account else ()
        return [*views.routes(login_view or views.LoginView), *pages]

    def api_routes(self, transport: Literal["cookie", "bearer"] = "cookie") -> Sequence[BaseRoute]:
        """The JSON routes, to mount; in FastAPI `OTPRouter` has the same with their document.

        Args:
            transport: how clients keep their session's token: "cookie" for pages of this site,
                "bearer" for programs, which send it in `Authorization`.

        Raises:
            ConfigurationError: pydantic is missing, or there is no such transport.
        """
        try:
            from starlette_otp.api.routes import routes
        except ImportError as exc:
            if not is_missing(exc, "pydantic"):
                raise
            hint = install_hint("api")
            raise ConfigurationError(f"The JSON routes need pydantic: {hint}") from exc
        return routes(transport)
