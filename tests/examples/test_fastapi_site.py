"""The FastAPI application, by a program that keeps a bearer token."""

import importlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import time_machine

from tests.examples.bearer_client import BearerAuth, Client, Refused
from tests.support import PASSWORD, SECRET_KEY

NOW = 1_800_000_000


@pytest.fixture
async def http(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx2.AsyncClient]:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("SECRET_KEY", SECRET_KEY)
    site = importlib.import_module("tests.examples.fastapi_site")
    importlib.reload(site)
    by: Any = httpx2.ASGITransport(app=site.app)
    async with httpx2.AsyncClient(transport=by, base_url="http://site.example") as http:
        yield http
    await site.engine.dispose()


async def test_a_program_from_sign_up_to_log_out(http: httpx2.AsyncClient) -> None:
    """It signs up, sets up its own authenticator, signs in anew, steps up, and leaves."""
    with time_machine.travel(NOW, tick=False) as clock:
        client = Client(http, "robot", PASSWORD)
        sign_up = {"username": "robot", "password": PASSWORD}
        assert await client.call("POST", "/users", sign_up) == {"username": "robot"}
        with pytest.raises(Refused, match="taken") as taken:
            await client.call("POST", "/users", sign_up)
        assert taken.value.code == "conflict"
        with pytest.raises(Refused, match="characters"):
            await client.call("POST", "/users", {"username": "other", "password": "short"})
        with pytest.raises(Refused, match="log in"):
            await client.call("GET", "/notes")
        assert await client.sign_in(NOW) == "verified"
        assert await client.call("GET", "/notes") == ["A note of robot's."]

        http.auth = BearerAuth()
        clock.shift(60)
        assert await client.sign_in(NOW + 60) == "verified"
        clock.shift(400)
        await client.transfer(NOW + 460)
        await client.call("DELETE", "/mobile/auth/session")
        with pytest.raises(Refused) as ended:
            await client.call("GET", "/notes")
        assert ended.value.code == "session_expired"
