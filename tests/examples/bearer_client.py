"""A program that signs in to the FastAPI application and keeps its token itself."""

from typing import Any

import httpx2

from starlette_otp import oath, secret_from_base32


class Refused(Exception):
    """The answer was a problem (RFC 9457)."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(problem["detail"])
        self.code: str = problem["code"]
        self.problem = problem


class BearerAuth(httpx2.Auth):
    """Sends the session's token, and remembers each new one that an answer brings."""

    requires_response_body = True

    def __init__(self) -> None:
        self.token: str | None = None

    def auth_flow(self, request: httpx2.Request) -> Any:
        if self.token is not None:
            request.headers["Authorization"] = f"Bearer {self.token}"
        answer = yield request
        if answer.content and answer.headers.get("content-type") == "application/json":
            found = answer.json()
            session = found.get("session", found) if isinstance(found, dict) else {}
            self.token = session.get("access_token", self.token)


class Client:
    """Signs in, sets up an authenticator of its own where it has none, and steps up when asked."""

    def __init__(self, http: httpx2.AsyncClient, username: str, password: str) -> None:
        self.http = http
        self.http.auth = BearerAuth()
        self.credentials = {"username": username, "password": password}
        self.secret: bytes | None = None

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self.http.request(method, path, json=body)
        if answer.is_error:
            raise Refused(answer.json())
        return answer.json() if answer.content else None

    async def sign_in(self, now: float) -> str:
        """Every next step is 200; only what was sent wrong is refused."""
        session = await self.call("POST", "/mobile/auth/session", self.credentials)
        if session["state"] == "enrolment_required":
            session = await self.enrol(now)
        if session["state"] == "token_required":
            body = {"token": self.token(now), "login": session["login"]}
            session = await self.call("POST", "/mobile/auth/session/token", body)
        state: str = session["state"]
        return state

    async def enrol(self, now: float) -> Any:
        begun = await self.call("POST", "/mobile/auth/devices", {"kind": "totp", "name": "A robot"})
        self.secret = secret_from_base32(begun["setup"]["secret"])
        path = f"/mobile/auth/devices/{begun['device']['id']}/confirm"
        done = await self.call("POST", path, {"token": self.token(now)})
        return done["session"]

    async def transfer(self, now: float) -> None:
        """A guard that wants a younger verification says so: give it one, and try again."""
        try:
            await self.call("POST", "/transfers")
        except Refused as exc:
            if exc.code != "reverification_required":
                raise
            await self.call("POST", "/mobile/auth/session/token", {"token": self.token(now)})
            await self.call("POST", "/transfers")

    def token(self, now: float) -> str:
        assert self.secret is not None
        return oath.hotp(self.secret, int(now // 30))
