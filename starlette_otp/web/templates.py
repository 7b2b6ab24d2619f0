"""The Jinja environment: the host's templates first, then the shipped ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any

from jinja2 import (
    BaseLoader,
    ChoiceLoader,
    Environment,
    FileSystemLoader,
    PrefixLoader,
    select_autoescape,
)
from starlette.requests import Request
from starlette.templating import Jinja2Templates

from starlette_otp.devices.users import called
from starlette_otp.resources import TEMPLATES
from starlette_otp.web.notice import failures_before
from starlette_otp.web.urls import otp_urls

Folder = str | PathLike[str]
Templates = Folder | Sequence[Folder] | Jinja2Templates | None


def _escaping(host: bool | Callable[[str | None], bool]) -> Callable[[str | None], bool]:
    """Escape what the host's environment escapes, and HTML in any case: Jinja's default is not."""
    html = select_autoescape(default_for_string=True)
    return lambda name: html(name) or (host(name) if callable(host) else host)


def jinja_templates(
    host: Templates,
    login_url: str = "/account/login",
    site_name: str = "",
    help_urls: Mapping[str, str | None] = {},
) -> Jinja2Templates:
    """Templates looked for in the host's first, then among the shipped ones.

    An override can extend the original that it hides as `starlette_otp/otp/login.html`.

    Args:
        host: a folder, several, a Jinja2Templates whose environment is shared, or None.
        login_url: the OTP's, for `otp_urls`.
        site_name: the OTP's, as `otp_site_name`.
        help_urls: of pages of the host's, for `otp_urls`, too.
    """
    ours: list[Callable[[Request], dict[str, Any]]] = [
        partial(otp_urls, login_url=login_url, help_urls=help_urls),
        lambda request: {"otp_site_name": site_name},
        _notice,
    ]
    loaders: list[BaseLoader] = []
    if isinstance(host, Jinja2Templates):
        if host.env.loader is not None:
            loaders.append(host.env.loader)
    elif host is not None:
        loaders.append(FileSystemLoader(host))
    originals = FileSystemLoader(TEMPLATES)
    loader = ChoiceLoader([*loaders, PrefixLoader({"starlette_otp": originals}), originals])
    if isinstance(host, Jinja2Templates):
        env = host.env.overlay(loader=loader, autoescape=_escaping(host.env.autoescape))
        ours = [*host.context_processors, *ours]
    else:
        env = Environment(loader=loader, autoescape=select_autoescape(default_for_string=True))
    env.filters = {**env.filters, "otp_called": called}
    return Jinja2Templates(env=env, context_processors=ours)


def _notice(request: Request) -> dict[str, Any]:
    """For every template: called only where the number is shown, which is once."""
    return {"otp_failures_before": partial(failures_before, request)}
