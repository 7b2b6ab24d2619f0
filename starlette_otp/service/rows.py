"""Rows: how a statement of the models is compiled once and run, and a row becomes an instance.

What every request costs goes through here: the session's read, the lock on a device, its
write-back, the session's renewal. A statement is built once with bind parameters. Where nobody
could tell the difference it runs on the driver's own connection, borrowed from the engine's pool;
where the engine has listeners or echoes, on the engine's connection, which they hear; and where
the host's sessions or mappings are more than plain, through a session, as the ORM does it.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from operator import itemgetter
from types import FunctionType
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from sqlalchemy import Dialect, Executable, Table, bindparam, event, inspect, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import (
    ColumnProperty,
    Mapper,
    RelationshipProperty,
    Session,
    make_transient,
    make_transient_to_detached,
)
from sqlalchemy.orm.attributes import instance_state

from starlette_otp.devices.owner import table_of

_CLAUSE_EVENTS = ("before_execute", "after_execute")
_ENGINE_EVENTS = (
    *("before_cursor_execute", "after_cursor_execute", "engine_connect"),
    *("set_connection_execution_options", "begin", "commit", "rollback"),
)
_DIALECT_EVENTS = ("do_execute", "do_execute_no_params", "do_setinputsizes", "handle_error")
_SESSION_EVENTS = (
    *("do_orm_execute", "loaded_as_persistent", "before_commit", "after_commit"),
    *("before_flush", "after_flush", "after_flush_postexec"),
    *("after_begin", "after_transaction_create", "after_transaction_end"),
)
# Of an AsyncSession that is no more than one; everything else may route or change statements.
_PLAIN_OPTIONS = {"bind", "expire_on_commit", "autoflush", "autobegin", "info"}
_EAGER = ("joined", "selectin", "subquery", "immediate", "noload", False)


Send = Callable[..., Awaitable[Sequence[Sequence[Any]]]]


_declared = itertools.count()
_generation = next(_declared)


@event.listens_for(Mapper, "after_mapper_constructed")
def _note_a_class(*_: Any) -> None:
    # A kind that is declared later may bring columns and a class for rows that had none.
    global _generation
    _generation = next(_declared)


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
        self._generation = _generation
        self._compiled: WeakKeyDictionary[Dialect, Compiled] = WeakKeyDictionary()
        self._entities: Executable | None = None

    def _renew(self) -> None:
        if self._generation != _generation:
            self._generation, self._entities = _generation, None
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

    async def load(self, statement: Statement, **values: Any) -> Any | None:
        """The one instance that the statement finds, to change and to save; or None."""

    async def save(self, loaded: Any) -> None:
        """Write what has changed of an instance that this unit loaded."""


class SessionUnit:
    """Statements through a session, which finds out itself what to write."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def all(self, statement: Statement, **values: Any) -> Sequence[Sequence[Any]]:
        """The rows of the result."""
        # A host's entities may have joined collections, which repeat a row.
        return (await self._session.execute(statement.entities, values)).unique().all()

    async def load(self, statement: Statement, **values: Any) -> Any | None:
        """The one instance that the statement finds."""
        return await self._session.scalar(statement.entities, values)

    async def save(self, loaded: Any) -> None:
        """Nothing: the commit writes it."""


class PlainUnit:
    """Statements as they were compiled, sent by `send(text, *arguments)`."""

    def __init__(self, send: Send, dialect: Dialect, updates: Updates) -> None:
        self._send, self._dialect, self._updates = send, dialect, updates
        self._before: dict[str, Any] = {}

    async def all(self, statement: Statement, **values: Any) -> Sequence[Sequence[Any]]:
        """The rows of the result."""
        compiled = statement.compiled(self._dialect)
        records = await self._send(compiled.sql, *compiled.arguments(values))
        return [compiled.row(record) for record in records]

    async def load(self, statement: Statement, **values: Any) -> Any | None:
        """The one instance that the statement finds."""
        rows = await self.all(statement, **values)
        if not rows or rows[0][0] is None:
            return None
        self._before = dict(vars(rows[0][0]))
        return rows[0][0]

    async def save(self, loaded: Any) -> None:
        """One UPDATE of what has changed, if anything has."""
        try:
            await self._write(loaded)
        finally:
            # As a session leaves what it has written: nothing to write, and in no session.
            make_transient(loaded)
            make_transient_to_detached(loaded)

    async def _write(self, loaded: Any) -> None:
        now = vars(loaded)
        names = tuple([n for n, value in self._before.items() if now[n] is not value])
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


# What is plain.


def on_driver(engine: AsyncEngine) -> bool:
    """Whether nobody could tell that a statement did not go through the engine's connection."""
    sync = engine.sync_engine
    return (
        not sync.logger.isEnabledFor(logging.INFO)
        and not _heard(sync.dispatch, _ENGINE_EVENTS)
        and not _heard(sync.dialect.dispatch, _DIALECT_EVENTS)
    )


