"""Trusted browsers as their owner sees and ends them: on a page, and by JSON."""

from typing import Any

from starlette_otp import OTP
from starlette_otp.models import User
from tests.account.pages import words
from tests.agents.test_browsers import Person, site
from tests.api.client import Client
from tests.support import PASSWORD, Sessions, csrf_of, make_static, make_totp, totp_token


async def test_trusted_with_the_token(api: Any, alice: User, bob: User, sessions: Sessions) -> None:
    """`trust` beside the token; seen and ended by JSON, each and all others, nobody else's."""
    await make_totp(sessions, alice)
    _, codes = await make_static(sessions, alice, None, None)
    _, (of_bob,) = await make_static(sessions, bob, None)
    clients = [Client(api, "cookie") for _ in range(3)]
    first, second, others = clients
    said = await first.sign_in()
    assert said["state"] == "token_required"
    body = {"token": totp_token(), "trust": True}
    await first.ask("POST", "/session/token", body)
    for client, name, code in ((second, "alice", codes[0]), (others, "bob", of_bob)):
        body = {"username": name, "password": PASSWORD, "token": code, "trust": True}
        await client.ask("POST", "/session", body)
    listed = (await first.ask("GET", "/agents"))["agents"]
    assert [one["current"] for one in listed] == [False, True]
    assert listed[0]["expires_at"] > listed[0]["trusted_at"]
    (theirs,) = (await others.ask("GET", "/agents"))["agents"]
    for wrong in (theirs["id"], 0, "x", "9" * 30):
        assert await first.refused("DELETE", f"/agents/{wrong}") == (404, "no_such_agent")
    assert await first.refused("DELETE", "/agents") == (400, "invalid_request")
    await first.ask("DELETE", "/agents?others=true", status=204)
    assert [one["current"] for one in (await first.ask("GET", "/agents"))["agents"]] == [True]
    await first.ask("DELETE", f"/agents/{listed[1]['id']}", status=204)
    assert (await first.ask("GET", "/agents"))["agents"] == []
    assert len((await others.ask("GET", "/agents"))["agents"]) == 1
    for client in clients:
        await client.aclose()


async def test_a_wrong_token_trusts_nothing(api: Any, alice: User, sessions: Sessions) -> None:
    """Nor does a log-in without one."""
    await make_totp(sessions, alice)
    async with Client(api, "cookie") as client:
        body = {"username": "alice", "password": PASSWORD, "token": "000000", "trust": True}
        assert await client.refused("POST", "/session", body) == (400, "invalid_token")
        assert not [name for name in client.cookies if name.startswith("otp_agent")]


async def test_bearers_are_trusted_by_nobody(api: Any, alice: User, sessions: Sessions) -> None:
    """They keep no cookie: 400, and nothing was tried. They see their browsers all the same."""
    await make_totp(sessions, alice)
    async with Client(api, "bearer") as client:
        body = {"username": "alice", "password": PASSWORD, "token": totp_token(), "trust": True}
        assert await client.refused("POST", "/session", body) == (400, "invalid_request")
        await client.sign_in(totp_token())
        assert await client.ask("GET", "/agents") == {"agents": []}


async def test_on_the_page(otp: OTP, sessions: Sessions, alice: User, bob: User) -> None:
    """Beside the sessions; a button ends it, for its owner alone."""
    device = await make_totp(sessions, alice)
    person, other = Person(site(otp)), Person(site(otp))
    for one in (person, other):
        one.headers["accept"] = "text/html"
        await one.enter("alice", device)
    page = await person.get("/account/sessions")
    assert "Browsers that you trust" not in words(page)
    await person.get("/trust")
    await other.get("/trust")
    page = await person.get("/account/sessions")
    assert "Browsers that you trust" in words(page)
    assert "Trusted just now, with Authenticator app. Last seen just now, trusted until " in words(
        page
    )
    rows = await otp.agents.of_user(alice)  # type: ignore[union-attr]
    thief = Person(site(otp))
    await thief.enter("bob", await make_totp(sessions, bob, secret=b"98765432109876543210"))
    own = await thief.get("/account/sessions", headers={"accept": "text/html"})
    ids = [row.id for row in rows]
    gone = await thief.post(f"/account/agents/{ids[0]}/end", data={"csrf_token": csrf_of(own)})
    assert gone.status_code == 404
    forged = await person.post(f"/account/agents/{ids[0]}/end", data={"csrf_token": "x"})
    assert forged.status_code == 200
    assert len(await otp.agents.of_user(alice)) == 2  # type: ignore[union-attr]
    ended = await person.post(f"/account/agents/{ids[0]}/end", data={"csrf_token": csrf_of(page)})
    assert ended.headers["location"] == "/account/sessions?done=untrusted"
    page = await person.get(ended.headers["location"])
    assert "That browser is not trusted any more." in words(page)
    assert [row.id for row in await otp.agents.of_user(alice)] == [ids[1]]  # type: ignore[union-attr]
