"""A log-in without a token in a browser that its user trusts: what it is worth, and its end."""

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import pytest
import time_machine
from sqlalchemy import text
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from starlette_otp import (
    OTP,
    AgentRejected,
    ConfigurationError,
    agent,
    log_in,
    requires_otp,
    session_claims,
    still_verified,
    trust_agent,
)
from starlette_otp.admin import OTPAdmin
from starlette_otp.models import Agent, Device, User
from tests.account.pages import words
from tests.agents.test_browsers import DAY, configured, lenient, look, strict
from tests.api.client import Client
from tests.hosts import make_host
from tests.support import (
    ANONYMOUS,
    AUTHENTICATED,
    OTHER_KEY,
    PASSWORD,
    SECRET_KEY,
    Browser,
    Sessions,
    Statements,
    csrf_of,
    make_app,
    make_static,
    make_totp,
    make_user,
    totp_token,
)
from tests.web.test_open_websockets import Socket

TRUSTED = {**AUTHENTICATED, "scopes": ["authenticated", "trusted"]}


@requires_otp(max_age=300)
async def step_up(request: Request) -> Response:
    return PlainTextResponse("in")


async def claims(request: Request) -> Response:
    return JSONResponse(await session_claims(request))


async def by_hand(request: Request) -> Response:
    """A page of the host's that takes trust for a token."""
    otp, name = request.app.state.otp, request.path_params["name"]
    user = await otp.find_user(name)
    known = await agent(request, user)
    other = request.query_params.get("as")
    try:
        await log_in(request, await otp.find_user(other) if other else user, agent=known)
    except AgentRejected as exc:
        return PlainTextResponse(str(exc), 409)
    return PlainTextResponse("in")


async def new_password(request: Request) -> Response:
    """Sign the session's own user in again, as after a new password."""
    await log_in(request, request.user)
    return PlainTextResponse("in")


async def change(request: Request) -> Response:
    await request.app.state.otp.change_password(request, "quite another one")
    return PlainTextResponse("changed")


async def still(websocket: WebSocket) -> None:
    await websocket.accept()
    async for _ in websocket.iter_text():
        await websocket.send_text(str(await still_verified(websocket, accept_trusted_agent=True)))


def make_site(sessions: Sessions, **options: Any) -> Any:
    otp = OTP(
        sessions,
        Device,
        secret_key=SECRET_KEY,
        **{"accept_trusted_agents": True, **options},
    )
    app = make_app(
        otp,
        Route("/look", look),
        Route("/lenient", lenient),
        Route("/strict", strict),
        Route("/configured", configured),
        Route("/step-up", step_up),
        Route("/claims", claims),
        Route("/in/{name}", by_hand),
        Route("/again", new_password),
        Route("/change", change),
        WebSocketRoute("/ask", still),
        Mount("/auth", routes=otp.api_routes()),
    )
    app.state.otp = otp
    return app


async def a_trusted(sessions: Sessions, user: User, app: Any) -> tuple[Browser, Any]:
    """A browser that alice has signed in with, trusted, and out of."""
    device = await make_totp(sessions, user)
    browser = Browser(app)
    entered = await browser.log_in(totp_token(), otp_trust_agent="y")
    assert entered.status_code == 303, entered.text
    await leave(browser)
    return browser, device


async def leave(browser: Browser) -> None:
    assert (await browser.submit("/account/logout")).status_code == 303


async def passes(browser: Browser, path: str) -> bool:
    return (await browser.get(path)).status_code == 200


