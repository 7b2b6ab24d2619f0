"""The command line: starlette-otp demo | migrate | addstatictoken | clearsessions | rotate-keys."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import asyncpg
import click
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool
from starlette.authentication import SimpleUser

from starlette_otp.exceptions import DatabaseUnavailable, OTPError
from starlette_otp.otp import OTP
from starlette_otp.service import rotation

P = ParamSpec("P")
ROWS = click.IntRange(min=1)


def speaking(command: Callable[P, None]) -> Callable[P, None]:
    """Turn our errors into one sentence and exit code 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except DatabaseUnavailable as exc:
            raise click.ClickException(f"The database can't be reached: {exc.__cause__}") from None
        except (OTPError, ValueError, OSError) as exc:
            raise click.ClickException(str(exc)) from None
        except (DBAPIError, asyncpg.PostgresError) as exc:
            raise click.ClickException(_refusal(exc)) from None

    return run


def _refusal(exc: Exception) -> str:
    """What the database said, in one sentence, and what may help."""
    cause = getattr(exc, "orig", None) or exc
    said = str(cause).partition("\n")[0].rpartition(">: ")[2]
    help_ = {
        "42P01": " Run `starlette-otp migrate` first, or name your own application with --app.",
        "42P07": " These tables are there already, made by other migrations.",
    }
    return f"The database says: {said}.{help_.get(getattr(cause, 'sqlstate', None) or '', '')}"


app_option = click.option(
    "--app",
    metavar="MODULE:OTP",
    help="Your application's OTP object. Without it: the ready-made models, in the database "
    "at DATABASE_URL, with the key in SECRET_KEY.",
)


@click.group()
@click.version_option(package_name="starlette-otp")
def main() -> None:
    """Two-factor authentication for Starlette and FastAPI."""


@main.command()
@click.argument("revision", default="head")
@speaking
def migrate(revision: str) -> None:
    """Build the ready-made tables in the database at DATABASE_URL, or bring them up to date."""
    from starlette_otp.cli.migrations import upgrade
    from starlette_otp.models import database_url

    upgrade(database_url(), revision)
    click.echo(f"The ready-made tables are at {revision}.")


@main.command()
@click.argument("username")
@click.option("--token", "-t", help="The token to add. Without it one is made.")
@app_option
@speaking
def addstatictoken(username: str, token: str | None, app: str | None) -> None:
    """Give a user one static token, the way in for someone locked out. It is shown this once.

    The user's static device is made if there is none.
    """
    otp = load_otp(app)

    async def work() -> str:
        user = await otp.find_user(username) if otp.user_model else SimpleUser(username)
        if user is None:
            raise click.ClickException(f"There is no user named {username!r}.")
        return await otp.add_static_token(user, token)

    click.echo(asyncio.run(work()))


@main.command()
@click.option("--batch", default=1000, type=ROWS, show_default=True, help="Rows a transaction.")
@app_option
@speaking
def clearsessions(batch: int, app: str | None) -> None:
    """Delete expired sessions."""
    deleted = asyncio.run(load_otp(app).clear_sessions(batch))
    click.echo(f"Deleted {deleted} expired session{'' if deleted == 1 else 's'}.")


@main.command("rotate-keys")
@click.option("--batch", default=100, type=ROWS, show_default=True, help="Rows a transaction.")
@app_option
@speaking
def rotate_keys(batch: int, app: str | None) -> None:
    """Rewrite every device secret under the first key, while the application runs.

    Put the new key first in secret_key and keep the old one behind it; run this; then the old key
    can go. Stopped half-way it goes on where it was. Without --app, SECRET_KEY has the new key and
    OLD_SECRET_KEYS the old ones, one a line.
    """
    otp = load_otp(app)

    async def work() -> int:
        unreadable = 0
        total = await rotation.count_secrets(otp)
        with click.progressbar(length=total, label="Device secrets") as bar:
            async for done in rotation.rotate_keys(otp, batch):
                unreadable += done.unreadable
                bar.update(done.rows)
        return unreadable

    unreadable = asyncio.run(work())
    if unreadable:
        raise click.ClickException(
            f"{unreadable} of the secrets decrypt under no key of these; the log names the devices."
        )
    click.echo("Every device secret is under the first key.")


@main.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=8000,
    show_default=True,
    help="Port on 127.0.0.1.",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the database and its keys. Default: a folder of your user's.",
)
@click.option("--reset", is_flag=True, help="Start anew: a new user, new keys.")
@speaking
def demo(port: int, data: Path | None, reset: bool) -> None:
    """Run a complete application with a user, a device and a database of its own.

    PostgreSQL is started for it; DATABASE_URL takes another server instead.
    """
    try:
        from starlette_otp.cli.server import run
    except ImportError as exc:
        raise click.ClickException(
            f"The demo needs {exc.name}: pip install 'starlette-otp[demo]'"
        ) from None
    run(port, data, reset)


def load_otp(path: str | None) -> OTP:
    """The OTP object named `module:attribute`, or one over the ready-made models."""
    if path is not None:
        return import_otp(path)
    from starlette_otp.models import Device, database_url

    secret_key = os.environ.get("SECRET_KEY")
    if not secret_key:
        raise click.ClickException("Set SECRET_KEY to the application's key, or name its --app.")
    old_keys = [key for key in os.environ.get("OLD_SECRET_KEYS", "").splitlines() if key]
    engine = create_async_engine(database_url(), poolclass=NullPool)
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
    except (ImportError, AttributeError, ValueError) as exc:
        raise click.ClickException(f"--app {path}: {exc}") from None
    if not isinstance(found, OTP):
        raise click.ClickException(f"--app {path} is no OTP but {type(found).__name__}.")
    return found
