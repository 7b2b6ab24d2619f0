"""The application that a command is for, and what goes wrong in one sentence."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec

import asyncpg
import click
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool

from starlette_otp.exceptions import (
    DatabaseUnavailable,
    OTPError,
    said_by_database,
    sqlstate_of,
)
from starlette_otp.otp import OTP

P = ParamSpec("P")


def speaking(command: Callable[P, None]) -> Callable[P, None]:
    """Turn our errors into one sentence and exit code 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KNOWN as exc:
            raise click.ClickException(sentence(exc)) from None

    return run


KNOWN = (
    OTPError,
    SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    ValueError,
    OverflowError,
    OSError,
)
"""What a command may run into."""


def sentence(exc: BaseException) -> str:
    """What one of these has to say."""
    if isinstance(exc, DatabaseUnavailable):
        return f"The database can't be reached: {exc.__cause__}"
    if isinstance(exc, DBAPIError | asyncpg.PostgresError):
        return _refusal(exc)
    if isinstance(exc, StatementError):
        # Its own words end with the statement and its values.
        return f"A value can't be sent to the database: {type(exc.orig).__name__}."
    return in_one_line(exc)


def in_one_line(exc: BaseException) -> str:
    """What an exception says."""
    return " ".join(str(exc).split()) or type(exc).__name__


def _refusal(exc: Exception) -> str:
    """What the database said, in one sentence, and what may help."""
    help_ = {
        "42P01": " Run `starlette-otp migrate` first, or name your own application with --app.",
        "42P07": " These tables are there already, made by other migrations.",
    }
    return f"The database says: {said_by_database(exc)}.{help_.get(sqlstate_of(exc), '')}"


app_option = click.option(
    "--app",
    metavar="MODULE:OTP",
    help="Your application's OTP object. Without it: the ready-made models, in the database "
    "at DATABASE_URL, with the key in SECRET_KEY.",
)


def load_otp(path: str | None) -> OTP:
    """The OTP object named `module:attribute`, or one over the ready-made models."""
    if path is not None:
        return import_otp(path)
    from starlette_otp.models import Device, database_url

    secret_key = os.environ.get("SECRET_KEY")
    if not secret_key:
        raise click.ClickException("Set SECRET_KEY to the application's key, or name its --app.")
    old_keys = [key for key in os.environ.get("OLD_SECRET_KEYS", "").splitlines() if key]
    engine = create_async_engine(database_url(), poolclass=NullPool, hide_parameters=True)
    with quiet():
        return OTP(async_sessionmaker(engine), Device, secret_key=[secret_key, *old_keys])


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings of what is not set up: that is the application's affair, not a command's."""
    logger = logging.getLogger("starlette_otp")
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


def import_otp(path: str) -> OTP:
    """The object at `module:attribute`, with the current folder on the path as `python -m` has."""
    module_name, _, attribute = path.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module_name)
        for name in (attribute or "otp").split("."):
            found = getattr(found, name)
    except (Exception, SystemExit) as exc:  # whatever a host's module raises
        raise click.ClickException(
            f"--app {path}: {type(exc).__name__}: {in_one_line(exc)}"
        ) from None
    if not isinstance(found, OTP):
        raise click.ClickException(f"--app {path} is no OTP but {type(found).__name__}.")
    return found
