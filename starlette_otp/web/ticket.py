"""The ticket in the host's session: the name that was typed, and the token of the ticket's row."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from starlette_otp import clock
from starlette_otp.service.tickets import MAX_AGE
from starlette_otp.web.site import Site

TICKET_KEY = "otp_ticket"


async def issue(
    otp: Site, request: Request, username: str, user: Any, former_token: str | None
) -> bool:
    """Let the client hold a new ticket of the user's, in place of a former one.

    Returns:
        False if the user has gone meanwhile.
    """
    token = await otp.tickets.issue(user, former_token)
    if token is None:
        return False
    claims = {"username": username, "token": token}
    # Unreadable: the cookie is not, and a username may be an address.
    request.session[TICKET_KEY] = otp.keyring.make_ticket(claims, clock.now())
    return True


async def redeem(
    otp: Site, request: Request, username: str, given_token: str | None = None
) -> tuple[Any, str] | None:
    """The user of the client's ticket and the name that was typed for it; None without one.

    Args:
        otp: the application's.
        request: the request.
        username: what was typed now; another name than the ticket's has none.
        given_token: the ticket, of a client that sends it; if it is good, the client holds it from
            now on in place of another.
    """
    claims = _claims(otp, request, given_token)
    if claims is None or not otp.users.can_be_loaded or username not in ("", claims["username"]):
        return None

    async def load(key: Any) -> Any | None:
        return await otp.users.load(request, key)

    user = await otp.tickets.redeem(claims["token"], load)
    if user is None:
        return None
    if given_token is not None:
        request.session[TICKET_KEY] = given_token
    return user, claims["username"]


def token_of(otp: Site, request: Request) -> str | None:
    """The token of the client's ticket; None without one."""
    claims = _claims(otp, request)
    return None if claims is None else str(claims["token"])


def _claims(otp: Site, request: Request, given_token: str | None = None) -> dict[str, Any] | None:
    held_token = request.session.get(TICKET_KEY) if given_token is None else given_token
    return otp.keyring.read_ticket(held_token, clock.now(), MAX_AGE)
