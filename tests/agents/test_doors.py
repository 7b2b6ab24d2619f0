"""Trust at the other doors: FastAPI's guard, and websockets."""

from typing import Annotated, Any

from fastapi import FastAPI, Security
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from starlette_otp import OTP, log_in, requires_trusted_agent, trust_agent
from starlette_otp.fastapi import otp_required
from starlette_otp.models import User
from tests.support import Browser, Sessions, make_app, make_totp
from tests.web.test_open_websockets import Socket

Trusting = Annotated[User, Security(otp_required(accept_trusted_agent=True))]
Verified = Annotated[User, Security(otp_required())]


@requires_trusted_agent
async def feed(websocket: WebSocket) -> None:
    await websocket.accept()
    async for _ in websocket.iter_text():
        await websocket.send_text("True")


def make_site(otp: OTP, alice: User, device: Any) -> Any:
    """`/verify` signs alice in by her device, `/enter` by the password alone."""
    api = FastAPI()

    @api.get("/lenient")
    async def lenient(user: Trusting) -> str:
        return user.username

    @api.get("/strict")
    async def strict(user: Verified) -> str:
        return user.username

    async def enter(request: Request) -> Response:
        user: Any = await otp.find_user("alice")
        user.otp_device = device if request.url.path == "/verify" else None
        await log_in(request, user)
        if user.otp_device is not None:
            await trust_agent(request)
        return PlainTextResponse("in")

    doors = [Route(path, enter) for path in ("/verify", "/enter")]
    return make_app(otp, *doors, WebSocketRoute("/ask", feed), Mount("/api", api))


def socket_of(app: Any, browser: Browser) -> Socket:
    cookies = [f"{name}={value}" for name, value in browser.cookies.items()]
    return Socket(app, browser.cookie, "; ".join(cookies))


async def test_the_other_doors(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Closed without trust, open with it; a guard that accepts none asks for the code."""
    app = make_site(otp, alice, await make_totp(sessions, alice))
    browser = Browser(app, headers={"accept": "application/json"})
    await browser.get("/enter")
    assert (await browser.get("/api/lenient")).status_code == 403
    assert await socket_of(app, browser).refusal() == (1008, "not_trusted")
    await browser.get("/verify")
    await browser.get("/enter")
    answer = await browser.get("/api/lenient")
    assert (answer.status_code, answer.json()) == (200, "alice")
    assert (await browser.get("/api/strict")).json()["code"] == "not_verified"
    socket = socket_of(app, browser)
    assert await socket.ask()
    await socket.close()
