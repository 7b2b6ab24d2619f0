"""Behind a real PgBouncer, which gives each transaction one of two connections."""

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool

from starlette_otp import OTP, ConfigurationError
from starlette_otp.models import Device, User
from starlette_otp.testing import token_at
from tests.support import (
    PASSWORD,
    SECRET_KEY,
    Browser,
    Sessions,
    csrf_of,
    door,
    make_app,
    make_totp,
    reload,
    totp_token,
)

SETTINGS = """
[databases]
* = {target}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
ignore_startup_parameters = extra_float_digits
logfile = {folder}/log
"""


@pytest.fixture(scope="module")
def bouncer(server_url: str) -> Iterator[int]:
    """The port of a PgBouncer before the tests' server."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None and not os.environ.get("OTP_TESTS_NEED_PGBOUNCER"):
        pytest.skip("PgBouncer is not installed")
    assert program is not None
    url, folder = make_url(server_url), Path(tempfile.mkdtemp(prefix="otp-pgbouncer-"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    given = {"host": url.query.get("host", url.host), "port": url.port, "user": url.username}
    given["password"] = url.password
    target = " ".join(f"{name}={value}" for name, value in given.items() if value)
    (folder / "ini").write_text(SETTINGS.format(target=target, port=port, folder=folder))
    command = [program, str(folder / "ini")]
    if os.getuid() == 0:
        # It refuses to be root, and only its owner may go to the server's socket.
        there = Path(str(given["host"]))
        owner = pwd.getpwuid(there.stat().st_uid if there.is_dir() else 65534)
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        command += ["-u", owner.pw_name]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _wait_for(port, running)
    yield port
    running.terminate()
    running.wait()
    shutil.rmtree(folder)


def _wait_for(port: int, running: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        assert running.poll() is None, "PgBouncer has ended"
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail("PgBouncer does not answer")


@pytest.fixture(params=[NullPool, AsyncAdaptedQueuePool])
async def engine(
    database_url: str, bouncer: int, request: pytest.FixtureRequest
) -> AsyncIterator[AsyncEngine]:
    """The engine that SQLAlchemy's documentation shows for PgBouncer, and one with a pool."""
    url = make_url(database_url).set(host="127.0.0.1", port=bouncer, query={}, password=None)
    engine = create_async_engine(
        url,
        poolclass=request.param,
        connect_args={
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"__asyncpg_{uuid.uuid4()}__",
        },
    )
    yield engine
    await engine.dispose()


def make_otp(engine: AsyncEngine) -> OTP:
    return OTP(async_sessionmaker(engine), Device, secret_key=SECRET_KEY, reads="transaction")


@pytest.fixture
def otp(engine: AsyncEngine) -> OTP:
    return make_otp(engine)


async def test_nothing_fails_for_twenty_at_a_time(
    otp: OTP, alice: User, sessions: Sessions
) -> None:
    """Twenty browsers with fifteen requests each: everyone is who they are."""
    device = await make_totp(sessions, alice)
    app = make_app(otp, door(otp, alice, device))

    async def visit() -> list[int]:
        async with Browser(app) as browser:
            await browser.get("/enter")
            paths = ["/vault", "/account/login?reverify=1", "/state"] * 5
            return [(await browser.get(path)).status_code for path in paths]

    found = await asyncio.gather(*[visit() for _ in range(20)])
    assert found == [[200] * 15] * 20


async def test_one_of_twenty_wins(
    engine: AsyncEngine, alice: User, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of twenty uses of one token at twenty OTPs one is accepted; the next one is counted, and
    locks the device for the others."""
    monkeypatch.setattr(Device, "throttle_factor", 60)  # longer than a slow machine takes
    device = await make_totp(sessions, alice)
    otps = [make_otp(engine) for _ in range(20)]
    uses = [otp.verify_token(alice, device.persistent_id, token_at(device)) for otp in otps]
    assert [found is not None for found in await asyncio.gather(*uses)].count(True) == 1
    assert await otps[0].verify_token(alice, device.persistent_id, "000000") is None
    assert (await reload(sessions, device)).throttling_failure_count == 1


async def test_a_log_in_by_the_page(otp: OTP, alice: User, sessions: Sessions) -> None:
    """Name, password and token, and out again."""
    device = await make_totp(sessions, alice)
    async with Browser(make_app(otp)) as browser:
        form: dict[str, Any] = {"username": "alice", "password": PASSWORD}
        form |= {"otp_device": device.persistent_id, "otp_token": totp_token()}
        page = await browser.get("/account/login")
        answer = await browser.post("/account/login", data={**form, "csrf_token": csrf_of(page)})
        assert answer.status_code == 303
        assert (await browser.state())["device"] == device.persistent_id


def test_there_are_two_ways_to_read(sessions: Sessions) -> None:
    """What is neither is refused in a sentence."""
    with pytest.raises(ConfigurationError, match='"autocommit" or "transaction"'):
        OTP(sessions, Device, secret_key=SECRET_KEY, reads="never")  # type: ignore[arg-type]
