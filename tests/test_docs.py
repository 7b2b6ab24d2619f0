"""The documentation: its code runs, its commands are there, its links lead somewhere."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import starlette_otp
from starlette_otp import devices, exceptions, hashers
from starlette_otp.cli import main
from tests.pages import BLOCKS, DOCS, FILES, PAGES, ROOT, SNIPPETS
from tests.support import SECRET_KEY

PYTHON = Path(sys.executable)
MAX_LINES = 300
MAX_BYTES = 60_000
"""Of a picture."""
TEXTS = [*PAGES, *sorted((ROOT / ".github").glob("*.md"))]
COMMAND = re.compile(r"starlette-otp ([a-z][\w-]+)([^`\n|&]*)")
OTHERS_COMMAND = re.compile(r"^(?:\S+/)?(?:pip|python3?|uvicorn|alembic|export)\b")


def run(folder: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run it there, as an activated environment would."""
    path = os.pathsep.join([str(PYTHON.parent), os.environ["PATH"]])
    values = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    where = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        command,
        cwd=folder,
        env={**values, "PATH": path, "PYTHONPATH": where, **env},
        capture_output=True,
        text=True,
        input="a long password\na long password\n",
    )


def test_the_blocks_have_names() -> None:
    """Each is a file with a name of its own, or one of the examples."""
    assert [block for block in SNIPPETS if not block.title] == []
    own = [block.title for block in SNIPPETS if block.example is None]
    assert sorted(own) == sorted(FILES)


@pytest.mark.parametrize(
    "page", sorted({block.page for block in SNIPPETS if block.example is None})
)
def test_the_blocks_of_a_page_are_imported(page: str, tmp_path: Path) -> None:
    """As files of one project, without a warning."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    blocks = [block for block in SNIPPETS if block.page == page and block.example is None]
    names = ", ".join(block.title.removesuffix(".py") for block in blocks)
    env = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing", "SECRET_KEY": SECRET_KEY}
    shown = run(tmp_path, sys.executable, "-W", "error", "-c", f"import {names}", **env)
    assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize("example", sorted({b.example for b in SNIPPETS if b.example}))
def test_the_examples_are_tested(example: str) -> None:
    """A file that a page includes is imported by a test beside it."""
    name = Path(example).stem
    tests = (ROOT / "tests" / "examples").glob("test_*.py")
    assert any(re.search(rf"import .*\b{name}\b|\.{name} import", t.read_text()) for t in tests)


def commands() -> list[tuple[str, str]]:
    return sorted({found for page in TEXTS for found in COMMAND.findall(page.read_text())})


@pytest.mark.parametrize(("name", "arguments"), commands())
def test_a_command_is_there(name: str, arguments: str) -> None:
    """With the options that are named."""
    command = main.commands[name]
    known = {option for parameter in command.params for option in parameter.opts}
    assert set(re.findall(r"(?<=[\s\[(`])--[\w-]+", arguments)) <= known


def test_shell_blocks_have_known_commands() -> None:
    """Our own, and those of what is installed beside us."""
    for block in BLOCKS:
        if block.language == "sh":
            for line in block.text.replace("\\\n", " ").splitlines():
                for part in line.split(" && "):
                    is_known = "starlette-otp" in part or OTHERS_COMMAND.search(part)
                    assert is_known or part == ".venv/bin/pytest", part


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that a server of another user may enter."""
    path = Path(tempfile.mkdtemp(prefix="otp-docs-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def shell(containing: str) -> str:
    (found,) = [b.text for b in BLOCKS if b.language == "sh" and containing in b.text]
    return found


def test_a_database_for_development(folder: Path) -> None:
    """README's commands start one, build the tables and make a user; another stops it."""
    stop = shell("cleanup()")
    script = shell("export DATABASE_URL") + "starlette-otp adduser alice\n"
    program = PYTHON.parent / "starlette-otp"
    if not program.exists():
        script = script.replace("starlette-otp", "python -m starlette_otp")
    try:
        shown = run(folder, "bash", "-ec", script)
        assert shown.returncode == 0, shown.stderr
        assert "Made alice" in shown.stdout
        assert (folder / "pgdata" / "postmaster.pid").exists()
    finally:
        stopped = run(folder, "bash", "-ec", stop)
    assert stopped.returncode == 0, stopped.stderr
    assert not (folder / "pgdata" / "postmaster.pid").exists()


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    """To files that are there, and headings in them; those of other sites are not asked."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in link:
            name, _, heading = link.partition("#")
            file = page.parent / name if name else page
            assert file.exists(), link
            assert not heading or heading in headings(file), link


def headings(file: Path) -> set[str]:
    found = re.findall(r"^#+ (.*)", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in found}


def test_what_a_page_includes_is_there() -> None:
    """Both markers are in the file, once each."""
    for page in DOCS.rglob("*.md"):
        found = re.findall(r'include-markdown "(\S+)" start="(.+?)" end="(.+?)"', page.read_text())
        for name, *markers in found:
            text = (page.parent / name).read_text()
            assert [text.count(marker) for marker in markers] == [1, 1], (page, markers)


def test_readme_can_be_read() -> None:
    """It is short, and has two small pictures."""
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= MAX_LINES
    pictures = [ROOT / name for name in re.findall(r"!\[[^]]+\]\((\S+)\)", readme)]
    assert len(pictures) == 2
    for picture in pictures:
        assert 0 < picture.stat().st_size < MAX_BYTES
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_reference_has_every_public_name() -> None:
    """Of the package's face by name; of the others all."""
    pages = {page.stem: page.read_text() for page in (DOCS / "reference").glob("*.md")}
    shown = set(re.findall(r"^::: starlette_otp\.(\w+)$", pages["starlette_otp"], re.MULTILINE))
    elsewhere = {*devices.__all__, *dir(exceptions)}
    assert set(starlette_otp.__all__) - shown <= elsewhere
    assert shown <= set(starlette_otp.__all__)
    for name in ("devices", "fastapi", "admin", "testing", "exceptions"):
        assert f"\n::: starlette_otp.{name}\n" in pages[name]
    assert f"\n::: {hashers.__name__}\n" in pages["hashers"]


def test_every_page_can_be_found() -> None:
    """It stands in the navigation."""
    config = (ROOT / ".docs" / "mkdocs.yml").read_text()
    for page in DOCS.rglob("*.md"):
        assert f": {page.relative_to(DOCS).as_posix()}\n" in config
