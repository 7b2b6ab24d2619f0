"""Verification: a user's devices are locked, asked, written back; the attempt is told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

from sqlalchemy import (
    BigInteger,
    Select,
    Table,
    bindparam,
    func,
    inspect,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp import signals
from starlette_otp.devices.hotp import HOTPDeviceMixin
from starlette_otp.devices.locking import locked
from starlette_otp.devices.owner import table_of
from starlette_otp.devices.persistent_id import check_device_id, parse_persistent_id
from starlette_otp.devices.policies import VerificationFailure
from starlette_otp.devices.static import StaticDeviceMixin
from starlette_otp.exceptions import DatabaseUnavailable
from starlette_otp.service.attempts import (
    MANY_FAILURES,
    Attempt,
    ask_all,
    ask_one,
    is_repeated,
    twins_of,
    untold_failures,
)
from starlette_otp.service.enrolment import turn_number
from starlette_otp.service.plain import overrides_ours
from starlette_otp.service.recovery_codes import RecoveryCodes
from starlette_otp.service.rows import Statement, Unit
from starlette_otp.service.transactions import Transactions

logger = logging.getLogger("starlette_otp")

_NOT_ALONE = Attempt()
"""Nothing was tried: other devices of the user's have to be locked, too."""
_NO_DEVICE = Attempt(reason=VerificationFailure.NO_DEVICE)


