"""The wheel: installed without the tree, it runs."""

import subprocess
import sys
import time
import venv
from pathlib import Path

import httpx2
import pytest

from tests.cli.test_demo import folder, sign_in
from tests.demo_process import demo
from tests.support import HTML

__all__ = ["folder"]

ROOT = Path(__file__).parent.parent
RENDER_ALL = """
import starlette_otp
from starlette_otp.web.templates import jinja_templates
assert "site-packages" in starlette_otp.__file__, starlette_otp.__file__
env = jinja_templates(None).env
names = {name.removeprefix("starlette_otp/") for name in env.list_templates(["html", "txt"])}
print(len([env.get_template(name) for name in names]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of an environment with nothing but the wheel and its demo."""
    base = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(base), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = base.glob("*.whl")
    venv.create(base / "env", with_pip=True)
    programs = base / "env" / "bin"
    install = [str(programs / "python"), "-m", "pip", "install", "-q", f"{wheel}[demo]"]
    subprocess.run(install, check=True, capture_output=True)
    return programs


def test_the_wheel_has_every_template(installed: Path, tmp_path: Path) -> None:
    """Every template of the tree is found and compiles, away from the tree."""
    python = str(installed / "python")
    shown = subprocess.run(
        [python, "-c", RENDER_ALL], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert shown.returncode == 0, shown.stderr
    assert int(shown.stdout) == len([*(ROOT / "templates").rglob("*.html")]) + len(
        [*(ROOT / "templates").rglob("*.txt")]
    )


def test_a_missing_extra_is_named(installed: Path, tmp_path: Path) -> None:
    """Without the extra, the command says which one to install."""
    hidden = "import sys; sys.modules['uvicorn'] = None; from starlette_otp.cli import main; main()"
    shown = subprocess.run(
        [str(installed / "python"), "-c", hidden, "demo"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert shown.returncode == 1
    (wheel,) = installed.parent.parent.glob("*.whl")
    assert f"pip install '{wheel}[demo]'" in shown.stderr


def test_the_installed_demo_signs_in(installed: Path, folder: Path) -> None:
    """`starlette-otp demo` of the wheel migrates, serves, and lets its user in with a token."""
    command = [str(installed / "starlette-otp"), "demo"]
    with (
        demo(folder / "data", command=command) as running,
        httpx2.Client(base_url=running.url, headers=HTML) as browser,
    ):
        assert sign_in(browser, running, running.token(time.time())).status_code == 303
        assert "Welcome, alice" in browser.get("/vault").text
        assert browser.get("/account/static/otp.css").status_code == 200
