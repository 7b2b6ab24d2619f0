"""Whose the devices become: users with the same keys, users who match, or new ones."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, inspect, select
from sqlalchemy.ext.asyncio import AsyncSession

from starlette_otp.devices.owner import convert_key, table_of, user_key_column
from starlette_otp.devices.users import names_of, normal_name
from starlette_otp.exceptions import ConfigurationError
from starlette_otp.moving.brought import BroughtUser
from starlette_otp.moving.columns import misfit, unique_of, words_of
from starlette_otp.moving.options import Options
from starlette_otp.moving.passwords import carried

GONE = "Their user was removed here."
_ANOTHER_SITE = (
    "Who was made of this key has another name and address here; two old sites want a --name each."
)


@dataclass(slots=True)
class Target:
    """Who a brought user is here.

    Attributes:
        key: theirs; None of one who is to be made.
        row: a new user, not saved.
        email: where they get mail.
        claims: what makes two brought users one here.
        refusal: why there is nobody, in a sentence.
        reasons: what is not as it was.
        is_new: they are made by this run.
    """

    key: Any = None
    row: Any = field(default=None, repr=False)
    email: str = field(default="", repr=False)
    claims: Sequence[Any] = field(default=(), repr=False)
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
        if options.unprotected == "deactivate" and not self._can_be_inactive():
            raise ConfigurationError(
                "--unprotected deactivate: the users have no column is_active."
            )
        self._name: str = options.match
        if options.users == "create":
            names = [name for name in ("username", "email") if hasattr(self.model, name)]
            if not names:
                raise ConfigurationError(
                    f"--users create: {self.model.__name__} has neither username nor email."
                )
            self._name = names[0]
            self._unique = self._unique_attributes()

    def _can_be_inactive(self) -> bool:
        """Whether there is something to update; a property of Python's alone is none."""
        return self.model is not None and "is_active" in inspect(self.model).all_orm_descriptors

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
        if key is None:
            return Target(refusal="This can't be a user's key here.")
        return Target(key, email=user.email, claims=[key], refusal=self._twice(key))

    async def _there(self, session: AsyncSession, keys: Sequence[Any]) -> dict[Any, Any]:
        """Names and addresses of users who are here, by their keys."""
        column = user_key_column(self.model)
        names = (getattr(self.model, name, func.concat("")) for name in ("username", "email"))
        found = await session.execute(select(column, *names).where(column.in_(keys)))
        return {key: (name or "", address or "") for key, name, address in found}

    def _same(self, key: Any, there: Mapping[Any, Any]) -> Target:
        if key is None or key not in there:
            return Target(refusal="There is no user with this key here.")
        return Target(key, email=there[key][1], claims=[key], refusal=self._twice(key))

    def _twice(self, key: Any) -> str | None:
        # As texts two keys can differ that are one number.
        return "Several users there have the key of one here." if self.claims[key] > 1 else None

    async def _matching(self, session: AsyncSession, users: Sequence[BroughtUser]) -> list[Target]:
        wanted = {name for user in users for name in self._names(user)}
        column = getattr(self.model, self._name)
        is_email = self._name == "email"
        is_wanted = (func.lower(column) if is_email else column).in_(wanted)
        email = self.model.email if hasattr(self.model, "email") else func.concat("")
        query = select(user_key_column(self.model), column, email).where(is_wanted)
        found = defaultdict(list)
        for key, name, address in await session.execute(query):
            found[_lower(name) if is_email else name].append((key, address or ""))
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
        return Target(key, email=address, claims=[key], refusal=refusal)

    def _names(self, user: BroughtUser) -> list[str]:
        if self._name == "email":
            return [_lower(user.email)] if user.email else []
        return names_of(user.username) if user.username else []

    async def _new(
        self,
        session: AsyncSession,
        users: Sequence[BroughtUser],
        keys: Sequence[Any],
        there: Mapping[Any, Any],
        moved: Mapping[str, Any],
    ) -> list[Target]:
        values = [self._values(user) for user in users]
        taken = await self._taken(session, values)
        targets = []
        for user, key, given in zip(users, keys, values, strict=True):
            if str(user.key) in moved:
                target = self._made_before(key, given, there)
            else:
                target = self._to_be_made(user, given, taken)
            targets.append(target)
        return targets

    def _made_before(self, key: Any, values: Mapping[str, Any], there: Mapping[Any, Any]) -> Target:
        if key is None or key not in there:
            return Target(key, refusal=GONE)
        name, email = there[key]
        pairs = (("username", name), ("email", email))
        known = [(values[what], here) for what, here in pairs if values.get(what) and here]
        # Names change, and addresses; both at once say that it is somebody of another site.
        is_other = bool(known) and all(theirs.lower() != here.lower() for theirs, here in known)
        return Target(key, email=email, refusal=_ANOTHER_SITE if is_other else None)

    async def _taken(
        self, session: AsyncSession, values: Sequence[Mapping[str, Any]]
    ) -> set[tuple[str, Any]]:
        """What new users can't have any more, of what no two may have alike."""
        taken = set()
        for name in self._unique:
            wanted = {_claim(name, given[name])[1] for given in values if given[name]}
            column = getattr(self.model, name)
            column = func.lower(column) if name == "email" else column
            found = await session.scalars(select(column).where(column.in_(wanted)))
            taken |= {(name, value) for value in found}
        return taken

    def _unique_attributes(self) -> list[str]:
        """What no two users may have alike: their names, and what the host says.

        Raises:
            ConfigurationError: none of its users can be made of what is brought.
        """
        example = self._values(BroughtUser(0, username="name", email="name@site.example"))
        try:
            reason = misfit(self.model(**example))
        except Exception as exc:  # whatever a host's constructor raises, of values of our own
            reason = str(exc) or type(exc).__name__
        if reason is not None:
            raise ConfigurationError(
                f"--users create: {self.model.__name__} can't be made: {reason}"
            )
        return list(dict.fromkeys([self._name, *unique_of(self.model, example)]))

    def _values(self, user: BroughtUser) -> dict[str, Any]:
        """What a new user is made of."""
        stored_hash, _ = carried(user.password_hash, self._options.weak_passwords == "keep")
        values = {
            "username": normal_name(user.username or user.email),
            "email": user.email,
            "password_hash": stored_hash,
            "is_active": user.is_active,
            "is_staff": user.is_staff,
        }
        mapper = inspect(self.model)
        if not user.email and "email" in mapper.columns and mapper.columns.email.nullable:
            values["email"] = None
        known = {attribute.key for attribute in mapper.all_orm_descriptors}
        return {attribute: value for attribute, value in values.items() if attribute in known}

    def _to_be_made(
        self, user: BroughtUser, values: dict[str, Any], taken: Collection[tuple[str, Any]]
    ) -> Target:
        name = values[self._name]
        if not name or (self._name == "username" and not names_of(name)):
            return Target(refusal="They have no name that could be one here.")
        if not user.is_active and "is_active" not in values:
            return Target(refusal="They were inactive, and nobody can be that here.")
        claims = [_claim(attribute, values[attribute]) for attribute in self._unique]
        claims = [claim for claim in claims if claim[1] is not None]
        for attribute, value in claims:
            what = "name" if attribute == self._name else attribute
            if (attribute, value) in taken:
                return Target(refusal=f"There is somebody of this {what} here already.")
            if self.claims[attribute, value] > 1:
                return Target(refusal=f"Several users there would have one {what} here.")
        _, reason = carried(user.password_hash, self._options.weak_passwords == "keep")
        try:
            row = self.model(**values)
            refusal = misfit(row)
        except Exception as exc:  # whatever a host's validator raises
            refusal = words_of(exc, self.model)
        if refusal is not None:
            return Target(refusal=refusal)
        if reason is None and user.password_hash and "password_hash" not in values:
            reason = "Their password is left behind: there is no password_hash here."
        reasons = [reason] if reason else []
        return Target(None, row, user.email, claims, None, reasons, is_new=True)


def _lower(address: str) -> str:
    """An address in small letters; but a letter that is not their capital, as the sign of Kelvin
    is not that of k, is another address."""
    small = ((sign, sign.lower()) for sign in address)
    return "".join(low if low.upper() == sign else sign for sign, low in small)


def _claim(attribute: str, value: Any) -> tuple[str, Any]:
    """What a new user is the only one to have; addresses of one spelling are one."""
    return attribute, value.lower() if attribute == "email" and value is not None else value
