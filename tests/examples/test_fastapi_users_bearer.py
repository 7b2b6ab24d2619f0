"""fastapi-users' people with one bearer token for both factors."""

import os
import time

import pytest
import time_machine
from sqlalchemy.ext.asyncio import AsyncEngine

if not os.environ.get("OTP_TESTS_NEED_FASTAPI_USERS"):
    pytest.importorskip("fastapi_users")

from tests.api.client import Client, token_of
from tests.examples import fastapi_users_bearer as example
from tests.examples.fastapi_users_site import Base
from tests.support import PASSWORD


async def test_one_token_for_both_factors(empty_engine: AsyncEngine) -> None:
    """Registered there, signed in here; the guard takes fastapi-users' own dependency."""
    async with empty_engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with Client(example.make_site(empty_engine), "bearer", "/auth") as client:
        given = {"email": "alice@mail.example", "password": PASSWORD}
        assert (await client.post("/register", json=given)).status_code == 201
        assert (await client.get("/me")).status_code == 401
        given = {"username": given["email"], "password": "wrong"}
        assert await client.refused("POST", "/session", given) == (401, "invalid_login")
        said = await client.ask("POST", "/session", {**given, "password": PASSWORD})
        assert said["state"] == "enrolment_required"
        assert said["user"]["name"] == "alice@mail.example"
        begun = await client.ask("POST", "/devices", {"kind": "totp"}, 201)
        assert "/Acme:alice%40mail.example?" in begun["setup"]["otpauth_url"]
        path = f"/devices/{begun['device']['id']}/confirm"
        done = await client.ask("POST", path, {"token": token_of(begun["setup"], time.time())})
        assert done["recovery_codes"] is None
        assert (await client.get("/me")).json() == "alice@mail.example"
        assert (await client.get("/vault")).json() == "alice@mail.example"
        await client.ask("DELETE", "/session", status=204)
        assert (await client.get("/vault")).status_code == 401


async def test_guesses_at_a_password_wait(
    empty_engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """After some wrong ones even the right one is not looked at for a while."""
    async with empty_engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with Client(example.make_site(empty_engine), "bearer", "/auth") as client:
        assert not [r for r in caplog.records if "have no limit" in r.getMessage()]
        given = {"email": "alice@mail.example", "password": PASSWORD}
        assert (await client.post("/register", json=given)).status_code == 201
        given = {"username": given["email"], "password": "wrong"}
        with time_machine.travel(time.time(), tick=False):
            answers = {await client.refused("POST", "/session", given) for _ in range(8)}
            assert answers == {(401, "invalid_login"), (429, "too_many_attempts")}
            given["password"] = PASSWORD
            assert await client.refused("POST", "/session", given) == (429, "too_many_attempts")