# Nobody can listen to this one session, so what hears it hears every session.
_EVERY_SESSION = [getattr(Session().dispatch, name) for name in _SESSION_EVENTS]


def plain_engine(maker: async_sessionmaker[Any]) -> AsyncEngine | None:
    """The engine of a host's sessions, if they do no more than run statements on it."""
    if type(maker) is not async_sessionmaker:
        return None  # It may choose another engine for each session.
    engine = maker.kw.get("bind")
    # SQLAlchemy 2.0 makes an empty class of its own for each sessionmaker.
    theirs = maker.class_ is AsyncSession or maker.class_.__module__ == AsyncSession.__module__
    if not theirs or type(engine) is not AsyncEngine or not maker.kw.keys() <= _PLAIN_OPTIONS:
        return None
    sync = engine.sync_engine
    if sync.dialect.driver != "asyncpg" or "schema_translate_map" in sync.get_execution_options():
        return None
    # These hear of clauses, which a compiled statement has none of.
    if _heard(sync.dispatch, _CLAUSE_EVENTS):
        return None
    for listeners in _EVERY_SESSION:
        if listeners:
            return None
    return engine


class Plain:
    """Whether models are plain: columns of one table and nothing that happens by itself.

    Args:
        dialect: whose rows they are.
    """

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self._generation = _generation
        self._known: dict[tuple[type[Any], ...], tuple[bool, list[Any], list[Any]]] = {}

    def __call__(self, models: tuple[type[Any], ...], writing: bool) -> bool:
        """Whether all of them are, by their mapping and by who listens now."""
        if self._generation != _generation:
            self._generation = _generation
            self._known.clear()
        known = self._known.get(models)
        if known is None:
            mappers = [m for model in models for m in inspect(model).self_and_descendants]
            is_plain = bool(mappers) and all(_is_plain(mapper, self.dialect) for mapper in mappers)
            loading = [mapper.class_manager.dispatch for mapper in mappers]
            known = self._known[models] = is_plain, loading, [m.dispatch for m in mappers]
        is_plain, loading, saving = known
        if not is_plain:
            return False
        for dispatch in loading:
            if dispatch.load or dispatch.refresh:
                return False
        if writing:
            for dispatch in saving:
                # One is ours: it seals a secret, and verifying changes none.
                if len(dispatch.before_update) > 1 or dispatch.after_update:
                    return False
        return True


def _is_plain(mapper: Mapper[Any], dialect: Dialect) -> bool:
    table = mapper.local_table
    if not isinstance(table, Table) or len(mapper.tables) != 1 or len(mapper.primary_key) != 1:
        return False
    if mapper.version_id_col is not None:
        return False
    for attribute in mapper.attrs:
        if isinstance(attribute, RelationshipProperty):
            if attribute.lazy in _EAGER:
                return False
        elif isinstance(attribute, ColumnProperty):
            if attribute.deferred or [c for c in attribute.columns if c.table is not table]:
                return False
        else:
            return False
    return all(_is_plain_column(column, dialect) for column in table.c)


def _is_plain_column(column: Any, dialect: Dialect) -> bool:
    if column.onupdate is not None or column.server_onupdate is not None:
        return False
    try:
        result_processor(column, dialect)
    except Exception:  # some types want to see the driver's own type of each result
        return False
    return True


@cache
def overrides_ours(model: type[Any]) -> bool:
    """Whether a host's class does itself what one of ours does, and may want its session for."""
    ours: set[str] = set()
    theirs: set[str] = set()
    for cls in model.__mro__:
        if cls.__module__.startswith("starlette_otp."):
            ours |= {n for n, v in vars(cls).items() if isinstance(v, FunctionType | property)}
        else:
            theirs |= set(vars(cls))
    return any(not name.startswith("__") for name in ours & theirs)


def result_processor(column: Any, dialect: Dialect) -> Callable[[Any], Any] | None:
    """What makes a driver's value of a column Python's, or None if it is already."""
    process: Callable[[Any], Any] | None = column.type.dialect_impl(dialect).result_processor(
        dialect, None
    )
    return process


def _heard(dispatch: Any, names: Sequence[str]) -> bool:
    for name in names:  # noqa: SIM110  # a generator takes twice the time, in every request
        if getattr(dispatch, name):
            return True
    return False


def _columns(given: Any) -> Sequence[Any]:
    return list(table_of(given).c) if isinstance(given, type) else [given]


def sender(connection: AsyncConnection) -> Send:
    """What sends a compiled statement through the engine's connection, for its listeners."""

    async def send(sql: str, *arguments: Any) -> Sequence[Sequence[Any]]:
        result = await connection.exec_driver_sql(sql, arguments)
        return result.all() if result.returns_rows else ()

    return send
