"""An old site, and the command that moves it in."""

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from starlette_otp.cli import main
from tests.moving.old import Old, Run
from tests.support import SECRET_KEY


@pytest.fixture
async def old(empty_url: str, tmp_path: Path) -> Old:
    site = Old(empty_url, tmp_path)
    await site.make()
    return site


@pytest.fixture
def run(old: Old, database_url: str) -> Run:
    """import-django, as the shell runs it."""

    async def run(
        *options: str, command: str = "import-django", yes: bool = True, **env: str
    ) -> Result:
        given = {"DATABASE_URL": database_url, "SECRET_KEY": SECRET_KEY, **env}
        arguments = [command, "--from", old.url, "--report", str(old.report_file), *options]
        arguments += ["--yes"] if yes else []
        return await asyncio.to_thread(CliRunner().invoke, main, arguments, input="n\n", env=given)

    return run