class _Turn:
    """Whose turn it is at a device, and when the database was last away for one of them."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.away_at = float("-inf")


class Verification:
    """Puts tokens to users' devices, each attempt in a transaction of its own.

    Args:
        transactions: over the host's sessionmaker.
        device_model: the class that mixes in DeviceMixin.
        codes: told of each that is used.
        sender: whom the signals name.
    """

    def __init__(
        self,
        transactions: Transactions,
        device_model: type[Any],
        codes: RecoveryCodes,
        sender: object,
    ) -> None:
        self._transactions = transactions
        self._codes = codes
        self._device_model = device_model
        self._sender = sender
        self._turns: WeakValueDictionary[Any, _Turn] = WeakValueDictionary()

    async def attempt(
        self,
        user: object,
        token: str,
        device_id: str | None = None,
        *,
        confirming: bool = False,
        as_first: bool = False,
        or_any: bool = False,
        browser: str | None = None,
        asking_browser: str | None = None,
        address: str | None = None,
        agent: str | None = None,
    ) -> Attempt:
        """One attempt to verify, with one device or with all, and why none was asked.

        Args:
            user: whose device it has to be.
            token: what the user typed.
            device_id: the persistent id of the one device to ask; None asks all of them.
            confirming: the device may be unconfirmed, and is confirmed if it accepts.
            as_first: not if the user has a confirmed device already, of any kind; of two that are
                confirmed at once one is the first.
            or_any: an id of no device of the user's is as good as none: all are asked.
            browser: what the browser session that sent it is known by, if it is: of two equal
                clicks the second is known again.
            asking_browser: what tells the browser that asks from others; None for a call without
                one.
            address: of the client, for the log and the signal; None for a call without a request.
            agent: what the client calls itself, likewise.

        Raises:
            TypeError: the token or the id is no str.
        """
        _check_texts(token)
        check_device_id(device_id)
        attempt, owner = None, self._device_model.user_key(user)
        marks = self._marks(browser, token)
        if device_id is not None:
            attempt = await self._ask(
                owner,
                device_id,
                token,
                confirming=confirming,
                as_first=as_first,
                marks=marks,
                asking_browser=asking_browser,
            )
        if device_id is None or (attempt is None and or_any):
            attempt = await self._ask_any(user, token, marks, asking_browser)
        attempt = attempt or _NO_DEVICE
        if attempt.device is not None and attempt.others_failed:
            await self._note_told(owner, attempt.device)
        return await self._tell(user, owner, attempt, address, agent)

    def is_repeated(self, device: Any, token: str, browser: str | None) -> bool:
        """Whether the device, as it was loaded, accepted this token from this browser just now."""
        return is_repeated(device, self._marks(browser, token))

    def _marks(self, browser: str | None, token: str) -> Sequence[str]:
        if browser is None:
            return ()
        marks: Sequence[str] = self._device_model.keyring().digests("click", f"{browser}\0{token}")
        return marks

    async def resynchronize(
        self, user: object, device_id: str, first_token: str, second_token: str
    ) -> Any | None:
        """`OTP.resynchronize`."""
        _check_texts(first_token, second_token)
        check_device_id(device_id)
        attempt, owner = None, self._device_model.user_key(user)
        model = self._device_model.kind_named(parse_persistent_id(device_id)[0])
        if model is not None and issubclass(model, HOTPDeviceMixin):
            attempt = await self._ask(owner, device_id, first_token, second_token)
        return (await self._tell(user, owner, attempt or _NO_DEVICE)).device

    async def _ask_any(
        self, user: object, token: str, marks: Sequence[str], asking_browser: str | None
    ) -> Attempt:
        # Unconfirmed ones are not asked; but one may have the secret of one that is.
        query = locked(self._device_model.devices_for_user(user))

        async def work(session: AsyncSession) -> Attempt:
            devices = list(await session.scalars(query))
            for device in devices:
                device.asking_browser = asking_browser
            return await ask_all(session, devices, token, marks)

        return await self._transactions.write(work)

    async def _ask(
        self,
        owner: Any,
        device_id: str,
        *tokens: str,
        confirming: bool = False,
        as_first: bool = False,
        marks: Sequence[str] = (),
        asking_browser: str | None = None,
    ) -> Attempt | None:
        """Put tokens to one device; None if the user has no such device, or another one first."""
        kind, number = parse_persistent_id(device_id)
        model = self._device_model.kind_named(kind)
        if model is None or owner is None:
            return None

        values = {"id": number, "kind": kind, "owner": owner}

        async def ask(unit: Unit, lock: Statement) -> Attempt | None:
            rows = await unit.load(lock, **values)
            device = _named(number, rows)
            if lock is self._lock_all and device and device.secret_digest != rows[0][2]:
                # Written while we waited, as by a rotation of keys: a row of the same secret that
                # was written with it is no longer what the statement has looked for.
                rows = await unit.load(lock, **values)
                device = _named(number, rows)
            devices = [row[0] for row in rows]
            if device is None or device.pending_expired or not (device.confirmed or confirming):
                return None
            failures_before = rows[0][1] or 0
            if confirming and not device.confirmed:
                turn = turn_number(self._device_model, "first", owner)
                await unit.all(self._take_turn, turn=turn)
            if as_first and await unit.all(self._other_confirmed, owner=owner, id=number):
                return None
            if lock is self._lock_alone:
                if failures_before:
                    return _NOT_ALONE
                failures_before = untold_failures(device)
            device.asking_browser = asking_browser
            attempt = await ask_one(
                device,
                *tokens,
                confirming=confirming,
                marks=marks,
                twins=twins_of(device, devices),
                failures_before=failures_before,
            )
            await unit.save()
            return attempt

        # Tokens in rows of their own, and what a host's kind does itself, want a session.
        is_plain = not issubclass(model, StaticDeviceMixin) and not overrides_ours(model)
        plain = (model,) if is_plain else ()
        turn, arrived = self._turn(owner, number), time.monotonic()
        async with turn.lock:
            if turn.away_at >= arrived:
                # Who waits for a database that is away waits once, and not once for each before.
                raise DatabaseUnavailable()
            run = self._transactions.run
            try:
                alone = await run("READ COMMITTED", plain, lambda u: ask(u, self._lock_alone))
                if alone is not _NOT_ALONE:
                    return alone
                found = await run("READ COMMITTED", plain, lambda u: ask(u, self._lock_all))
                return found and replace(found, others_failed=True)
            except DatabaseUnavailable:
                turn.away_at = time.monotonic()
                raise

    async def _note_told(self, owner: Any, device: Any) -> None:
        """Note of the user's other devices what they had counted at this success.

        After the commit, with no row locked: it is no more than a number in a message.
        """
        table = table_of(self._device_model)
        row = table.c
        untold = row.throttling_failure_count > row.failures_told
        query = update(table).where(row.user_id == owner, row.id != device.id, untold)
        query = query.values(failures_told=row.throttling_failure_count)
        mapper = {"mapper": inspect(self._device_model)}

        async def work(session: AsyncSession) -> None:
            await session.execute(query, bind_arguments=mapper)

        await self._transactions.read(work)

    def _turn(self, owner: Any, number: int) -> _Turn:
        """The queue of this process for one device.

        Its lock is PostgreSQL's; but who waits here waits in order, and holds no connection.
        """
        key = asyncio.get_running_loop(), owner, number
        turn = self._turns.get(key)
        if turn is None:
            turn = self._turns[key] = _Turn()
        return turn

    @cached_property
    def _take_turn(self) -> Statement:
        """Wait for those who confirm another device of the same user's, until they have
        committed. With no row locked afterwards: none waits for another in a circle."""
        turn = func.pg_advisory_xact_lock(bindparam("turn", type_=BigInteger))
        return Statement(lambda *what: select(*what), turn)

    @cached_property
    def _other_confirmed(self) -> Statement:
        """A confirmed device of a user's besides this one, if there is one."""
        row = table_of(self._device_model).c
        mine = row.user_id == bindparam("owner"), row.confirmed, row.id != bindparam("id")
        return Statement(lambda *what: select(*what).where(*mine).limit(1), row.id)

    @cached_property
    def _lock_alone(self) -> Statement:
        """The device, with how many others of the user's matter to its attempt: which have the
        same secret, or have counted wrong tokens since its last use.

        Most have none, and this is half of what `_lock_all` costs.
        """
        model, table = self._device_model, table_of(self._device_model)
        other, this = table.alias("other").c, table.c
        last = func.coalesce(this.last_used_at, text("'-infinity'::timestamptz"))
        counts = other.throttling_failure_timestamp > last
        matters = or_(counts, other.secret_digest == _digest_before(table))
        count = select(func.count()).where(
            other.user_id == bindparam("owner"), other.id != this.id, matters
        )
        others = count.correlate(table).scalar_subquery().label("others")

        def make(*what: Any) -> Select[Any]:
            return select(*what).where(*_mine(table), this.id == bindparam("id"))

        return Statement(
            lambda *what: make(*what).with_for_update(),
            model,
            others,
            for_session=lambda *what: locked(make(*what)),
        )

    @cached_property
    def _lock_all(self) -> Statement:
        """The device, and after it or before it those that have the same secret, in the order of
        their ids; each with the wrong tokens since the user's last success, and with the digest of
        the moment before a lock was waited for."""
        model, table = self._device_model, table_of(self._device_model)
        columns, digest = table.c, _digest_before(table)
        is_meant = or_(columns.id == bindparam("id"), columns.secret_digest == digest)

        def make(*what: Any) -> Select[Any]:
            return select(*what).where(*_mine(table), is_meant).order_by(columns.id)

        return Statement(
            lambda *what: make(*what).with_for_update(),
            model,
            _failures_since_success(table),
            digest.label("former_digest"),
            for_session=lambda *what: locked(make(*what)),
        )

    async def _tell(
        self,
        user: object,
        key: Any,
        attempt: Attempt,
        address: str | None = None,
        agent: str | None = None,
    ) -> Attempt:
        """Log an attempt with its factor (OWASP ASVS 16.3.1), and send the signals."""
        device = attempt.device or attempt.chosen
        words = "A token of user %r " + _words(attempt)
        values = [key, device or "any device"]
        if attempt.reason is not None:
            values.append(attempt.reason)
        if address is not None:
            values += [address, agent]
            words += " from %r by %r"
        failures = attempt.device.failures_before if attempt.device is not None else 0
        if failures >= MANY_FAILURES:
            values.append(failures)
            words += ", after %s wrong ones since the last success"
        is_well = attempt.reason is None and failures < MANY_FAILURES
        logger.log(logging.INFO if is_well else logging.WARNING, f"{words}.", *values)
        if attempt.is_repeated or attempt.is_told:
            return attempt
        sent: dict[str, Any] = {"user": user, "device": device}
        client = {"address": address or "", "agent": agent or ""}
        if attempt.reason is not None:
            failed = signals.otp_verification_failed
            await signals.send(failed, self._sender, **sent, reason=attempt.reason, **client)
            return attempt
        verified = signals.otp_verified
        await signals.send(verified, self._sender, **sent, failures_before=failures, **client)
        if isinstance(device, StaticDeviceMixin):
            await self._codes.tell_of_use(user, device)
        if attempt.newly_confirmed:
            await signals.send(signals.otp_device_added, self._sender, **sent, **client)
        return attempt


