"""Plain: where nobody could tell a statement of ours on a shorter way from one through a session.

That is so for sessions that do no more than run statements on an engine, for models that are
columns of one table, and for engines nobody listens to.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from types import FunctionType
from typing import Any

from sqlalchemy import Dialect, Table, event, inspect
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import ColumnProperty, Mapper, RelationshipProperty, Session

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


class _Declared:
    """How many mapped classes there are: a kind that is declared later may bring columns, and a
    class for rows that had none."""

    generation = 0


declared = _Declared()


@event.listens_for(Mapper, "after_mapper_constructed")
def _note_a_class(*_: Any) -> None:
    declared.generation += 1


def on_driver(engine: AsyncEngine) -> bool:
    """Whether nobody could tell that a statement did not go through the engine's connection."""
    sync = engine.sync_engine
    return (
        not sync.logger.isEnabledFor(logging.INFO)
        and not _heard(sync, _ENGINE_EVENTS)
        and not _heard(sync.dialect, _DIALECT_EVENTS)
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
    if _heard(sync, _CLAUSE_EVENTS):
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
        self._generation = declared.generation
        self._known: dict[tuple[type[Any], ...], tuple[bool, list[Any], list[Any]]] = {}

    def __call__(self, models: tuple[type[Any], ...], writing: bool) -> bool:
        """Whether all of them are, by their mapping and by who listens now."""
        if self._generation != declared.generation:
            self._generation = declared.generation
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


def _heard(target: Any, names: Sequence[str]) -> bool:
    """Whether somebody listens to one of these events of an engine or a dialect."""
    # As SQLAlchemy does itself: it asks for listeners where there ever were any.
    if not getattr(target, "_has_events", True):
        return False
    return any(getattr(target.dispatch, name) for name in names)
