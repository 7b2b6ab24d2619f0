"""Sessions are rows: who is it, which device verified them; to begin, verify and end one."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    ForeignKey,
    Identity,
    Select,
    String,
    and_,
    delete,
    insert,
    inspect,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstanceState, Mapped, declared_attr, mapped_column
from starlette.authentication import AuthCredentials, AuthenticationBackend, UnauthenticatedUser
from starlette.requests import HTTPConnection, Request

from starlette_otp import clock
from starlette_otp.devices.base import DeviceMixin
from starlette_otp.devices.owner import table_of, user_id_column
from starlette_otp.exceptions import (
    ConfigurationError,
    DatabaseUnavailable,
    DeviceRejected,
    is_away,
)
from starlette_otp.service import OTP
from starlette_otp.users import (
    RequestUser,
    is_active,
    password_hash,
    unwrapped,
)
from starlette_otp.verdict import Verdict, show, verdict_of

SESSION_KEY = "otp_session"
"""Where the cookie's session holds its token, all that it holds of ours but the forms' own."""
FOUND = "starlette_otp.found"
"""Where the ASGI scope has what SessionAuthBackend found."""
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_MAX_USER_AGENT = 255


class OTPSessionMixin:
    """A session: table `otp_session`. The host sets `__device_model__` to its device class.

    The cookie holds a random token, the row its digest: a copied cookie is worth nothing once the
    row is gone or has a new token.
    """

    __device_model__: ClassVar[type[DeviceMixin]]
    __tablename__ = "otp_session"

    max_age: ClassVar[timedelta | float] = timedelta(days=14)
    """How long a session lives from its log-in or verification; a timedelta or seconds."""

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    token_digest: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    verified_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)
    user_agent: Mapped[str] = mapped_column(String(_MAX_USER_AGENT), default="", server_default="")
    password_fingerprint: Mapped[str] = mapped_column(String(64))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "__device_model__"):  # a host's own mixin has none yet
            cls.__device_model__.__session_model__ = cls

    @declared_attr
    def user_id(cls) -> Mapped[Any]:
        model = cls.__device_model__.__user_model__
        if model is not None:
            return user_id_column(model)
        column = table_of(cls.__device_model__).c.user_id
        return mapped_column(column.type, index=True, nullable=False)

    @declared_attr
    def device_id(cls) -> Mapped[int | None]:
        key = ForeignKey(table_of(cls.__device_model__).c.id, ondelete="SET NULL")
        return mapped_column(key, index=True)


@dataclass(slots=True)
class Found:
    """What a session's row says: the user, the device that verified them, and when.

    `own` says that the user object is this request's alone.
    """

    otp: OTP
    user: Any
    device: Any | None
    verified_at: datetime | None
    session_id: int | None
    own: bool = False


async def find_session(otp: OTP, conn: HTTPConnection, user: Any | None = None) -> Found | None:
    """What the row of this request's session says, in one SELECT; None without such a row.

    Args:
        otp: the application's.
        conn: the request; a token of the wrong shape costs no SQL.
        user: the user another backend found: the session has to be theirs.
    """
    digests = token_digests(otp, conn)
    if not digests:
        return None
    sessions, devices, users = otp.session_model, otp.device_model, otp.user_model
    its_device = and_(
        devices.id == sessions.device_id,
        devices.user_id == sessions.user_id,
        devices.confirmed,
        devices.kind.in_(devices.kinds()),
    )
    query: Select[*tuple[Any, ...]] = select(sessions, devices).outerjoin(devices, its_device)
    if user is None and users is not None:
        its_user = inspect(users).primary_key[0] == sessions.user_id
        query = query.add_columns(users).join(users, its_user)
    query = query.where(sessions.token_digest.in_(digests), sessions.expires_at > clock.now())
    if user is not None:
        query = query.where(sessions.user_id == devices.user_key(user))

    async def work(session: AsyncSession) -> Any:
        return (await session.execute(query)).first()

    row = await otp.read(work)
    if row is None:
        return None
    is_own = user is None and users is not None
    if is_own:
        user = row[2]
    elif user is None:
        user = await otp.load_user(conn, row[0].user_id)
    if user is None or not is_active(user):
        return None
    fingerprint = row[0].password_fingerprint
    if not otp.keyring.digest_matches("password", password_hash(user), fingerprint):
        return None
    verified_at = row[0].verified_at if row[1] is not None else None
    return Found(otp, user, row[1], verified_at, row[0].id, is_own)


class SessionAuthBackend(AuthenticationBackend):
    """Starlette's authentication by our session rows: for Middleware(AuthenticationMiddleware).

    It never raises for a database that is away: the request goes on as anonymous, and every guard
    answers 503.
    """

    def __init__(self, otp: OTP) -> None:
        if not otp.loads_users:
            raise ConfigurationError(
                "SessionAuthBackend needs OTP(load_user=), since there is no user model."
            )
        self.otp = otp

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, Any] | None:
        """The session's user with the scope "authenticated", or None."""
        if "session" not in conn.scope:
            raise ConfigurationError(
                "SessionAuthBackend needs SessionMiddleware, installed before "
                "AuthenticationMiddleware."
            )
        try:
            found = await find_session(self.otp, conn)
        except Exception as exc:
            if not is_away(exc):
                raise
            conn.scope[FOUND] = DatabaseUnavailable()
            return None
        conn.scope[FOUND] = found
        return (AuthCredentials(["authenticated"]), found.user) if found else None


