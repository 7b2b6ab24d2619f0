"""Trusted browsers by JSON: listed and ended; and a browser trusted with the token."""

from __future__ import annotations

from typing import Any

from starlette_otp.account.sessions import number
from starlette_otp.agents.browser import agent, trust_agent
from starlette_otp.api import models
from starlette_otp.api.call import Call, Refused, invalid
from starlette_otp.exceptions import AgentRejected


async def list_agents(call: Call) -> models.Agents:
    """The browsers that the user trusts, the last seen first."""
    await call.let_through()
    if call.otp.agents is None:
        return models.Agents(agents=[])
    here = (await agent(call.request)).id
    rows = await call.otp.agents.of_user(call.user)
    return models.Agents(agents=[_listed(call, row, here) for row in rows])


def _listed(call: Call, row: Any, here: int | None) -> models.AgentListed:
    return models.AgentListed(
        id=row.id,
        current=row.id == here,
        name=row.user_agent,
        trusted_at=row.trusted_at,
        last_seen_at=row.last_seen_at,
        expires_at=row.expires_at(call.user),
        session=row.session_id,
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


async def trust_if(call: Call, wanted: bool) -> None:
    """Trust the browser of a session that a token has just verified."""
    if wanted and call.verdict.device is not None:
        try:
            await trust_agent(call.request)
        except AgentRejected:
            # The device went in this moment: signed in, and not trusted.
            return
