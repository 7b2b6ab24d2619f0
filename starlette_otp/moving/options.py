"""What an operator chooses for a move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from starlette_otp.exceptions import ConfigurationError


@dataclass(frozen=True, slots=True)
class Into:
    """A kind of the host's for devices of a table, and our column for each of theirs."""

    kind: str
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Options:
    """The choices of `starlette-otp import-django`.

    Attributes:
        users: whose the devices become: users with the same keys, users who match, or new ones.
        match: by what they match.
        only: kinds; none of them: all.
        unprotected: what becomes of users who would have no second factor any more.
        unconfirmed: whether devices that were not confirmed are left out.
        reset_throttling: failures are forgotten.
        keep_stopped: a device with a hundred failures and more is stopped here, as by them.
        weak_passwords: whether MD5 and SHA-1 are carried over.
        catch_up: what was used there since is used here, too.
        batch: users a transaction.
        knows_setup: whether the application is as it will be, so that a kind which lacks a
            setting, as mail without a mailer, protects nobody.
    """

    users: Literal["same", "match", "create"] = "same"
    match: Literal["username", "email"] = "username"
    only: frozenset[str] = frozenset()
    unprotected: Literal["stop", "skip", "deactivate", "codes"] = "stop"
    unconfirmed: Literal["skip", "keep"] = "skip"
    reset_throttling: bool = False
    keep_stopped: bool = False
    weak_passwords: Literal["refuse", "keep"] = "refuse"
    catch_up: bool = False
    batch: int = 500
    knows_setup: bool = False


def parsed_kind(text: str) -> tuple[str, Into]:
    """`TABLE=KIND:COLUMN,...`, each column with `=OURS` behind it if ours has another name.

    Raises:
        ConfigurationError: it is not that.
    """
    table, _, rest = text.partition("=")
    kind, _, columns = rest.partition(":")
    if not table or not kind:
        raise ConfigurationError(f"--kind {text}: it is TABLE=KIND:COLUMN.")
    pairs = (column.partition("=") for column in columns.split(",") if column)
    return table, Into(kind, {theirs: ours or theirs for theirs, _, ours in pairs})
