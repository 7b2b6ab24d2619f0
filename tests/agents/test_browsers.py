"""Trusted browsers: trusted by a verified user, seen, ended, and never called verified."""

import time
from typing import Any

import pytest
import time_machine
from sqlalchemy import select, text
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from starlette_otp import (
    OTP,
    AgentRejected,
    ConfigurationError,
    RequiresOTPMiddleware,
    agent,
    log_in,
    log_out,
    otp_agent_revoked,
    otp_agent_stolen,
    otp_agent_trusted,
    requires_otp,
    requires_trusted_agent,
    revoke_agent,
    revoke_other_agents,
    trust_agent,
    trust_session,
)
from starlette_otp.models import Agent, Device, User
from tests.support import SECRET_KEY, Browser, Sessions, Statements, make_app, make_totp, make_user

DAY = 86400


async def look(request: Request) -> Response:
    found = await agent(request)
    return JSONResponse(
        {
            "user": found.user and found.user.username,
            "trusted": found.is_trusted,
            "session": found.is_session,
            "days": found.trust_days,
            "until": found.trust_expiration and found.trust_expiration.timestamp(),
            "device": found.device and found.device.persistent_id,
            "name": found.name,
        }
    )


async def trust(request: Request) -> Response:
    days = request.query_params.get("days")
    try:
        await trust_agent(request, days and float(days))
    except AgentRejected as exc:
        return PlainTextResponse(str(exc), 409)
    return PlainTextResponse("trusted")


async def trust_for_now(request: Request) -> Response:
    await trust_session(request)
    return PlainTextResponse("trusted")


async def revoke(request: Request) -> Response:
    return JSONResponse(await revoke_agent(request))


async def revoke_others(request: Request) -> Response:
    return JSONResponse(await revoke_other_agents(request))


async def leave(request: Request) -> Response:
    await log_out(request)
    return PlainTextResponse("out")


@requires_otp(accept_trusted_agent=True)
async def lenient(request: Request) -> Response:
    return PlainTextResponse("in")


@requires_otp
async def strict(request: Request) -> Response:
    return PlainTextResponse("in")


@requires_otp(accept_trusted_agent=True, if_configured=True)
async def configured(request: Request) -> Response:
    return PlainTextResponse("in")


@requires_trusted_agent
async def only_trusted(request: Request) -> Response:
    return PlainTextResponse("in")


def site(otp: OTP) -> Any:
    """Doors by name and device: `/in/alice` by the password alone, `/in/alice/1` by a device."""

    async def enter(request: Request) -> Response:
        user: Any = await otp.find_user(request.path_params["name"])
        number = request.path_params.get("device")
        user.otp_device = None
        if number:
            devices = await otp.devices_for_user(user)
            user.otp_device = next(one for one in devices if one.id == number)
        await log_in(request, user)
        return PlainTextResponse("in")

    return make_app(
        otp,
        Route("/in/{name}", enter),
        Route("/in/{name}/{device:int}", enter),
        Route("/look", look),
        Route("/trust", trust),
        Route("/trust-session", trust_for_now),
        Route("/revoke", revoke),
        Route("/revoke-others", revoke_others),
        Route("/out", leave),
        Route("/lenient", lenient),
        Route("/strict", strict),
        Route("/configured", configured),
        Route("/only-trusted", only_trusted),
        Mount("/whole", RequiresOTPMiddleware(lenient_app, accept_trusted_agent=True)),
    )


