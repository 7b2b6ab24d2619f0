"""The blocks of README and of the documentation do what they say."""

import asyncio
import base64
import re
import sys
import time
import types
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.requests import Request
from starlette.routing import Route
from starlette.testclient import TestClient

from starlette_otp import OTP, SecretUnreadable, clock, otp_verification_failed
from starlette_otp.models import User
from starlette_otp.testing import DeviceContract, make_device
from tests.account.pages import ADD_TOTP, app_token, codes_of, key_of, press, visit
from tests.host_suite import run_pytest
from tests.pages import FILES, block, execute
from tests.support import PASSWORD, SECRET_KEY, Browser, make_app, totp_token


@pytest.fixture
def app_module(database_url: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """README's app.py, as the module `app`."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("SECRET_KEY", SECRET_KEY)
    module = types.ModuleType("app")
    monkeypatch.setitem(sys.modules, "app", module)
    exec(compile(FILES["app.py"], "app.py", "exec"), module.__dict__)
    return module


async def make_alice(app_module: types.ModuleType) -> tuple[bytes, list[str]]:
    """A user as README makes one; the secret her app scanned and her codes."""
    made = execute(FILES["users.py"], "make_user")
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
    """An endpoint of one's own verifies the session of an authenticated user."""
    secret, _ = await make_alice(app_module)
    verify = execute(FILES["verify.py"], "verify").verify
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
    assert FILES["signup.py"].strip() in example.read_text()


def test_the_guarded_documentation_and_files(app_module: Any) -> None:
    """A guarded FastAPI shows its documentation, its schema and its files to nobody unverified."""
    internal = execute(FILES["internal.py"], "internal").internal
    for layer in reversed(app_module.app.user_middleware):
        internal.add_middleware(layer.cls, *layer.args, **layer.kwargs)
    with TestClient(internal) as client:
        for path in ("/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json", "/files/x"):
            assert client.get(path).status_code == 401, path


def test_the_hosts_own_models_make_an_otp() -> None:
    """README's own models, with a UUID for a key, are complete."""
    models = execute(FILES["models.py"], "own_models")
    otp = OTP(async_sessionmaker(), models.Device, secret_key=SECRET_KEY)
    assert set(otp.device_model.kinds()) == {"totp", "static"}


async def test_the_application_over_the_hosts_own_models(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """README's application and user work over README's own models, as it says."""
    monkeypatch.setenv("DATABASE_URL", empty_url)
    monkeypatch.setenv("SECRET_KEY", SECRET_KEY)
    models = execute(FILES["models.py"], "models")
    monkeypatch.setitem(sys.modules, "models", models)
    ready_made = "from starlette_otp.models import Device, database_url"
    own = "from models import Device\nfrom starlette_otp.models import database_url"
    text = FILES["app.py"]
    assert ready_made in text
    app = types.ModuleType("app")
    monkeypatch.setitem(sys.modules, "app", app)
    exec(compile(text.replace(ready_made, own), "README.md (own app)", "exec"), app.__dict__)
    text = FILES["users.py"].replace("from starlette_otp.models", "from models")
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
    """A form of one's own shows its own words, and its template extends the original."""
    name, _, template = block("html").removeprefix("{# ").partition(" #}\n")
    file = tmp_path / name
    file.parent.mkdir(parents=True)
    file.write_text(template)
    view = execute(FILES["forms.py"], "forms").AcmeLoginView
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


async def test_a_page_with_a_form_of_its_own(app_module: Any, tmp_path: Path) -> None:
    """It has a token, and a post without it, or from another site, changes nothing."""
    name, _, template = block("jinja").removeprefix("{# ").partition(" #}\n")
    file = tmp_path / name
    file.parent.mkdir(parents=True)
    file.write_text(template)
    app_module.otp = otp = OTP(
        app_module.sessions, app_module.Device, secret_key=SECRET_KEY, templates=file.parent
    )
    view = execute(FILES["note_form.py"], "note_form").add_note
    _, (code, *_) = await make_alice(app_module)
    note = Route("/note", view, methods=["GET", "POST"])
    async with Browser(make_app(otp, note)) as browser:
        await browser.log_in(code)
        assert (await browser.post("/note", data={"text": "x"})).status_code == 200
        added = await browser.submit("/note", text="x")
        assert added.headers["location"] == "/vault"
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
    """README's own models with devices by mail, SMS and card, in a database of their own."""
    models = execute(FILES["models.py"], "models")
    monkeypatch.setitem(sys.modules, "models", models)
    others = execute(FILES["senders.py"], "others")
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
    """The SMS device posts a token to the gateway, and it verifies once."""
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
    """The card, pytest settings and contract test pass as files of a project."""
    files = {
        "models.py": FILES["models.py"],
        "cards.py": FILES["cards.py"],
        "test_cards.py": FILES["test_cards.py"],
        "pyproject.toml": block("toml"),
    }
    result = await asyncio.to_thread(run_pytest, tmp_path, files, DATABASE_URL=empty_url)
    wanted = len([name for name in dir(DeviceContract) if name.startswith("test_")])
    assert result.returncode == 0, result.stdout
    assert f"{wanted} passed" in result.stdout


MAKE_APP = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.requests import Request
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
    """A host's test of a guarded view passes in a project."""
    files = {
        "test_vault.py": MAKE_APP + FILES["test_vault.py"],
        "pytest.ini": "[pytest]\nasyncio_mode = auto\n",
    }
    url = server_url.replace("postgresql+asyncpg", "postgresql")
    result = await asyncio.to_thread(run_pytest, tmp_path, files, DATABASE_URL=url)
    assert result.returncode == 0, result.stdout
    assert "1 passed" in result.stdout


async def test_the_signal_tells_of_a_failure(
    app_module: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The receiver is called when a token is refused."""
    await make_alice(app_module)
    receiver = execute(FILES["receivers.py"], "signals").warn
    async with Browser(app_module.app) as browser:
        await browser.log_in("000000")
    assert "was refused by None" in capsys.readouterr().out
    otp_verification_failed.disconnect(receiver)
    await app_module.engine.dispose()


async def test_the_smallest_fastapi_application_signs_in(app_module: Any) -> None:
    """README's main.py: the password, then a code, by its JSON routes; then the note."""
    secret, _ = await make_alice(app_module)
    main: Any = execute(FILES["main.py"], "main")
    headers = {"accept": "application/json", "sec-fetch-site": "same-origin"}
    async with Browser(main.app, headers=headers) as page:
        assert (await page.get("/notes")).status_code == 401
        given = {"username": "alice", "password": PASSWORD}
        answer = await page.post("/auth/session", json=given)
        assert answer.json()["state"] == "token_required"
        answer = await page.post("/auth/session/token", json={"token": totp_token(secret)})
        assert answer.json()["state"] == "verified"
        assert (await page.get("/notes")).json() == ["A note of alice's."]
    await main.engine.dispose()
    await app_module.engine.dispose()


@pytest.mark.parametrize(("file", "path"), [("app.py", "/vault"), ("main.py", "/notes")])
async def test_who_has_no_device_sets_one_up(app_module: Any, file: str, path: str) -> None:
    """README's applications send a new user from the password to the pages that add a device,
    and on to the page that was wanted."""
    async with app_module.sessions.begin() as session:
        user = User(username="bob")
        user.set_password(PASSWORD)
        session.add(user)
    module = app_module if file == "app.py" else execute(FILES[file], "main")
    async with Browser(module.app) as browser:
        sent = await browser.get(path)
        await browser.submit(sent.headers["location"], username="bob", password=PASSWORD)
        page = await visit(browser, f"{ADD_TOTP}&next={path}")
        page = await press(browser, page, otp_token=app_token(key_of(page), time.time()))
        assert len(codes_of(page)) == 10
        answer = await press(browser, page, saved="I saved them")
        assert answer.headers["location"] == path
        assert "bob" in (await browser.get(path)).text
    await module.engine.dispose()
    await app_module.engine.dispose()


GUARDED = """
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

import guards
from tests.support import middleware


def test_the_guards(otp, verified_client):
    routes = [
        Route("/transfer", guards.transfer),
        WebSocketRoute("/prices", guards.prices),
        Mount("/files", guards.files),
    ]
    app = Starlette(routes=routes, middleware=middleware(otp))
    stranger = TestClient(app)
    for path in ("/transfer", "/files/guards.py"):
        assert stranger.get(path).status_code == 401
    with pytest.raises(WebSocketDisconnect), stranger.websocket_connect("/prices"):
        pass
    with verified_client(app) as client:
        assert client.get("/transfer").text == "done"
        assert client.get("/files/guards.py").status_code == 200
        with client.websocket_connect("/prices") as prices:
            assert prices.receive_text() == "1.00"
"""


async def test_the_guards(server_url: str, tmp_path: Path) -> None:
    """README's guards stop strangers, and let a verified user through."""
    files = {
        "guards.py": FILES["guards.py"],
        "test_guards.py": GUARDED,
        "pytest.ini": "[pytest]\nasyncio_mode = auto\n",
    }
    url = server_url.replace("postgresql+asyncpg", "postgresql")
    result = await asyncio.to_thread(run_pytest, tmp_path, files, DATABASE_URL=url)
    assert result.returncode == 0, result.stdout
    assert "1 passed" in result.stdout


async def test_a_lost_key(app_module: Any) -> None:
    """Under another key no device verifies, recovery codes included; without them users are as
    before they had any."""
    secret, codes = await make_alice(app_module)
    otp = OTP(app_module.sessions, app_module.Device, secret_key=SECRET_KEY[::-1])
    alice = await otp.find_user("alice")
    assert alice.check_password(PASSWORD)
    assert await otp.match_token(alice, totp_token(secret)) is None
    assert await otp.match_token(alice, codes[0]) is None
    with pytest.raises(SecretUnreadable):
        await otp.new_recovery_codes(alice)
    for device in await otp.devices_for_user(alice):
        await otp.remove_device(alice, device.persistent_id)
    assert not await otp.user_has_device(alice)
    assert len(await otp.new_recovery_codes(alice)) == 10
    await app_module.engine.dispose()


async def test_enrolment_by_calls(app_module: Any) -> None:
    """A device of one's own code counts from its first token on."""
    await make_alice(app_module)
    alice = await app_module.otp.find_user("alice")
    enrol = execute(FILES["enrol.py"], "enrol")
    device_id, url = await enrol.begin(alice)
    assert len(await app_module.otp.devices_for_user(alice)) == 2
    secret = base64.b32decode(url.partition("secret=")[2].partition("&")[0])
    assert not await enrol.confirm(alice, device_id, "000000")
    with time_machine.travel(clock.now() + timedelta(minutes=1)):
        assert await enrol.confirm(alice, device_id, totp_token(secret))
    assert len(await app_module.otp.devices_for_user(alice)) == 3
    await app_module.engine.dispose()


async def test_limits_by_address(app_module: Any) -> None:
    """Thirty attempts a minute, and no more."""
    limits = execute(FILES["limits.py"], "limits")
    request = Request({"type": "http", "client": ("192.0.2.1", 1)})
    said = [await limits.allow_attempt(request, "alice") for _ in range(32)]
    assert said == [True] * 30 + [False] * 2


async def test_who_has_to_have_a_device_from_when_on(app_module: Any) -> None:
    """Staff at once, others from a day on."""
    required = execute(FILES["required.py"], "required")
    assert await required.from_next_year(User(username="alice", is_staff=True)) is True
    assert (await required.from_next_year(User(username="bob"))).year == 2030


async def test_stricter_settings() -> None:
    """The page's models are complete, and as strict as it says."""
    strict: Any = execute(FILES["strict.py"], "strict")
    OTP(async_sessionmaker(), strict.Device, secret_key=SECRET_KEY)
    user = strict.User(username="alice")
    for refused in ("fourteen chars", "the password of Acme"):
        with pytest.raises(ValueError, match="password"):
            user.set_password(refused)
    user.set_password("a password that is long")
    assert strict.TOTPDevice().tolerance == 0
