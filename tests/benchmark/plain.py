"""Starlette with SessionMiddleware and nothing else: what a public page costs at least."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.benchmark.common import SECRET_KEY, loaded


async def public(request: Request) -> Response:
    return PlainTextResponse("hello everybody")


app = Starlette(
    routes=[Route("/public", public)],
    middleware=[Middleware(SessionMiddleware, secret_key=SECRET_KEY)],
)
loaded()
