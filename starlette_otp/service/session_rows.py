"""SessionRows: the statements of sessions' rows, and the digests and fingerprints in them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Interval,
    Select,
    Table,
    and_,
    bindparam,
    delete,
    false,
    func,
    inspect,
    literal,
    or_,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp.devices.endings import UNVERIFIED
from starlette_otp.devices.owner import table_of, user_key_column
from starlette_otp.devices.users import password_hash, with_hash
from starlette_otp.keyring import Keyring
from starlette_otp.service.rows import Statement

Purpose = Literal["session", "ticket"]

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_RENEWED = (
    "token_digest",
    "device_id",
    "verified_at",
    "expires_at",
    "seen_at",
    "user_agent",
    "password_fingerprint",
    "device_fingerprint",
    "former_digest",
    "former_until",
    "agent_id",
    "is_trusted",
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Held(NamedTuple):
    """A session's row, as far as finding it needs; `kind` is that of the device that came along."""

    id: int
    user_id: Any
    device_id: int | None
    verified_at: datetime | None
    seen_at: datetime | None
    token_digest: str
    former_digest: str | None
    password_fingerprint: str
    device_fingerprint: str | None
    amr: str | None
    agent_id: int | None
    is_trusted: bool
    kind: str | None


class SessionRows:
    """The rows of `otp_session`, sessions' and tickets'.

    Args:
        device_model: the class that mixes in DeviceMixin.
        keyring: for the digests and fingerprints.
    """

    def __init__(self, device_model: type[Any], keyring: Keyring) -> None:
        self.model: type[Any] = device_model.__session_model__
        self.table = table_of(self.model)
        self.device_model = device_model
        self._keyring = keyring
        self._columns: Any = inspect(self.model).columns
        self._finds: dict[tuple[bool, bool, str], Statement] = {}

    # Digests and fingerprints.

    def digests(self, token: object, purpose: Purpose = "session") -> Sequence[str]:
        """The digests under which a token may be stored; none for what can be no token."""
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            return []
        return self._keyring.digests(purpose, token)

    def digest(self, token: str, purpose: Purpose = "session") -> str:
        """The digest under which a new token is stored."""
        return self._keyring.digests(purpose, token)[0]

    def named(self, digests: Sequence[str]) -> dict[str, str]:
        """Those as parameters of a statement; a token of no digest is nobody's."""
        return {
            f"otp__digest_{number}": digests[number] if digests else ""
            for number in range(self._keyring.number)
        }

    def sign(self, row: dict[str, Any], user: Any, purpose: Purpose = "session") -> None:
        """Add a row's fingerprints, by its other columns and the user's password."""
        bound_secret = _whose(
            row["token_digest"],
            row.get("former_digest"),
            row["user_id"],
            password_hash(user),
            row.get("amr"),
            row.get("agent_id"),
        )
        row["password_fingerprint"] = self._keyring.digests(f"whose {purpose}", bound_secret)[0]
        row["device_fingerprint"] = None
        if row["verified_at"] is not None:
            row["device_fingerprint"] = self.fingerprint(
                row["token_digest"], row["device_id"], row["verified_at"], row["is_trusted"]
            )

    def fingerprint(
        self, digest: str, device_id: int | None, verified_at: datetime, is_trusted: bool
    ) -> str:
        """What binds a session's verification to it, and its browser's trust to that."""
        verified = _verified(digest, device_id, verified_at, is_trusted)
        return self._keyring.digests("verified session", verified)[0]

    def is_of(self, row: Any, user: Any, purpose: Purpose = "session") -> bool:
        """Whether a row is as it was signed for this user and their password."""
        bound_secret = _whose(
            row.token_digest,
            row.former_digest,
            row.user_id,
            password_hash(user),
            row.amr,
            row.agent_id,
        )
        return self._keyring.digest_matches(
            f"whose {purpose}", bound_secret, row.password_fingerprint
        )

    def is_verified(self, row: Held) -> bool:
        """Whether a row is as it was signed for the device that verified it, and when."""
        if row.verified_at is None or row.device_fingerprint is None:
            return False
        verified = _verified(row.token_digest, row.device_id, row.verified_at, row.is_trusted)
        return self._keyring.digest_matches("verified session", verified, row.device_fingerprint)

    # Finding.

    def find(self, with_user: bool, of_user: bool, by: str) -> Statement:
        """The SELECT of a session, its device, and their user where they are in the database.

        Args:
            with_user: the user comes along.
            of_user: it has to be the session of `otp__owner`.
            by: "token" or "former", `otp__digest_0` and on; or "id", `otp__session`.
        """
        which = with_user, of_user, by
        if which not in self._finds:
            self._finds[which] = self._make_find(*which)
        return self._finds[which]

    def _make_find(self, with_user: bool, of_user: bool, by: str) -> Statement:
        devices, users = self.device_model, self.device_model.__user_model__
        row, device = self._columns, table_of(devices).c
        its_device = [device.id == row.device_id, device.user_id == row.user_id, device.confirmed]
        held = {
            "token": self._is_held(row.token_digest),
            "former": self._is_former(row),
            "id": row.id == bindparam("otp__session"),
        }
        mine = [held[by], row.expires_at > bindparam("otp__now")]
        mine += [row.user_id == bindparam("otp__owner")] if of_user else []

        def make(*what: Any) -> Select[Any]:
            found = self.table.outerjoin(table_of(devices), and_(*its_device))
            if with_user:
                found = found.join(table_of(users), user_key_column(users) == row.user_id)
            return select(*what).select_from(found).where(*mine)

        def for_session(*what: Any) -> Select[Any]:
            # Entities, which may be more than one table each; and a session can't load rows of a
            # kind that this host does not declare.
            known = device.kind.in_(devices.kinds())
            query = select(*what).select_from(self.model)
            query = query.outerjoin(devices, and_(*its_device, known))
            if with_user:
                query = query.join(users, user_key_column(users) == row.user_id)
                query = query.options(*with_hash(users))
            return query.where(*mine)

        own = [row[name] for name in Held._fields[:-1]]
        models = [devices, users] if with_user else [devices]
        return Statement(make, *own, device.kind, *models, for_session=for_session)

    def _is_held(self, column: Any) -> ColumnElement[bool]:
        """Whether a column has one of the digests, each a parameter: there is one for each key."""
        names = [f"otp__digest_{number}" for number in range(self._keyring.number)]
        found: ColumnElement[bool] = column.in_([bindparam(name) for name in names])
        return found

    def _is_former(self, row: Any) -> ColumnElement[bool]:
        """Whether a row had one of the digests until its last verification, moments ago."""
        return and_(self._is_held(row.former_digest), row.former_until > bindparam("otp__now"))

    # Writing.

    @cached_property
    def seen(self) -> Statement:
        """The UPDATE of a session that was seen; of one that has ended meanwhile none."""
        row = self._columns
        now: Any = bindparam("otp__now", type_=row.seen_at.type)
        mine = row.id == bindparam("otp__session"), row.expires_at > now
        # Never earlier than it says: who set a shorter age may have rows from before.
        end = func.greatest(row.expires_at, self._end())
        values: Any = {row.expires_at: end, row.seen_at: now}
        query = update(self.table).where(*mine).values(values)
        return Statement(lambda *what: query.returning(*what), row.id)

    def _end(self) -> ColumnElement[Any]:
        """When a session ends that is seen now, as a part of its UPDATE."""
        created_at = self._columns.created_at
        latest = created_at + bindparam("otp__max_age", type_=Interval)
        return func.least(latest, bindparam("otp__expires_at", type_=created_at.type))

    def insert(
        self,
        row: dict[str, Any],
        replaced: ColumnElement[bool],
        if_: ColumnElement[bool] | None = None,
    ) -> Any:
        """A new row in place of others, all or nothing.

        Args:
            row: its columns; a part of a statement for a value is one, too.
            replaced: which other rows go.
            if_: the condition, if there is one.
        """
        accepted: ColumnElement[bool] = true() if if_ is None else if_
        given = {self._columns[name]: value for name, value in row.items()}
        given |= _defaults(self.table, given)
        values = [
            value if isinstance(value, ColumnElement) else literal(value, column.type)
            for column, value in given.items()
        ]
        query = insert(self.table).from_select(list(given), select(*values).where(accepted))
        # Done again after a connection broke, it may find its own row: nobody else has its token.
        own = self._columns.token_digest
        again = literal(row["token_digest"], own.type)
        query = query.on_conflict_do_update(index_elements=[own], set_={own.name: again})
        made = query.returning(self._columns.id).cte("made")
        gone = delete(self.table).where(replaced, accepted).cte("gone")
        return select(*made.c).add_cte(gone)

    def accepts(self, device_id: int, owner: Any) -> ColumnElement[bool]:
        """Whether that device may verify that user, as a part of a statement."""
        its = table_of(self.device_model).c
        mine = its.id == device_id, its.user_id == owner
        return select(its.id).where(*mine, its.confirmed).exists()

    @cached_property
    def renew(self) -> Statement:
        """The UPDATE of a session; that its device may verify its user is a part of it.

        The user's tickets may stay: they are dead, since a device has been used.
        """
        row, device = self._columns, table_of(self.device_model).c
        held = or_(self._is_held(row.token_digest), self._is_former(row))
        still: Any = bindparam("otp__still", type_=row.device_id.type)
        mine = (
            row.id == bindparam("otp__session"),
            held,
            or_(still.is_(None), row.device_id == still),
        )
        its_device = device.id == bindparam("otp__device_id"), device.confirmed
        owner: Any = bindparam("otp__owner")
        values: Any = {row[name]: bindparam(f"otp__{name}") for name in _RENEWED}
        values[row.expires_at] = self._end()
        query = update(self.table).where(*mine, row.user_id == owner)
        query = query.where(*its_device, device.user_id == row.user_id).values(values)
        return Statement(lambda *what: query.returning(*what), row.id)

    def trust(self, session_id: int, digest: str, values: dict[str, Any]) -> Any:
        """The UPDATE of what is trusted in a session that has this token still."""
        row = self._columns
        query = update(self.table).where(row.id == session_id, row.token_digest == digest)
        return query.values(values).returning(row.id)

    @staticmethod
    def renewed(row: dict[str, Any]) -> dict[str, Any]:
        """A row as the parameters of `renew`."""
        return {f"otp__{name}": row[name] for name in _RENEWED}

    def unverify(self, held: Held) -> Any:
        """The UPDATE that takes its verification from a session for good.

        Not if its device is confirmed and the user's: it is of a kind that this host does not
        declare.
        """
        row = self._columns
        mine = row.id == held.id, row.device_id == held.device_id
        query = update(self.table).where(*mine, ~self.accepts(row.device_id, row.user_id))
        return query.values(UNVERIFIED)

    def running(self, query: Any) -> Callable[[AsyncSession], Awaitable[Sequence[Any]]]:
        """The work of running one of these in a session; it gives what the statement returns."""
        mapper = {"mapper": inspect(self.model)}

        async def work(session: AsyncSession) -> Sequence[Any]:
            result: Any = await session.execute(query, bind_arguments=mapper)
            rows: Sequence[Any] = result.all() if result.returns_rows else ()
            return rows

        return work

    # Ending.

    def row_of(self, token: object, session_id: int | None) -> ColumnElement[bool] | None:
        """The row of a session: by its id, too, since a verification renews the token."""
        row, digests = self._columns, self.digests(token)
        if session_id is None:
            return row.token_digest.in_(digests) if digests else None
        return or_(row.id == session_id, row.token_digest.in_(digests))

    def tickets_of(self, owner: Any) -> ColumnElement[bool]:
        """The rows of a user's tickets."""
        return and_(self._columns.is_ticket, self._columns.user_id == owner)

    def ticket_of(self, token: object) -> ColumnElement[bool] | None:
        """The row of a ticket."""
        row, digests = self._columns, self.digests(token, "ticket")
        return and_(row.is_ticket, row.token_digest.in_(digests)) if digests else None

    def end(self, ended: Sequence[ColumnElement[bool]], owner: Any) -> Any:
        """The DELETE of rows, and of the tickets of their users and of `owner`."""
        row = self._columns
        gone = delete(self.table).where(or_(false(), *ended)).returning(row.user_id).cte("ended")
        owners = union_all(select(gone.c.user_id), select(literal(owner, row.user_id.type)))
        return delete(self.table).where(row.is_ticket, row.user_id.in_(owners))


