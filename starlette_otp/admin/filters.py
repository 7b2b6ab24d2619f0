"""Filters beside the lists."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sqlalchemy import Column, Select, exists
from starlette.requests import Request

from starlette_otp import clock

_SPANS = {"1": "In the last day", "7": "In the last 7 days", "30": "In the last 30 days"}


class MomentFilter:
    """Rows by how long ago something happened to them, or that it never did.

    Args:
        column: the attribute with the moment.
        title: what the filter is called.
        never: offer the rows without a moment, too.
    """

    has_operator = False
    template = "sqladmin/filters/lookup_filter.html"

    def __init__(self, column: str, title: str, never: bool = False) -> None:
        self.column = self.parameter_name = column
        self.title = title
        self._lookups = [("all", "All"), *_SPANS.items(), *([("never", "Never")] if never else [])]

    async def lookups(
        self, request: Request, model: Any, run_query: Callable[[Select[Any]], Any]
    ) -> list[tuple[str, str]]:
        """What can be chosen."""
        return self._lookups

    async def get_filtered_query(self, query: Select[Any], value: Any, model: Any) -> Select[Any]:
        """The rows of that choice; all of them for one that is none."""
        column = getattr(model, self.column)
        if value == "never":
            return query.where(column.is_(None))
        if value in _SPANS:
            return query.where(column >= clock.now() - timedelta(days=int(value)))
        return query


class DevicesFilter:
    """Users by whether they have a confirmed device, of whatever kind.

    Args:
        user_id: the device table's column.
        confirmed: its other one.
        key: the user table's.
    """

    has_operator = False
    template = "sqladmin/filters/lookup_filter.html"
    title = "Devices"
    parameter_name = "devices"

    def __init__(self, user_id: Column[Any], confirmed: Column[Any], key: Column[Any]) -> None:
        self._has_one = exists().where(user_id == key, confirmed)

    async def lookups(
        self, request: Request, model: Any, run_query: Callable[[Select[Any]], Any]
    ) -> list[tuple[str, str]]:
        """What can be chosen."""
        return [("all", "All"), ("some", "Has one"), ("none", "Has none yet")]

    async def get_filtered_query(self, query: Select[Any], value: Any, model: Any) -> Select[Any]:
        """The users of that choice; all of them for one that is none."""
        chosen = {"some": self._has_one, "none": ~self._has_one}
        return query.where(chosen[value]) if value in chosen else query
