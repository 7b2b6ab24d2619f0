"""The commands that move a site in: import-django, import-allauth, import-two-factor and more."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import click

from starlette_otp.cli.loading import KNOWN, app_option, load_otp, sentence, speaking
from starlette_otp.exceptions import ConfigurationError
from starlette_otp.moving.allauth import AllauthSite
from starlette_otp.moving.brought import BroughtUser, OldSite
from starlette_otp.moving.catch_up import ANEW, MOVED, USED
from starlette_otp.moving.django import DjangoSite
from starlette_otp.moving.flask_security import FlaskSecuritySite
from starlette_otp.moving.move import Move
from starlette_otp.moving.options import Into, Options, parsed_kind
from starlette_otp.moving.report import Report, named, shown
from starlette_otp.moving.source import Snapshot, snapshot
from starlette_otp.otp import OTP

F = TypeVar("F", bound=Callable[..., Any])
Open = Callable[[Snapshot, Mapping[str, Any]], OldSite]
NOT_ALL = 3
"""The exit code of a move that is done, and left some behind."""

_OPTIONS = (
    click.option("--from", "url", metavar="URL", required=True, help="The old database."),
    click.option("--schema", default="public", show_default=True, help="Where its tables are."),
    click.option(
        "--users",
        type=click.Choice(["same", "match", "create"]),
        default="same",
        show_default=True,
        help="Whose the devices become: users with the same keys, who match, or new ones.",
    ),
    click.option(
        "--match",
        type=click.Choice(["username", "email"]),
        default="username",
        show_default=True,
        help="By what users match.",
    ),
    click.option("--username-column", help="Where the old users have their names."),
    click.option("--only", multiple=True, metavar="KIND", help="These kinds of devices alone."),
    click.option(
        "--kind",
        "into",
        multiple=True,
        metavar="TABLE=KIND:COLUMN",
        help="A kind of yours for devices of another table.",
    ),
    click.option(
        "--unprotected",
        type=click.Choice(["stop", "skip", "deactivate", "codes"]),
        default="stop",
        show_default=True,
        help="What becomes of users who would have no second factor any more.",
    ),
    click.option(
        "--codes-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="For the recovery codes of --unprotected codes.",
    ),
    click.option(
        "--unconfirmed",
        type=click.Choice(["skip", "keep"]),
        default="skip",
        show_default=True,
        help="Devices that were not confirmed.",
    ),
    click.option("--reset-throttling", is_flag=True, help="Forget failures."),
    click.option("--keep-stopped", is_flag=True, help="A hundred failures stop a device here."),
    click.option(
        "--weak-passwords",
        type=click.Choice(["refuse", "keep"]),
        default="refuse",
        show_default=True,
        help="Passwords hashed by MD5 or SHA-1.",
    ),
    click.option(
        "--settings",
        "settings_file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="The old site's settings, as JSON.",
    ),
    click.option("--name", help="Of the old site, where there is more than one."),
    click.option("--catch-up", is_flag=True, help="What was used there since is used here."),
    click.option("--dry-run", is_flag=True, help="Say what would be done."),
    click.option(
        "--report",
        "report_file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="A line of JSON for each row.",
    ),
    click.option("--batch", type=click.IntRange(1, 5000), default=500, show_default=True),
    click.option("--yes", is_flag=True, help="Don't ask."),
    app_option,
)


def _with_options(command: F) -> F:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command("import-django")
@_with_options
@speaking
def import_django(**given: Any) -> None:
    """Move a django-otp site in: its users, passwords and devices."""
    _run(given, lambda old, settings: _django(old, given))


@click.command("import-two-factor")
@_with_options
@speaking
def import_two_factor(**given: Any) -> None:
    """Move a django-two-factor-auth site in; its phones by --kind two_factor_phonedevice=..."""
    _run(given, lambda old, settings: _django(old, given))


@click.command("import-allauth")
@_with_options
@speaking
def import_allauth(**given: Any) -> None:
    """Move a django-allauth site in: authenticator apps and recovery codes."""
    name, column = given["name"] or "allauth", given["username_column"]
    _run(given, lambda old, settings: AllauthSite(old, name, column, settings))


@click.command("import-flask-security")
@click.option("--table", default="user", show_default=True, help="The users'.")
@_with_options
@speaking
def import_flask_security(table: str, **given: Any) -> None:
    """Move a Flask-Security site in; --settings has the keys that its secrets are under."""
    name, column = given["name"] or "flask-security", given["username_column"]
    into = _kinds(given["into"])
    _run(given, lambda old, settings: FlaskSecuritySite(old, name, column, settings, into, table))


COMMANDS = (import_django, import_two_factor, import_allauth, import_flask_security)


def _django(old: Snapshot, given: Mapping[str, Any]) -> OldSite:
    name, column = given["name"] or "django", given["username_column"]
    return DjangoSite(old, name, column, _kinds(given["into"]))


def _kinds(texts: Sequence[str]) -> dict[str, Into]:
    try:
        return dict(parsed_kind(text) for text in texts)
    except ConfigurationError as exc:
        raise click.UsageError(str(exc)) from None


def _run(given: Mapping[str, Any], open_site: Open) -> None:
    options = Options(
        users=given["users"],
        match=given["match"],
        only=frozenset(given["only"]),
        unprotected=given["unprotected"],
        unconfirmed=given["unconfirmed"],
        reset_throttling=given["reset_throttling"],
        keep_stopped=given["keep_stopped"],
        weak_passwords=given["weak_passwords"],
        catch_up=given["catch_up"],
        batch=given["batch"],
        # The ready-made models get their mailer where the application runs.
        knows_setup=given["app"] is not None,
    )
    if options.unprotected == "codes" and given["codes_file"] is None:
        raise click.UsageError("--unprotected codes wants a --codes-file.")
    _check_files(given["settings_file"], given["report_file"], given["codes_file"])
    otp, settings = load_otp(given["app"]), _settings(given["settings_file"])
    with ExitStack() as files:
        report = files.enter_context(_written(given["report_file"], "w+"))
        codes = files.enter_context(_written(given["codes_file"], "a"))
        code = asyncio.run(_move(otp, given, settings, open_site, options, report, codes))
    sys.exit(code)


async def _move(
    otp: OTP,
    given: Mapping[str, Any],
    settings: Mapping[str, Any],
    open_site: Open,
    options: Options,
    report_file: IO[str] | None,
    codes_file: IO[str] | None,
) -> int:
    async with snapshot(given["url"], given["schema"]) as old:
        site = open_site(old, settings)
        tells_users = options.users == "create"

        def keep_codes(user: BroughtUser, made_tokens: Sequence[str]) -> None:
            assert codes_file is not None  # noqa: S101
            name = shown(user.username or user.email, user.key)
            codes_file.write(f"{name}: {' '.join(made_tokens)}\n")
            codes_file.flush()
            os.fsync(codes_file.fileno())

        move = Move(otp.transactions, otp.device_model, site, options, keep_codes)
        await move.check_key()
        plan = await move.survey(Report(site.users_table, tells_users, report_file))
        for line in plan.summary():
            click.echo(line)
        unprotected = plan.unprotected
        if unprotected:
            click.echo(f"Without a second factor here: {named(unprotected)}.")
            if options.unprotected == "stop":
                raise click.ClickException(
                    "Nothing is written: choose what becomes of them by --unprotected "
                    "skip, deactivate or codes."
                )
        if given["dry_run"]:
            return 0 if plan.is_whole else NOT_ALL
        if not given["yes"] and not click.confirm("Write this?"):
            click.echo("Nothing is written.")
            return 1
        plan.forget()
        try:
            with _bar(await site.count()) as tell:
                await move.write(plan, tell)
        except KNOWN as exc:
            if not plan.written:
                raise
            click.echo(sentence(exc), err=True)
            click.echo(f"Broken off: {plan.written} rows are carried over. Run it again.", err=True)
            return NOT_ALL
        click.echo(f"Done: {plan.written} rows are carried over.")
        for line in plan.told(MOVED, USED, ANEW):
            click.echo(line)
        if plan.unprotected and options.unprotected == "stop":
            click.echo(f"Left out, since they lost what they had here: {named(plan.unprotected)}.")
        if plan.refused:
            click.echo(f"Nothing was written of whom the database refused: {named(plan.refused)}.")
        if tells_users:
            click.echo("Their passwords want OTP(password_hashers=), which hashes them anew.")
        return 0 if plan.is_whole else NOT_ALL


@contextmanager
def _bar(length: int) -> Iterator[Callable[[int], None]]:
    # A log has no use for a bar, nor for its label.
    shown_on = sys.stdout if sys.stdout.isatty() else io.StringIO()
    with click.progressbar(length=length, label="Users", file=shown_on) as bar:
        yield bar.update


@contextmanager
def _written(path: Path | None, mode: str) -> Iterator[IO[str] | None]:
    """A file for its owner's eyes alone."""
    if path is None:
        yield None
        return
    flags = os.O_RDWR | os.O_CREAT | (os.O_APPEND if mode == "a" else os.O_TRUNC)
    if path.exists() and not path.is_file():
        # /dev/null is not to become root's alone, and a pipe has no beginning to go back to.
        raise click.UsageError(f"{path} is no file.")
    descriptor = os.open(path, flags, 0o600)
    os.fchmod(descriptor, 0o600)
    with os.fdopen(descriptor, mode, encoding="utf-8") as file:
        yield file


def _check_files(*paths: Path | None) -> None:
    """One would be written over the other."""
    resolved = [path.resolve() for path in paths if path is not None]
    if len(set(resolved)) < len(resolved):
        raise click.UsageError("--settings, --report and --codes-file are three files.")


def _settings(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise click.UsageError("--settings is a file with a JSON object.")
    return found
