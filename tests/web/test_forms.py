"""Name, password and token in one form: which device is asked, and what the errors say."""

import re
import time
from typing import Any

import httpx2
import pytest
import time_machine
from pwdlib import PasswordHash
from starlette.requests import Request

from starlette_otp import OTP, OTPAuthenticationForm, clock
from starlette_otp.models import User
from tests.support import (
    PASSWORD,
    Browser,
    CodesView,
    Sessions,
    codes,
    make_app,
    make_static,
    make_totp,
    make_user,
    reload,
    totp_token,
)

OTHER_SECRET = b"another secret of 20"
ANONYMOUS = {"authenticated": False, "verified": False, "device": None, "scopes": []}


def offered(page: httpx2.Response) -> list[str]:
    """The persistent ids of the other ways, as the page lists them."""
    return re.findall(r'name="otp_way" value="([^"]*)"', page.text)


def chosen_in(page: httpx2.Response) -> str:
    """The persistent id of the device that the page is about, if one was chosen."""
    [value] = re.findall(r'name="otp_device" value="([^"]*)"', page.text)
    return str(value)


async def test_without_a_device_chosen_every_device_is_asked(
    browser: Browser, sessions: Sessions, alice: User
) -> None:
    """A token of any of the user's devices logs in, and no other device changes."""
    first = await make_totp(sessions, alice)
    second = await make_totp(sessions, alice, secret=OTHER_SECRET)
    assert (await browser.log_in(totp_token(OTHER_SECRET))).status_code == 303
    assert (await browser.state())["device"] == second.persistent_id
    first = await reload(sessions, first)
    assert (first.throttling_failure_count, first.last_used_at, first.last_t) == (0, None, -1)


async def test_a_recovery_code_logs_in(browser: Browser, sessions: Sessions, alice: User) -> None:
    """A static token in the same field logs in once, and never again."""
    await make_totp(sessions, alice)
    device, [token] = await make_static(sessions, alice, None)
    assert (await browser.log_in(token.upper())).status_code == 303
    assert (await browser.state())["device"] == device.persistent_id
    browser.cookies.clear()
    assert codes(await browser.log_in(token)) == ["invalid_token"]


async def test_a_wrong_token_brings_the_form_back(
    browser: Browser, sessions: Sessions, alice: User, bob: User
) -> None:
    """A wrong token brings the devices to choose from, never the password."""
    totp = await make_totp(sessions, alice, name="phone")
    static, _ = await make_static(sessions, alice, None)
    await make_totp(sessions, bob, name="bob's")
    page = await browser.log_in("000000")
    assert codes(page) == ["invalid_token"]
    assert (chosen_in(page), offered(page)) == ("", [static.persistent_id])
    assert PASSWORD not in page.text
    assert 'type="password"' not in page.text
    assert "bob" not in page.text
    assert (await reload(sessions, totp)).throttling_failure_count == 1
    assert (await reload(sessions, static)).throttling_failure_count == 0
    assert await browser.state() == ANONYMOUS


async def test_a_chosen_device_alone_is_asked(
    browser: Browser, sessions: Sessions, alice: User
) -> None:
    """With a device chosen, another device's token is wrong and only the chosen one counts it."""
    first = await make_totp(sessions, alice)
    second = await make_totp(sessions, alice, secret=OTHER_SECRET)
    page = await browser.log_in(totp_token(), otp_device=second.persistent_id)
    assert codes(page) == ["invalid_token"]
    assert (chosen_in(page), offered(page)) == (second.persistent_id, [first.persistent_id])
    assert (await reload(sessions, first)).throttling_failure_count == 0
    assert (await reload(sessions, second)).throttling_failure_count == 1


async def test_the_only_device_is_chosen_beforehand(
    browser: Browser, sessions: Sessions, alice: User
) -> None:
    """A user with one device is not asked which."""
    await make_totp(sessions, alice)
    page = await browser.log_in()
    assert 'inputmode="numeric"' in page.text
    assert "Try another way" not in page.text


