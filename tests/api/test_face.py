"""What FastAPI's users meet: the document, the padlock, dependencies, problems."""

from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Security
from starlette.requests import Request

from starlette_otp import OTP, ConfigurationError
from starlette_otp.fastapi import (
    OTPRouter,
    Verified,
    guard_responses,
    install_problem_handlers,
    otp_required,
)
from starlette_otp.models import User
from tests.api.client import Client, Mailbox, make_api, problem_of
from tests.support import Browser, Sessions, door, make_totp, middleware

OPERATIONS = {
    "show", "sign_in", "challenge", "verify", "sign_out", "list_devices", "add_device",
    "confirm_device", "challenge_again", "rename_device", "remove_device", "show_codes",
    "new_codes", "list_agents", "end_agent", "end_other_agents", "list_sessions",
    "end_other_sessions", "end_session", "new_password",
}  # fmt: skip


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = [one for path in document["paths"].values() for one in path.values()]
    return {one["operationId"]: one for one in found}


def test_the_document(otp: OTP, mailbox: Mailbox) -> None:
    """Every operation by a name that stays, its models, its problems and its schemes."""
    document = make_api(otp).openapi()
    found = operations(document)
    assert {f"otp_{name}" for name in OPERATIONS} <= set(found)
    assert {f"otp_bearer_{name}" for name in OPERATIONS} <= set(found)
    schemes = document["components"]["securitySchemes"]
    assert schemes["otpSession"] == {"type": "apiKey", "in": "cookie", "name": "otp_session"}
    assert schemes["otpBearer"] == {"type": "http", "scheme": "bearer"}
    sign_in, schemas = found["otp_bearer_sign_in"], document["components"]["schemas"]
    body = sign_in["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["username", "password"]
    answer = sign_in["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/BearerSession"}
    assert "access_token" in schemas["BearerSession"]["properties"]
    assert "access_token" not in schemas["Session"]["properties"]
    problem = found["otp_confirm_device"]["responses"]["410"]["content"]
    assert problem["application/problem+json"]["schema"]["$ref"].endswith("/OTPProblem")
    assert "OTPProblem" in schemas
    added = found["otp_add_device"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"kind", "name", "email"} <= set(added["properties"])


def test_a_padlock(otp: OTP) -> None:
    """A guarded route has both schemes; problems where the host wants them."""
    app = make_api(otp)
    notes = app.openapi()["paths"]["/notes"]["get"]
    assert {"otpSession": []} in notes["security"]
    assert {"otpBearer": []} in notes["security"]
    assert notes.get("parameters", []) == []
    app = make_api(otp)
    install_problem_handlers(app)
    responses = app.openapi()["paths"]["/notes"]["get"]["responses"]
    assert {"401", "403", "503"} <= set(responses)
    app = FastAPI()
    app.get("/notes", responses=guard_responses)(lambda user: None)
    assert {"401", "403", "503"} <= set(app.openapi()["paths"]["/notes"]["get"]["responses"])


async def current_user(request: Request) -> Any:
    """As fastapi-users' `current_user()`: by a header here, for the sake of the test."""
    name = request.headers.get("x-user")
    if name is None:
        raise HTTPException(401)
    return await request.app.state.otp.find_user(name)


async def test_behind_a_dependency(otp: OTP, alice: User, bob: User, sessions: Sessions) -> None:
    """A dependency of the host's says who it is; only a session of theirs verifies them."""
    device = await make_totp(sessions, alice)
    app = FastAPI(middleware=list(middleware(otp)))
    app.state.otp = otp
    app.router.routes.append(door(otp, alice, device))

    @app.get("/notes")
    async def notes(
        user: Annotated[Any, Security(otp_required(current_user=current_user))],
    ) -> str:
        return str(user.username)

    async with Browser(app) as browser:
        browser.headers["accept"] = "application/json"
        assert (await browser.get("/notes")).status_code == 401
        browser.headers["x-user"] = "alice"
        assert (await browser.get("/notes")).json()["code"] == "not_verified"
        await browser.get("/enter")
        assert (await browser.get("/notes")).json() == "alice"
        browser.headers["x-user"] = "bob"
        assert (await browser.get("/notes")).json()["code"] == "not_verified"
        browser.headers["x-user"] = "nobody"
        assert (await browser.get("/notes")).json()["code"] == "not_authenticated"


async def test_a_session_that_nobody_else_knows(otp: OTP, alice: User, sessions: Sessions) -> None:
    """The host's dependency alone says who it is, and their session of ours is found."""
    from starlette.authentication import AuthenticationBackend
    from starlette.middleware import Middleware
    from starlette.middleware.authentication import AuthenticationMiddleware

    class Nobody(AuthenticationBackend):
        async def authenticate(self, conn: Any) -> None:
            return None

    device = await make_totp(sessions, alice)
    first, _, last = middleware(otp)
    app = FastAPI(middleware=[first, Middleware(AuthenticationMiddleware, backend=Nobody()), last])
    app.state.otp = otp
    app.router.routes.append(door(otp, alice, device))

    @app.get("/notes")
    async def notes(
        user: Annotated[Any, Depends(otp_required(current_user=current_user, max_age=60))],
        request: Request,
    ) -> str:
        return f"{user.username} {request.user.is_verified()}"

    async with Browser(app) as browser:
        browser.headers.update({"accept": "application/json", "x-user": "alice"})
        await browser.get("/enter")
        assert (await browser.get("/notes")).json() == "alice True"


def test_equal_arguments_are_one_dependency() -> None:
    """So that it runs once, and a host's tests find it."""
    assert otp_required(accept_amr=["mfa"]) == otp_required(accept_amr=("mfa",))
    assert hash(otp_required()) == hash(otp_required())
    assert otp_required(current_user=current_user) != otp_required()
    with pytest.raises(ConfigurationError, match="accept_amr"):
        otp_required(accept_amr="mfa")
    with pytest.raises(ConfigurationError, match="transport"):
        OTPRouter(None, transport="jwt")  # type: ignore[arg-type]


async def test_problems_of_fastapi_itself(otp: OTP, alice: User) -> None:
    """One shape for all, if the host wants it; a guard's own stays as it is."""
    app = make_api(otp)
    install_problem_handlers(app)

    @app.get("/items/{number}")
    async def items(number: int) -> int:
        if number == 0:
            raise HTTPException(409, {"code": "sold_out", "detail": "None is left."})
        raise HTTPException(404, "No such item.", {"x-hint": "try 1"})

    @app.get("/mine")
    async def mine(user: Verified) -> None:
        """Guarded."""

    async with Client(app, "cookie") as client:
        answer = await client.get("/items/x")
        assert problem_of(answer) == (422, "invalid_request")
        assert answer.json()["errors"][0]["field"] == "path.number"
        answer = await client.get("/items/1")
        assert problem_of(answer) == (404, "not_found")
        assert answer.headers["x-hint"] == "try 1"
        assert answer.json()["detail"] == "No such item."
        assert problem_of(await client.get("/items/0")) == (409, "sold_out")
        assert problem_of(await client.get("/nowhere")) == (404, "not_found")
        assert problem_of(await client.delete("/mine")) == (405, "method_not_allowed")
        assert problem_of(await client.get("/mine")) == (401, "not_authenticated")
        answer = await client.get("/mine", headers={"accept": "text/html"})
        assert answer.status_code == 303