def _words(attempt: Attempt) -> str:
    if attempt.is_repeated:
        return "came twice by one click (%s)"
    return "was accepted (%s)" if attempt.reason is None else "was refused (%s, %s)"


def _named(number: int, rows: Sequence[Sequence[Any]]) -> Any | None:
    return next((row[0] for row in rows if row[0].id == number), None)


def _mine(table: Any) -> Sequence[Any]:
    """That a row is of the user and the kind that are asked for."""
    return table.c.user_id == bindparam("owner"), table.c.kind == bindparam("kind")


def _digest_before(table: Table) -> Any:
    """What the named device's `secret_digest` was, as those of others are seen: of the moment
    before a lock was waited for."""
    named = table.alias("named")
    digest = select(named.c.secret_digest).where(*_mine(named), named.c.id == bindparam("id"))
    return digest.scalar_subquery()


def _failures_since_success(table: Table) -> Any:
    """What `failures_since_success` counts, as a column; of the moment before a lock was waited
    for, which is good enough for a message."""
    used, failing = table.alias("used"), table.alias("failing")
    owner: Any = bindparam("owner")
    last = select(func.max(used.c.last_used_at)).where(used.c.user_id == owner).scalar_subquery()
    since = func.coalesce(last, text("'-infinity'::timestamptz"))
    untold = failing.c.throttling_failure_count - failing.c.failures_told
    count = select(func.max(untold)).where(
        failing.c.user_id == owner, failing.c.throttling_failure_timestamp > since
    )
    return count.scalar_subquery().label("failures_before")


def _check_texts(*tokens: object) -> None:
    for token in tokens:
        if not isinstance(token, str):
            raise TypeError(f"A token is a str, not {type(token).__name__}.")
