"""Whose the devices become: users with the same keys, users who match, or new ones."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, inspect, select
from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp.devices.owner import convert_key, table_of, user_key_column
from starlette_otp.devices.users import names_of, normal_name
from starlette_otp.exceptions import ConfigurationError
from starlette_otp.moving.brought import BroughtUser
from starlette_otp.moving.options import Options
from starlette_otp.moving.passwords import carried

GONE = "Their user was removed here."


@dataclass(slots=True)
class Target:
    """Who a brought user is here.

    Attributes:
        key: theirs; None of one who is to be made.
        values: what a new user is made of.
        email: where they get mail.
        claim: what makes two brought users one here.
        refusal: why there is nobody, in a sentence.
        reasons: what is not as it was.
        is_new: they are made by this run.
    """

    key: Any = None
    values: dict[str, Any] = field(default_factory=dict, repr=False)
    email: str = field(default="", repr=False)
    claim: Any = None
    refusal: str | None = None
    reasons: list[str] = field(default_factory=list)
    is_new: bool = False


class People:
    """Finds who brought users are here.

    Args:
        device_model: the host's.
        options: the operator's choices.

    Raises:
        ConfigurationError: the host's users can't be found or made so.
    """

    def __init__(self, device_model: type[Any], options: Options) -> None:
        self.model: Any = device_model.__user_model__
        self._key = table_of(device_model).c.user_id
        self._options = options
        self.claims: Counter[Any] = Counter()
        """How many brought users are the same one here."""
        if self.model is None and options.users != "same":
            raise ConfigurationError(
                f"--users {options.users}: this application's users are not in its database."
            )
        if options.users == "match" and not hasattr(self.model, options.match):
            raise ConfigurationError(
                f"--match {options.match}: {self.model.__name__} has no {options.match}."
            )
        if options.unprotected == "deactivate" and not hasattr(self.model, "is_active"):
            raise ConfigurationError("--unprotected deactivate: the users have no is_active.")
        self._name: str = options.match
        if options.users == "create":
            names = [name for name in ("username", "email") if hasattr(self.model, name)]
            if not names:
                raise ConfigurationError(
                    f"--users create: {self.model.__name__} has neither username nor email."
                )
            self._name = names[0]

    async def find(
        self, session: AsyncSession, users: Sequence[BroughtUser], moved: Mapping[str, Any]
    ) -> list[Target]:
        """Who they are, in their order.

        Args:
            session: on the host's database.
            users: of the old site.
            moved: the keys that an earlier run gave to some, by the old ones.
        """
        if self.model is None:
            return [self._elsewhere(user) for user in users]
        if self._options.users == "match":
            return await self._matching(session, users)
        keys = [self._key_of(user, moved) for user in users]
        there = await self._there(session, [key for key in keys if key is not None])
        if self._options.users == "same":
            return [self._same(key, there) for key in keys]
        return await self._new(session, users, keys, there, moved)

    def _key_of(self, user: BroughtUser, moved: Mapping[str, Any]) -> Any:
        is_new = self._options.users == "create"
        return convert_key(moved.get(str(user.key)) if is_new else user.key, self._key)

    def _elsewhere(self, user: BroughtUser) -> Target:
        key = convert_key(user.key, self._key) or convert_key(str(user.key), self._key)
        refusal = "This can't be a user's key here." if key is None else None
        return Target(key, email=user.email, refusal=refusal)

    async def _there(self, session: AsyncSession, keys: Sequence[Any]) -> dict[Any, str]:
        column = user_key_column(self.model)
        email = self.model.email if hasattr(self.model, "email") else func.concat("")
        found = await session.execute(select(column, email).where(column.in_(keys)))
        return {key: address or "" for key, address in found}

    def _same(self, key: Any, there: Mapping[Any, str]) -> Target:
        if key is None or key not in there:
            return Target(refusal="There is no user with this key here.")
        return Target(key, email=there[key])

    async def _matching(self, session: AsyncSession, users: Sequence[BroughtUser]) -> list[Target]:
        wanted = {name for user in users for name in self._names(user)}
        column = getattr(self.model, self._name)
        column = func.lower(column) if self._name == "email" else column
        email = self.model.email if hasattr(self.model, "email") else func.concat("")
        query = select(user_key_column(self.model), column, email).where(column.in_(wanted))
        found = defaultdict(list)
        for key, name, address in await session.execute(query):
            found[name].append((key, address or ""))
        return [self._match(user, found) for user in users]

    def _match(self, user: BroughtUser, found: Mapping[str, list[Any]]) -> Target:
        there = {row[0]: row for name in self._names(user) for row in found.get(name, ())}
        if not there:
            return Target(refusal=f"There is nobody here with this {self._name}.")
        if len(there) > 1:
            return Target(refusal=f"There are several here with this {self._name}.")
        ((key, address),) = there.values()
        twice = f"Several users there have the {self._name} of one here."
        refusal = twice if self.claims[key] > 1 else None
        return Target(key, email=address, claim=key, refusal=refusal)

    def _names(self, user: BroughtUser) -> list[str]:
        if self._name == "email":
            return [user.email.lower()] if user.email else []
        return names_of(user.username) if user.username else []

    async def _new(
        self,
        session: AsyncSession,
        users: Sequence[BroughtUser],
        keys: Sequence[Any],
        there: Mapping[Any, str],
        moved: Mapping[str, Any],
    ) -> list[Target]:
        column = getattr(self.model, self._name)
        names = [self._new_name(user) for user in users]
        query = select(column).where(column.in_([name for name in names if name]))
        taken = set(await session.scalars(query))
        targets = []
        for user, key, name in zip(users, keys, names, strict=True):
            if str(user.key) in moved:
                is_gone = key is None or key not in there
                refusal = GONE if is_gone else None
                target = Target(key, email=there.get(key, ""), refusal=refusal)
            else:
                target = self._to_be_made(user, name, taken)
            targets.append(target)
        return targets

    def _new_name(self, user: BroughtUser) -> str:
        return normal_name(user.username or user.email) if self._name == "username" else user.email

    def _to_be_made(self, user: BroughtUser, name: str, taken: set[str]) -> Target:
        if not name or (self._name == "username" and not names_of(name)):
            return Target(refusal="They have no name that could be one here.")
        if name in taken:
            return Target(refusal="There is somebody of this name here already.")
        if self.claims[name] > 1:
            return Target(refusal="Several users there would have one name here.")
        stored_hash, reason = carried(user.password_hash, self._options.weak_passwords == "keep")
        values = {
            "username": name,
            "email": user.email,
            "password_hash": stored_hash,
            "is_active": user.is_active,
            "is_staff": user.is_staff,
        }
        known = {attribute.key for attribute in inspect(self.model).all_orm_descriptors}
        values = {attribute: value for attribute, value in values.items() if attribute in known}
        reasons = [reason] if reason else []
        return Target(None, values, user.email, name, None, reasons, is_new=True)
