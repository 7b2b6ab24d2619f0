"""An application with account pages, running for a real browser."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from email.message import EmailMessage
from typing import Any

import uvicorn
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route

from starlette_otp import OTP, log_in
from starlette_otp.models import Device, EmailDevice
from tests.support import SECRET_KEY, make_user, middleware


class Site:
    """What a test knows of it: where it is, and what it has mailed."""

    def __init__(self, url: str, database_url: str) -> None:
        self.url = url
        self.database_url = database_url
        self.mails: list[EmailMessage] = []

    def enter(self, name: str, path: str = "/account/") -> str:
        """The URL that signs a user in, who is made if there is none, by their password alone."""
        return f"/enter?name={name}&next={path}"


class _Mailer:
    sender = "no-reply@site.example"

    def __init__(self, site: Site) -> None:
        self.site = site

    async def send(self, message: EmailMessage) -> None:
        self.site.mails.append(message)


def application(site: Site) -> Starlette:
    """The pages, and a door that lets in whoever is named."""
    engine = create_async_engine(site.database_url)
    sessions: async_sessionmaker[AsyncSession] = async_sessionmaker(engine, expire_on_commit=False)
    otp = OTP(sessions, Device, secret_key=SECRET_KEY)

    async def enter(request: Request) -> Response:
        name = request.query_params["name"]
        user = await otp.find_user(name)
        if user is None:
            await make_user(sessions, name, email=f"{name}@home.example")
            user = await otp.find_user(name)
        devices = await otp.devices_for_user(user)
        user.otp_device = devices[0] if devices else None
        await log_in(request, user)
        return RedirectResponse(request.query_params["next"], 303)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    routes = [Route("/enter", enter), Mount("/account", routes=otp.routes(), name="otp")]
    return Starlette(routes=routes, middleware=middleware(otp), lifespan=lifespan)


@contextmanager
def running(database_url: str, port: int) -> Iterator[Site]:
    """The application, in a thread of its own, until the block ends."""
    site = Site(f"http://127.0.0.1:{port}", database_url)
    EmailDevice.mailer = _Mailer(site)
    server = uvicorn.Server(
        uvicorn.Config(application(site), port=port, log_level="error", loop="asyncio")
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        yield site
    finally:
        server.should_exit = True
        thread.join(30)
        EmailDevice.mailer = None
