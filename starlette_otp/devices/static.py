"""Static tokens: recovery codes and other tokens used once (NIST look-up secrets)."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    DateTime,
    ForeignKey,
    Identity,
    String,
    UniqueConstraint,
    delete,
    event,
    inspect,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession, async_object_session
from sqlalchemy.orm import Mapped, Mapper, declared_attr, mapped_column

from starlette_otp import clock, oath
from starlette_otp.devices.base import DeviceMixin
from starlette_otp.devices.bases import TableMixin
from starlette_otp.devices.owner import is_clean_text, table_of
from starlette_otp.exceptions import TransactionRequired

# Crockford's base 32: no letter that is read as another letter or as a digit.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_LOOK_ALIKES = str.maketrans("oil", "011")
_GROUPS, _GROUP_LENGTH = 4, 4
"""16 characters of 5 bits: 80 bits, over the 64 from which NIST SP 800-63B asks no limit."""
_MADE = re.compile(f"[{_ALPHABET}]{{{_GROUPS * _GROUP_LENGTH}}}")
_MIN_CUSTOM, _MAX_CUSTOM = 6, 64


class TokenShape(StrEnum):
    """What the tokens of a static device look like; it only ever widens."""

    MADE = "made"
    """Only tokens that `add_token` made."""
    CUSTOM = "custom"
    """Tokens chosen by someone, too, but none of digits only."""
    DIGITS = "digits"
    """Chosen tokens, too, but all of digits only."""
    ANY = "any"
    """Chosen tokens of both kinds."""


class StaticDeviceMixin(DeviceMixin):
    """A device with a set of tokens, each accepted once and then gone.

    The tokens are stored as HMACs under a secret of the device's own, so that the application's
    keys rotate without killing recovery codes, and a digest copied to another device is useless.
    """

    __kind__ = "static"
    kind_name = "Recovery code"
    code_prompt = "Enter a recovery code"
    is_spare = True
    enrollable = False
    __kind_defaults__ = {"token_shape": TokenShape.MADE}

    min_token_length: ClassVar[int] = _MIN_CUSTOM
    """Characters of a chosen token, spaces and dashes aside."""

    token_shape: Mapped[str | None] = mapped_column(String(8), use_existing_column=True)
    digit_lengths: Mapped[str | None] = mapped_column(String(255), use_existing_column=True)
    """The lengths of chosen tokens of digits only, by spaces; None on a device of before: any."""

    def shown_name(self, user: object) -> str:
        """The kind alone: what the set of codes is called tells nobody more."""
        return self.kind_name

    @property
    def failure_limit(self) -> int | None:
        """None while all tokens have 64 bits or more, which no counting of guesses can wear out."""
        return None if self.token_shape == TokenShape.MADE else self.max_failures

    @property
    def waits(self) -> bool:
        """Not while all tokens are made: whoever guesses at them must not lock the way back in.

        NIST SP 800-63B asks for no limit from 64 bits on; the failures are counted all the same.
        """
        return self.token_shape != TokenShape.MADE and super().waits

    def accepts(self, token: str) -> bool:
        """Whether one of this device's tokens can look like `token`.

        Six digits are no code, unless there is one of six digits: wrong tokens of an app must not
        lock the way back in.
        """
        return any(self._fits(plain_token) for plain_token in _readings(token))

    def _fits(self, plain_token: str) -> bool:
        if _MADE.fullmatch(plain_token):
            return True
        if not plain_token.isdigit():
            return self.token_shape in (TokenShape.CUSTOM, TokenShape.ANY)
        if self.token_shape not in (TokenShape.DIGITS, TokenShape.ANY):
            return False
        return self.digit_lengths is None or str(len(plain_token)) in self.digit_lengths.split()

    async def add_token(self, token: str | None = None) -> str:
        """Add a token to a device loaded in a session; the caller commits.

        Args:
            token: a chosen token, 6 to 64 characters besides spaces and dashes; or one is made.

        Returns:
            The plain token, shown this once: only its digest is stored.

        Raises:
            ValueError: the chosen token is too short, too long, or no clean text.
            TransactionRequired: the device is in no session.
        """
        session = self._session()
        if token is None:
            token = make_token()
        else:
            await self._widen(token)
        if not inspect(self).has_identity:
            await session.flush()
        row = self._row(token)
        await session.execute(insert(self._tokens()).values(row).on_conflict_do_nothing())
        return token

    async def _widen(self, token: str) -> None:
        plain_token = canonical_static(token)
        if plain_token is None or len(plain_token) < self.min_token_length:
            raise ValueError(
                f"A static token has {self.min_token_length} to {_MAX_CUSTOM} characters, "
                "not counting spaces and dashes."
            )
        session = self._session()
        await session.flush()
        # Locked and as they are now: of two tokens added at once none shall be forgotten.
        names = ["token_shape", "digit_lengths"]
        await session.refresh(self, names, with_for_update=True)
        before, added = self.token_shape, _shape_of(plain_token)
        if before == TokenShape.MADE:
            # Guesses at made tokens wear nothing out, and are no failures with a weaker one.
            self.throttle_reset()
        self.token_shape = added if before in (TokenShape.MADE, added) else TokenShape.ANY
        lengths_are_known = before != TokenShape.ANY or self.digit_lengths is not None
        if added == TokenShape.DIGITS and lengths_are_known:
            known = {*(self.digit_lengths or "").split(), str(len(plain_token))}
            self.digit_lengths = " ".join(sorted(known, key=int))

    async def check_token(self, token: str) -> bool:
        """Accept a token of this device and delete it, in one indexed statement."""
        return self.accepts(token) and await spend([self], token) is not None

    async def replace_tokens(self, n: int = 10) -> list[str]:
        """Make `n` new tokens in place of all that there are; the caller commits.

        Returns:
            The plain tokens, shown this once.
        """
        session, tokens = self._session(), self._tokens()
        if not inspect(self).has_identity:
            await session.flush()
        # Of two at once the second takes back the tokens of the first, instead of adding to them.
        table = table_of(type(self))
        await session.execute(select(table.c.id).where(table.c.id == self.id).with_for_update())
        await session.execute(delete(tokens).where(tokens.device_id == self.id))
        self.token_shape, self.digit_lengths = TokenShape.MADE, None
        made_tokens = [make_token() for _ in range(n)]
        if made_tokens:
            await session.execute(insert(tokens), [self._row(token) for token in made_tokens])
        return made_tokens

    def _row(self, token: str) -> dict[str, Any]:
        now = clock.now()
        return {"device_id": self.id, "digest": self.digests(token)[0], "created_at": now}

    def digests(self, token: str) -> list[str]:
        """The token's digest; and with look-alikes mended, for what was read off paper."""
        secret = self.secret
        return [
            hmac.digest(secret, plain_token.encode(), hashlib.sha256).hex()
            for plain_token in _readings(token) or [""]
        ]

    def _session(self) -> AsyncSession:
        session = async_object_session(self)
        if session is None:
            raise TransactionRequired("Static tokens need a device that is loaded in a session.")
        return session

    @classmethod
    def _tokens(cls) -> Any:
        return cls.__static_token_model__


