"""Trusted browsers by JSON: listed and ended; and a browser trusted with the token."""

from __future__ import annotations

from starlette_otp.account.sessions import number
from starlette_otp.account.trusted import trusted_of
from starlette_otp.agents.browser import agent
from starlette_otp.api import models
from starlette_otp.api.call import Call, Refused, invalid


async def list_agents(call: Call) -> models.Agents:
    """The browsers that the user trusts, the last seen first."""
    await call.let_through()
    return models.Agents(
        agents=[
            models.AgentListed(
                id=one.id,
                current=one.is_this,
                name=one.browser,
                trusted_at=one.trusted_at,
                last_seen_at=one.seen_at,
                expires_at=one.until,
                device=None if one.device is None else one.device.persistent_id,
            )
            for one in await trusted_of(call.request, call.user)
        ]
    )


async def end_agent(call: Call) -> None:
    """End the trust in one of the user's browsers; in this one, too."""
    await call.let_through()
    wanted, agents = number(call.request.path_params["id"]), call.otp.agents
    if agents is None or not await agents.revoke(call.user, wanted):
        raise Refused(404, "no_such_agent", "There is no such browser.")


async def end_other_agents(call: Call) -> None:
    """End the trust in all of the user's browsers but this one."""
    await call.let_through()
    if call.request.query_params.get("others") != "true":
        raise invalid("others", "required")
    if call.otp.agents is not None:
        here = (await agent(call.request)).id
        await call.otp.agents.revoke_others(call.user, here)


def refuse_trust(call: Call, wanted: bool) -> None:
    """Refuse what can't be trusted, before anything is tried.

    Raises:
        Refused: a client without cookies, or a site without trusted browsers.
    """
    if wanted and (call.transport == "bearer" or call.otp.agents is None):
        raise invalid("trust")
