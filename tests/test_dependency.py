"""otp_required() is one dependency: as FastAPI counts and overrides them."""

from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI

from starlette_otp import OTP, ConfigurationError
from starlette_otp.fastapi import otp_required
from starlette_otp.models import User
from tests.support import Browser, Sessions, door, make_totp, middleware

EQUAL: list[dict[str, Any]] = [
    {},
    {"redirect_field_name": "back"},
    {"login_url": "/sso"},
    {"if_configured": True},
    {"max_age": 300},
]


@pytest.mark.parametrize("arguments", EQUAL)
def test_equal_arguments_are_one_dependency(arguments: dict[str, Any]) -> None:
    """Equal arguments make equal dependencies of equal hash, others make others."""
    assert otp_required(**arguments) == otp_required(**arguments)
    assert len({otp_required(**each) for each in EQUAL + EQUAL}) == len(EQUAL)
    assert (otp_required(**arguments) == otp_required()) is (arguments == {})


async def test_a_hosts_tests_override_it(otp: OTP) -> None:
    """FastAPI's dependency_overrides finds it, whoever made it."""
    app = FastAPI(middleware=list(middleware(otp)))

    @app.get("/vault")
    async def vault(user: Annotated[Any, Depends(otp_required())]) -> str:
        return str(user)

    @app.get("/other")
    async def other(user: Annotated[Any, Depends(otp_required(max_age=60))]) -> str:
        return str(user)

    app.dependency_overrides[otp_required()] = lambda: "wren"
    async with Browser(app, headers={"accept": "*/*"}) as browser:
        assert (await browser.get("/vault")).json() == "wren"
        assert (await browser.get("/other")).status_code == 401


async def test_it_runs_once_a_request(
    otp: OTP, sessions: Sessions, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a router, a route and an argument it is one: asked once, one user object."""
    asked = []
    original = type(otp_required()).__call__

    async def counted(self: Any, conn: Any, **depends_on: Any) -> Any:
        asked.append(self)
        return await original(self, conn, **depends_on)

    monkeypatch.setattr(type(otp_required()), "__call__", counted)
    device = await make_totp(sessions, alice)
    app = FastAPI(middleware=list(middleware(otp)), dependencies=[Depends(otp_required())])
    app.router.routes.append(door(otp, alice, device))

    async def owner(user: Annotated[Any, Depends(otp_required())]) -> Any:
        return user

    @app.get("/vault", dependencies=[Depends(otp_required())])
    async def vault(
        user: Annotated[Any, Depends(otp_required())], same: Annotated[Any, Depends(owner)]
    ) -> bool:
        return user is same

    async with Browser(app) as browser:
        await browser.get("/enter")
        assert (await browser.get("/vault")).json() is True
    assert len(asked) == 1


async def test_without_parentheses_it_is_an_error(otp: OTP) -> None:
    """Depends(otp_required) would take its arguments from the query, and is refused."""
    app = FastAPI(middleware=list(middleware(otp)))

    @app.get("/vault", dependencies=[Depends(otp_required)])
    async def vault() -> str:
        return "in"

    async with Browser(app) as browser:
        with pytest.raises(ConfigurationError, match="parentheses"):
            await browser.get("/vault?if_configured=1")
