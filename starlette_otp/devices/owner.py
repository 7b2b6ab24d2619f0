"""Whose device: users' keys as values of a column, so that no garbage ever reaches SQL."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Integer,
    SmallInteger,
    Table,
    TypeDecorator,
    Uuid,
    inspect,
    make_url,
)
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import TypeEngine

from starlette_otp.exceptions import ConfigurationError

# The database's, so that types of the host's are asked for what they do there.
_DIALECT = make_url("postgresql+asyncpg://").get_dialect()()


def table_of(model: type[Any]) -> Table:
    """A mapped class's table."""
    table: Table = model.__table__
    return table


def user_key_column(user_model: type[Any]) -> Column[Any]:
    """The user table's single primary key column.

    Raises:
        ConfigurationError: the key is composite.
    """
    columns = inspect(user_model).primary_key
    if len(columns) != 1:
        raise ConfigurationError(
            f"{user_model.__name__} has a primary key of {len(columns)} columns; "
            "devices need a user model with a single one."
        )
    column: Column[Any] = columns[0]
    return column


def user_id_column(user_model: type[Any]) -> Mapped[Any]:
    """A column for the key of a row's user, whose rows go when the user goes.

    Its type is that of the user's key. A composite key is OTP's to refuse, in one sentence.
    """
    keys = inspect(user_model).primary_key
    if len(keys) != 1:
        return mapped_column(keys[0].type, nullable=False)
    return mapped_column(ForeignKey(keys[0], ondelete="CASCADE"), index=True, nullable=False)


def owner_column(device_model: Any) -> Mapped[Any]:
    """The same for a row beside the devices, whose users may live elsewhere."""
    if device_model.__user_model__ is not None:
        return user_id_column(device_model.__user_model__)
    column = table_of(device_model).c.user_id
    return mapped_column(column.type, index=True, nullable=False)


def raw_user_key(user: object, user_model: type[Any] | None) -> object:
    """The user's key as the user has it; None for nobody.

    That is the primary key, by its name in the user model, also of a host's own object that stands
    for a user, else `identity`. A row of another class is nobody: it has keys of its own, and the
    admin number 7 is not our user number 7.
    """
    if user is None or getattr(user, "is_authenticated", True) is False:
        return None
    if user_model is not None:
        state = inspect(user, raiseerr=False)
        if state is not None and not isinstance(user, user_model):
            return None
        if state is not None and state.identity:
            # An instance expired by a commit still knows its key; reading the attribute would
            # need the database.
            return state.identity[0]
        attribute = inspect(user_model).get_property_by_column(user_key_column(user_model)).key
        if hasattr(user, attribute):
            return getattr(user, attribute)
    try:
        return getattr(user, "identity", None)
    except NotImplementedError:  # what Starlette's BaseUser says for want of one
        return None


def convert_key(value: object, column: Column[Any]) -> Any:
    """`value` as a value of `column`, or None if it does not convert and so is nobody's.

    A type of the host's that does not say what its values are takes what it reads back as it was.
    """
    return _convert(value, column.type.dialect_impl(_DIALECT))


def _convert(value: object, type_: TypeEngine[Any]) -> Any:
    kind = _kind(type_)
    if isinstance(type_, TypeDecorator) or kind is object:
        return _read_back(value, type_)
    if kind is int:
        return _convert_int(value, type_)
    if kind is uuid.UUID or isinstance(type_, Uuid):
        return _convert_uuid(value, kind)
    if kind is str:
        return _convert_text(value, getattr(type_, "length", None))
    return value if isinstance(value, kind) else None


def _kind(type_: TypeEngine[Any]) -> type[Any]:
    """What the values of a type are; object for one that does not say."""
    try:
        return type_.python_type
    except NotImplementedError:  # as SQLAlchemy 2.0 says it
        return object


def _read_back(value: object, type_: TypeEngine[Any]) -> Any:
    """What the type would read after it has stored `value`."""
    is_plain = isinstance(value, str | int | uuid.UUID) and not isinstance(value, bool)
    for meant in _meanings(value):
        # A type may refuse what is no value of its own by any exception that it likes.
        with suppress(Exception):
            bind = type_.bind_processor(_DIALECT)
            stored = _storable(bind(meant) if bind else meant, type_)
            result = type_.result_processor(_DIALECT, None)
            key = result(stored) if result and stored is not None else stored
            if type(key) is type(value) or (is_plain and str(key) == str(meant)):
                return key
    return None


def _meanings(value: object) -> Iterator[object]:
    """A value; and of a text, for types that take no texts, what it spells."""
    yield value
    if isinstance(value, str):
        spelled = (_convert_uuid(value, uuid.UUID), _convert_int(value, BigInteger()))
        yield from (meant for meant in spelled if meant is not None)


def _storable(value: object, type_: TypeEngine[Any]) -> Any:
    """What a type has made of a value, if its column can hold it, else None."""
    if isinstance(type_, TypeDecorator):
        return _convert(value, type_.load_dialect_impl(_DIALECT).dialect_impl(_DIALECT))
    return _convert_text(value, None) if isinstance(value, str) else value


def _convert_text(value: object, length: int | None) -> str | None:
    if isinstance(value, uuid.UUID | int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not 0 < len(value) <= (length or len(value)):
        return None
    # A line end would begin a line of its own in a log.
    return value if is_clean_text(value) and value.splitlines() == [value] else None


def _convert_uuid(value: object, kind: type[Any]) -> Any:
    try:
        key = value if isinstance(value, uuid.UUID) else uuid.UUID(str(value))
    except ValueError:
        return None
    return key if kind is uuid.UUID else str(key)


def _convert_int(value: object, type_: TypeEngine[Any]) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    limit = 2**63
    if isinstance(type_, Integer) and not isinstance(type_, BigInteger):
        limit = 2**15 if isinstance(type_, SmallInteger) else 2**31
    return value if -limit <= value < limit else None


def is_clean_text(text_or_secret: str) -> bool:
    """Whether PostgreSQL can store it: no NUL, no lone surrogate."""
    surrogates = ("\ud800" <= char <= "\udfff" for char in text_or_secret)
    return "\0" not in text_or_secret and not any(surrogates)
