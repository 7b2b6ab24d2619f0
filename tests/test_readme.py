"""The README's snippets run, and its pages work as it says."""

import asyncio
import base64
import re
import sys
import types
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.routing import Route
from starlette.testclient import TestClient

from starlette_otp import OTP, clock, otp_verification_failed
from starlette_otp.testing import DeviceContract, make_device
from tests.host_suite import run_pytest
from tests.support import PASSWORD, SECRET_KEY, Browser, make_app, totp_token

README = (Path(__file__).parent.parent / "README.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def snippet(containing: str) -> str:
    (found,) = [text for text in SNIPPETS if containing in text]
    return found


def block(language: str) -> str:
    """README's only block in this language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return str(found)


def execute(text: str, name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    exec(compile(text, f"README.md ({name})", "exec"), module.__dict__)
    return module


@pytest.fixture
def app_module(database_url: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """README's app.py, as the module `app`."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("SECRET_KEY", SECRET_KEY)
    module = types.ModuleType("app")
    monkeypatch.setitem(sys.modules, "app", module)
    exec(compile(snippet("app = Starlette("), "README.md (app)", "exec"), module.__dict__)
    return module


async def make_alice(app_module: types.ModuleType) -> tuple[bytes, list[str]]:
    """A user as README makes one; the secret her app scanned and her codes."""
    made = execute(snippet("async def make_user"), "make_user")
    url, codes = await made.make_user("alice", PASSWORD)
    secret = re.search(r"secret=([A-Z2-7]+)", url)
    assert secret
    return base64.b32decode(secret[1]), codes


async def test_the_smallest_application_signs_in(app_module: Any) -> None:
    """README's application, tables and user: log in with a token, and the vault opens."""
    secret, codes = await make_alice(app_module)
    assert len(set(codes)) == 10
    async with Browser(app_module.app) as browser:
        sent = await browser.get("/vault")
        answer = await browser.log_in(totp_token(secret), url=sent.headers["location"])
        assert answer.headers["location"] == "/vault"
        assert (await browser.get("/vault")).text == "hello alice"
    assert app_module.engine.sync_engine.hide_parameters
    await app_module.engine.dispose()


async def test_verifying_on_your_own(app_module: Any) -> None:
    """README's own endpoint verifies the session of an authenticated user."""
    secret, _ = await make_alice(app_module)
    verify = execute(snippet("async def verify"), "verify").verify
    app_module.otp.password_is_enough = True
    app = make_app(app_module.otp, Route("/verify", verify, methods=["POST"]))
    async with Browser(app) as browser:
        await browser.submit("/account/login", username="alice", password=PASSWORD)
        assert (await browser.state())["verified"] is False
        refused = await browser.post("/verify", data={"token": "000000"})
        assert (refused.status_code, refused.json()) == (403, {"verified": False})
        with time_machine.travel(clock.now() + timedelta(minutes=1)):
            accepted = await browser.post("/verify", data={"token": totp_token(secret)})
            assert accepted.json() == {"verified": True}
            assert (await browser.state())["verified"] is True
    await app_module.engine.dispose()


def test_the_fastapi_application_is_that_of_the_example() -> None:
    """Word for word: the example runs in a test of its own, from sign-up to log-out."""
    example = Path(__file__).parent / "examples" / "fastapi_site.py"
    assert snippet("app.include_router(").strip() in example.read_text()


def test_the_guarded_documentation_and_files(app_module: Any) -> None:
    """README's FastAPI shows its documentation, its schema and its files to nobody unverified."""
    internal = execute(snippet("internal = FastAPI()"), "internal").internal
    for layer in reversed(app_module.app.user_middleware):
        internal.add_middleware(layer.cls, *layer.args, **layer.kwargs)
    with TestClient(internal) as client:
        for path in ("/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json", "/files/x"):
            assert client.get(path).status_code == 401, path


def test_the_hosts_own_models_make_an_otp() -> None:
    """README's own models, with a UUID for a key, are complete."""
    models = execute(snippet("class Base(DeclarativeBase)"), "own_models")
    otp = OTP(async_sessionmaker(), models.Device, secret_key=SECRET_KEY)
    assert set(otp.device_model.kinds()) == {"totp", "static"}


async def test_the_application_over_the_hosts_own_models(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """README's application and user work over README's own models, as it says."""
    monkeypatch.setenv("DATABASE_URL", empty_url)
    monkeypatch.setenv("SECRET_KEY", SECRET_KEY)
    models = execute(snippet("class Base(DeclarativeBase)"), "models")
    monkeypatch.setitem(sys.modules, "models", models)
    ready_made = "from starlette_otp.models import Device, database_url"
    own = "from models import Device\nfrom starlette_otp.models import database_url"
    text = snippet("app = Starlette(")
    assert ready_made in text
    app = types.ModuleType("app")
    monkeypatch.setitem(sys.modules, "app", app)
    exec(compile(text.replace(ready_made, own), "README.md (own app)", "exec"), app.__dict__)
    text = snippet("async def make_user").replace("from starlette_otp.models", "from models")
    async with app.engine.begin() as connection:
        await connection.run_sync(models.Base.metadata.create_all)
    url, _ = await execute(text, "users").make_user("alice", PASSWORD)
    assert "/Acme:alice?" in url
    secret = base64.b32decode(url.partition("secret=")[2].partition("&")[0])
    async with Browser(app.app) as browser:
        sent = await browser.get("/vault")
        await browser.log_in(totp_token(secret), url=sent.headers["location"])
        assert (await browser.get("/vault")).text == "hello alice"
    await app.engine.dispose()


async def test_an_own_form_and_an_overridden_template(app_module: Any, tmp_path: Path) -> None:
    """README's form shows its own words, and its template extends the original."""
    (override,) = re.findall(
        r"^```html\n\{# (\S+) #\}\n(.*?)^```", README, re.MULTILINE | re.DOTALL
    )
    file = tmp_path / override[0]
    file.parent.mkdir(parents=True)
    file.write_text(override[1])
    view = execute(snippet("class AcmeLoginView"), "forms").AcmeLoginView
    otp = OTP(
        app_module.sessions, app_module.Device, secret_key=SECRET_KEY, templates=file.parent.parent
    )
    await make_alice(app_module)
    async with Browser(make_app(otp, login_view=view)) as browser:
        page = await browser.get("/account/login")
        assert "<h1>Welcome to Acme</h1>" in page.text
        answer = await browser.log_in("000000")
        assert "Not quite. Is your phone&#39;s clock right?" in answer.text
        assert "Welcome to Acme" not in answer.text
    await app_module.engine.dispose()


class Gateway:
    """Stands for any HTTP gateway: keeps what was posted."""

    def __init__(self) -> None:
        self.posted: list[dict[str, str]] = []

    async def post(self, path: str, json: dict[str, str]) -> None:
        self.posted.append(json)


@dataclass
class Host:
    otp: OTP
    user: Any
    other_user: Any
    others: Any


@pytest.fixture
async def host(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    """README's own models with its devices by mail, SMS and card, in a database of their own."""
    models = execute(snippet("class Base(DeclarativeBase)"), "models")
    monkeypatch.setitem(sys.modules, "models", models)
    others = execute(snippet("class SMSDevice"), "others")
    engine = create_async_engine(empty_url)
    async with engine.begin() as connection:
        await connection.run_sync(models.Base.metadata.create_all)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    otp = OTP(sessions, models.Device, secret_key=SECRET_KEY)
    people = [models.User(username=name, password_hash="") for name in ("alice", "bob")]
    async with sessions.begin() as session:
        session.add_all(people)
    yield Host(otp, people[0], people[1], others)
    await engine.dispose()


async def test_the_sms_device_sends_its_token(host: Host) -> None:
    """README's SMS device posts a token to the gateway, and it verifies once."""
    host.others.gateway = Gateway()
    device = await make_device(host.otp, host.user, host.others.SMSDevice, number="+4912345")
    message = await host.otp.generate_challenge(host.user, device.persistent_id)
    assert message == "We sent a code to …45."
    (posted,) = host.others.gateway.posted
    assert posted["to"] == "+4912345"
    token = posted["text"].removeprefix("Your code: ")
    assert await host.otp.match_token(host.user, token) == device
    assert await host.otp.match_token(host.user, token) is None


async def test_the_card_keeps_the_contract(empty_url: str, tmp_path: Path) -> None:
    """README's device, pytest settings and contract test pass as files of a project."""
    files = {
        "models.py": snippet("class Base(DeclarativeBase)"),
        "cards.py": snippet("class GridCardDevice"),
        "test_cards.py": snippet("class TestGridCard"),
        "pyproject.toml": block("toml"),
    }
    result = await asyncio.to_thread(run_pytest, tmp_path, files, DATABASE_URL=empty_url)
    wanted = len([name for name in dir(DeviceContract) if name.startswith("test_")])
    assert result.returncode == 0, result.stdout
    assert f"{wanted} passed" in result.stdout


MAKE_APP = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from starlette_otp import requires_otp
from tests.support import middleware


@requires_otp
async def vault(request):
    return PlainTextResponse("in")


def make_app(otp):
    return Starlette(routes=[Route("/vault", vault)], middleware=middleware(otp))
"""


async def test_a_hosts_own_test_opens_the_vault(server_url: str, tmp_path: Path) -> None:
    """README's test of a guarded view passes in a project."""
    files = {
        "test_vault.py": MAKE_APP + snippet("async def test_the_vault"),
        "pytest.ini": "[pytest]\nasyncio_mode = auto\n",
    }
    url = server_url.replace("postgresql+asyncpg", "postgresql")
    result = await asyncio.to_thread(run_pytest, tmp_path, files, DATABASE_URL=url)
    assert result.returncode == 0, result.stdout
    assert "1 passed" in result.stdout


async def test_the_signal_tells_of_a_failure(
    app_module: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """README's receiver is called when a token is refused."""
    await make_alice(app_module)
    receiver = execute(snippet("@otp_verification_failed.connect"), "signals").warn
    async with Browser(app_module.app) as browser:
        await browser.log_in("000000")
    assert "was refused by None" in capsys.readouterr().out
    otp_verification_failed.disconnect(receiver)
    await app_module.engine.dispose()


def test_the_backend_beside_fastapi_users_is_that_of_the_example() -> None:
    """Word for word: the example runs in a test of its own, where fastapi-users is installed."""
    example = Path(__file__).parent / "examples" / "fastapi_users_site.py"
    assert snippet("class CookieBackend").strip() in example.read_text()


def test_every_snippet_is_tested() -> None:
    """No snippet of README is one that these tests do not know."""
    assert len(SNIPPETS) == 14
