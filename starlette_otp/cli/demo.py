"""A complete application, to try with `starlette-otp demo` and to copy from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage

import click
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from starlette_otp import (
    OTP,
    LogoutForm,
    OTPMiddleware,
    SessionAuthBackend,
    requires_otp,
)
from starlette_otp.admin import OTPAdmin
from starlette_otp.models import Device, EmailDevice
from starlette_otp.resources import TEMPLATES


class TerminalMailer:
    """Prints a mail where the demo runs, instead of sending it."""

    sender = "demo@demo.example"

    async def send(self, message: EmailMessage) -> None:
        """Print it."""
        click.echo(f"\nA mail to {message['To']}: {message['Subject']}\n{message.get_content()}")


async def home(request: Request) -> Response:
    """A page for everybody; it says which of the three states you are in."""
    templates: Jinja2Templates = request.app.state.otp.templates
    context = {"logout_form": LogoutForm(request)}
    return templates.TemplateResponse(request, "demo/home.html", context)


@requires_otp
async def vault(request: Request) -> Response:
    """A page for verified users."""
    templates: Jinja2Templates = request.app.state.otp.templates
    context = {"logout_form": LogoutForm(request)}
    return templates.TemplateResponse(request, "demo/vault.html", context)


@requires_otp(max_age=60)
async def key(request: Request) -> Response:
    """A page for which the code may not be older than a minute."""
    templates: Jinja2Templates = request.app.state.otp.templates
    return templates.TemplateResponse(request, "demo/key.html")


async def spa(request: Request) -> Response:
    """A page that is one script, and does all by JSON."""
    templates: Jinja2Templates = request.app.state.otp.templates
    return templates.TemplateResponse(request, "demo/spa.html")


def create_app(database_url: str, secret_key: str) -> Starlette:
    """The application over the ready-made models.

    Args:
        database_url: a migrated PostgreSQL, `postgresql+asyncpg://...`.
        secret_key: 32 characters or more.
    """
    # Codes, and notices of what happens to an account.
    mailer = EmailDevice.mailer = TerminalMailer()
    # No statement's values in an error or a log: password hashes are among them.
    engine = create_async_engine(database_url, hide_parameters=True)
    otp = OTP(
        async_sessionmaker(engine),
        Device,
        secret_key=secret_key,
        site_name="starlette-otp demo",
        require_device=True,
        accept_trusted_agents=True,
        mailer=mailer,
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    app = Starlette(
        routes=[
            Route("/", home),
            Route("/vault", vault),
            Route("/vault/key", key),
            Mount("/account", routes=otp.routes(), name="otp"),
            Mount("/auth", routes=otp.api_routes(), name="api"),
            Route("/spa", spa),
            Mount("/spa/static", StaticFiles(directory=TEMPLATES / "demo" / "static")),
        ],
        middleware=[
            # A name of its own: another application on this host keeps its users signed in.
            Middleware(SessionMiddleware, secret_key=secret_key, session_cookie="demo_session"),
            Middleware(AuthenticationMiddleware, backend=SessionAuthBackend(otp)),
            Middleware(OTPMiddleware, otp=otp),
        ],
        lifespan=lifespan,
    )
    app.state.otp = otp
    OTPAdmin(app, engine, otp=otp)
    return app
