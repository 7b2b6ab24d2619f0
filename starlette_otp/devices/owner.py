"""Whose device: users' keys as values of a column, so that no garbage ever reaches SQL."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import BigInteger, Column, ForeignKey, Integer, SmallInteger, Table, Uuid, inspect
from sqlalchemy.orm import Mapped, mapped_column

from starlette_otp.exceptions import ConfigurationError


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
    return getattr(user, "identity", None)


def convert_key(value: object, column: Column[Any]) -> Any:
    """`value` as a value of `column`, or None if it does not convert and so is nobody's."""
    kind = column.type.python_type
    if kind is int:
        return _convert_int(value, column)
    if kind is uuid.UUID or isinstance(column.type, Uuid):
        return _convert_uuid(value, kind)
    if kind is str:
        if isinstance(value, uuid.UUID | int) and not isinstance(value, bool):
            value = str(value)
        longest = getattr(column.type, "length", None) or len(str(value))
        fits = isinstance(value, str) and 0 < len(value) <= longest and is_clean_text(value)
        # A line end would begin a line of its own in a log.
        return value if fits and str(value).splitlines() == [value] else None
    return value if isinstance(value, kind) else None


def _convert_uuid(value: object, kind: type[Any]) -> Any:
    try:
        key = value if isinstance(value, uuid.UUID) else uuid.UUID(str(value))
    except ValueError:
        return None
    return key if kind is uuid.UUID else str(key)


def _convert_int(value: object, column: Column[Any]) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    limit = 2**63
    if isinstance(column.type, Integer) and not isinstance(column.type, BigInteger):
        limit = 2**15 if isinstance(column.type, SmallInteger) else 2**31
    return value if -limit <= value < limit else None


def is_clean_text(text_or_secret: str) -> bool:
    """Whether PostgreSQL can store it: no NUL, no lone surrogate."""
    surrogates = ("\ud800" <= char <= "\udfff" for char in text_or_secret)
    return "\0" not in text_or_secret and not any(surrogates)