async def test_the_password_is_enough(sessions: Sessions, alice: User) -> None:
    """It lets in, authenticated and trusted, and never verified; other guards ask for the token."""
    app = make_site(sessions)
    browser, _ = await a_trusted(sessions, alice, app)
    entered = await browser.log_in()
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    assert await browser.state() == TRUSTED
    assert (await browser.get("/claims")).json()["amr"] == ["pwd"]
    assert await passes(browser, "/lenient")
    for path in ("/strict", "/configured", "/step-up", "/account/sessions"):
        asked = await browser.get(path)
        assert asked.status_code == (200 if path == "/configured" else 303), path
    page = await browser.get("/account/login?next=/step-up")
    assert "otp_token" in page.text
    assert "otp_trust_agent" not in page.text
    with time_machine.travel(time.time() + 60):
        verified = await browser.submit("/account/login?next=/step-up", otp_token=totp_token())
        assert verified.headers["location"] == "/step-up"
        assert await passes(browser, "/step-up")
        assert (await browser.state())["scopes"] == ["authenticated", "verified"]


async def test_only_where_the_site_accepts_it(sessions: Sessions, alice: User) -> None:
    """Another site asks for the token, and so does this one in another browser."""
    app = make_site(sessions, accept_trusted_agents=False)
    browser, _ = await a_trusted(sessions, alice, app)
    page = await browser.log_in()
    assert (page.status_code, "Enter" in words(page)) == (200, True)
    assert await browser.state() == ANONYMOUS
    stranger = Browser(make_site(sessions))
    assert (await stranger.log_in()).status_code == 200
    assert await stranger.state() == ANONYMOUS


async def test_not_for_a_wrong_password(sessions: Sessions, alice: User, bob: User) -> None:
    """Nor for another user in the same browser."""
    app = make_site(sessions)
    browser, _ = await a_trusted(sessions, alice, app)
    assert (await browser.log_in(password="not it")).status_code == 200
    assert await browser.state() == ANONYMOUS
    await make_totp(sessions, bob, secret=b"98765432109876543210")
    assert (await browser.log_in(username="bob")).status_code == 200
    assert await browser.state() == ANONYMOUS
    # alice's is as it was.
    assert (await browser.log_in()).status_code == 303


ENDINGS = [
    "revoked",
    "device",
    "unconfirmed",
    "device revoked",
    "user revoked",
    "inactive",
    "password",
    "lost codes",
    "age",
    "inactivity",
    "cookie",
    "setting",
    "row",
]


