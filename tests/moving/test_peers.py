"""Other libraries' real tables, moved in by the command line, where OTP_TESTS_PEERS names them.

Each file is a site as its own libraries made it, with what has to hold for its devices here.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import time_machine
from sqlalchemy import select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool

from starlette_otp import OTP, oath
from starlette_otp.hashers import DjangoHasher, FlaskSecurityHasher
from starlette_otp.models import Base, Device, User
from tests.conftest import sql, with_database
from tests.support import SECRET_KEY

FOLDER = os.environ.get("OTP_TESTS_PEERS")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="OTP_TESTS_PEERS names no folder")
SITES = {
    "django_otp": "import-django",
    "django_otp_uuid": "import-django",
    "django_otp_old": "import-django",
    "two_factor": "import-two-factor",
    "allauth": "import-allauth",
    "flask_security": "import-flask-security",
}
MOVE_AT = 1_800_000_000


class Moved:
    """A site that was moved in: its file, the report, and what the command printed."""

    def __init__(self, name: str, url: str, folder: Path, server_url: str) -> None:
        self.name, self.url, self.folder, self.server_url = name, url, folder, server_url
        self.said: dict[str, Any] = json.loads((Path(FOLDER or "") / f"{name}.json").read_text())
        self.report: dict[str, dict[str, Any]] = {}
        self.printed = ""
        self.code = -1

    def run(self, *options: str) -> None:
        settings = self.folder / "settings.json"
        settings.write_text(json.dumps(self.said.get("settings") or {}))
        report = self.folder / "report"
        old = with_database(self.server_url, f"old_{self.name}")
        command = [sys.executable, "-m", "starlette_otp", SITES[self.name], "--from", old]
        command += ["--users", "create", "--unprotected", "codes", "--yes", *options]
        command += ["--codes-file", str(self.folder / "codes"), "--report", str(report)]
        command += ["--settings", str(settings)]
        env = {**os.environ, "DATABASE_URL": self.url, "SECRET_KEY": SECRET_KEY}
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        self.code, self.printed = done.returncode, done.stdout + done.stderr
        lines = [json.loads(line) for line in report.read_text().splitlines()]
        self.report = {line["source"]: line for line in lines}

    def line(self, device: dict[str, Any]) -> dict[str, Any]:
        """What the report says of a device; an app's label is not always in its table's name."""
        app, _, model = device.get("table", "").rpartition("_")
        return self.report.get(device["source"]) or self.report[f"{app}.{model}/{device['id']}"]

    def otp(self, **options: Any) -> OTP:
        engine = create_async_engine(self.url, poolclass=NullPool)
        return OTP(async_sessionmaker(engine), Device, secret_key=SECRET_KEY, **options)


async def load(server_url: str, name: str, new: str) -> None:
    for database in (f"old_{name}", new):
        await sql(server_url, f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
        await sql(server_url, f"CREATE DATABASE {database}")
    dump = (Path(FOLDER or "") / f"{name}.sql").read_text()
    old = with_database(server_url, f"old_{name}").replace("+asyncpg", "")
    connection = await asyncpg.connect(old)
    await connection.execute(dump)
    await connection.close()
    engine = create_async_engine(with_database(server_url, new), poolclass=NullPool)
    async with engine.begin() as tables:
        await tables.run_sync(Base.metadata.create_all)


@pytest.fixture(scope="module", params=SITES)
def moved(
    request: pytest.FixtureRequest, server_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Moved]:
    name, new = request.param, f"new_{request.param}"
    asyncio.run(load(server_url, name, new))
    site = Moved(name, with_database(server_url, new), tmp_path_factory.mktemp(name), server_url)
    site.run()
    assert site.code in (0, 3), site.printed
    yield site
    for database in (f"old_{name}", new):
        asyncio.run(sql(server_url, f"DROP DATABASE IF EXISTS {database} WITH (FORCE)"))


def devices_of(moved: Moved) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for user in moved.said["users"]:
        for device in user.get("devices", []):
            yield user, device


async def owner_of(otp: OTP, persistent_id: str) -> Any:
    async with otp.transactions.sessionmaker() as session:
        number = int(persistent_id.partition("/")[2])
        query = select(User).join(Device, Device.user_id == User.id).where(Device.id == number)
        return await session.scalar(query)


def test_what_becomes_of_each(moved: Moved) -> None:
    """Whatever can be carried over is, in whole or in part; the rest has its reason."""
    wrong = []
    for _, device in devices_of(moved):
        line, wanted = moved.line(device), device["import"]
        outcomes = {"yes": ["imported"], "part": ["partly"], "no": ["refused"]}.get(wanted)
        if outcomes is None:
            outcomes = ["imported", "partly", "skipped", "refused"]
        if line["outcome"] not in outcomes:
            wrong.append((device["source"], wanted, line))
        if line["outcome"] != "imported" and not line["reason"]:
            wrong.append((device["source"], "no reason", line))
    assert wrong == []


async def test_every_check(moved: Moved) -> None:
    """At each moment each token is accepted, or refused, as it has to be here."""
    otp, wrong, tried = moved.otp(), [], 0
    connection = await asyncpg.connect(moved.url.replace("+asyncpg", ""))
    as_moved = await connection.fetch("SELECT * FROM otp_device")
    tokens = await connection.fetch("SELECT * FROM otp_static_token")
    for _, device in devices_of(moved):
        line = moved.line(device)
        if device["import"] not in ("yes", "part"):
            continue
        user = await owner_of(otp, line["device"])
        # Two devices of a user with one secret spend a token together.
        rows = [row for row in as_moved if row["user_id"] == user.id]
        for check in device.get("checks", []):
            await put_back(connection, rows, tokens)
            for step in check["steps"]:
                if step.get("after_import") is None:
                    continue
                tried += 1
                with time_machine.travel(datetime.fromtimestamp(step["at"], UTC), tick=False):
                    found = await otp.verify_token(user, line["device"], step["token"])
                # The window is around our clock, too, since those verdicts: who has set theirs
                # right is let in.
                is_off = device.get("drift") and (found is not None)
                if (found is not None) != step["after_import"] and not is_off:
                    wrong.append((device["source"], device.get("drift"), check["what"], step))
        await put_back(connection, rows, tokens)
    await connection.close()
    assert tried > 3
    assert wrong == [], "\n".join(map(str, wrong))


async def put_back(connection: Any, rows: Any, tokens: Any) -> None:
    """Devices, and their tokens, as they were after the move."""
    for row in rows:
        names = [name for name in dict(row) if name != "id"]
        sets = ", ".join(f'"{name}" = ${number + 2}' for number, name in enumerate(names))
        query = f"UPDATE otp_device SET {sets} WHERE id = $1"
        await connection.execute(query, row["id"], *(row[name] for name in names))
        mine = [(one["id"], row["id"], one["digest"], one["created_at"]) for one in tokens]
        known = {one["id"] for one in tokens if one["device_id"] == row["id"]}
        query = (
            "INSERT INTO otp_static_token (id, device_id, digest, created_at) "
            "VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"
        )
        await connection.executemany(query, [one for one in mine if one[0] in known])


async def test_every_password(moved: Moved) -> None:
    """Whoever got in there gets in here, hashed by Argon2id from then on; nobody else."""
    settings = moved.said.get("settings") or {}
    salt = settings.get("SECURITY_PASSWORD_SALT")
    hasher: Any = FlaskSecurityHasher(salt) if salt else DjangoHasher(iterations=1000)
    otp, wrong = moved.otp(password_hashers=[hasher]), []
    for user in moved.said["users"]:
        name = user.get(moved.said["username_field"])
        found = await otp.find_user(name)
        weak = str(user.get("password_format", "")).startswith(("md5", "sha1", "plain"))
        expects = bool(user["password"]) and user["password_accepted_by_peer"] and not weak
        line = moved.report[f"{moved.said['user_table']}/{user['id']}"]
        if found is None or not user["password"]:
            if expects and line["outcome"] == "imported":
                wrong.append((name, "is not there", line))
            continue
        for password, is_right in ((user["password"] + "x", False), (user["password"], expects)):
            let_in = await otp.authenticate(request(), name, password)
            if (let_in is not None) != (is_right and user["is_active"]):
                wrong.append((name, user["password_format"], is_right))
        again = await otp.find_user(name)
        if expects and user["is_active"] and not again.password_hash.startswith("$argon2id$"):
            wrong.append((name, "not hashed anew", user["password_format"]))
    assert wrong == []


def request() -> Any:
    from starlette.requests import Request

    return Request({"type": "http", "headers": [], "client": ("127.0.0.1", 1), "session": {}})


async def test_a_second_run_changes_nothing(moved: Moved) -> None:
    """Each row was there already, or is refused again."""
    before = await rows(moved)
    moved_report = moved.report
    moved.run()
    assert moved.code in (0, 3), moved.printed
    assert await rows(moved) == before
    again = {line["outcome"] for line in moved.report.values()}
    assert again <= {"already", "refused", "skipped"}
    moved.report = moved_report


async def rows(moved: Moved) -> Any:
    connection = await asyncpg.connect(moved.url.replace("+asyncpg", ""))
    found = []
    for table in ("otp_user", "otp_device", "otp_static_token", "otp_import"):
        query = f"SELECT t::text AS row FROM {table} t ORDER BY 1"
        found.append([row["row"] for row in await connection.fetch(query)])
    await connection.close()
    return found


def test_nothing_secret_is_said(moved: Moved) -> None:
    """Neither the report nor the output has a secret, a token or a password of theirs."""
    said = moved.printed + (moved.folder / "report").read_text()
    secret_texts = set()
    for user, device in devices_of(moved):
        secret_texts |= {user["password"], device.get("secret_hex"), device.get("secret_base32")}
        secret_texts |= set(device.get("tokens") or ()) | set(device.get("unused_codes") or ())
    longer = {text for text in secret_texts if text and len(text) > 5}
    assert [text for text in longer if text in said] == []


def test_steps_are_ours() -> None:
    """The moment of the move is in the files' own time."""
    assert oath.time_step(MOVE_AT) == 60_000_000
