"""A program at the JSON routes: by cookies, as a page's script, or as a bearer."""

from email.message import EmailMessage
from typing import Any

import httpx2
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.routing import Mount, Route

from starlette_otp import OTP, OTPMiddleware, SessionAuthBackend, oath, secret_from_base32
from starlette_otp.fastapi import OTPRouter, Verified, otp_required
from tests.support import PASSWORD, SECRET_KEY, state, vault

TRANSPORTS = ["cookie", "bearer"]
ROOT = {"cookie": "/auth", "bearer": "/mobile/auth"}


class Mailbox:
    """A mailer that keeps what it is given."""

    sender = "no-reply@site.example"

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []

    async def send(self, message: EmailMessage) -> None:
        self.mails.append(message)

    @property
    def token(self) -> str:
        """The token of the last mail."""
        words: list[str] = self.mails[-1].get_content().split()
        return next(word for word in words if word.strip(".").isdigit()).strip(".")


def make_api(otp: OTP) -> FastAPI:
    """A FastAPI application with both routers and the pages."""
    app = FastAPI(
        middleware=[
            Middleware(SessionMiddleware, secret_key=SECRET_KEY),
            Middleware(
                AuthenticationMiddleware,
                backend=SessionAuthBackend(otp, transports=("cookie", "bearer")),
            ),
            Middleware(OTPMiddleware, otp=otp),
        ],
        routes=[Route("/vault", vault), Route("/state", state)],
    )
    app.include_router(OTPRouter(otp), prefix="/auth", tags=["two-factor"])
    bearer = OTPRouter(otp, transport="bearer")
    app.include_router(bearer, prefix="/mobile/auth", tags=["two-factor"])
    app.router.routes.append(Mount("/account", routes=otp.routes(), name="otp"))

    @app.get("/notes")
    async def notes(user: Verified) -> str:
        return str(user.username)

    @app.get("/transfer", dependencies=[otp_required_within(300)])
    async def transfer() -> str:
        return "done"

    return app


def otp_required_within(seconds: float) -> Any:
    from fastapi import Security

    return Security(otp_required(max_age=seconds))


class Client(httpx2.AsyncClient):
    """A program that speaks JSON and keeps its token as its transport has it."""

    def __init__(self, app: Any, transport: str, root: str | None = None) -> None:
        by = httpx2.ASGITransport(app=app)
        own = {"accept": "application/json"}
        if transport == "cookie":
            own["sec-fetch-site"] = "same-origin"
        super().__init__(transport=by, base_url="http://site.example", headers=own)
        self.root = ROOT[transport] if root is None else root
        self.is_bearer = transport == "bearer"

    async def call(self, method: str, path: str, body: Any = None) -> httpx2.Response:
        """An operation; a new token is kept."""
        sent = {} if body is None else {"json": body}
        answer = await self.request(method, self.root + path, **sent)
        if answer.headers.get("content-type", "").endswith("json"):
            found = answer.json()
            self._keep(found)
            self._keep(found.get("session") or {})
        if self.is_bearer:
            assert "set-cookie" not in answer.headers
        assert answer.headers["cache-control"] == "no-store", answer.text
        return answer

    def _keep(self, found: dict[str, Any]) -> None:
        if self.is_bearer and found.get("access_token"):
            assert found["token_type"] == "bearer"
            assert found["expires_in"] > 0
            self.headers["authorization"] = f"Bearer {found['access_token']}"

    async def ask(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        """What an operation answers, which has that status."""
        answer = await self.call(method, path, body)
        assert answer.status_code == status, (answer.status_code, answer.text)
        return answer.json() if answer.content else None

    async def refused(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """Status and code of a problem."""
        answer = await self.call(method, path, body)
        return problem_of(answer)

    async def sign_in(self, token: str | None = None, username: str = "alice") -> Any:
        """Log in, in one step or to the second."""
        body = {"username": username, "password": PASSWORD}
        return await self.ask("POST", "/session", body | ({"token": token} if token else {}))

    def with_login(self, said: dict[str, Any]) -> dict[str, str]:
        """The log-in that waits, of a client without cookies."""
        return {"login": said["login"]} if self.is_bearer else {}


def problem_of(answer: httpx2.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    found = answer.json()
    assert found["status"] == answer.status_code
    assert found["detail"]
    assert found["title"]
    assert ("www-authenticate" in answer.headers) or answer.status_code != 401
    if answer.status_code in (429, 503) and found.get("retry_after"):
        assert int(answer.headers["retry-after"]) == found["retry_after"]
    return answer.status_code, found["code"]


def token_of(setup: dict[str, Any], moment: float) -> str:
    """What an app shows that was set up with this."""
    return oath.hotp(secret_from_base32(setup["secret"]), int(moment // 30))
