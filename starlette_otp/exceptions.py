"""The errors. Each carries its evidence; words for people are chosen where they are shown."""

from __future__ import annotations

import json
import math
import re
import traceback
from importlib.metadata import PackageNotFoundError, distribution
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

RETRY_AFTER_SECONDS = 5


class OTPError(Exception):
    """Every error this package raises on purpose."""


class ConfigurationError(OTPError):
    """The host put something together wrongly; the message is one sentence that says what."""


class TransactionRequired(OTPError):
    """Devices can only be locked in a session with a READ COMMITTED transaction."""


class DeviceRejected(OTPError):
    """A device may not verify this session.

    Attributes:
        device: the device that was offered.
        reason: one sentence why.
    """

    def __init__(self, device: object, reason: str) -> None:
        super().__init__(reason)
        self.device = device
        self.reason = reason


class AgentRejected(OTPError):
    """This browser can't be made a trusted one; the message is one sentence why."""


class DeliveryFailed(OTPError):
    """A challenge was made but could not be delivered; its token is dead.

    Attributes:
        device: the device whose challenge it was.
    """

    def __init__(self, device: object) -> None:
        super().__init__("The challenge could not be delivered.")
        self.device = device


class TooManyPending(OTPError):
    """A user has as many devices that wait to be confirmed as there may be.

    Attributes:
        limit: how many that is.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(f"The user has {limit} unconfirmed devices already; confirm one of them.")
        self.limit = limit


class LastDevice(OTPError):
    """The user has to have a device, and this is the last one."""


class SecretUnreadable(OTPError):
    """A device's secret does not decrypt: tampered with, swapped, or made under a retired key.

    Attributes:
        persistent_id: the device's persistent id.
    """

    def __init__(self, persistent_id: str) -> None:
        super().__init__(
            f"The secret of device {persistent_id} does not decrypt: it was changed, belongs to "
            "another row, or was made under a retired key, which `starlette-otp rotate-keys` "
            "needs to have back in secret_key."
        )
        self.persistent_id = persistent_id


class DatabaseUnavailable(OTPError, HTTPException):
    """The database is away. Left alone in a view, Starlette answers it with 503 and Retry-After."""

    def __init__(self) -> None:
        HTTPException.__init__(
            self,
            status_code=503,
            detail="The service is temporarily unavailable. Please try again in a moment.",
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        )


class TooBusy(DatabaseUnavailable):
    """Too many log-ins wait for their turn; the same answer as when the database is away."""

    code = "too_busy"


class TooManyAttempts(OTPError, HTTPException):
    """Too many wrong passwords. Left alone in a view, Starlette answers it with 429.

    Attributes:
        seconds: until the next attempt may be made; None if nobody knows.
    """

    code = "too_many_attempts"

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = seconds
        HTTPException.__init__(
            self,
            status_code=429,
            detail="Too many attempts. Please try again later.",
            headers=None if seconds is None else {"Retry-After": str(max(1, math.ceil(seconds)))},
        )


def described(exc: BaseException) -> str:
    """The type of an error and the place where it was raised, for a log.

    Not its text, unless it is one of ours: others put into it what they were called with, as the
    URL of a gateway with the token in it.
    """
    places = [f"{f.f_code.co_filename}:{line}" for f, line in traceback.walk_tb(exc.__traceback__)]
    place = f" at {places[-1]}" if places else ""
    return f"{type(exc).__qualname__}{place}" + (f": {exc}" if isinstance(exc, OTPError) else "")


def is_missing(exc: ImportError, *packages: str) -> bool:
    """Whether one of these packages is not installed; one that is there and broken says itself
    what is wrong with it, and no installing of extras helps."""
    return isinstance(exc, ModuleNotFoundError) and exc.name in packages


def install_hint(extra: str) -> str:
    """The command that adds an extra to this installation: to that of a clone where it is one.

    A name alone would be looked for in an index, which may have another package of that name or
    none. Where a package came from is in its `direct_url.json` (PEP 610).
    """
    try:
        origin = json.loads(distribution("starlette-otp").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        origin = {}
    url = str(origin.get("url", ""))
    source = url2pathname(urlsplit(url).path) if url.startswith("file:") else "starlette-otp"
    editable = "-e " if origin.get("dir_info", {}).get("editable") else ""
    return f"pip install {editable}'{source}[{extra}]'"


def sqlstate_of(exc: BaseException) -> str:
    """PostgreSQL's code of an error, wrapped or not; empty for any other."""
    cause = getattr(exc, "orig", None) or exc
    return str(getattr(cause, "sqlstate", None) or "")


def said_by_database(exc: BaseException) -> str:
    """What a database has against something, in a few words; without the values, which may be
    somebody's number or address."""
    said = str(getattr(exc, "orig", None) or exc).partition("\n")[0]
    said = re.sub(r"^<class '[^']*'>: ", "", said)
    # What does not fit a type stands behind the colon or in quotes, and what a trigger says is the
    # host's, whatever state it says it with.
    if sqlstate_of(exc).startswith("22") or not sqlstate_of(exc):
        said = re.sub('".*"', "it", said.partition(": ")[0])
    driver = getattr(exc, "orig", None) or exc
    where = getattr(driver.__cause__ or driver, "context", None) or ""
    return "a trigger refuses it" if "RAISE" in where else said


def breaks_integrity(exc: BaseException) -> bool:
    """Whether a row that a statement names has gone, or is there already."""
    return sqlstate_of(exc).startswith("23")


# What a server says that means "not now": connection exceptions, insufficient resources, operator
# intervention; a role or a database that it does not take a connection for; a lock or a statement
# that took too long; one that only reads (a standby); a rival that was in the way again when it was
# tried again.
_NOT_NOW = ("08", "53", "57P", "28", "3D", "55P03", "57014", "25006", "40P01")
# What may go well the second time: a deadlock, a serialization failure, a server of the pool that
# has become a standby meanwhile.
_TRY_AGAIN = ("40P01", "40001", "25006")
READ_ONLY = "25006"


def is_away(exc: BaseException) -> bool:
    """Whether an exception means that the database can't be reached or can't serve now.

    The rule: what fails while a connection is made, whatever it is, and what says "not now"
    rather than "wrong".
    """
    cause = getattr(exc, "orig", None) or exc
    if isinstance(exc, OSError | PoolTimeout | DatabaseUnavailable) or isinstance(cause, OSError):
        return True
    state = sqlstate_of(exc)
    if isinstance(exc, DBAPIError):
        # Without a statement it came from connecting, or else from a commit, which says so.
        is_connecting = exc.statement is None and not state.startswith(("23", "40"))
        if exc.connection_invalidated or is_connecting:
            return True
    return state.startswith(_NOT_NOW)


def is_worth_another_try(exc: BaseException) -> bool:
    """Whether the same work, begun anew, may well succeed."""
    broken = isinstance(exc, DBAPIError) and exc.connection_invalidated
    return broken or sqlstate_of(exc).startswith(_TRY_AGAIN)
