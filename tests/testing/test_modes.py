"""Hosts' suites in whatever way they run async tests; the race certificate; clients; roll-backs."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from starlette_otp import OTP
from starlette_otp.models import User
from starlette_otp.testing import RaceContract, make_device
from tests.host_suite import run_pytest
from tests.hosts import make_host
from tests.support import SECRET_KEY

CONFIG = "[pytest]\nfilterwarnings = error\n"
MODES = {
    "auto": (
        CONFIG + "asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n",
        "",
    ),
    "strict": (
        CONFIG + "asyncio_mode = strict\nasyncio_default_fixture_loop_scope = function\n",
        "@pytest.mark.asyncio",
    ),
    "anyio": (CONFIG + "addopts = -p no:asyncio\n", "@pytest.mark.anyio"),
}
SUITE = """
import pytest
from sqlalchemy import select
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from starlette_otp import OTPMiddleware, SessionAuthBackend, requires_otp
from starlette_otp.models import TOTPDevice, User
from starlette_otp.testing import (
    DeviceContract, RaceContract, make_device, rolled_back, token_at
)


@pytest.fixture
def anyio_backend():
    return "asyncio"


MARK
class TestRaces(RaceContract):
    pass


MARK
class TestKind(DeviceContract):
    attempts = 3

    async def make_device(self, otp, user, **values):
        return await make_device(otp, user, TOTPDevice, secret=str(user.id).encode() * 20, **values)

    async def good_token(self, otp, user, device):
        return token_at(device)


MARK
async def test_a_token(otp, user):
    device = await make_device(otp, user, TOTPDevice)
    assert await otp.match_token(user, token_at(device)) == device


MARK
async def test_rolled_back(otp_database):
    async with rolled_back(otp_database) as sessions:
        async with sessions.begin() as session:
            session.add(User(username="carol"))
        async with sessions() as session:
            assert await session.scalar(select(User.username)) == "carol"
    async with otp_database.connect() as connection:
        assert await connection.scalar(select(User.username)) is None


@requires_otp
async def vault(request):
    return PlainTextResponse(request.user.username)


def test_the_vault(otp, user, other_user, verified_client):
    app = Starlette(
        routes=[Route("/vault", vault)],
        middleware=[
            Middleware(SessionMiddleware, secret_key="x" * 32),
            Middleware(AuthenticationMiddleware, backend=SessionAuthBackend(otp)),
            Middleware(OTPMiddleware, otp=otp),
        ],
    )
    with verified_client(app) as client:
        assert client.get("/vault").text == "alice"
    with verified_client(app, other_user) as client:
        assert client.get("/vault").text == "bob"
"""


@pytest.mark.parametrize("mode", MODES)
def test_a_suite_in_every_mode(server_url: str, tmp_path: Path, mode: str) -> None:
    """By pytest-asyncio in both of its modes, and by anyio's plugin without it."""
    config, mark = MODES[mode]
    files = {"pytest.ini": config, "test_it.py": SUITE.replace("MARK", mark)}
    # Not what DATABASE_URL names: the tests' own is looked at first.
    env = {"TEST_DATABASE_URL": server_url, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/no"}
    result = run_pytest(tmp_path, files, **env)
    assert (result.returncode, " skipped" in result.stdout) == (0, False), result.stdout
    assert "16 passed" in result.stdout, result.stdout


class TestTheReadyMadeTables(RaceContract):
    """The certificate, on the tests' own stack."""

    @pytest.fixture
    def user(self, alice: User) -> User:
        return alice


async def test_the_certificate_is_not_given_for_nothing(empty_engine: AsyncEngine) -> None:
    """What accepts a token twice, or loses a failure, fails it, and it says by how much."""
    host = make_host()
    await host.create_tables(empty_engine)
    sessions = async_sessionmaker(empty_engine, expire_on_commit=False)
    otp = OTP(sessions, host.Device, secret_key=SECRET_KEY)
    user = host.User(username="alice")
    async with sessions.begin() as session:
        session.add(user)

    class Careless(RaceContract):
        attempts = 5

        async def make_device(self, otp: OTP, user: Any) -> Any:
            return await make_device(otp, user, host.TOTPDevice)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host.TOTPDevice, "check_token", _accept)
        with pytest.raises(AssertionError, match="5 of 5 uses of one token were accepted"):
            await Careless().test_one_of_many_uses_of_a_token_passes(otp, user)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host.TOTPDevice, "throttle_increment", lambda self: None)
        with pytest.raises(AssertionError, match="0 of 5 wrong tokens were counted"):
            await Careless().test_every_wrong_token_is_counted(otp, user)


async def _accept(self: Any, token: str) -> bool:
    return True