async def lenient_app(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("in")(scope, receive, send)


class Person(Browser):
    """Somebody's browser."""

    def __init__(self, app: Any) -> None:
        super().__init__(app, headers={"accept": "application/json"})

    async def look(self) -> dict[str, Any]:
        answer = await self.get("/look")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def is_trusted(self) -> bool:
        return bool((await self.look())["trusted"])

    async def enter(self, name: str, device: Any = None) -> None:
        number = "" if device is None else f"/{device.id}"
        answer = await self.get(f"/in/{name}{number}")
        assert answer.text == "in", answer.text

    async def passes(self, path: str) -> bool:
        answer = await self.get(path)
        return answer.status_code == 200

    def hold(self, cookies: dict[str, str]) -> None:
        """Bring cookies of another browser."""
        for name, value in cookies.items():
            self.cookies.set(name, value, domain="site.example", path="/")

    @property
    def held(self) -> dict[str, str]:
        """The cookies of trusted browsers."""
        return {n: v for n, v in self.cookies.items() if n.startswith("otp_agent_")}


async def a_trusted(
    otp: OTP, sessions: Sessions, user: User, path: str = "/trust"
) -> tuple[Person, Any]:
    device = await make_totp(sessions, user)
    person = Person(site(otp))
    await person.enter(user.username, device)
    assert (await person.get(path)).status_code == 200
    return person, device


async def test_untrusted_by_default(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Anonymous or signed in, with a device or without one."""
    device = await make_totp(sessions, alice)
    person = Person(site(otp))
    assert await person.look() == {
        "user": None,
        "trusted": False,
        "session": False,
        "days": None,
        "until": None,
        "device": None,
        "name": "",
    }
    await person.enter("alice", device)
    assert not await person.is_trusted()
    assert (await person.look())["user"] == "alice"
    assert person.held == {}
    assert not await person.passes("/only-trusted")


async def test_only_the_verified_may(otp: OTP, sessions: Sessions, alice: User) -> None:
    """A password alone makes no browser trusted; of nobody nothing happens."""
    await make_totp(sessions, alice)
    person = Person(site(otp))
    assert (await person.get("/trust")).text == "trusted"
    assert person.held == {}
    await person.enter("alice")
    assert (await person.get("/trust")).status_code == 409
    assert person.held == {}


async def test_trust_is_no_verification(otp: OTP, sessions: Sessions, alice: User) -> None:
    """After a log-out and a log-in by the password the browser is trusted, and nothing else."""
    person, device = await a_trusted(otp, sessions, alice)
    assert await person.look() | {"until": None} == {
        "user": "alice",
        "trusted": True,
        "session": False,
        "days": None,
        "until": None,
        "device": device.persistent_id,
        "name": person.headers["user-agent"],
    }
    await person.get("/out")
    assert not await person.is_trusted()
    assert len(person.held) == 1
    await person.enter("alice")
    assert await person.is_trusted()
    assert (await person.state())["verified"] is False
    assert await person.passes("/lenient")
    assert await person.passes("/whole/")
    assert await person.passes("/only-trusted")
    assert not await person.passes("/strict")
    refused = await person.get("/strict")
    assert refused.json()["code"] == "not_verified"


async def test_another_users_browser(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Several users of one browser keep their own; what one revokes is the other's still."""
    person, _ = await a_trusted(otp, sessions, alice)
    charlie = await make_user(sessions, "charlie@example.com")
    device = await make_totp(sessions, charlie, secret=b"98765432109876543210")
    await person.enter("charlie@example.com", device)
    assert not await person.is_trusted()
    await person.get("/trust")
    assert len(person.held) == 2
    assert (await person.get("/revoke")).json() is True
    assert not await person.is_trusted()
    await person.enter("alice")
    assert await person.is_trusted()
    other = Person(site(otp))
    other.hold(person.held)
    await other.enter("charlie@example.com")
    assert not await other.is_trusted()


@pytest.mark.parametrize(
    ("of_class", "of_call", "days"),
    [(None, None, None), (10, None, 10), (None, 10, 10), (10, 5, 5), (5, 10, 5), (0.5, None, 0.5)],
)
async def test_the_strictest_days_win(
    otp: OTP,
    sessions: Sessions,
    alice: User,
    monkeypatch: pytest.MonkeyPatch,
    of_class: float | None,
    of_call: float | None,
    days: float | None,
) -> None:
    """Of the class, a function of the user there, and of the call."""
    for given in (of_class, lambda user: of_class if user.username == "alice" else 0):
        monkeypatch.setattr(Agent, "trust_days", given)
        monkeypatch.setattr(Agent, "inactivity_days", None)
        async with sessions.begin() as session:
            await session.execute(text("DELETE FROM otp_device"))
        path = "/trust" if of_call is None else f"/trust?days={of_call}"
        now = time.time()
        with time_machine.travel(now):
            person, _ = await a_trusted(otp, sessions, alice, path)
            until = (await person.look())["until"]
        assert (await person.look())["days"] == of_call
        if days is None:
            assert until is None
            continue
        assert abs(until - now - days * DAY) < 5
        kept = person.held
        with time_machine.travel(now + days * DAY + 10):
            person.hold(kept)  # by a browser whose clock is late
            await person.enter("alice")
            assert not await person.is_trusted()
            assert person.held == {}


async def test_inactivity(
    otp: OTP, sessions: Sessions, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Use keeps trust alive; without it, it ends."""
    monkeypatch.setattr(Agent, "inactivity_days", 4)
    now = time.time()
    person, _ = await a_trusted(otp, sessions, alice)
    for day in (3, 6, 9):
        with time_machine.travel(now + day * DAY):
            await person.enter("alice")
            assert await person.is_trusted()
    with time_machine.travel(now + 14 * DAY):
        await person.enter("alice")
        assert not await person.is_trusted()


async def test_as_long_as_the_session(otp: OTP, sessions: Sessions, alice: User) -> None:
    """It replaces lasting trust, and ends with the session."""
    person, device = await a_trusted(otp, sessions, alice)
    await person.get("/trust-session")
    found = await person.look()
    assert (found["trusted"], found["session"], found["device"]) == (
        True,
        True,
        device.persistent_id,
    )
    assert (await count(sessions), person.held) == (0, {})
    assert await person.passes("/only-trusted")
    assert (await person.get("/revoke")).json() is True
    assert not await person.passes("/only-trusted")
    await person.get("/trust-session")
    copied = person.cookie
    await person.get("/out")
    person.cookies.set("otp_session", copied, domain="site.example", path="/")
    assert not await person.passes("/only-trusted")
    await person.enter("alice", device)
    assert not await person.is_trusted()


async def test_trust_in_a_session_is_signed(
    otp: OTP, sessions: Sessions, alice: User, bob: User
) -> None:
    """Whoever writes it into the row takes the verification with it."""
    person = Person(site(otp))
    await person.enter("alice", await make_totp(sessions, alice))
    async with sessions.begin() as session:
        await session.execute(text("UPDATE otp_session SET is_trusted = true"))
    assert not await person.is_trusted()
    assert not await person.passes("/strict")


async def count(sessions: Sessions) -> int:
    async with sessions() as session:
        return len(list(await session.scalars(select(Agent))))


async def test_others_are_revoked(otp: OTP, sessions: Sessions, alice: User, bob: User) -> None:
    """Those of the user, and not this one; nobody else's."""
    person, device = await a_trusted(otp, sessions, alice)
    of_bob, _ = await a_trusted(otp, sessions, bob)
    other = Person(site(otp))
    await other.enter("alice", device)
    await other.get("/trust")
    assert (await person.get("/revoke-others")).json() == 1
    assert await person.is_trusted()
    assert not await other.is_trusted()
    assert await of_bob.is_trusted()


ENDINGS = ["password", "device", "unconfirmed", "device revoked", "user revoked", "inactive"]


@pytest.mark.parametrize("ending", ENDINGS)
async def test_it_ends_with(otp: OTP, sessions: Sessions, alice: User, ending: str) -> None:
    """At the next request, and for good."""
    person, device = await a_trusted(otp, sessions, alice)
    await make_totp(sessions, alice, secret=b"98765432109876543210")
    async with sessions.begin() as session:
        user = await session.get(User, alice.id)
        row = await session.get(Device, device.id)
        assert user
        assert row
        if ending == "password":
            user.set_password("another good password")
        elif ending == "device":
            await session.delete(row)
        elif ending == "unconfirmed":
            row.confirmed = False
        elif ending == "inactive":
            user.is_active = False
    if ending == "device revoked":
        await otp.revoke_sessions(device)
    elif ending == "user revoked":
        await otp.revoke_sessions(alice)
    async with sessions.begin() as session:
        user = await session.get(User, alice.id)
        assert user
        user.is_active = True
        row = await session.get(Device, device.id)
        if row is not None:
            row.confirmed = True
    assert await otp.agents.of_user(user) == []  # type: ignore[union-attr]
    await person.enter("alice")
    assert not await person.is_trusted()
    assert not await person.passes("/lenient")
    assert await count(sessions) == 0
    assert person.held == {}


async def test_a_copied_cookie(sessions: Sessions, alice: User) -> None:
    """Used after another has taken its place it is a copy: the browser is trusted no more, and its
    owner is told."""
    noticed: list[Any] = []

    async def notify(user: Any, notice: str, data: dict[str, Any]) -> None:
        if "agent_name" in data:
            noticed.append((str(notice), data["agent_name"]))

    otp = OTP(sessions, Device, secret_key=SECRET_KEY, notify=notify)
    told: list[Any] = []

    def hear(sender: object, user: Any, device: Any, agent: Any) -> None:
        told.append((user.username, agent.user_id))

    otp_agent_stolen.connect(hear, sender=otp)
    person, _ = await a_trusted(otp, sessions, alice)
    thief = Person(site(otp))
    thief.hold(person.held)
    before = person.held
    now = time.time()
    with time_machine.travel(now + DAY + 10):
        await person.enter("alice")
        assert await person.is_trusted()
        assert person.held != before
    with time_machine.travel(now + DAY + 60):
        # Requests that came at the same time.
        await thief.enter("alice")
        assert await thief.is_trusted()
    with time_machine.travel(now + DAY + 120):
        assert not await thief.is_trusted()
        assert not await person.is_trusted()
    assert told == [("alice", alice.id)]
    await otp.notices.settle()
    assert noticed == [("agent_stolen", thief.headers["user-agent"])]
    assert thief.held == {}


async def test_two_requests_at_once(otp: OTP, sessions: Sessions, alice: User) -> None:
    """Both are trusted, and one of them brings the next token."""
    import asyncio

    person, _ = await a_trusted(otp, sessions, alice)
    with time_machine.travel(time.time() + DAY + 10):
        await person.enter("alice")
        held = dict(person.cookies)
        with time_machine.travel(time.time() + DAY + 10):
            twins = [Person(person._transport.app) for _ in range(4)]  # type: ignore[attr-defined]
            for twin in twins:
                twin.hold(held)
            found = await asyncio.gather(*(twin.look() for twin in twins))
            assert [one["trusted"] for one in found] == [True] * 4
            new = [twin.held for twin in twins if twin.held != person.held]
            assert len(new) == 1


@pytest.mark.parametrize("cookie", ["", "x", "x.y", "IngiCg.x", "\\", "a" * 9000])
async def test_forged_cookies(otp: OTP, sessions: Sessions, alice: User, cookie: str) -> None:
    """Untrusted, without an error."""
    person, _ = await a_trusted(otp, sessions, alice)
    (name, real), *_ = person.held.items()
    for forged in (cookie, real[:-3] + "AAA", real[:10], real + "x"):
        other = Person(site(otp))
        other.hold({name: forged})
        await other.enter("alice")
        assert not await other.is_trusted()
        assert not await other.passes("/lenient")
    assert await person.is_trusted()


async def test_a_cookie_under_another_name(
    otp: OTP, sessions: Sessions, alice: User, bob: User
) -> None:
    """What trusts a browser for alice, put where bob's would be, trusts it for nobody."""
    person, _ = await a_trusted(otp, sessions, alice)
    await make_totp(sessions, bob, secret=b"98765432109876543210")
    (token,) = person.held.values()
    other = Person(site(otp))
    browsers: Any = otp.browsers
    other.hold({browsers.cookies.name(bob.id): token})
    await other.enter("bob")
    assert not await other.is_trusted()
    assert await person.is_trusted()


@pytest.mark.parametrize(
    "change",
    ["trusted_at = trusted_at + interval '1 day'", "trust_days_given = 9999", "fingerprint = 'x'"],
)
async def test_a_row_that_was_rewritten(
    otp: OTP, sessions: Sessions, alice: User, change: str
) -> None:
    """It opens nothing."""
    person, _ = await a_trusted(otp, sessions, alice)
    async with sessions.begin() as session:
        await session.execute(text(f"UPDATE otp_agent SET {change}"))
    assert not await person.is_trusted()


async def test_if_configured_holds(otp: OTP, alice: User, sessions: Sessions) -> None:
    """Without a device the guard passes; with one it wants a token or a trusted browser."""
    person = Person(site(otp))
    await person.enter("alice")
    assert await person.passes("/configured")
    await make_totp(sessions, alice)
    assert not await person.passes("/configured")


async def test_at_most_twenty(otp: OTP, sessions: Sessions, alice: User) -> None:
    """The one that was seen last longest ago goes."""
    person, device = await a_trusted(otp, sessions, alice)
    app = site(otp)
    for number in range(20):
        with time_machine.travel(time.time() + number + 1):
            other = Person(app)
            await other.enter("alice", device)
            await other.get("/trust")
    assert await count(sessions) == 20
    assert not await person.is_trusted()
    assert await other.is_trusted()


async def test_signals_and_sweeping(
    otp: OTP, sessions: Sessions, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told when it is trusted and when revoked; what is over is swept."""
    told: list[str] = []

    def trusted(sender: object, user: Any, device: Any, agent: Any) -> None:
        told.append(f"trusted {user.username} {device.persistent_id}")

    def revoked(sender: object, user: Any, device: Any, agent_id: int) -> None:
        told.append(f"revoked {user.username}")

    otp_agent_trusted.connect(trusted, sender=otp)
    otp_agent_revoked.connect(revoked, sender=otp)
    person, device = await a_trusted(otp, sessions, alice)
    await person.get("/revoke")
    assert told == [f"trusted alice {device.persistent_id}", "revoked alice"]
    await person.get("/trust")
    with time_machine.travel(time.time() + 29 * DAY):
        await otp.clear_sessions()
        assert await count(sessions) == 1
    with time_machine.travel(time.time() + 31 * DAY):
        await otp.clear_sessions()
    assert await count(sessions) == 0
    await person.enter("alice", device)
    await person.get("/trust?days=2")
    for days, left in ((1, 1), (3, 0)):
        with time_machine.travel(time.time() + days * DAY):
            await otp.clear_sessions()
        assert await count(sessions) == left


async def test_what_it_costs(otp: OTP, engine: Any, sessions: Sessions, alice: User) -> None:
    """Nothing for a guarded page of a verified user; one SELECT where it is asked, once."""
    person, _ = await a_trusted(otp, sessions, alice)
    seen = Statements(engine)
    await person.get("/strict")
    await person.get("/lenient")
    assert len([one for one in seen if "otp_agent" in one]) == 0
    await person.get("/look")
    assert len([one for one in seen if "otp_agent" in one]) == 1


async def test_cookies_are_kept_apart(otp: OTP, sessions: Sessions, alice: User) -> None:
    """HttpOnly, Lax, Secure on https; not written again, and not cleared where there was none."""
    device = await make_totp(sessions, alice)
    app = site(otp)
    async with Person(app) as person:
        await person.enter("alice", device)
        assert "otp_agent" not in str((await person.get("/revoke")).headers.get_list("set-cookie"))
        (cookie,) = [
            one
            for one in (await person.get("/trust")).headers.get_list("set-cookie")
            if one.startswith("otp_agent_")
        ]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert "Secure" not in cookie
        assert "Max-Age=25" in cookie
        answer = await person.get("/look")
        assert "otp_agent" not in str(answer.headers.get_list("set-cookie"))


@pytest.mark.parametrize("days", ["0", "-1", "nan", "inf", "36501"])
async def test_days_that_are_none(otp: OTP, sessions: Sessions, alice: User, days: str) -> None:
    """A ValueError, and nothing is trusted."""
    with pytest.raises(ValueError, match="trust_days"):
        await a_trusted(otp, sessions, alice, f"/trust?days={days}")
    assert await count(sessions) == 0


def test_never_with_a_step_up() -> None:
    """What has to be fresh can't be trust."""
    with pytest.raises(ConfigurationError, match="max_age"):
        requires_otp(accept_trusted_agent=True, max_age=60)


async def test_a_host_without_them(otp: OTP, alice: User, sessions: Sessions) -> None:
    """Pays nothing, and is told what to declare."""
    otp.browsers = None
    device = await make_totp(sessions, alice)
    person = Person(site(otp))
    await person.enter("alice", device)
    assert await person.passes("/strict")
    for path in ("/look", "/trust", "/only-trusted"):
        with pytest.raises(ConfigurationError, match="AgentMixin"):
            await person.get(path)