async def log_in(request: Request, user: Any) -> None:
    """Begin the session of an authenticated user; nothing of the former session survives.

    A user who has an `otp_device` is verified by it, too (as `login` does). With `request.user`
    itself the session goes on under a new token, verified when it was: after a new password, say.

    Args:
        request: behind OTPMiddleware.
        user: the user whose first factor was accepted.

    Raises:
        DeviceRejected: the user's `otp_device` is not theirs, not confirmed, or gone.
        DatabaseUnavailable: the database is away; the session is as it was.
    """
    verdict = verdict_of(request)
    device = getattr(user, "otp_device", None)
    is_same = user is verdict.user and device is verdict.device
    verified_at = verdict.verified_at if is_same else None
    token, row = new_row(verdict.otp, user, device, verified_at, _user_agent(request))

    async def work(session: AsyncSession) -> int:
        await complete_row(session, verdict.otp, user, device, row)
        return await _begin(session, verdict, request, row)

    session_id = await _write(verdict.otp, work, device)
    request.session.clear()
    own = verdict.own and is_same
    verdict.user, verdict.own, verdict.session_id = user, own, session_id
    _enter(request, verdict, token, device, row["verified_at"], ["authenticated"])


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
    verdict = verdict_of(request)
    if verdict.away:
        raise DatabaseUnavailable()
    user, model = verdict.user, verdict.otp.session_model
    if verdict.otp.device_model.user_key(user) is None:
        raise DeviceRejected(device, "This device is not the user's.")
    token, row = new_row(verdict.otp, user, device, user_agent=_user_agent(request))

    async def work(session: AsyncSession) -> int:
        await complete_row(session, verdict.otp, user, device, row)
        if verdict.session_id is None:
            return await _begin(session, verdict, request, row)
        # By its old token, too: a log-out or another log-in has ended or renewed it meanwhile.
        digests = token_digests(verdict.otp, request)
        mine = model.id == verdict.session_id, model.token_digest.in_(digests)
        changes = {name: value for name, value in row.items() if name != "created_at"}
        renewed = await session.scalar(
            update(model).where(*mine).values(changes).returning(model.id)
        )
        if renewed is None:
            raise DeviceRejected(device, "The session has ended meanwhile.")
        return int(renewed)

    verdict.session_id = await _write(verdict.otp, work, device)
    _enter(request, verdict, token, device, row["verified_at"], request.auth.scopes)


async def log_out(request: Request) -> None:
    """End the session: its row is deleted, so that a copied cookie is worth nothing (ASVS 7.4.1).

    Raises:
        DatabaseUnavailable: the database is away; the session is as it was.
    """
    verdict = verdict_of(request)
    ended = _row_of(verdict, request)
    if ended is not None:

        async def work(session: AsyncSession) -> None:
            await session.execute(delete(verdict.otp.session_model).where(ended))

        await verdict.otp.write(work)
    request.session.clear()
    verdict.user = verdict.device = verdict.verified_at = verdict.session_id = None
    request.scope["user"] = RequestUser(UnauthenticatedUser(), None)
    request.scope["auth"] = AuthCredentials()