class StaticTokenMixin(TableMixin):
    """A token of a static device: table `otp_static_token`.

    The host sets `__device_model__` to its device class.
    """

    __device_model__: ClassVar[type[DeviceMixin]]
    __tablename__ = "otp_static_token"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "__device_model__"):  # a host's own mixin has none yet
            cls.__device_model__.__static_token_model__ = cls

    @declared_attr
    def device_id(cls) -> Mapped[int]:
        key = ForeignKey(table_of(cls.__device_model__).c.id, ondelete="CASCADE")
        return mapped_column(key, nullable=False)


@event.listens_for(StaticTokenMixin, "after_mapper_constructed", propagate=True)
def _add_unique(mapper: Mapper[Any], model: type[Any]) -> None:
    """Let no device have a token twice; not by `__table_args__`, which are the host's."""
    if mapper.inherits is None:
        table = table_of(model)
        table.append_constraint(UniqueConstraint(table.c.device_id, table.c.digest))


async def spend(devices: Sequence[StaticDeviceMixin], token: str) -> StaticDeviceMixin | None:
    """Delete one token of one of these devices, in one indexed statement.

    Args:
        devices: locked, loaded in one session.
        token: what the user typed.

    Returns:
        The first device that had it, or None.
    """
    tokens, session = devices[0]._tokens(), devices[0]._session()
    pairs = [(device.id, digest) for device in devices for digest in device.digests(token)]
    fitting = tuple_(tokens.device_id, tokens.digest).in_(pairs)
    first = select(tokens.id).where(fitting).order_by(tokens.device_id, tokens.id).limit(1)
    query = delete(tokens).where(tokens.id == first.scalar_subquery())
    with session.no_autoflush:
        device_id = await session.scalar(query.returning(tokens.device_id))
    return next((device for device in devices if device.id == device_id), None)


def make_token() -> str:
    """A token from the system's CSPRNG, 80 bits in groups that people can type."""
    token = [secrets.choice(_ALPHABET) for _ in range(_GROUPS * _GROUP_LENGTH)]
    groups = range(0, len(token), _GROUP_LENGTH)
    return "-".join("".join(token[at : at + _GROUP_LENGTH]) for at in groups)


def _readings(token: str) -> list[str]:
    """What the user typed, canonical; and with look-alikes mended, for what was read off paper."""
    plain_token = canonical_static(token)
    return (
        []
        if plain_token is None
        else list(dict.fromkeys((plain_token, plain_token.translate(_LOOK_ALIKES))))
    )


def chosen_shape(plain_tokens: Sequence[str]) -> tuple[TokenShape, str | None]:
    """The `token_shape` and `digit_lengths` of a device that has these chosen tokens alone."""
    shapes = {_shape_of(plain_token) for plain_token in plain_tokens}
    lengths = {len(plain_token) for plain_token in plain_tokens if plain_token.isdigit()}
    shape = TokenShape.MADE if not shapes else TokenShape.ANY if len(shapes) > 1 else shapes.pop()
    return shape, " ".join(map(str, sorted(lengths))) or None


def _shape_of(plain_token: str) -> TokenShape:
    return TokenShape.DIGITS if plain_token.isdigit() else TokenShape.CUSTOM


def canonical_static(token: str) -> str | None:
    """What the user typed, without separators and case; None if it is no static token."""
    if len(token) > 2 * _MAX_CUSTOM:
        return None
    plain_token = oath.without_separators(token).lower()
    return (
        plain_token if 0 < len(plain_token) <= _MAX_CUSTOM and is_clean_text(plain_token) else None
    )
