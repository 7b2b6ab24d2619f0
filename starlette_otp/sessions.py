"""Sessions are rows: who is it, which device verified them; to begin, verify and end one."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    DateTime,
    ForeignKey,
    Identity,
    Select,
    String,
    and_,
    delete,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, declared_attr, mapped_column
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
    attach,
    is_active,
    own,
    password_hash,
    unwrapped,
)

SESSION_KEY = "otp_session"
"""Where the cookie's session holds its token, all that it holds of ours but the forms' own."""
FOUND, VERDICT = "starlette_otp.found", "starlette_otp.verdict"
"""Keys of the ASGI scope."""
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
    """What a session's row says: the user, the device that verified them, and when."""

    otp: OTP
    user: Any
    device: Any | None
    verified_at: datetime | None
    in_row: bool = True


@dataclass(slots=True)
class Verdict:
    """Who this request is, kept in the ASGI scope, where guards, forms and `login` look.

    `user` is None for anonymous. `away` says that the database could not be asked.
    """

    otp: OTP
    root_path: str
    user: Any | None = None
    device: Any | None = None
    verified_at: datetime | None = None
    in_row: bool = False
    away: bool = False


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
    if user is None and users is not None:
        user = own(row[2])
    elif user is None:
        user = await otp.load_user(conn, row[0].user_id)
    if user is None or not is_active(user):
        return None
    fingerprint = row[0].password_fingerprint
    if not otp.keyring.digest_matches("password", password_hash(user), fingerprint):
        return None
    return Found(otp, user, row[1], row[0].verified_at if row[1] is not None else None)


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

    A user who has an `otp_device` is verified by it, too (as `login` does).

    Args:
        request: behind OTPMiddleware.
        user: the user whose first factor was accepted.

    Raises:
        DeviceRejected: the user's `otp_device` is not theirs, or not confirmed.
        DatabaseUnavailable: the database is away; the session is as it was.
    """
    verdict = verdict_of(request)
    device = getattr(user, "otp_device", None)
    if device is not None:
        _check_device(verdict.otp, user, device)
    token, row = new_row(verdict.otp, user, device, request.headers.get("user-agent", ""))
    model, old = verdict.otp.session_model, token_digests(verdict.otp, request)

    async def work(session: AsyncSession) -> None:
        await _begin(session, model, old, row)

    await _write(verdict.otp, work, device)
    request.session.clear()
    _enter(request, verdict, token, user, device, ["authenticated"])


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
    user = verdict.user
    _check_device(verdict.otp, user, device)
    token, row = new_row(verdict.otp, user, device, request.headers.get("user-agent", ""))
    model, old = verdict.otp.session_model, token_digests(verdict.otp, request)

    async def work(session: AsyncSession) -> None:
        if not verdict.in_row:
            await _begin(session, model, old, row)
            return
        changes = {name: value for name, value in row.items() if name != "created_at"}
        query = update(model).where(model.token_digest.in_(old), model.user_id == row["user_id"])
        renewed = await session.execute(query.values(changes).returning(model.id))
        if renewed.first() is None:
            raise DeviceRejected(device, "The session has ended meanwhile.")

    await _write(verdict.otp, work, device)
    _enter(request, verdict, token, user, device, request.auth.scopes)


async def log_out(request: Request) -> None:
    """End the session: its row is deleted, so that a copied cookie is worth nothing (ASVS 7.4.1).

    Raises:
        DatabaseUnavailable: the database is away; the session is as it was.
    """
    verdict = verdict_of(request)
    model, old = verdict.otp.session_model, token_digests(verdict.otp, request)
    if old:

        async def work(session: AsyncSession) -> None:
            await session.execute(delete(model).where(model.token_digest.in_(old)))

        await verdict.otp.write(work)
    request.session.clear()
    verdict.user = verdict.device = verdict.verified_at = None
    verdict.in_row = False
    request.scope["user"] = RequestUser(UnauthenticatedUser(), None)
    request.scope["auth"] = AuthCredentials()


def token_digests(otp: OTP, conn: HTTPConnection) -> Sequence[str]:
    """The digests under which this request's session may be stored; none without a token."""
    token = conn.session.get(SESSION_KEY)
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        return []
    return otp.keyring.digests("session", token)


async def _begin(
    session: AsyncSession, model: type[Any], old: Sequence[str], row: dict[str, Any]
) -> None:
    if old:
        await session.execute(delete(model).where(model.token_digest.in_(old)))
    await session.execute(insert(model).values(row))


def new_row(
    otp: OTP, user: Any, device: Any | None, user_agent: str = ""
) -> tuple[str, dict[str, Any]]:
    """A new session token, and the values of its row.

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
        "device_id": None if device is None else device.id,
        "created_at": now,
        "verified_at": None if device is None else now,
        "expires_at": now + lifetime,
        "user_agent": user_agent.replace("\0", "")[:_MAX_USER_AGENT],
        "password_fingerprint": otp.keyring.digests("password", password_hash(user))[0],
    }


def _check_device(otp: OTP, user: Any, device: Any) -> None:
    key = otp.device_model.user_key(user)
    if not isinstance(device, otp.device_model) or key is None or device.user_id != key:
        raise DeviceRejected(device, "This device is not the user's.")
    if not device.confirmed:
        raise DeviceRejected(device, "This device is not confirmed.")


async def _write(otp: OTP, work: Any, device: Any | None) -> None:
    try:
        await otp.write(work)
    except IntegrityError as exc:
        raise DeviceRejected(device, "The device or its user has gone meanwhile.") from exc


def _enter(
    request: Request,
    verdict: Verdict,
    token: str,
    user: Any,
    device: Any | None,
    scopes: Sequence[str],
) -> None:
    request.session[SESSION_KEY] = token
    verdict.user, verdict.device, verdict.in_row = user, device, True
    verdict.verified_at = None if device is None else clock.now()
    show(request, verdict, scopes)


def show(conn: HTTPConnection, verdict: Verdict, scopes: Sequence[str]) -> None:
    """Put the verdict where Starlette's users look: `request.user` and `request.auth`."""
    if verdict.user is not None:
        conn.scope["user"] = verdict.user = attach(verdict.user, verdict.device)
    else:
        conn.scope["user"] = RequestUser(unwrapped(conn.scope["user"]), None)
    scopes = [scope for scope in scopes if scope != "verified"]
    # A new object: a backend may hand the same credentials to every request.
    verified = ["verified"] if verdict.device is not None else []
    conn.scope["auth"] = AuthCredentials([*scopes, *verified])
