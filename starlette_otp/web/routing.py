"""The routes of the host's application: what takes GET, which endpoints there are."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from starlette.endpoints import HTTPEndpoint
from starlette.routing import Match
from starlette.types import Scope

# What ASGI says of a request; the rest of a scope is the routers' own, and of another URL.
_OF_THE_SERVER = ("asgi", "http_version", "scheme", "headers", "client", "server", "extensions")


def routes_of(app: Any) -> Sequence[Any]:
    """The routes of an application or router, behind whatever middleware; none of another app."""
    while app is not None and not hasattr(app, "routes"):
        app = getattr(app, "app", None)
    return getattr(app, "routes", None) or ()


def endpoints(routes: Sequence[Any]) -> Iterator[Any]:
    """Every endpoint that is routed, in mounted and in included routers, too."""
    for route in routes:
        yield getattr(route, "endpoint", None)
        # A router that FastAPI includes keeps its routes to itself.
        inner = getattr(route, "original_router", None) or getattr(route, "app", None)
        yield from endpoints(routes_of(inner))


def takes_get(routes: Sequence[Any], scope: Scope, path: str, root_path: str) -> bool:
    """Whether these routes leave a GET of that path to a handler: False where it would be 405.

    A path of no route is somebody else's, who may take it.

    Args:
        routes: of the application.
        scope: of a request of the same client.
        path: decoded, below the root path.
        root_path: where the application is mounted.
    """
    server = {name: scope[name] for name in _OF_THE_SERVER if name in scope}
    get = {"type": "http", "method": "GET", "path": path, "root_path": root_path}
    return _takes(routes, {**server, **get, "query_string": b"", "raw_path": path.encode()})


def _takes(routes: Sequence[Any], scope: Scope) -> bool:
    is_there = False
    for route in routes:
        match, child = route.matches(scope)
        if match is Match.FULL:
            if inner := routes_of(getattr(route, "app", None)):
                return _takes(inner, {**scope, **child})
            endpoint = child.get("endpoint")
            if inspect.isclass(endpoint) and issubclass(endpoint, HTTPEndpoint):
                return hasattr(endpoint, "get")
            return True
        is_there = is_there or match is Match.PARTIAL
    return not is_there
