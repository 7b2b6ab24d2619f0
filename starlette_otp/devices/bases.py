"""Bases: what a host's class may stand on beside one of the mixins."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import MappedAsDataclass

from starlette_otp.exceptions import ConfigurationError


class TableMixin:
    """What every mixin is for classes with a table: one for a plain declarative base."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        _check_base(cls)
        super().__init_subclass__(**kwargs)


def _check_base(cls: type[Any]) -> None:
    """Refuse a base that makes something else of the mixins' columns than a table's.

    What it would say itself leads away from the way out.

    Raises:
        ConfigurationError: it makes dataclasses, or is SQLModel's.
    """
    makers = {maker.__module__.partition(".")[0] for maker in type(cls).__mro__}
    if "sqlmodel" in makers:
        base, metadata = "SQLModel", "SQLModel.metadata"
    elif issubclass(cls, MappedAsDataclass):
        base, metadata = "a base of dataclasses", "Base.metadata"
    else:
        return
    raise ConfigurationError(
        f"{cls.__name__} can't stand on {base}, but beside it, in the same metadata: put it on a "
        f"base of its own, class PlainBase(DeclarativeBase): metadata = {metadata}."
    )