class _Context:
    """What a default of the host's may ask for the other values, as SQLAlchemy's own context."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.current_parameters = values

    def get_current_parameters(self, isolate_multiinsert_groups: bool = True) -> dict[str, Any]:
        return self.current_parameters


def _defaults(table: Table, given: dict[Any, Any]) -> dict[Any, Any]:
    """The values of the host's own columns that Python makes.

    In an INSERT that selects, and stands beside a DELETE, SQLAlchemy loses them.
    """
    known = {
        column.key: None if isinstance(value, ColumnElement) else value
        for column, value in given.items()
    }
    made: dict[Any, Any] = {}
    for column in table.c:
        default: Any = column.default
        if column in given or default is None or not (default.is_scalar or default.is_callable):
            continue
        value = default.arg(_Context(known)) if default.is_callable else default.arg
        made[column] = known[column.key] = value
    return made


def _whose(
    digest: str,
    former_digest: str | None,
    owner: Any,
    password_hash: str,
    amr: str | None,
    agent_id: int | None,
) -> str:
    bound_secret = "\0".join((digest, former_digest or "", str(owner), password_hash))
    # Rows from before there was one are as they were.
    if amr is not None or agent_id is not None:
        bound_secret += f"\0{amr or ''}"
    return bound_secret if agent_id is None else f"{bound_secret}\0{agent_id}"


def _verified(digest: str, device_id: int | None, at: datetime, is_trusted: bool) -> str:
    # As PostgreSQL keeps it, whatever zone it comes back in.
    bound_secret = f"{digest}\0{device_id}\0{(at - _EPOCH) // _MICROSECOND}"
    return f"{bound_secret}\0trusted" if is_trusted else bound_secret