def token_digests(otp: OTP, conn: HTTPConnection) -> Sequence[str]:
    """The digests under which this request's session may be stored; none without a token."""
    token = conn.session.get(SESSION_KEY)
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        return []
    return otp.keyring.digests("session", token)


def _row_of(verdict: Verdict, request: Request) -> ColumnElement[bool] | None:
    """The row of this request's session: by its id, too, since a verification renews the token."""
    model, digests = verdict.otp.session_model, token_digests(verdict.otp, request)
    if verdict.session_id is None:
        return model.token_digest.in_(digests) if digests else None
    return or_(model.id == verdict.session_id, model.token_digest.in_(digests))


async def _begin(
    session: AsyncSession, verdict: Verdict, request: Request, row: dict[str, Any]
) -> int:
    model, former = verdict.otp.session_model, _row_of(verdict, request)
    if former is not None:
        await session.execute(delete(model).where(former))
    made = await session.execute(insert(model).values(row).returning(model.id))
    return int(made.scalar_one())


def new_row(
    otp: OTP,
    user: Any,
    device: Any | None,
    verified_at: datetime | None = None,
    user_agent: str = "",
) -> tuple[str, dict[str, Any]]:
    """A new session token, and the values of its row; `complete_row` checks and completes it.

    Args:
        otp: the application's.
        user: whose session it is.
        device: what verifies it, or None.
        verified_at: when that was; now unless given.
        user_agent: the browser's name.

    Raises:
        ValueError: the user is nobody.
    """
    key = otp.device_model.user_key(user)
    if key is None:
        raise ValueError("log_in needs an authenticated user.")
    max_age = otp.session_model.max_age
    lifetime = max_age if isinstance(max_age, timedelta) else timedelta(seconds=max_age)
    now = clock.now()
    token = secrets.token_urlsafe(32)
    return token, {
        "token_digest": otp.keyring.digests("session", token)[0],
        "user_id": key,
        "device_id": None,
        "created_at": now,
        "verified_at": None if device is None else verified_at or now,
        "expires_at": now + lifetime,
        "user_agent": user_agent,
    }


async def complete_row(
    session: AsyncSession, otp: OTP, user: Any, device: Any | None, row: dict[str, Any]
) -> None:
    """Add to a session's row the device, if it may verify the user, and the password's fingerprint.

    Both may be instances that a commit has expired: what decides is read from the database.

    Raises:
        DeviceRejected: the device is not the user's, not confirmed, or gone.
    """
    if device is not None:
        row["device_id"] = await _accepted_id(session, otp, device, row["user_id"])
    state = inspect(unwrapped(user), raiseerr=False)
    if isinstance(state, InstanceState) and state.expired_attributes:
        user = await session.get(type(unwrapped(user)), state.identity)
    row["password_fingerprint"] = otp.keyring.digests("password", password_hash(user))[0]


async def _accepted_id(session: AsyncSession, otp: OTP, device: Any, user_key: Any) -> int:
    model = otp.device_model
    identity = inspect(device).identity if isinstance(device, model) else None
    if identity is None:
        raise DeviceRejected(device, "This device is not the user's.")
    columns = table_of(model).c
    query = select(columns.user_id, columns.confirmed).where(columns.id == identity[0])
    found = (await session.execute(query)).first()
    if found is None:
        raise DeviceRejected(device, "This device has gone meanwhile.")
    if found.user_id != user_key:
        raise DeviceRejected(device, "This device is not the user's.")
    if not found.confirmed:
        raise DeviceRejected(device, "This device is not confirmed.")
    return int(identity[0])


def _user_agent(request: Request) -> str:
    return request.headers.get("user-agent", "").replace("\0", "")[:_MAX_USER_AGENT]


async def _write(otp: OTP, work: Callable[[AsyncSession], Awaitable[int]], device: Any) -> int:
    try:
        return await otp.write(work)
    except IntegrityError as exc:
        raise DeviceRejected(device, "The device or its user has gone meanwhile.") from exc


def _enter(
    request: Request,
    verdict: Verdict,
    token: str,
    device: Any | None,
    verified_at: datetime | None,
    scopes: Sequence[str],
) -> None:
    request.session[SESSION_KEY] = token
    verdict.device, verdict.verified_at = device, verified_at
    show(request, verdict, scopes)
