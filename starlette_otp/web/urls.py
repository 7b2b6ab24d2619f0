"""URLs: where our routes are, which page to come back to, and what stays on this site."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from starlette.requests import Request

from starlette_otp.web.verdict import VERDICT, Verdict

FOLDER = "starlette_otp.folder"
"""Where the ASGI scope has the path of the routes whose page is rendered."""
_MAX_NEXT = 2048


def otp_urls(
    request: Request, login_url: str, help_urls: Mapping[str, str | None]
) -> dict[str, dict[str, str]]:
    """`otp_urls` for every template, a host's own that extends ours, too: where our routes are.

    Args:
        request: whose page it is; behind OTPMiddleware or, on a page of errors, not.
        login_url: the OTP's; a page that is none of our routes finds the others beside it.
        help_urls: of pages of the host's by their names there; None where it has none.
    """
    mount, verdict = request.scope.get(FOLDER), request.scope.get(VERDICT)
    root_path = verdict.root_path if verdict else request.scope.get("root_path", "")
    if mount is None:
        mount = _folder_of(root_path, login_url)
    ours = {name: f"{mount}/{name}" for name in ("login", "logout", "static")}
    ours["account"] = f"{mount}/"
    theirs = {name: _under(root_path, url) for name, url in help_urls.items() if url}
    return {"otp_urls": ours | theirs}


def folder(request: Request) -> str:
    """Where our routes are mounted; of a page of ours."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def way(request: Request, wanted: object = None) -> str:
    """The query that takes `next` along to another page of ours; empty without one.

    Args:
        request: of a page of ours.
        wanted: instead of what its query says.
    """
    path = safe_path(request, wanted or request.query_params.get("next"))
    return "?" + urlencode({"next": path}) if path else ""


def our_mount(verdict: Verdict) -> str:
    """Where our routes are, for a page that is none of them: beside the login URL."""
    return _folder_of(verdict.root_path, verdict.otp.login_url)


def local_url(verdict: Verdict, url: str) -> str:
    """`url`, under the root path that OTPMiddleware saw if it begins with one slash."""
    return _under(verdict.root_path, url)


def _under(root_path: str, url: str) -> str:
    return root_path.rstrip("/") + url if is_local(url) else url


def _folder_of(root_path: str, login_url: str) -> str:
    return _under(root_path, login_url).partition("?")[0].rpartition("/")[0]


def is_local(url: str) -> bool:
    """Whether a URL is a path of this site; two slashes begin another site's."""
    return url.startswith("/") and not url.startswith("//")


def safe_path(request: Request, url: object) -> str | None:
    """`url` as a path of this site, or None.

    Browsers read a backslash as a slash and drop control characters and white space at the ends,
    so what is not plainly one slash and a path is refused (CWE-601).
    """
    if not isinstance(url, str) or len(url) > _MAX_NEXT:
        return None
    origin = f"{request.base_url.scheme}://{request.base_url.netloc}"
    if url.startswith(origin + "/"):
        # Starlette's own requires(redirect=) sends the whole URL.
        url = url.removeprefix(origin)
    plain = url.startswith("/") and not url.startswith("//")
    return url if plain and "\\" not in url and url.isprintable() else None
