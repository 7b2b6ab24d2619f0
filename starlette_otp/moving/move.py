"""A move: looked over first, and then written, batch by batch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp.exceptions import (
    ConfigurationError,
    SecretUnreadable,
    said_by_database,
    sqlstate_of,
)
from starlette_otp.moving.brought import BroughtUser, OldSite
from starlette_otp.moving.options import Options
from starlette_otp.moving.plan import Plan, Planned, refused
from starlette_otp.moving.report import Report
from starlette_otp.moving.write import Writer
from starlette_otp.service.enrolment import static_model
from starlette_otp.service.transactions import Transactions


class Move:
    """The users and devices of an old site, on their way into an application's tables.

    Args:
        transactions: over the application's database.
        device_model: the application's.
        site: the old one.
        options: the operator's choices.
        keep_codes: is given the recovery codes of users who have nothing else.

    Raises:
        ConfigurationError: the choices do not go with the application.
    """

    def __init__(
        self,
        transactions: Transactions,
        device_model: type[Any],
        site: OldSite,
        options: Options,
        keep_codes: Callable[[BroughtUser, Sequence[str]], None] | None = None,
    ) -> None:
        self._transactions = transactions
        self._device_model = device_model
        self._site = site
        self._options = options
        if options.unprotected == "codes":
            static_model(device_model)
        self._plan = Plan(device_model, site, options)
        self._writer = Writer(device_model, self._plan, options, site.users_table, keep_codes)

    async def check_key(self) -> None:
        """Open a secret that is there already, and seal one, before any is written.

        Raises:
            ConfigurationError: the application's key is another than that of its devices.
        """
        model = self._device_model
        query = select(model).where(model.sealed_secret.is_not(None), model.kind.in_(model.kinds()))

        async def work(session: AsyncSession) -> Any:
            return await session.scalar(query.order_by(model.id).limit(1))

        device = await self._transactions.read(work)
        try:
            if device is not None:
                _ = device.secret
        except SecretUnreadable:
            raise ConfigurationError(
                "The devices that are there are sealed under another key than the application's."
            ) from None
        keyring = model.keyring()
        mine = {"kind": "move", "owner": "", "secret_id": ""}
        if keyring.open(keyring.seal(b"move", **mine), **mine) != b"move":
            raise ConfigurationError("What is sealed under the application's key does not open.")

    async def survey(self, report: Report) -> Report:
        """What would become of everything; nothing is written.

        Args:
            report: an empty one; the one that is filled is given back.
        """
        people = self._plan.people
        people.claims.clear()
        filled = await self._survey(report, counts=True)
        if any(number > 1 for number in people.claims.values()):
            # Two who would be one: neither is, of which the first did not know.
            report.forget()
            filled = await self._survey(report, counts=False)
        return filled

    async def _survey(self, report: Report, counts: bool) -> Report:
        async for users in self._site.users(self._options.batch):
            planned = await self._look(users)
            if counts:
                self._plan.people.claims.update(
                    claim for one in planned for claim in one.target.claims
                )
            report.add(planned)
        return report

    async def _look(self, users: Sequence[BroughtUser]) -> list[Planned]:
        async def work(session: AsyncSession) -> list[Planned]:
            return await self._plan.of(session, users)

        return await self._transactions.read(work)

    async def write(self, report: Report, tell: Callable[[int], None]) -> None:
        """Write all of it that is not there yet.

        Args:
            report: of what was written.
            tell: is told how many users were dealt with, after each batch.
        """
        async for users in self._site.users(self._options.batch):
            async for planned in self._written(users):
                report.add(planned)
            tell(len(users))

    async def _written(self, users: Sequence[BroughtUser]) -> AsyncIterator[list[Planned]]:
        """What became of a batch, as it is written. One user whom the database refuses does not
        keep the others out."""

        async def work(session: AsyncSession) -> list[Planned]:
            return await self._writer.batch(session, users)

        try:
            planned = await self._transactions.write(work)
        except StatementError as exc:
            # A value, a type or a constraint of the host's, of which its models do not know.
            is_type = not isinstance(exc, DBAPIError)
            if not is_type and not sqlstate_of(exc).startswith(("22", "23", "P0001")):
                raise
            said = "A type of a column refuses it."
            if not is_type:
                said = f"The database says: {said_by_database(exc)}."
        else:
            yield planned
            return
        if len(users) == 1:
            yield [refused(users[0], said)]
            return
        for user in users:
            async for one in self._written([user]):
                yield one
