"""The journal of log-ins: a line in the log and a signal for each (OWASP ASVS 16.3.1)."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starlette_otp import (
    OTP,
    LoginView,
    log_in,
    otp_logged_in,
    otp_logged_out,
    otp_login_failed,
)
from starlette_otp.models import User
from tests.support import (
    PASSWORD,
    Browser,
    Sessions,
    door,
    make_app,
    make_totp,
    make_user,
    totp_token,
)

AGENT = "a browser\nof 'mine'"


class Ears(list[tuple[str, Any, Any, str]]):
    """What was heard: which signal, whose, of which device, and why."""

    def __call__(self, name: str) -> Any:
        async def ear(sender: OTP, *, user: Any, device: Any, reason: str, **more: Any) -> None:
            assert more.keys() == {"address", "agent"}
            self.append((name, user and user.id, device, reason))

        return ear


@pytest.fixture
def ears(otp: OTP) -> Iterator[Ears]:
    ears = Ears()
    with ExitStack() as stack:
        for signal in (otp_login_failed, otp_logged_in, otp_logged_out):
            stack.enter_context(signal.connected_to(ears(signal.name), sender=otp))
        yield ears


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    """The log's lines about log-ins since the last time."""
    caplog.set_level(logging.INFO, "starlette_otp")

    def taken() -> list[str]:
        told = [r for r in caplog.records if ", from " in r.getMessage()]
        assert {r.name for r in told} <= {"starlette_otp"}
        said = [f"{r.levelname} {r.getMessage()}" for r in told]
        caplog.clear()
        return said

    return taken


FROM = "from '127.0.0.1' by 'pytest'."


async def test_a_log_in_and_a_log_out(
    otp: OTP, sessions: Sessions, alice: User, ears: Ears, lines: Any
) -> None:
    """A log-in and a log-out are each a line with key, reason, address and agent, and a signal; a
    log-out of nobody is none."""
    device = await make_totp(sessions, alice)
    async with Browser(make_app(otp)) as browser:
        browser.headers["user-agent"] = "pytest"
        assert (await browser.log_in(totp_token())).status_code == 303
        assert ears == [("otp_logged_in", alice.id, device, device.persistent_id)]
        assert lines() == [
            f"INFO User {alice.id} logged in ({device.persistent_id}), {FROM}",
            f"INFO User {alice.id} verified in a new browser, {FROM}",
        ]
        ears.clear()
        page = await browser.post("/account/logout")
        token = page.text.split('value="')[1].split('"')[0]
        for _ in range(2):
            page = await browser.post("/account/logout", data={"csrf_token": token})
        assert ears == [("otp_logged_out", alice.id, device, "log_out")]
        assert lines() == [f"INFO A session of user {alice.id} ended (log_out), {FROM}"]


async def test_refused_log_ins(
    otp: OTP, sessions: Sessions, alice: User, ears: Ears, lines: Any
) -> None:
    """A wrong password, a name that nobody has, an inactive user, a locked attempt: one warning
    and one signal each, which say why; what was typed for a name is told nowhere."""
    mallory = await make_user(sessions, "mallory", is_active=False)
    async with Browser(make_app(otp)) as browser:
        browser.headers["user-agent"] = "pytest"
        await browser.log_in(password="wrong")
        await browser.log_in(username="my pass phrase")
        await browser.log_in(username="mallory")
        await browser.log_in(password="x" * 2000)
    told = [
        (alice.id, "wrong_password"),
        (None, "unknown_name"),
        (mallory.id, "inactive"),
        (None, "wrong_password"),
    ]
    assert ears == [("otp_login_failed", key, None, reason) for key, reason in told]
    assert lines() == [
        f"WARNING A log-in of user {key} was refused ({reason}), {FROM}" for key, reason in told
    ]


async def test_a_locked_attempt(
    otp: OTP, alice: User, ears: Ears, lines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt that has to wait is told as one, and as whose."""
    monkeypatch.setattr("starlette_otp.models.LoginThrottle.free_tries", 0)
    async with Browser(make_app(otp)) as browser:
        await browser.log_in(password="wrong")
        await browser.log_in()
    assert [told[3] for told in ears] == ["wrong_password", "too_many_attempts"]
    assert {told[1] for told in ears} == {alice.id}
    assert "(too_many_attempts)" in lines()[1]


async def test_two_stages_are_one_log_in(
    otp: OTP, sessions: Sessions, alice: User, ears: Ears
) -> None:
    """A session begins once; its verification is told as that."""

    class TwoStage(LoginView):
        two_stage = True

    await make_totp(sessions, alice)
    async with Browser(make_app(otp, login_view=TwoStage)) as browser:
        await browser.submit("/account/login", username="alice", password=PASSWORD)
        await browser.submit("/account/login", otp_token=totp_token())
    assert ears == [("otp_logged_in", alice.id, None, "password")]


async def test_another_users_log_in_ends_a_session(
    otp: OTP, sessions: Sessions, alice: User, bob: User, ears: Ears
) -> None:
    """Who logs in where somebody was logged in ends that session."""
    device = await make_totp(sessions, alice)
    other = Route("/other", door(otp, bob).endpoint)
    async with Browser(make_app(otp, door(otp, alice, device), other)) as browser:
        await browser.get("/enter")
        await browser.get("/other")
    assert ears[1:] == [
        ("otp_logged_out", alice.id, device, "replaced"),
        ("otp_logged_in", bob.id, None, "password"),
    ]


async def test_a_new_token_is_no_log_in(otp: OTP, alice: User, ears: Ears) -> None:
    """A session that its owner goes on with, as after a new password, neither ends nor begins."""

    async def again(request: Request) -> Response:
        await log_in(request, request.user)
        return PlainTextResponse("again")

    async with Browser(make_app(otp, door(otp, alice), Route("/again", again))) as browser:
        await browser.get("/enter")
        await browser.get("/again")
    assert [told[0] for told in ears] == ["otp_logged_in"]


async def test_revoked_sessions(otp: OTP, alice: User, ears: Ears, lines: Any) -> None:
    """Each session that `revoke_sessions` ends is told, with the browser whose it was."""
    app = make_app(otp, door(otp, alice))
    async with Browser(app) as one, Browser(app) as two:
        for browser, agent in ((one, "one"), (two, AGENT)):
            browser.headers["user-agent"] = "pytest"
            await browser.get("/enter", headers={"user-agent": agent.replace("\n", " ")})
        ears.clear()
        lines()
        await otp.revoke_sessions(alice)
    assert ears == [("otp_logged_out", alice.id, None, "revoked")] * 2
    ended = f"INFO A session of user {alice.id} ended (revoked), from '' by "
    assert sorted(lines()) == sorted([f"{ended}'one'.", f"{ended}{AGENT.replace(chr(10), ' ')!r}."])


async def test_a_key_of_text_breaks_no_line(otp: OTP, caplog: pytest.LogCaptureFixture) -> None:
    """What comes from outside is quoted in the log."""

    async def check() -> None:
        return None

    headers = [(b"user-agent", b"x\nINFO User 1 logged in")]
    await otp.limited(Request({"type": "http", "headers": headers}), "alice", check)
    assert "\n" not in caplog.records[-1].getMessage()
