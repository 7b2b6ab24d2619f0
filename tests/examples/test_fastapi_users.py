"""The site with fastapi-users: both factors, and neither without the other."""

import os
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
import time_machine
from fastapi import FastAPI
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

if not os.environ.get("OTP_TESTS_NEED_FASTAPI_USERS"):
    pytest.importorskip("fastapi_users")

from starlette_otp import oath
from starlette_otp.service.plain import Plain
from tests.examples import fastapi_users_site as example
from tests.support import PASSWORD

NOW = 1_800_000_000


@pytest.fixture(autouse=True)
def clock() -> Any:
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


@pytest.fixture
async def site(empty_engine: AsyncEngine) -> FastAPI:
    async with empty_engine.begin() as connection:
        await connection.run_sync(example.Base.metadata.create_all)
    return example.make_site(empty_engine)


class Person(httpx2.AsyncClient):
    """Somebody's browser at the site, and their authenticator app."""

    def __init__(self, site: FastAPI, name: str) -> None:
        transport = httpx2.ASGITransport(app=site)
        super().__init__(transport=transport, base_url="https://site.example")
        self.email = f"{name}@mail.example"
        self.device, self.secret = "", b""

    async def register(self) -> None:
        given = {"email": self.email, "password": PASSWORD}
        assert (await self.post("/register", json=given)).status_code == 201

    async def log_in(self) -> None:
        given = {"username": self.email, "password": PASSWORD}
        assert (await self.post("/login", data=given)).status_code == 204

    async def enrol(self) -> httpx2.Response:
        """Scan the QR code and give the first token."""
        answer = await self.post("/devices")
        if answer.status_code == 200:
            url = parse_qs(urlsplit(answer.json()["url"]).query)
            self.device = answer.json()["id"]
            self.secret = oath.secret_from_base32(url["secret"][0])
            answer = await self.give("/devices/confirm", self.token())
        return answer

    def token(self, steps: int = 0) -> str:
        return oath.hotp(self.secret, NOW // 30 + steps)

    async def give(self, path: str, token: str, device: str = "") -> httpx2.Response:
        return await self.post(path, json={"device": device or self.device, "token": token})

    async def vault(self) -> int:
        return (await self.get("/vault")).status_code


@pytest.fixture
async def alice(site: FastAPI) -> AsyncIterator[Person]:
    """Registered, with a confirmed device, and verified."""
    async with Person(site, "alice") as alice:
        await alice.register()
        await alice.log_in()
        assert (await alice.enrol()).json() == {"second_factor": True}
        yield alice


@pytest.fixture
async def bob(site: FastAPI) -> AsyncIterator[Person]:
    """Logged in without a device."""
    async with Person(site, "bob") as bob:
        await bob.register()
        await bob.log_in()
        yield bob


async def test_both_factors_open_the_vault(site: FastAPI, alice: Person) -> None:
    """Nobody, and who has the password alone, are refused; a token of the next step opens."""
    async with Person(site, "alice") as again:
        assert await again.vault() == 401
        await again.log_in()
        assert await again.vault() == 403
        found = (await again.get("/me")).json()
        expected = {"address_confirmed": False, "second_factor": False, "devices": [alice.device]}
        assert found == expected
        answer = await again.give("/verify", alice.token(1), alice.device)
        assert answer.json() == {"second_factor": True}
        assert (await again.get("/vault")).json() == {"owner": alice.email}
        assert (await again.get("/me")).json() == {**expected, "second_factor": True}


async def test_a_token_is_good_once(alice: Person) -> None:
    """What has confirmed the device, and what has verified, verify nothing more."""
    assert (await alice.give("/verify", alice.token())).status_code == 403


async def test_a_replayed_token(site: FastAPI, alice: Person) -> None:
    """A token that was accepted in one browser is refused in another."""
    assert (await alice.give("/verify", alice.token(1))).status_code == 200
    async with Person(site, "alice") as thief:
        await thief.log_in()
        answer = await thief.give("/verify", alice.token(1), alice.device)
        assert (answer.status_code, await thief.vault()) == (403, 403)


async def test_anothers_device(alice: Person, bob: Person) -> None:
    """Alice's device and her token do not verify bob, nor a device that is none."""
    for device in (alice.device, "totp/99", "garbage"):
        answer = await bob.give("/verify", alice.token(1), device)
        assert (answer.status_code, await bob.vault()) == (403, 403)
    assert (await alice.give("/verify", alice.token(1))).status_code == 200


async def test_a_password_alone_enrols_no_second_device(site: FastAPI, alice: Person) -> None:
    """The first device wants the password, each further one the device that is there."""
    async with Person(site, "alice") as thief:
        await thief.log_in()
        assert (await thief.enrol()).status_code == 403
    assert (await alice.enrol()).status_code == 200


async def test_the_second_factor_is_nothing_without_the_first(alice: Person, bob: Person) -> None:
    """After a log-out at fastapi-users, and under the cookie of another user, nobody is
    verified."""
    verified = alice.cookies["otp_session"]
    bob.cookies.set("otp_session", verified, domain="site.example")
    assert await bob.vault() == 403
    assert (await alice.post("/logout")).status_code == 204
    assert await alice.vault() == 401


async def test_a_new_password_ends_what_was_verified(
    alice: Person, empty_engine: AsyncEngine
) -> None:
    """As soon as fastapi-users has stored another hash."""
    assert await alice.vault() == 200
    async with async_sessionmaker(empty_engine).begin() as session:
        await session.execute(update(example.User).values(hashed_password="another"))
    assert await alice.vault() == 403


def test_its_statements_take_the_short_way(empty_engine: AsyncEngine) -> None:
    """fastapi-users' types and columns are plain: none of our statements needs a session."""
    models = (example.OTPSession, example.TOTPDevice, example.User)
    assert Plain(empty_engine.dialect)(models, True)