@pytest.mark.parametrize("ending", ENDINGS)
async def test_it_ends_with_the_trust(
    sessions: Sessions, alice: User, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its next request the session is anonymous, and stays so."""
    app = make_site(sessions)
    otp: OTP = app.state.otp
    browser, device = await a_trusted(sessions, alice, app)
    await browser.log_in()
    assert await passes(browser, "/lenient")
    user: Any = await otp.find_user("alice")
    (row,) = await otp.agents.of_user(user)  # type: ignore[union-attr]
    match ending:
        case "revoked":
            await otp.agents.revoke(user, row.id)  # type: ignore[union-attr]
        case "device":
            await otp.remove_device(user, device.persistent_id)
        case "unconfirmed" | "inactive" | "password":
            async with sessions.begin() as session:
                if ending == "unconfirmed":
                    (await session.get_one(Device, device.id)).confirmed = False
                elif ending == "inactive":
                    (await session.get_one(User, user.id)).is_active = False
                else:
                    (await session.get_one(User, user.id)).set_password("quite another one")
        case "device revoked":
            await otp.revoke_sessions(device)
        case "user revoked":
            await otp.revoke_sessions(user)
        case "lost codes":
            await otp.new_recovery_codes(user, lost=True)
        case "age":
            monkeypatch.setattr(Agent, "trust_days", 0)
        case "inactivity":
            monkeypatch.setattr(Agent, "inactivity_days", 0)
        case "cookie":
            for name in list(browser.cookies):
                if name.startswith("otp_agent_"):
                    browser.cookies.delete(name)
        case "setting":
            otp.accepts_trusted_agents = False
        case "row":
            statement = "UPDATE otp_session SET agent_id = NULL WHERE agent_id IS NOT NULL"
            async with sessions.begin() as session:
                await session.execute(text(statement))
    for path in ("/lenient", "/configured"):
        assert (await browser.get(path)).status_code == 303
    assert await browser.state() == ANONYMOUS


async def test_where_the_password_is_enough(sessions: Sessions, alice: User) -> None:
    """The session outlives the trust, without the scope; nobody is sent on to the token."""
    app = make_site(sessions, password_is_enough=True)
    device = await make_totp(sessions, alice)
    browser = Browser(app)
    entered = await browser.submit(
        "/account/login", username="alice", password=PASSWORD, otp_token=totp_token()
    )
    asked = await browser.submit("/account/logout")
    assert (entered.status_code, asked.status_code) == (303, 303)
    entered = await browser.log_in()
    assert "/account/login" in entered.headers["location"]
    assert await browser.state() == AUTHENTICATED
    with time_machine.travel(time.time() + 60):
        await browser.submit("/account/login", otp_token=totp_token(), otp_trust_agent="y")
    await leave(browser)
    entered = await browser.log_in()
    assert entered.headers["location"] == "/"
    assert await browser.state() == TRUSTED
    await app.state.otp.revoke_sessions(device)
    assert await browser.state() == AUTHENTICATED
    assert not await passes(browser, "/lenient")


async def test_pages_of_the_hosts(sessions: Sessions, alice: User, bob: User) -> None:
    """`agent(request, user)` before the log-in, and `log_in(agent=)`."""
    app = make_site(sessions)
    browser, _ = await a_trusted(sessions, alice, app)
    assert (await browser.get("/in/bob")).status_code == 409
    assert (await browser.get("/in/alice?as=bob")).status_code == 409
    assert await browser.state() == ANONYMOUS
    assert (await browser.get("/in/alice")).text == "in"
    assert await browser.state() == TRUSTED
    # The session goes on with its own user: no more than it was.
    assert (await browser.get("/again")).text == "in"
    assert await browser.state() == TRUSTED
    await app.state.otp.agents.revoke_of(alice)
    assert await browser.state() == ANONYMOUS
    other = Browser(make_site(sessions, accept_trusted_agents=False))
    assert (await other.get("/in/alice")).status_code == 409


async def test_whoever_has_to_have_a_device(sessions: Sessions, alice: User) -> None:
    """Trust is as good for them: they have one."""
    app = make_site(sessions, require_device=True)
    browser, _ = await a_trusted(sessions, alice, app)
    await browser.log_in()
    assert await browser.state() == TRUSTED
    assert await passes(browser, "/lenient")


async def test_the_box(sessions: Sessions, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says for how long; without it trust is the session's, or none where that is set."""
    app = make_site(sessions)
    await make_totp(sessions, alice)
    browser = Browser(app)
    page = await browser.log_in()
    assert "Trust this browser for 30 days" in words(page)
    page = await browser.log_in(totp_token())
    found = (await browser.get("/look")).json()
    assert (found["trusted"], found["session"]) == (True, True)
    await leave(browser)
    assert not (await browser.get("/look")).json()["trusted"]
    monkeypatch.setattr(Agent, "trust_session_by_default", False)
    monkeypatch.setattr(Agent, "trust_days", 0.5)
    with time_machine.travel(time.time() + 60):
        page = await browser.log_in()
        assert "Trust this browser for 12 hours" in words(page)
        await browser.submit("/account/login", otp_token=totp_token())
        await browser.log_in(totp_token())
        assert not (await browser.get("/look")).json()["trusted"]


async def test_many_requests_at_once(sessions: Sessions, alice: User) -> None:
    """They come with one cookie, of which one is given the next; and many log-ins at once."""
    app = make_site(sessions)
    browser, _ = await a_trusted(sessions, alice, app)
    page = await browser.get("/account/login")
    fields = {"csrf_token": csrf_of(page), "username": "alice", "password": PASSWORD}
    posts = (browser.post("/account/login", data=fields) for _ in range(4))
    answers = await asyncio.gather(*posts)
    assert [answer.status_code for answer in answers] == [303] * 4
    for days in (1.1, 2.2):
        with time_machine.travel(time.time() + days * DAY):
            answers = await asyncio.gather(*(browser.get("/lenient") for _ in range(6)))
            assert [answer.status_code for answer in answers] == [200] * 6
            assert await browser.state() == TRUSTED


async def test_both_cookies_copied(sessions: Sessions, alice: User) -> None:
    """Who brings them after the browser was given its next is told from it, and both are out."""
    app = make_site(sessions)
    browser, _ = await a_trusted(sessions, alice, app)
    await browser.log_in()
    thief = Browser(app)
    for name, value in browser.cookies.items():
        thief.cookies.set(name, value, domain="site.example", path="/")
    assert await thief.state() == TRUSTED  # no better than the session's cookie alone elsewhere
    with time_machine.travel(time.time() + 2 * DAY):
        assert await passes(browser, "/lenient")
        # It has come with its next.
        assert await passes(browser, "/lenient")
    with time_machine.travel(time.time() + 2 * DAY + 120):
        assert await thief.state() == ANONYMOUS
        assert await browser.state() == ANONYMOUS


async def test_a_copy_that_comes_first(sessions: Sessions, alice: User) -> None:
    """A thief who is given a token in place of one that never came back is found out by that."""
    app = make_site(sessions)
    browser, _ = await a_trusted(sessions, alice, app)
    await browser.log_in()
    assert await passes(browser, "/lenient")
    thief = Browser(app)
    for name, value in browser.cookies.items():
        thief.cookies.set(name, value, domain="site.example", path="/")
    with time_machine.travel(time.time() + 2 * DAY):
        assert await passes(browser, "/lenient")
    with time_machine.travel(time.time() + 2 * DAY + 120):
        await thief.state()
        assert await browser.state() == ANONYMOUS
        assert await thief.state() == ANONYMOUS


async def test_an_answer_that_is_lost(sessions: Sessions, alice: User) -> None:
    """The browser never hears of its next token, and is no thief for that."""
    app = make_site(sessions)
    browser, _ = await a_trusted(sessions, alice, app)
    await browser.log_in()
    assert await passes(browser, "/lenient")
    held = list(browser.cookies.items())
    for days in (2, 4, 6):
        with time_machine.travel(time.time() + days * DAY / 2.1):
            lost = Browser(app)
            for name, value in held:
                lost.cookies.set(name, value, domain="site.example", path="/")
            assert await passes(lost, "/lenient")
    with time_machine.travel(time.time() + 2.9 * DAY):
        assert await passes(browser, "/lenient")
        assert await passes(browser, "/lenient")


async def test_an_open_websocket_is_no_thief(sessions: Sessions, alice: User) -> None:
    """It has the cookie that it was opened with, however often that was replaced since."""
    app = make_site(sessions)
    browser, _ = await a_trusted(sessions, alice, app)
    await browser.log_in()
    held = [f"{name}={value}" for name, value in browser.cookies.items() if "agent" in name]
    socket = Socket(app, browser.cookie, "; ".join(held))
    assert await socket.ask()
    with time_machine.travel(time.time() + 1.5 * DAY):
        for _ in range(2):
            assert await passes(browser, "/lenient")
    with time_machine.travel(time.time() + 1.5 * DAY + 120):
        assert await socket.ask()
        assert await passes(browser, "/lenient")
    await socket.close()


async def test_two_users_whose_tokens_are_due(sessions: Sessions, alice: User, bob: User) -> None:
    """One answer may bring each of them their next."""
    app = make_site(sessions)
    browser, _ = await a_trusted(sessions, alice, app)
    await make_totp(sessions, bob, secret=b"98765432109876543210")
    token = totp_token(b"98765432109876543210")
    await browser.log_in(token, username="bob", otp_trust_agent="y")
    await leave(browser)
    await browser.log_in()
    with time_machine.travel(time.time() + 1.5 * DAY):
        await browser.get("/in/bob")
        assert await browser.state() == TRUSTED
    with time_machine.travel(time.time() + 1.5 * DAY + 120):
        await browser.get("/in/alice")
        assert await browser.state() == TRUSTED


ENDED = ["session", "user", "device"]


@pytest.mark.parametrize("ended", ENDED)
async def test_trust_after_the_end(
    sessions: Sessions, alice: User, ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that began before its session, or its device, was ended trusts nothing."""
    app = make_site(sessions)
    otp: OTP = app.state.otp
    device = await make_totp(sessions, alice)

    async def trust_late(request: Request) -> Response:
        if ended == "session":
            await otp.revoke_sessions(await otp.find_user("alice"))
        statements = {
            "user": "DELETE FROM otp_session",
            "device": "UPDATE otp_device SET confirmed = false",
        }
        if ended in statements:
            async with sessions.begin() as session:
                await session.execute(text(statements[ended]))
        with pytest.raises(AgentRejected):
            await trust_agent(request, 7)
        return PlainTextResponse("refused")

    app.router.routes.append(Route("/late", trust_late))
    browser = Browser(app)
    await browser.log_in(totp_token())
    assert (await browser.get("/late")).text == "refused"
    assert device.id


async def test_inactive_past_the_orm(sessions: Sessions, alice: User) -> None:
    """Noticed at the next request, and for good."""
    app = make_site(sessions)
    browser, _ = await a_trusted(sessions, alice, app)
    await browser.log_in()
    for is_active in (False, True):
        async with sessions.begin() as session:
            await session.execute(text(f"UPDATE otp_user SET is_active = {is_active}"))
        assert await browser.state() == ANONYMOUS
    assert (await browser.log_in()).status_code == 200
    assert await browser.state() == ANONYMOUS


async def test_a_new_key(sessions: Sessions, alice: User) -> None:
    """A browser goes on being trusted as long as the former key is known."""
    app = make_site(sessions)
    browser, _ = await a_trusted(sessions, alice, app)
    await browser.log_in()
    for keys in ([OTHER_KEY, SECRET_KEY], [OTHER_KEY]):
        app.state.otp = otp = OTP(
            sessions, Device, secret_key=keys, accept_trusted_agents=True, reads="autocommit"
        )
        again = make_app(otp, Route("/lenient", lenient))
        other = Browser(again)
        for name, value in browser.cookies.items():
            other.cookies.set(name, value, domain="site.example", path="/")
        assert await passes(other, "/lenient") == (len(keys) == 2)
    OTP(sessions, Device, secret_key=SECRET_KEY)


async def test_days_in_whole(sessions: Sessions, alice: User) -> None:
    """Seven is a number of days, and so is 7.0; what is none is refused where it is set."""
    app = make_site(sessions)
    await make_totp(sessions, alice)

    async def trust_week(request: Request) -> Response:
        await trust_agent(request, 7)
        return PlainTextResponse("trusted")

    app.router.routes.append(Route("/week", trust_week))
    browser = Browser(app)
    await browser.log_in(totp_token())
    await browser.get("/week")
    assert (await browser.get("/look")).json()["days"] == 7
    await leave(browser)
    assert (await browser.log_in()).status_code == 303


async def test_the_former_token_of_such_a_session(sessions: Sessions, alice: User) -> None:
    """Worth nothing without its browser, and no more once a token has verified the session."""
    app = make_site(sessions)
    browser, _ = await a_trusted(sessions, alice, app)
    await browser.log_in()
    thief = Browser(app)
    thief.cookies.set("otp_session", browser.cookie, domain="site.example", path="/")
    assert await thief.state() == ANONYMOUS
    with time_machine.travel(time.time() + 60):
        await browser.submit("/account/login", otp_token=totp_token())
        assert (await browser.state())["verified"]
        assert await thief.state() == ANONYMOUS


async def test_a_new_password_ends_it_here_too(sessions: Sessions, alice: User) -> None:
    """Of the session that goes on, verified, and of the browser."""
    app = make_site(sessions)
    await make_totp(sessions, alice)
    browser = Browser(app)
    for moment, box in ((0, {}), (60, {"otp_trust_agent": "y"})):
        with time_machine.travel(time.time() + moment):
            await browser.log_in(totp_token(), **box)
            assert (await browser.get("/look")).json()["trusted"]
            assert (await browser.get("/change")).text == "changed"
            assert await passes(browser, "/strict")
            assert not (await browser.get("/look")).json()["trusted"]
            async with sessions.begin() as session:
                (await session.get_one(User, alice.id)).set_password(PASSWORD)


async def test_a_token_that_is_typed_is_tried(sessions: Sessions, alice: User) -> None:
    """A wrong one lets nobody in, trusted or not."""
    app = make_site(sessions)
    browser, _ = await a_trusted(sessions, alice, app)
    assert (await browser.log_in("000000")).status_code == 200
    assert await browser.state() == ANONYMOUS


async def test_by_json(sessions: Sessions, alice: User) -> None:
    """Signed in without a token; a step-up still asks for one."""
    app = make_site(sessions)
    await make_totp(sessions, alice)
    client = Client(app, "cookie")
    said = await client.sign_in()
    assert (said["state"], said["trusted"]) == ("token_required", False)
    said = await client.ask("POST", "/session/token", {"token": totp_token(), "trust": True})
    assert (said["state"], said["trusted"]) == ("verified", False)
    await client.ask("DELETE", "/session", status=204)
    said = await client.sign_in()
    assert (said["state"], said["trusted"], said["amr"]) == ("authenticated", True, ["pwd"])
    assert await client.refused("GET", "/agents") == (403, "not_verified")
    await client.aclose()


async def test_its_session_is_listed_until_then(sessions: Sessions, alice: User) -> None:
    """Once the trust is over, the list of sessions has it no more."""
    app = make_site(sessions)
    browser, _ = await a_trusted(sessions, alice, app)
    await browser.log_in()
    otp: OTP = app.state.otp
    user: Any = await otp.find_user("alice")
    assert len(await otp.sessions_for_user(user)) == 1
    await otp.agents.revoke_of(user)  # type: ignore[union-attr]
    assert await otp.sessions_for_user(user) == []


async def test_an_open_websocket(sessions: Sessions, alice: User) -> None:
    """It may go on as long as the trust does, and asking gives the browser no other token."""
    app = make_site(sessions)
    browser, _ = await a_trusted(sessions, alice, app)
    await browser.log_in()
    held = [f"{name}={value}" for name, value in browser.cookies.items() if "agent" in name]
    socket = Socket(app, browser.cookie, "; ".join(held))
    with time_machine.travel(time.time() + 2 * DAY):
        assert await socket.ask()
    assert await passes(browser, "/lenient")
    await app.state.otp.agents.revoke_of(alice)
    assert not await socket.ask()
    await socket.close()


async def test_the_admin_site(sessions: Sessions) -> None:
    """Staff may look who trust this browser, where it says so; changes ask for the token."""
    chief = await make_user(sessions, "alice", is_staff=True)
    device = await make_totp(sessions, chief)
    for is_accepted in (False, True):
        app = make_site(sessions)
        OTPAdmin(app, sessions, otp=app.state.otp, accept_trusted_agent=is_accepted)
        browser = Browser(app)
        with time_machine.travel(time.time() + 60 * is_accepted):
            await browser.log_in(totp_token(), otp_trust_agent="y")
        await leave(browser)
        entered = await browser.log_in(url="/admin/login")
        assert entered.status_code == (303 if is_accepted else 200)
        await browser.log_in()
        assert await browser.state() == TRUSTED
        for path in ("/admin/otp-totp/list", "/admin/otp-users/list", "/admin/otp/add/totp"):
            may_look = is_accepted and path.endswith("list")
            answer = await browser.get(path)
            assert answer.status_code == (200 if may_look else 303), path
        token = csrf_of(await browser.get("/admin/login?reverify=1"))
        act = f"/admin/otp/device/totp/{device.id}/reset-throttling"
        refused = await browser.post(act, data={"csrf_token": token})
        assert refused.headers["location"].startswith("/admin/login?")


async def test_staff_end_it(sessions: Sessions, alice: User) -> None:
    """They see whom a user trusts, and end it."""
    app = make_site(sessions)
    OTPAdmin(app, sessions, otp=app.state.otp)
    browser, _ = await a_trusted(sessions, alice, app)
    await browser.log_in()
    chief = await make_user(sessions, "chief", is_staff=True)
    _, (code,) = await make_static(sessions, chief, None)
    desk = Browser(app)
    await desk.log_in(code, username="chief")
    url = f"/admin/otp-users/details/{alice.id}"
    page = await desk.get(url)
    assert "Trusted browsers" in words(page)
    (row,) = await app.state.otp.agents.of_user(alice)
    data = {"csrf_token": csrf_of(page), "user": str(alice.id), "agent": str(row.id)}
    for wrong in ("0", "x", str(row.id + 1)):
        await desk.post("/admin/otp/user/end-agent", data={**data, "agent": wrong})
    assert (await browser.post("/admin/otp/user/end-agent", data=data)).status_code == 303
    assert await browser.state() == TRUSTED
    ended = await desk.post("/admin/otp/user/end-agent", data=data)
    assert ended.headers["location"].endswith(url)
    assert await browser.state() == ANONYMOUS
    assert "Trusted browsers" not in words(await desk.get(url))


async def test_codes_that_may_be_in_wrong_hands(sessions: Sessions, alice: User) -> None:
    """A box on the page of new recovery codes ends the trust in all browsers."""
    app = make_site(sessions)
    browser, _ = await a_trusted(sessions, alice, app)
    await app.state.otp.new_recovery_codes(alice)
    with time_machine.travel(time.time() + 60):
        await browser.log_in(totp_token())
        for box, is_trusted in (({}, True), ({"lost": "y"}, False)):
            page = await browser.submit("/account/recovery-codes", sure="1")
            assert "trust none of my browsers any more" in words(page)
            waiting = re.search(r'name="device" value="([^"]+)"', page.text)
            assert waiting
            data = {"csrf_token": csrf_of(page), "saved": "1", "device": waiting[1], **box}
            saved = await browser.post("/account/recovery-codes", data=data)
            assert saved.status_code == 303
            found = (await browser.get("/look")).json()
            assert (found["trusted"] and not found["session"]) == is_trusted


async def test_pages_know_the_agent(sessions: Sessions, alice: User, tmp_path: Path) -> None:
    """`agent` is in the context of our templates, and untrusted for anonymous."""
    (tmp_path / "otp").mkdir()
    (tmp_path / "otp" / "logout.html").write_text("{{ agent.is_trusted }} {{ agent.user }}")
    app = make_site(sessions, templates=tmp_path)
    device = await make_totp(sessions, alice)
    browser = Browser(app)
    assert (await browser.get("/account/logout")).text == "False None"
    await browser.log_in(totp_token(), otp_trust_agent="y")
    assert (await browser.get("/account/logout")).text.startswith("True ")
    await app.state.otp.revoke_sessions(device)
    assert (await browser.get("/account/logout")).text.startswith("False ")


def test_a_site_without_trusted_browsers(sessions: Sessions) -> None:
    """It can't accept them, and says so."""
    with pytest.raises(ConfigurationError, match="AgentMixin"):
        OTP(sessions, make_host().Device, secret_key=SECRET_KEY, accept_trusted_agents=True)


async def test_what_a_request_costs(sessions: Sessions, engine: Any, alice: User) -> None:
    """One SELECT more for who is let in by trust; none for others."""
    app = make_site(sessions)
    browser, _ = await a_trusted(sessions, alice, app)
    await browser.log_in()
    # The first request with its new token says that it has come.
    assert await passes(browser, "/lenient")
    statements = Statements(engine)
    assert await passes(browser, "/lenient")
    assert [one.split()[0] for one in statements] == ["SELECT", "SELECT"]
    other = Browser(app)
    with time_machine.travel(time.time() + 60):
        await other.log_in(totp_token())
        statements.clear()
        assert await passes(other, "/strict")
        assert [one.split()[0] for one in statements] == ["SELECT"]
