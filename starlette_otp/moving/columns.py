"""What a host's columns take, so that a row that they refuse is told of before any is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Enum,
    Index,
    Integer,
    SmallInteger,
    String,
    TypeDecorator,
    UniqueConstraint,
    inspect,
)

from starlette_otp.devices.owner import table_of


def values_of(row: Any) -> dict[str, Any]:
    """What of an instance is set, by its attributes."""
    set_ = vars(row)
    return {
        attribute.key: set_[attribute.key]
        for attribute in inspect(type(row)).column_attrs
        if attribute.key in set_
    }


def misfit(row: Any, later: frozenset[str] = frozenset(), is_core: bool = False) -> str | None:
    """Why an instance that is not saved can't be stored, in a sentence without its values.

    Args:
        row: the instance.
        later: attributes that it gets yet.
        is_core: it is inserted as it is; a flush has a column's default stand for None.
    """
    values = values_of(row)
    for attribute in inspect(type(row)).column_attrs:
        name, column = attribute.key, attribute.columns[0]
        if name in later or not isinstance(column, Column):
            continue
        value = values.get(name)
        if value is None and ((is_core and name in values) or not _is_filled(column)):
            if not column.nullable and not column.primary_key:
                return f"{type(row).__name__}.{name} is missing, and can't be empty."
        elif value is not None and (reason := _unfit(value, column)) is not None:
            return f"The {name} {reason}."
    return None


def words_of(exc: Exception, model: type[Any]) -> str:
    """Why a model refuses values. Our own words hold none of them, a host's may."""
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    said_in = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    is_ours = said_in.partition(".")[0] == __name__.partition(".")[0]
    return str(exc) if is_ours else f"{model.__name__} refuses it: {type(exc).__name__}."


def unique_of(model: type[Any], names: Mapping[str, Any]) -> list[str]:
    """Which of these attributes no two rows may have alike, by a constraint on each alone."""
    table = table_of(model)
    alone = [list(key.columns) for key in table.constraints if isinstance(key, UniqueConstraint)]
    alone += [_parts(index) for index in table.indexes if index.unique]
    unique = [columns[0] for columns in alone if len(columns) == 1]
    attributes = inspect(model).column_attrs
    return [
        name
        for name in names
        if name in attributes and any(attributes[name].columns[0] is column for column in unique)
    ]


def _parts(index: Index) -> list[Any]:
    """The columns of an index, also those within lower(...) and the like."""
    found = []
    for expression in index.expressions:
        inner = getattr(expression, "clauses", None)
        found += list(inner) if inner is not None else [expression]
    return found


def _is_filled(column: Column[Any]) -> bool:
    """Whether the column has a value of its own where a row says none."""
    given: tuple[Any, ...] = (
        column.default,
        column.server_default,
        column.identity,
        column.computed,
    )
    return any(default is not None for default in given)


def _unfit(value: Any, column: Column[Any]) -> str | None:
    type_ = column.type
    if isinstance(type_, TypeDecorator | Enum):
        return None  # what it makes of a value it alone knows
    if isinstance(type_, String):
        if not isinstance(value, str):
            return "is no text"
        if type_.length is not None and len(value) > type_.length:
            return f"has more than {type_.length} characters"
    elif isinstance(type_, Boolean):
        return None if isinstance(value, bool) else "is neither true nor false"
    elif isinstance(type_, Integer):
        bits = (
            15 if isinstance(type_, SmallInteger) else 63 if isinstance(type_, BigInteger) else 31
        )
        if not isinstance(value, int) or not -(2**bits) <= value < 2**bits:
            return "is no number that its column can hold"
    return None