async def test_another_users_device_is_as_good_as_none(
    browser: Browser, sessions: Sessions, alice: User, bob: User
) -> None:
    """Another user's device id changes nothing: their token is wrong, one's own is right."""
    await make_totp(sessions, alice)
    theirs = await make_totp(sessions, bob, secret=OTHER_SECRET)
    chosen = {"otp_device": theirs.persistent_id}
    page = await browser.log_in(totp_token(OTHER_SECRET), **chosen)
    assert codes(page) == ["invalid_token"]
    assert theirs.persistent_id not in page.text
    with time_machine.travel(time.time() + 2, tick=False):
        assert (await browser.log_in(totp_token(), **chosen)).status_code == 303
    untouched = await reload(sessions, theirs)
    assert (untouched.throttling_failure_count, untouched.last_used_at) == (0, None)


async def test_an_unconfirmed_device_is_neither_offered_nor_asked(
    browser: Browser, sessions: Sessions, alice: User
) -> None:
    """A stolen password can't pass with a device enrolled by it, whether chosen or not."""
    device = await make_totp(sessions, alice, confirmed=False)
    for fields in ({}, {"otp_device": device.persistent_id}):
        page = await browser.log_in(totp_token(), **fields)
        assert codes(page) == ["invalid_token"]
        assert offered(page) == []
    assert (await reload(sessions, device)).throttling_failure_count == 0
    assert await browser.state() == ANONYMOUS


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"username": "", "password": ""}, ["username_required", "password_required"]),
        ({"username": ""}, ["username_required"]),
        ({"password": ""}, ["password_required"]),
        ({"password": "wrong"}, ["invalid_login"]),
        ({"username": "nobody"}, ["invalid_login"]),
        ({"username": "ALICE"}, ["invalid_login"]),
        ({}, ["token_required"]),
        ({"otp_token": " \t "}, ["token_required"]),
        ({"otp_token": "000000"}, ["invalid_token"]),
        ({"otp_challenge": "Send me a code"}, ["not_interactive"]),
        ({"otp_challenge": "1", "otp_token": "000000"}, ["not_interactive"]),
        ({"otp_challenge": "1", "otp_device": "totp/1"}, ["not_interactive"]),
    ],
)
async def test_every_error_has_its_code(
    browser: Browser,
    sessions: Sessions,
    alice: User,
    fields: dict[str, str],
    expected: list[str],
) -> None:
    """What is missing or wrong is named by a code, the page is 200, and nobody is logged in."""
    await make_totp(sessions, alice)
    page = await browser.log_in(**{"token": fields.pop("otp_token", ""), **fields})
    assert codes(page) == expected
    assert await browser.state() == ANONYMOUS


async def test_a_locked_device_says_when_to_try_again(
    browser: Browser, sessions: Sessions, alice: User
) -> None:
    """RFC 4226 7.3: an attempt on a locked device is not tried and not counted, and says why."""
    device = await make_totp(sessions, alice)
    now = time.time() // 30 * 30
    with time_machine.travel(now, tick=False) as moving:
        for _ in range(3):
            page = await browser.log_in("000000")
            moving.shift(4)
        moving.shift(-4)
        page = await browser.log_in(totp_token())
        assert codes(page) == ["n_failed_attempts"]
        assert "after 3 wrong codes. Please try again in 4 seconds." in page.text
        assert (await reload(sessions, device)).throttling_failure_count == 3
        moving.shift(4)
        assert (await browser.log_in(totp_token())).status_code == 303
    assert (await reload(sessions, device)).throttling_failure_count == 0


async def test_when_all_devices_are_locked_the_form_says_so(
    browser: Browser, sessions: Sessions, alice: User
) -> None:
    """A locked device does not stop another one; only when all are locked is it the answer."""
    locked: dict[str, Any] = {
        "throttling_failure_count": 9,
        "throttling_failure_timestamp": clock.now(),
    }
    await make_totp(sessions, alice, **locked)
    page = await browser.log_in(totp_token())
    assert codes(page) == ["n_failed_attempts"]
    assert "in 5 minutes" in page.text
    await make_totp(sessions, alice, secret=OTHER_SECRET)
    assert codes(await browser.log_in("000000")) == ["invalid_token"]
    with time_machine.travel(time.time() + 2, tick=False):
        assert (await browser.log_in(totp_token(OTHER_SECRET))).status_code == 303


