"""The extra: what its page shows runs, and what is missing is named."""

import subprocess
import sys
from typing import Any

import pytest
from fastapi import FastAPI

from starlette_otp import OTP
from starlette_otp.admin import OTPAdmin
from starlette_otp.exceptions import install_hint
from tests.pages import FILES, execute
from tests.support import Browser, door, middleware
from tests.test_readme import app_module

__all__ = ["app_module"]


async def test_readmes_site_stands(app_module: Any) -> None:
    """The page's snippet mounts a site on README's application."""
    execute(FILES["office.py"], "office")
    async with Browser(app_module.app) as browser:
        sent = await browser.get("/admin/")
        assert "The office" in (await browser.get(sent.headers["location"])).text


@pytest.mark.parametrize("missing", ["sqladmin", "segno"])
def test_a_missing_extra_is_named(missing: str) -> None:
    """Without the extra, the import says in one sentence which one to install."""
    script = f"import sys; sys.modules[{missing!r}] = None; import starlette_otp.admin"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    last = shown.stderr.strip().splitlines()[-1]
    hint = install_hint("admin")
    assert last == f"ModuleNotFoundError: starlette_otp.admin needs {missing}: {hint}"


async def test_it_stands_on_fastapi(otp: OTP, sessions: Any, staff: Any, phone: Any) -> None:
    """A FastAPI application has the same site."""
    app = FastAPI(routes=[door(otp, staff, phone)], middleware=list(middleware(otp)))
    OTPAdmin(app, sessions, otp=otp)
    async with Browser(app) as browser:
        assert (await browser.get("/admin/")).status_code == 303
        await browser.get("/enter")
        assert (await browser.get("/admin/otp-users/list")).status_code == 200
