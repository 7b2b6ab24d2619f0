"""The demo: one command, and a stranger signs in."""

import asyncio
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import make_url, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from starlette_otp import OTP, oath, secret_from_base32
from starlette_otp.cli.migrations import upgrade
from starlette_otp.cli.server import _prepare
from starlette_otp.models import Device, TOTPDevice, User
from starlette_otp.testing import token_at
from tests.demo_process import COMMAND, Demo, demo, free_port
from tests.support import (
    HTML,
    PASSWORD,
    SECRET_KEY,
    Sessions,
    csrf_of,
    make_totp,
    make_user,
    reload,
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that PostgreSQL's own system user can reach, too."""
    with tempfile.TemporaryDirectory(prefix="otp-demo-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


def client(running: Demo) -> httpx2.Client:
    return httpx2.Client(base_url=running.url, headers=HTML)


def sign_in(browser: httpx2.Client, running: Demo, token: str) -> httpx2.Response:
    page = browser.get("/account/login")
    fields = {"username": running.word("username"), "password": running.word("password")}
    data = {"csrf_token": csrf_of(page), "otp_token": token, **fields}
    return browser.post("/account/login", data=data)


def postgres_runs_in(folder: Path) -> bool:
    return (folder / "data" / "postgres" / "postmaster.pid").exists()


def test_a_stranger_signs_in_and_out(folder: Path) -> None:
    """The printed secret opens the vault, the states show, and log-out closes it again."""
    with demo(folder / "data") as running, client(running) as browser:
        assert "anonymous" in browser.get("/").text
        sent = browser.get("/vault")
        assert sent.headers["location"] == "/account/login?next=%2Fvault"
        assert sign_in(browser, running, running.token(time.time())).status_code == 303
        assert "Welcome, alice" in browser.get("/vault").text
        home = browser.get("/")
        assert "verified" in home.text
        gone = browser.post("/account/logout", data={"csrf_token": csrf_of(home)})
        assert gone.status_code == 303
        assert browser.get("/vault").status_code == 303
    assert running.process.returncode == 0
    assert not postgres_runs_in(folder)


def test_it_survives_a_restart_and_a_reset_starts_anew(folder: Path) -> None:
    """Password, device and codes are the same after a restart, and others after --reset."""
    with demo(folder / "data") as first:
        codes = first.static_tokens
        assert len(codes) >= 3
    with demo(folder / "data") as second, client(second) as browser:
        assert second.word("password") == first.word("password")
        assert second.token(0) == first.token(0)
        assert second.static_tokens == []
        assert sign_in(browser, second, codes[0]).status_code == 303
        assert sign_in(browser, second, codes[0]).status_code == 200, "a code opens once"
    with demo(folder / "data", "--reset") as third, client(third) as browser:
        assert third.word("password") != first.word("password")
        assert sign_in(browser, third, third.static_tokens[0]).status_code == 303
        assert sign_in(browser, third, codes[1]).status_code == 200


def test_a_password_that_was_changed_stays_changed(folder: Path) -> None:
    """The demo starts again after one has changed a password on its pages, and says so."""
    with demo(folder / "data") as first, client(first) as browser:
        assert sign_in(browser, first, first.token(time.time())).status_code == 303
        page = browser.get("/account/password")
        data = {"csrf_token": csrf_of(page), "password": "another pass word"}
        assert browser.post("/account/password", data=data).status_code == 303
    with demo(folder / "data") as second:
        assert "alice has the password that you changed it to." in second.printed
        assert "bob has the password" not in second.printed


def test_it_takes_over_what_a_killed_demo_left(folder: Path) -> None:
    """After kill -9 the next start works, and its end stops the database."""
    with demo(folder / "data") as killed:
        killed.process.kill()
        killed.process.wait()
    assert postgres_runs_in(folder)
    with demo(folder / "data") as running:
        assert running.word("password") == killed.word("password")
    assert not postgres_runs_in(folder)


def test_database_url_takes_another_server(folder: Path, empty_url: str) -> None:
    """With DATABASE_URL no PostgreSQL is started, and --reset makes the user anew there."""
    env = {"DATABASE_URL": empty_url.replace("+asyncpg", "")}
    with demo(folder / "data", "--yes", env=env) as running, client(running) as browser:
        database = make_url(empty_url).database
        assert f"Using DATABASE_URL: the database {database} at " in running.printed
        assert sign_in(browser, running, running.static_tokens[0]).status_code == 303
        assert not (folder / "data" / "postgres").exists()
    with demo(folder / "data", "--yes", "--reset", env=env) as again, client(again) as browser:
        assert sign_in(browser, again, again.static_tokens[0]).status_code == 303
        assert sign_in(browser, again, running.static_tokens[1]).status_code == 200


def fails(*options: str, env: dict[str, str] | None = None) -> str:
    """What a demo says that does not start."""
    shown = subprocess.run(
        [*COMMAND, *options], capture_output=True, text=True, env=os.environ | (env or {})
    )
    assert (shown.returncode, shown.stderr.count("\n")) == (1, 1), shown.stderr
    return shown.stderr


async def test_it_leaves_somebody_elses_user_alone(folder: Path, empty_engine: AsyncEngine) -> None:
    """In a database with an alice of its own the demo stops, with --reset too, and changes
    nothing of hers."""
    url = empty_engine.url.render_as_string(hide_password=False)
    await asyncio.to_thread(upgrade, url)
    sessions = async_sessionmaker(empty_engine, expire_on_commit=False)
    alice = await make_user(sessions, "alice")
    env = {"DATABASE_URL": url}
    for options in (["--yes"], ["--yes", "--reset"]):
        data = ["--data", str(folder / "data"), "--port", str(free_port())]
        said = await asyncio.to_thread(fails, *data, *options, env=env)
        assert "a user alice that this demo did not make" in said
    stored = await reload(sessions, alice)
    assert (stored.password_hash, stored.is_staff) == (alice.password_hash, False)


async def test_it_asks_before_it_takes_a_database(folder: Path, empty_engine: AsyncEngine) -> None:
    """Without a yes nothing is built in the database that DATABASE_URL names, and nobody made."""
    env = {**os.environ, "DATABASE_URL": empty_engine.url.render_as_string(hide_password=False)}
    for answer in ("n\n", "\n", ""):
        command = [*COMMAND, "--data", str(folder / "data"), "--port", str(free_port())]
        given = {"input": answer, "env": env, "capture_output": True, "text": True}
        shown = await asyncio.to_thread(subprocess.run, command, **given)
        assert shown.returncode == 1
        assert f"the database {empty_engine.url.database} at " in shown.stdout
        assert "a staff user alice" in shown.stdout
    async with empty_engine.connect() as connection:
        assert await connection.scalar(text("SELECT to_regclass('otp_user')")) is None


def test_a_code_by_mail(folder: Path) -> None:
    """One is anonymous until the token of a mail that is printed in the terminal; the cookie is
    the demo's own."""
    with demo(folder / "data") as running, client(running) as browser:
        assert "<strong>anonymous</strong>" in browser.get("/").text
        page = browser.get("/account/login?next=/")
        fields = {"username": running.word("username"), "password": running.word("password")}
        page = browser.post(page.url, data={"csrf_token": csrf_of(page), **fields})
        assert "<strong>anonymous</strong>" in browser.get("/").text
        assert "Email to a…@demo.example" in page.text
        (device,) = re.findall(r'value="(email/\d+)"', page.text)
        asked = {"csrf_token": csrf_of(page), "otp_device": device, "otp_challenge": "1"}
        page = browser.post(page.url, data=asked)
        assert "We sent a code to a…@demo.example." in page.text
        running.read_to("Your code is")
        assert "A mail to alice@demo.example" in running.printed
        data = {"otp_device": device, "otp_token": running.printed.split()[-1]}
        answer = browser.post(page.url, data={"csrf_token": csrf_of(page), **data})
        assert answer.headers["location"] == "/"
        assert "<strong>verified</strong>" in browser.get("/").text
        names = set(browser.cookies)
        assert {"demo_session", "demo_otp_session"} <= names
        assert not names & {"session", "otp_session"}


def test_a_newcomer_sets_up_a_device(folder: Path) -> None:
    """Bob has none: the password leads to the key of one, whose code opens the vault."""
    with demo(folder / "data") as running, client(running) as browser:
        page = browser.get("/account/login?next=/vault")
        fields = {"username": "bob", "password": running.word("password")}
        data = {"csrf_token": csrf_of(page), **fields}
        page = browser.post(str(page.url), data=data, follow_redirects=True)
        assert "has to have a second step" in page.text
        assert browser.get("/vault").status_code == 303
        page = browser.get("/account/devices/add?kind=totp&next=/vault", follow_redirects=True)
        found = re.search(r"secret=([A-Z2-7]+)", page.text)
        assert found
        assert "starlette-otp%20demo:bob" in page.text
        token = oath.hotp(secret_from_base32(found[1]), int(time.time() // 30))
        data = {"csrf_token": csrf_of(page), "otp_token": token}
        assert "Save your recovery codes" in browser.post(str(page.url), data=data).text
        assert "Welcome, bob" in browser.get("/vault").text
        assert "here it is" in browser.get("/vault/key").text
        running.read_to("A mail to bob@demo.example")


def test_an_interrupted_first_start_is_forgotten(folder: Path) -> None:
    """A half-made database folder of a first start that was stopped is made anew."""
    half = folder / "data" / "postgres"
    half.mkdir(parents=True)
    (half / "pg_wal").mkdir()
    with demo(folder / "data") as running:
        assert running.static_tokens


def test_a_folder_with_a_space_is_refused(folder: Path) -> None:
    """PostgreSQL's control program can't take such a folder; the demo says what can be done."""
    said = fails("--data", str(folder / "a b"), "--port", str(free_port()))
    assert "a space in its name" in said


def test_what_goes_wrong_is_one_sentence(folder: Path) -> None:
    """A taken port and a folder in use are said in a sentence, with exit code 1."""
    with demo(folder / "data") as running:
        port = running.url.rpartition(":")[2]
        taken = [*COMMAND, "--data", str(folder / "other"), "--port", port]
        shown = subprocess.run(taken, capture_output=True, text=True)
        assert shown.returncode == 1
        assert re.search(r"Error: Port \d+ is not free .*--port", shown.stderr)
        used = [*COMMAND, "--data", str(folder / "data"), "--port", str(free_port())]
        shown = subprocess.run(used, capture_output=True, text=True)
        assert shown.returncode == 1
        assert "A demo is running already" in shown.stderr


async def test_its_devices_have_twins_as_any_others(database_url: str, sessions: Sessions) -> None:
    """A token is spent for a second device of the same secret as one that the demo made."""
    otp = OTP(sessions, Device, secret_key=SECRET_KEY)
    await _prepare(database_url, {"secret_key": SECRET_KEY, "password": PASSWORD}, None)
    async with sessions() as session:
        user = (await session.scalars(select(User).where(User.username == "alice"))).one()
        device = (await session.scalars(select(TOTPDevice))).one()
    twin = await make_totp(sessions, user, secret=device.secret)
    token = token_at(device)
    assert await otp.verify_token(user, device.persistent_id, token) == device
    assert await otp.verify_token(user, twin.persistent_id, token) is None
