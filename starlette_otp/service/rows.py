"""Rows: how a statement of the models is compiled once and run, and a row becomes an instance.

What every request costs goes through here: the session's read, the lock on a device, its
write-back, the session's renewal. A statement is built once with bind parameters. Where nobody
could tell the difference it runs on the driver's own connection, borrowed from the engine's pool;
where the engine has listeners or echoes, on the engine's connection, which they hear; and where
the host's sessions or mappings are more than plain, through a session, as the ORM does it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from operator import itemgetter
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from sqlalchemy import Dialect, Executable, bindparam, inspect, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.attributes import instance_state

from starlette_otp.devices.owner import table_of
from starlette_otp.service.plain import declared, result_processor

Send = Callable[..., Awaitable[Sequence[Sequence[Any]]]]


class Statement:
    """A statement whose values are all bind parameters, built once.

    Args:
        make: gives the statement for what it shall return: the entities of a session's SELECT, or
            the columns of their tables.
        gives: what one row of the result is: models, in their order, or columns.
        for_session: the same as a session has to run it, if that is not alike.
    """

    def __init__(
        self,
        make: Callable[..., Executable],
        *gives: Any,
        for_session: Callable[..., Executable] | None = None,
    ) -> None:
        self._make, self.gives, self._for_session = make, gives, for_session or make
        self._generation = declared.generation
        self._compiled: WeakKeyDictionary[Dialect, Compiled] = WeakKeyDictionary()
        self._entities: Executable | None = None

    def _renew(self) -> None:
        if self._generation != declared.generation:
            self._generation, self._entities = declared.generation, None
            self._compiled.clear()

    @property
    def entities(self) -> Executable:
        """The statement for a session."""
        self._renew()
        if self._entities is None:
            self._entities = self._for_session(*self.gives)
        return self._entities

    def compiled(self, dialect: Dialect) -> Compiled:
        """The statement for a connection of that dialect."""
        self._renew()
        compiled = self._compiled.get(dialect)
        if compiled is None:
            columns = [column for given in self.gives for column in _columns(given)]
            makers: list[Callable[[Sequence[Any]], Any]] = []
            start = 0
            for given in self.gives:
                is_model = isinstance(given, type)
                makers.append(Shape(given, start).instance if is_model else itemgetter(start))
                start += len(_columns(given))
            compiled = Compiled(self._make(*columns), columns, makers, dialect)
            self._compiled[dialect] = compiled
        return compiled


class Compiled:
    """A statement as the driver takes it: text, arguments in their order, results as Python's."""

    def __init__(
        self,
        clause: Executable,
        columns: Sequence[Any],
        makers: Sequence[Callable[[Sequence[Any]], Any]],
        dialect: Dialect,
    ) -> None:
        compiled: Any = clause.compile(dialect=dialect)  # type: ignore[attr-defined]
        self.sql: str = compiled.string
        self._arguments = [
            (name, compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect))
            for name in compiled.positiontup
        ]
        self._constants = {
            name: bind.value for name, bind in compiled.binds.items() if not bind.required
        }
        self._results = [
            (position, processor)
            for position, column in enumerate(columns)
            if (processor := result_processor(column, dialect)) is not None
        ]
        self._makers = makers

    def arguments(self, values: dict[str, Any]) -> list[Any]:
        """The values in the order of the text's parameters."""
        given = {**self._constants, **values} if self._constants else values
        return [
            given[name] if process is None else process(given[name])
            for name, process in self._arguments
        ]

    def row(self, record: Sequence[Any]) -> list[Any]:
        """A row of the driver's: instances of the models, values of the columns."""
        if self._results:
            record = list(record)
            for position, process in self._results:
                record[position] = process(record[position])
        return [make(record) for make in self._makers]


class Shape:
    """How a part of a record, the columns of a model's table, becomes an instance.

    Args:
        model: the mapped class.
        start: where in the record its first column is.
    """

    def __init__(self, model: type[Any], start: int) -> None:
        self._mapper: Mapper[Any] = inspect(model)
        columns: list[Any] = list(table_of(model).c)
        self._positions = {column: start + index for index, column in enumerate(columns)}
        self._key = self._positions[self._mapper.primary_key[0]]
        kind: Any = self._mapper.polymorphic_on
        self._kind = None if kind is None else self._positions[kind]
        self._attributes: dict[Any, tuple[Mapper[Any], list[str], Any]] = {}

    def instance(self, record: Sequence[Any]) -> Any | None:
        """The instance, detached, as a session leaves it; None without a row, or of no class.

        A row of a kind that this host does not declare has no class.
        """
        key = record[self._key]
        if key is None:
            return None
        kind = None if self._kind is None else record[self._kind]
        known = self._attributes.get(kind) or self._learn(kind)
        if known is None:
            return None
        mapper, names, values = known
        made = mapper.class_manager.new_instance()
        state = instance_state(made)
        state.key = mapper.identity_key_from_primary_key((key,))
        state.dict.update(zip(names, values(record), strict=True))
        return made

    def _learn(self, kind: Any) -> tuple[Mapper[Any], list[str], Any] | None:
        mapper = self._mapper.polymorphic_map.get(kind) if self._kind is not None else self._mapper
        if mapper is None or not mapper.isa(self._mapper):
            return None
        attributes = list(mapper.column_attrs)
        places = [self._positions[attribute.columns[0]] for attribute in attributes]
        # With one place, itemgetter would give a value and no tuple; a table has its key and more.
        found = mapper, [attribute.key for attribute in attributes], itemgetter(*places)
        self._attributes[kind] = found
        return found


