"""People: whose a device is, by names and keys of any type, however many users there are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    any_,
    false,
    func,
    inspect,
    literal,
    or_,
    select,
)
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import Request

from starlette_otp.devices.owner import convert_key, is_clean_text, table_of, user_key_column
from starlette_otp.web.site import Site

_NAMES = ("username", "email")
"""What of a user model is searched, as far as it has it."""
_MAX_TERM = 254


@dataclass(frozen=True)
class Stranger:
    """A user of whom only the key is known."""

    identity: str
    is_authenticated: bool = True

    @property
    def display_name(self) -> str:
        """The key."""
        return self.identity


def is_one_of(column: Any, values: Iterable[Any]) -> ColumnElement[bool]:
    """Whether a column has one of the values, in one parameter however many there are."""
    found: ColumnElement[bool] = column == any_(literal(list(values), ARRAY(column.type)))
    return found


class People:
    """The users of an OTP, in its user model or elsewhere."""

    def __init__(self, otp: Site) -> None:
        self.otp = otp
        self.model = otp.users.model
        self._key = table_of(otp.device_model).c.user_id

    @property
    def key_attribute(self) -> str:
        """The user model's name of its primary key."""
        model: Any = self.model
        return str(inspect(model).get_property_by_column(user_key_column(model)).key)

    def label(self, user: Any) -> str:
        """What a user is called."""
        for name in ("username", "display_name", "email"):
            text = getattr(user, name, None)
            if isinstance(text, str) and text:
                return text
        return str(self.otp.device_model.user_key(user))

    async def get(self, request: Request, key: Any) -> Any:
        """The user with this key; a Stranger if they can't be loaded."""
        user = await self.otp.users.load(request, key) if self.otp.users.can_be_loaded else None
        return Stranger(str(key)) if user is None else user

    async def names(self, keys: Iterable[Any]) -> dict[Any, str]:
        """What the users with these keys are called, in one SELECT."""
        wanted = set(keys)
        model = self.model
        if model is None or not hasattr(model, "username") or not wanted:
            return {key: str(key) for key in wanted}
        column = user_key_column(model)
        query = select(column, model.username).where(is_one_of(column, wanted))

        async def work(session: AsyncSession) -> dict[Any, str]:
            return {row[0]: row[1] for row in await session.execute(query)}

        return await self.otp.transactions.read(work)

    async def find(self, request: Request, term: str, limit: int = 10) -> list[Any]:
        """Who is meant by a key, a name, an address or the beginning of a name.

        Exact matches are the only answer if there are any; there may be several, since one user's
        name may be another's key.
        """
        term = term.strip()
        if not term or len(term) > _MAX_TERM or not is_clean_text(term):
            return []
        model = self.model
        if model is None:
            if convert_key(term, self._key) is None:
                return []
            if not self.otp.users.can_be_loaded:
                return [Stranger(term)]
            user = await self.otp.users.load(request, term)
            return [] if user is None else [user]
        clauses = [self._exactly(term)]
        if hasattr(model, "username"):
            clauses.append(func.lower(model.username) == term.lower())
            clauses.append(func.lower(model.username).startswith(term.lower(), autoescape=True))

        async def work(session: AsyncSession) -> list[Any]:
            for clause in clauses:
                query = select(model).where(clause).order_by(user_key_column(model)).limit(limit)
                if found := list(await session.scalars(query)):
                    return found
            return []

        return await self.otp.transactions.read(work)

    def _exactly(self, term: str) -> ColumnElement[bool]:
        model: Any = self.model
        parts = [self._is_key(term)]
        if hasattr(model, "username"):
            parts.append(model.username == term)
        # Hosts seldom have an index on it, so it is asked only for what can be an address.
        if hasattr(model, "email") and "@" in term:
            parts.append(func.lower(model.email) == term.lower())
        return or_(*parts)

    def _is_key(self, term: str) -> ColumnElement[bool]:
        model: Any = self.model
        key = convert_key(term, self._key)
        return false() if key is None else user_key_column(model) == key

    def matching(self, term: str) -> ColumnElement[bool]:
        """The users who are named something like `term`, or whose key it is."""
        model: Any = self.model
        if model is None or not is_clean_text(term):
            return false()
        names = [getattr(model, name) for name in _NAMES if hasattr(model, name)]
        return or_(self._is_key(term), *(n.icontains(term, autoescape=True) for n in names))

    def owned_by(self, column: Any, term: str) -> ColumnElement[bool]:
        """The rows whose `column` is the key of such a user."""
        if self.model is not None:
            users = select(user_key_column(self.model)).where(self.matching(term))
            found: ColumnElement[bool] = column.in_(users)
            return found
        if not is_clean_text(term):
            return false()
        matches: ColumnElement[bool] = column.icontains(term, autoescape=True)
        return matches
