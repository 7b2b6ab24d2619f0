"""The ticket that stands for the password, so that it need not be typed again (CVE-2020-15105)."""

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import time_machine
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from starlette_otp import OTP
from starlette_otp.models import Device, OTPSession, TOTPDevice, User
from starlette_otp.testing import token_at
from tests.hosts import Subject, make_host
from tests.support import (
    OTHER_KEY,
    PASSWORD,
    SECRET,
    SECRET_KEY,
    Browser,
    CodesView,
    Sessions,
    add,
    codes,
    csrf_of,
    door,
    make_app,
    make_static,
    make_totp,
    make_user,
    totp_token,
)

LOGIN, LOGOUT = "/account/login", "/account/logout"
NEW_PASSWORD = "another password"


@pytest.fixture
def clock() -> Iterator[Any]:
    """A clock that stands still unless it is moved."""
    with time_machine.travel(time.time() // 30 * 30, tick=False) as moving:
        yield moving


@pytest.fixture
async def device(sessions: Sessions, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice)


@pytest.fixture
async def ticketed(browser: Browser, device: TOTPDevice, clock: Any) -> Browser:
    """A browser whose password was accepted and whose token is still missing."""
    assert codes(await browser.log_in()) == ["token_required"]
    return browser


async def submit(browser: Browser, **fields: str) -> Any:
    """Post the form as the page has it: the name, and no password."""
    return await browser.submit(LOGIN, **{"username": "alice", **fields})


def copy_of(browser: Browser, otp: OTP) -> Browser:
    """Another browser with a copy of the cookies."""
    return Browser(make_app(otp, login_view=CodesView), cookies=dict(browser.cookies))


async def change(sessions: Sessions, user: User, **values: Any) -> None:
    async with sessions.begin() as session:
        await session.execute(update(User).where(User.id == user.id).values(values))


@pytest.mark.parametrize("fields", [{}, {"username": ""}])
async def test_the_password_need_not_be_typed_again(
    ticketed: Browser, fields: dict[str, str]
) -> None:
    """After the password a token alone logs in."""
    assert (await submit(ticketed, otp_token=totp_token(), **fields)).status_code == 303
    assert (await ticketed.state())["verified"]


async def test_the_page_names_the_user_again(ticketed: Browser) -> None:
    """The form that comes back shows the ticket's user, whatever was left out."""
    page = await submit(ticketed, username="", otp_token="000000")
    assert codes(page) == ["invalid_token"]
    assert 'value="alice"' in page.text
    assert 'type="password"' not in page.text


async def test_five_minutes_from_the_password_and_no_longer(ticketed: Browser, clock: Any) -> None:
    """Failures do not extend the ticket: at five minutes it lives, a second later it is dead."""
    clock.shift(120)
    assert codes(await submit(ticketed, otp_token="000000")) == ["invalid_token"]
    clock.shift(120)
    assert codes(await submit(ticketed)) == ["token_required"]
    clock.shift(60)
    assert codes(await submit(ticketed)) == ["token_required"]
    clock.shift(1)
    page = await submit(ticketed, otp_token=totp_token())
    assert codes(page) == ["password_required"]
    assert 'type="password"' in page.text


async def test_typing_the_password_again_begins_anew(ticketed: Browser, clock: Any) -> None:
    """The five minutes count from the last time the password was typed."""
    clock.shift(200)
    assert codes(await ticketed.log_in()) == ["token_required"]
    clock.shift(200)
    assert (await submit(ticketed, otp_token=totp_token())).status_code == 303


async def test_typed_credentials_win(ticketed: Browser, sessions: Sessions, clock: Any) -> None:
    """Who types a name and a password is that user, whatever ticket the session holds."""
    bob = await make_user(sessions, "bob")
    secret = b"the secret of bob's own"
    theirs = await make_totp(sessions, bob, secret=secret)
    assert codes(await ticketed.log_in(totp_token(), username="bob")) == ["invalid_token"]
    assert codes(await submit(ticketed)) == ["password_required"]
    clock.shift(2)
    assert (await ticketed.log_in(totp_token(secret), username="bob")).status_code == 303
    assert (await ticketed.state())["device"] == theirs.persistent_id


async def test_a_wrong_password_discards_it(ticketed: Browser) -> None:
    """A wrong password is wrong, with a ticket too, and the ticket is gone."""
    page = await ticketed.log_in(totp_token(), password="wrong")
    assert codes(page) == ["invalid_login"]
    assert codes(await submit(ticketed, otp_token=totp_token())) == ["password_required"]


@pytest.mark.parametrize("username", ["bob", "Alice", "nobody"])
async def test_another_username_discards_it(ticketed: Browser, bob: User, username: str) -> None:
    """A ticket is one user's; another name wants a password, and so does the first name then."""
    page = await submit(ticketed, username=username, otp_token=totp_token())
    assert codes(page) == ["password_required"]
    assert codes(await submit(ticketed, otp_token=totp_token())) == ["password_required"]


async def test_a_success_kills_it_in_copies_too(ticketed: Browser, otp: OTP, clock: Any) -> None:
    """The cookie from before the log-in, with the next valid token, opens nothing."""
    async with copy_of(ticketed, otp) as thief:
        assert codes(await submit(thief)) == ["token_required"]
        assert (await submit(ticketed, otp_token=totp_token())).status_code == 303
        clock.shift(60)
        assert codes(await submit(thief, otp_token=totp_token())) == ["password_required"]
        assert not (await thief.state())["authenticated"]


async def test_a_log_out_kills_it(ticketed: Browser, otp: OTP) -> None:
    """Logging out discards the ticket, in copies too, also of who had not yet logged in."""
    async with copy_of(ticketed, otp) as thief:
        page = await ticketed.get(LOGIN)
        answer = await ticketed.post(LOGOUT, data={"csrf_token": csrf_of(page)})
        assert answer.status_code == 303
        for browser in (ticketed, thief):
            assert codes(await submit(browser, otp_token=totp_token())) == ["password_required"]


@pytest.mark.parametrize("by_token", [False, True])
async def test_a_log_out_elsewhere_kills_it(
    browser: Browser, otp: OTP, alice: User, device: TOTPDevice, clock: Any, by_token: bool
) -> None:
    """The end of any of the user's sessions kills the user's tickets, also where no more than the
    session's token is known."""
    async with Browser(make_app(otp, door(otp, alice, device))) as elsewhere:
        await elsewhere.get("/enter")
        assert codes(await browser.log_in()) == ["token_required"]
        page = await elsewhere.get(LOGOUT)
        if by_token:
            await otp.sessions.end(elsewhere.cookie)
        else:
            await elsewhere.post(LOGOUT, data={"csrf_token": csrf_of(page)})
    assert codes(await submit(browser, otp_token=totp_token())) == ["password_required"]


@pytest.mark.parametrize("what", ["verified", "removed", "deleted", "revoked"])
async def test_what_kills_it_without_a_request(
    ticketed: Browser, otp: OTP, sessions: Sessions, alice: User, what: str
) -> None:
    """A token that the application verifies itself, a device that goes, and sessions that are
    revoked kill it; whatever device goes later, it stays dead."""
    other = await make_totp(sessions, alice, secret=b"another secret of hers")
    if what == "verified":
        assert await otp.verify_token(alice, other.persistent_id, token_at(other)) == other
        assert codes(await submit(ticketed)) == ["password_required"]
    elif what == "removed":
        assert await otp.remove_device(alice, other.persistent_id) == other
    elif what == "deleted":
        async with sessions.begin() as session:
            await session.delete(await session.get(TOTPDevice, other.id))
    else:
        await otp.revoke_sessions(alice)
    await otp.remove_device(alice, other.persistent_id)
    assert codes(await submit(ticketed, otp_token=totp_token())) == ["password_required"]


async def test_a_new_one_ends_the_former(ticketed: Browser, otp: OTP, sessions: Sessions) -> None:
    """Who types the password again has one ticket, and a copy of the former is dead; a wrong
    password kills copies, too."""
    async with copy_of(ticketed, otp) as thief:
        assert codes(await ticketed.log_in()) == ["token_required"]
        assert codes(await submit(thief, otp_token=totp_token())) == ["password_required"]
    assert await tickets(sessions) == 1
    async with copy_of(ticketed, otp) as thief:
        assert codes(await ticketed.log_in(password="wrong")) == ["invalid_login"]
        assert codes(await submit(thief, otp_token=totp_token())) == ["password_required"]


async def test_two_copies_with_one_token(ticketed: Browser, otp: OTP, sessions: Sessions) -> None:
    """Of a ticket's copies that bring one token at once, one is let in, and none is left."""
    copies = [copy_of(ticketed, otp) for _ in range(4)]
    pages = [await copy.get(LOGIN) for copy in copies]
    fields = {"username": "alice", "otp_token": totp_token()}
    posts = [
        copy.post(LOGIN, data={"csrf_token": csrf_of(page), **fields})
        for copy, page in zip(copies, pages, strict=True)
    ]
    await asyncio.gather(*posts)
    assert sum([(await copy.state())["verified"] for copy in copies]) == 1
    for copy in copies:
        await copy.aclose()
    assert await tickets(sessions) == 0


async def test_copies_with_a_token_each(
    ticketed: Browser, otp: OTP, sessions: Sessions, alice: User
) -> None:
    """Of a ticket's copies that bring good tokens at once, each another one, one is let in; the
    others are asked for the password."""
    _, made_tokens = await make_static(sessions, alice, None, None, None)
    assert codes(await ticketed.log_in()) == ["token_required"]
    copies = [copy_of(ticketed, otp) for _ in made_tokens]
    pages = [await copy.get(LOGIN) for copy in copies]
    posts = [
        copy.post(
            LOGIN, data={"csrf_token": csrf_of(page), "username": "alice", "otp_token": token}
        )
        for copy, page, token in zip(copies, pages, made_tokens, strict=True)
    ]
    answers = await asyncio.gather(*posts)
    assert sum([(await copy.state())["verified"] for copy in copies]) == 1
    refused = [codes(answer) for answer in answers if answer.status_code == 200]
    assert refused == [["password_required"]] * 2
    for copy in copies:
        await copy.aclose()


@pytest.mark.parametrize("last_used_at", [None, datetime(2100, 1, 1, tzinfo=UTC)])
@pytest.mark.parametrize("goes", [False, True])
async def test_a_use_counts_whatever_the_other_devices_are(
    ticketed: Browser,
    sessions: Sessions,
    otp: OTP,
    alice: User,
    last_used_at: datetime | None,
    goes: bool,
) -> None:
    """A use kills it though another device was used by a clock that was ahead, and for good, also
    when the device that was used goes past the ORM."""
    await make_totp(sessions, alice, last_used_at=last_used_at)
    other = await make_totp(sessions, alice, secret=b"another secret of hers")
    assert codes(await ticketed.log_in()) == ["token_required"]
    assert await otp.verify_token(alice, other.persistent_id, token_at(other)) == other
    if goes:
        async with sessions.begin() as session:
            await session.execute(delete(Device).where(Device.id == other.id))
    assert codes(await submit(ticketed)) == ["password_required"]


async def test_a_device_that_was_used_by_a_clock_ahead(
    browser: Browser, sessions: Sessions, alice: User, clock: Any
) -> None:
    """A device used while a server's clock was years ahead does not kill tickets of now."""
    await make_totp(sessions, alice, last_used_at=datetime(2100, 1, 1, tzinfo=UTC))
    assert codes(await browser.log_in()) == ["token_required"]
    assert (await submit(browser, otp_token=totp_token())).status_code == 303


async def test_they_are_no_sessions(
    ticketed: Browser, otp: OTP, sessions: Sessions, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Tickets are swept with the sessions, and counted and told of as none."""
    clock.shift(301)
    assert await tickets(sessions) == 1
    assert await otp.clear_sessions() == 0
    assert await tickets(sessions) == 0
    assert codes(await ticketed.log_in()) == ["token_required"]
    caplog.clear()
    caplog.set_level("INFO")
    await otp.revoke_sessions(await otp.find_user("alice"))
    assert "revoked" not in caplog.text
    assert await tickets(sessions) == 0


async def test_users_who_live_elsewhere(empty_engine: AsyncEngine) -> None:
    """Users whom the host loads and checks itself need not type their password again either."""
    alice, host = Subject("ldap:alice"), make_host(None)
    await host.create_tables(empty_engine)
    maker = async_sessionmaker(empty_engine, expire_on_commit=False)

    async def load_user(conn: Any, key: str) -> Subject | None:
        return alice if key == alice.identity else None

    async def authenticate(request: Any, username: str, password: str) -> Subject | None:
        return alice if password == PASSWORD else None

    otp = OTP(
        maker, host.Device, secret_key=SECRET_KEY, authenticate=authenticate, load_user=load_user
    )
    await add(maker, host.TOTPDevice(user_id=alice.identity, secret=SECRET))
    async with Browser(make_app(otp, login_view=CodesView)) as browser:
        assert codes(await browser.log_in()) == ["token_required"]
        async with copy_of(browser, otp) as thief:
            assert (await submit(browser, otp_token=totp_token())).status_code == 303
            assert codes(await submit(thief)) == ["password_required"]


async def tickets(sessions: Sessions) -> int:
    """How many there are."""
    async with sessions() as session:
        query = select(func.count()).select_from(OTPSession).where(OTPSession.is_ticket)
        return int(await session.scalar(query) or 0)


async def test_a_new_password_kills_it(ticketed: Browser, sessions: Sessions, alice: User) -> None:
    """Who knew the old password can't finish with it after it was changed."""
    alice.set_password(NEW_PASSWORD)
    await change(sessions, alice, password_hash=alice.password_hash)
    assert codes(await submit(ticketed, otp_token=totp_token())) == ["password_required"]


async def test_an_inactive_user_has_no_ticket(
    ticketed: Browser, sessions: Sessions, alice: User
) -> None:
    """A user made inactive between password and token is not logged in."""
    await change(sessions, alice, is_active=False)
    assert codes(await submit(ticketed, otp_token=totp_token())) == ["password_required"]


async def test_a_deleted_user_has_no_ticket(
    ticketed: Browser, sessions: Sessions, alice: User
) -> None:
    """A user deleted between password and token is nobody."""
    async with sessions.begin() as session:
        await session.delete(await session.get(User, alice.id))
    assert codes(await submit(ticketed, otp_token=totp_token())) == ["password_required"]


async def test_it_outlives_a_change_of_keys(ticketed: Browser, sessions: Sessions) -> None:
    """A ticket made under the former key is still good, one under a key that is gone is not."""
    for keys, status in (([OTHER_KEY], 200), ([OTHER_KEY, SECRET_KEY], 303)):
        other = OTP(sessions, Device, secret_key=keys)
        async with copy_of(ticketed, other) as browser:
            page = await browser.get(LOGIN)
            fields = {"csrf_token": csrf_of(page), "username": "alice", "otp_token": totp_token()}
            assert (await browser.post(LOGIN, data=fields)).status_code == status


async def test_the_cookie_holds_nothing_readable(
    browser: Browser, sessions: Sessions, clock: Any
) -> None:
    """The session cookie is readable: no password, token, secret, name or address is in it."""
    user = await make_user(sessions, "carol@mail.example", email="carol@mail.example")
    await make_totp(sessions, user)
    token = totp_token(offset=5)
    page = await browser.log_in(token, username="carol@mail.example")
    assert codes(page) == ["invalid_token"]
    before = cookie(browser)
    assert set(json.loads(before)) == {"otp_csrf", "otp_name", "otp_ticket"}
    clock.shift(60)
    answer = await submit(browser, username="", otp_token=totp_token())
    assert answer.status_code == 303
    after = cookie(browser)
    assert set(json.loads(after)) == {"otp_session_owner"}
    forms = [PASSWORD, token, totp_token(), "carol", user.password_hash, f'"{user.id}"']
    forms += [SECRET.decode(), SECRET.hex(), base64.b32encode(SECRET).decode()]
    for text in (before, after):
        assert [form for form in forms if form in text] == []


def cookie(browser: Browser) -> str:
    """What anyone reads in the session cookie, with everything in it that is base64 decoded."""
    payload = base64.b64decode(browser.cookies["session"].split(".")[0]).decode()
    assert all(isinstance(value, str) for value in json.loads(payload).values())
    return payload