@pytest.mark.parametrize("choose", [False, True])
async def test_a_stopped_device_names_no_time(
    browser: Browser, sessions: Sessions, alice: User, choose: bool
) -> None:
    """NIST SP 800-63B: after 100 failures in a row the device waits for a reset, not for a time."""
    device = await make_totp(sessions, alice, throttling_failure_count=100)
    fields = {"otp_device": device.persistent_id} if choose else {}
    page = await browser.log_in(totp_token(), **fields)
    assert codes(page) == ["n_failed_attempts"]
    assert "once the device has been reset" in page.text


@pytest.mark.parametrize(("token", "code"), [("", "token_required"), ("123456", "invalid_token")])
async def test_a_user_without_devices_stays_anonymous(
    browser: Browser, alice: User, token: str, code: str
) -> None:
    """The password alone logs nobody in, not even a user who has no device."""
    page = await browser.log_in(token)
    assert codes(page) == [code]
    assert "Your account has no second factor yet." in page.text
    assert offered(page) == []
    assert await browser.state() == ANONYMOUS


async def test_an_inactive_user_is_refused(browser: Browser, sessions: Sessions) -> None:
    """Password and token of an inactive user are no log-in, and the token is not spent."""
    carol = await make_user(sessions, "carol", is_active=False)
    device = await make_totp(sessions, carol)
    page = await browser.log_in(totp_token(), username="carol")
    assert codes(page) == ["invalid_login"]
    assert (await reload(sessions, device)).last_used_at is None


@pytest.mark.parametrize(
    ("fields", "times"),
    [
        ({}, 1),
        ({"username": "nobody"}, 1),
        ({"username": "carol"}, 1),
        ({"username": "no\0body"}, 1),
        ({"username": "a" * 10_000}, 1),
        ({"password": "a" * 1024}, 1),
        ({"password": "a" * 1025}, 0),
        ({"username": "nobody", "password": "a" * 1025}, 0),
    ],
)
async def test_an_unknown_name_costs_what_a_known_one_costs(
    browser: Browser,
    sessions: Sessions,
    alice: User,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, str],
    times: int,
) -> None:
    """Nobody learns who has an account: the answer is the same and Argon2 runs as often."""
    await make_user(sessions, "carol", is_active=False)
    verify, calls = PasswordHash.verify, []

    def counting(self: PasswordHash, *args: Any) -> bool:
        calls.extend(hash for hash in args if hash.startswith("$argon2id$"))
        return verify(self, *args)

    monkeypatch.setattr(PasswordHash, "verify", counting)
    page = await browser.log_in("000000", **{"password": "wrong", **fields})
    assert codes(page) == ["invalid_login"]
    assert "That username and password do not match." in page.text
    assert len(calls) == times


async def test_a_subclass_changes_only_the_messages_it_names(
    otp: OTP, sessions: Sessions, alice: User
) -> None:
    """`otp_error_messages` and `error_messages` of a subclass override message by message."""

    class Form(OTPAuthenticationForm):
        error_messages = {"invalid_login": "Who are you?"}
        otp_error_messages = {"invalid_token": "No, {{not}} that one."}

    class View(CodesView):
        authentication_form = Form

    await make_totp(sessions, alice)
    async with Browser(make_app(otp, login_view=View)) as browser:
        assert "Who are you?" in (await browser.log_in(password="wrong")).text
        assert "Please enter the code." in (await browser.log_in()).text
        assert "No, {not} that one." in (await browser.log_in("000000")).text
        assert "Please enter your username." in (await browser.log_in(username="")).text


async def test_get_user_has_the_device(otp: OTP, sessions: Sessions, alice: User) -> None:
    """A valid form's user carries the device that accepted the token."""
    seen: list[Any] = []

    class View(CodesView):
        async def success(self, request: Request, form: Any) -> Any:
            seen.append(form.get_user())
            return await super().success(request, form)

    device = await make_totp(sessions, alice)
    async with Browser(make_app(otp, login_view=View)) as browser:
        await browser.log_in("000000")
        assert seen == []
        with time_machine.travel(time.time() + 2, tick=False):
            await browser.log_in(totp_token())
    assert [(user.username, user.otp_device) for user in seen] == [("alice", device)]
