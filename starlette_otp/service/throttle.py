"""The limit of wrong passwords: counted by name or known browser, with growing waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp import clock
from starlette_otp.devices.owner import table_of
from starlette_otp.devices.users import normal_name
from starlette_otp.exceptions import TooManyAttempts
from starlette_otp.keyring import Keyring
from starlette_otp.service.transactions import Transactions

T = TypeVar("T")


class Throttle:
    """The rows of `otp_login_throttle`; without that table there is no limit.

    Args:
        transactions: over the host's sessionmaker.
        device_model: the class that mixes in DeviceMixin.
        keyring: for the digests.
    """

    def __init__(
        self, transactions: Transactions, device_model: type[Any], keyring: Keyring
    ) -> None:
        self.model: Any = device_model.__login_throttle_model__
        self._transactions = transactions
        self._keyring = keyring
        self._turns: WeakValueDictionary[Any, asyncio.Lock] = WeakValueDictionary()

    def digest(self, username: str, browser: str | None = None) -> str:
        """What stands for a name, or for a browser that its owner is known by.

        Writings of one name that a host's database may take for the same are one.
        """
        name = normal_name(username).casefold().encode(errors="replace").decode()
        purpose = "login name" if browser is None else f"login name from {browser}"
        return self._keyring.digests(purpose, name)[0]

    async def limited(self, key: str, check: Callable[[], Awaitable[T | None]]) -> T | None:
        """What `check` gives, unless this key has to wait. None counts, anything else forgets.

        An exception of the check's counts nothing.

        Args:
            key: a digest, as above.
            check: looks at the password.

        Raises:
            TooManyAttempts: it has to wait; the check was not made.
        """
        if self.model is None:
            return await check()
        # One at a time, so that a burst of guesses is counted before the next is tried. Among
        # several processes a turn is claimed in the database, as soon as there is a wait.
        async with self._turn(key):
            row = await self._read(key)
            if row is not None:
                await self._admit(key, *row)
            found = await check()
            if found is None:
                await self._count(key)
            elif row is not None:
                await self._run(delete(table_of(self.model)).where(self._is(key)))
            return found

    async def clear(self, batch: int) -> int:
        """Delete the rows that nobody has tried for long; gives how many there were."""
        if self.model is None:
            return 0
        table = table_of(self.model)
        old = table.c.attempted_at <= clock.now() - self.model.forget_after
        keys = select(table.c.key).where(old).limit(batch).with_for_update(skip_locked=True)
        query = delete(table).where(table.c.key.in_(keys)).returning(table.c.key)
        total = 0
        while deleted := await self._run(query):
            total += len(deleted)
        return total

    async def _read(self, key: str) -> tuple[int, datetime] | None:
        table = table_of(self.model).c
        rows = await self._run(select(table.failure_count, table.attempted_at).where(self._is(key)))
        return (rows[0][0], rows[0][1]) if rows else None

    async def _admit(self, key: str, failures: int, attempted_at: datetime) -> None:
        """Refuse who has to wait; let one of those through who come when a wait has ended."""
        model, table = self.model, table_of(self.model)
        wait = model.wait_after(failures, attempted_at)
        if wait:
            raise TooManyAttempts(wait)
        if failures < model.free_tries:
            return
        query = update(table).where(self._is(key), table.c.attempted_at == attempted_at)
        claimed = await self._run(query.values(attempted_at=clock.now()).returning(table.c.key))
        if not claimed:
            raise TooManyAttempts(model.wait_after(failures, clock.now()))

    async def _count(self, key: str) -> None:
        table = table_of(self.model)
        query = insert(table).values(key=key, failure_count=1, attempted_at=clock.now())
        again = {"failure_count": table.c.failure_count + 1, "attempted_at": clock.now()}
        await self._run(query.on_conflict_do_update(index_elements=["key"], set_=again))

    def _is(self, key: str) -> ColumnElement[bool]:
        mine: ColumnElement[bool] = table_of(self.model).c.key == key
        return mine

    async def _run(self, query: Any) -> Any:
        """Run one statement, which needs no transaction around it."""

        async def work(session: AsyncSession) -> Any:
            result: Any = await session.execute(query)
            return result.all() if result.returns_rows else ()

        return await self._transactions.read(work)

    def _turn(self, key: str) -> asyncio.Lock:
        its = asyncio.get_running_loop(), key
        turn = self._turns.get(its)
        if turn is None:
            turn = self._turns[its] = asyncio.Lock()
        return turn