class Unit(Protocol):
    """What runs statements for a piece of work, in a transaction or each on its own."""

    async def all(self, statement: Statement, **values: Any) -> Sequence[Sequence[Any]]:
        """The rows of the result."""

    async def load(self, statement: Statement, **values: Any) -> Sequence[Sequence[Any]]:
        """The rows whose first is an instance, to change and to save."""

    async def save(self) -> None:
        """Write what has changed of the instances that this unit loaded."""


class SessionUnit:
    """Statements through a session, which finds out itself what to write."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def all(self, statement: Statement, **values: Any) -> Sequence[Sequence[Any]]:
        """The rows of the result."""
        # A host's entities may have joined collections, which repeat a row.
        return (await self._session.execute(statement.entities, values)).unique().all()

    async def load(self, statement: Statement, **values: Any) -> Sequence[Sequence[Any]]:
        """The rows whose first is an instance."""
        return await self.all(statement, **values)

    async def save(self) -> None:
        """Nothing: the commit writes them."""


class PlainUnit:
    """Statements as they were compiled, sent by `send(text, *arguments)`."""

    def __init__(self, send: Send, dialect: Dialect, updates: Updates) -> None:
        self._send, self._dialect, self._updates = send, dialect, updates
        self._loaded: list[tuple[Any, dict[str, Any]]] = []

    async def all(self, statement: Statement, **values: Any) -> Sequence[Sequence[Any]]:
        """The rows of the result."""
        compiled = statement.compiled(self._dialect)
        records = await self._send(compiled.sql, *compiled.arguments(values))
        return [compiled.row(record) for record in records]

    async def load(self, statement: Statement, **values: Any) -> Sequence[Sequence[Any]]:
        """The rows whose first is an instance."""
        rows = [row for row in await self.all(statement, **values) if row[0] is not None]
        self._loaded += [(row[0], dict(vars(row[0]))) for row in rows]
        return rows

    async def save(self) -> None:
        """One UPDATE for each instance of which anything has changed."""
        try:
            for loaded, before in self._loaded:
                await self._write(loaded, before)
        finally:
            for loaded, _ in self._loaded:
                # As a session leaves what it has written: nothing to write.
                state: Any = instance_state(loaded)
                state._commit_all(state.dict)
            self._loaded.clear()

    async def _write(self, loaded: Any, before: dict[str, Any]) -> None:
        now = vars(loaded)
        names = tuple([n for n, value in before.items() if now[n] is not value])
        if not names:
            return
        state: Any = instance_state(loaded)
        values = {f"otp__{name}": now[name] for name in names}
        values["otp__key"] = state.identity[0]
        await self.all(self._updates.of(state.mapper, names), **values)


class Updates:
    """The UPDATE statements of rows by their key, one for each set of columns."""

    def __init__(self) -> None:
        self._made: dict[tuple[Mapper[Any], tuple[str, ...]], Statement] = {}

    def of(self, mapper: Mapper[Any], names: tuple[str, ...]) -> Statement:
        """The one that sets these attributes, each from the parameter `otp__` and its name."""
        statement = self._made.get((mapper, names))
        if statement is None:
            (key,) = mapper.primary_key
            table: Any = mapper.local_table
            values: Any = {mapper.columns[name]: bindparam(f"otp__{name}") for name in names}
            query = update(table).where(key == bindparam("otp__key")).values(values)
            statement = self._made[mapper, names] = Statement(lambda: query)
        return statement


def _columns(given: Any) -> Sequence[Any]:
    return list(table_of(given).c) if isinstance(given, type) else [given]


def sender(connection: AsyncConnection) -> Send:
    """What sends a compiled statement through the engine's connection, for its listeners."""

    async def send(sql: str, *arguments: Any) -> Sequence[Sequence[Any]]:
        result = await connection.exec_driver_sql(sql, arguments)
        return result.all() if result.returns_rows else ()

    return send
