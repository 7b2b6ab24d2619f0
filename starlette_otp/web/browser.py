"""Known browsers: who has signed in to an account here before has tries of their own.

OWASP's device cookies: a signed cookie names the browser and the accounts, by digests of their
names, so that guesses from elsewhere lock nobody out of a browser of theirs.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any

from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, cookie_parser
from starlette.responses import Response

from starlette_otp import clock
from starlette_otp.keyring import Keyring
from starlette_otp.web.site import Site
from starlette_otp.web.verdict import Verdict

MAX_AGE = timedelta(days=180)
"""How long a browser is known after its last log-in."""
FRESH = timedelta(days=1)
"""How old its cookie gets before a log-in by the same accounts writes it anew."""
MAX_ACCOUNTS = 10
"""Of one browser; the one that has not signed in for longest is forgotten first."""
NAME_KEY = "otp_name"
"""Where the session holds whose password was right here, until a device verifies it."""


def browser_of(otp: Site, conn: HTTPConnection, name_digest: str) -> str | None:
    """What names this browser, if it has signed in to the account of that name before.

    Args:
        otp: the application's.
        conn: the request.
        name_digest: of the name that was typed.
    """
    browser, accounts, _ = _read(otp, conn)
    return browser if _short(name_digest) in accounts else None


def note_name(otp: Site, conn: HTTPConnection, name_digest: str, user: Any) -> None:
    """Note that the password of that name was right here."""
    if "session" in conn.scope:
        conn.session[NAME_KEY] = f"{_short(name_digest)} {_owner(otp, user)}"


def remember(conn: HTTPConnection, verdict: Verdict, user: Any) -> None:
    """Know this browser from now on, its tries by the name whose password was typed in it.

    A password alone makes no browser known: who has stolen one would collect tries for the next.
    """
    otp = verdict.otp
    if verdict.bearer is not None:
        # It keeps no cookie: whenever it signs in, it may be another.
        verdict.new_browser = verdict.session_id is None
        return
    mine = _owner(otp, user)
    name, _, owner = str(conn.session.pop(NAME_KEY, "")).partition(" ")
    # Whose it is, for the notice of a new browser; and the name that was typed, for its tries.
    noted = [name] if name and owner == mine else []
    browser, known, is_fresh = _read(otp, conn)
    verdict.new_browser = mine not in known
    mine_first = [*noted, mine]
    accounts = [*mine_first, *(other for other in known if other not in mine_first)]
    accounts = accounts[: 2 * MAX_ACCOUNTS]
    if is_fresh and accounts == known:
        return
    carrier = Response()
    carrier.set_cookie(
        otp.cookie.browser_name,
        signed(otp.keyring, browser or _new_browser(), accounts),
        max_age=int(MAX_AGE.total_seconds()),
        # Not only below a mount, as that of the admin site: it is one application.
        path=conn.scope.get("app_root_path", verdict.root_path) or "/",
        secure=conn.url.scheme == "https",
        httponly=True,
        samesite="lax",
    )
    verdict.browser_cookie = carrier.headers["set-cookie"]


def signed(keyring: Keyring, browser: str, accounts: Sequence[str]) -> str:
    """The value of the cookie of a browser that is known."""
    return _serializer(keyring).dumps([browser, *accounts])


def _read(otp: Site, conn: HTTPConnection) -> tuple[str | None, list[str], bool]:
    """The browser's name, its accounts, and whether it was told so lately; nothing without a
    cookie of ours."""
    header = Headers(raw=conn.scope.get("headers", [])).get("cookie", "")
    given = cookie_parser(header).get(otp.cookie.browser_name)
    if not given:
        return None, [], False
    try:
        (browser, *accounts), signed_at = _serializer(otp.keyring).loads(
            given, int(MAX_AGE.total_seconds()), return_timestamp=True
        )
    except BadData:
        return None, [], False
    return browser, accounts, clock.now() - signed_at < FRESH


@lru_cache(maxsize=16)
def _serializer(keyring: Keyring) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(keyring.browsers, salt="browser")


def _new_browser() -> str:
    return secrets.token_urlsafe(16)


def _short(digest: str) -> str:
    return digest[:32]


def _owner(otp: Site, user: Any) -> str:
    return _short(otp.keyring.digests("login name of", str(otp.device_model.user_key(user)))[0])
