"""The log-in page as it is: name and password, then the second factor in words people know."""

import re
import time
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any

import pytest
import time_machine
from starlette.applications import Starlette
from starlette.authentication import AuthenticationBackend
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection
from starlette.routing import Mount

from starlette_otp import OTP, OTPMiddleware, clock
from starlette_otp.devices.words import masked
from starlette_otp.models import Device, EmailDevice, HOTPDevice, User
from tests.hosts import make_host
from tests.support import (
    ANONYMOUS,
    PASSWORD,
    SECRET_KEY,
    Browser,
    CodesView,
    Sessions,
    add,
    codes,
    make_app,
    make_static,
    make_totp,
    reload,
    totp_token,
    verified_by,
)

LOGIN, LOGOUT = "/account/login", "/account/logout"
APP_CODE = "Enter the code from your authenticator app"


class Box:
    sender = "no-reply@acme.example"
    token = ""

    async def send(self, message: EmailMessage) -> None:
        [self.token] = re.findall("[0-9]{6}", message.get_content())


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Box:
    monkeypatch.setattr(EmailDevice, "mailer", box := Box())
    return box


async def enter(browser: Browser, url: str = LOGIN, **fields: str) -> Any:
    """Submit the first page as it is."""
    return await browser.submit(url, **{"username": "alice", "password": PASSWORD, **fields})


def ways(page: Any) -> dict[str, str]:
    """What is listed under "Try another way": names, and what their buttons send."""
    found = re.findall(r'name="otp_way" value="([^"]+)"[^>]*>([^<]+)<', page.text)
    return {name: device_id for device_id, name in found}


def text_of(page: Any) -> str:
    """What can be read on the page."""
    return " ".join(re.sub(r"<[^>]+>", " ", page.text.partition("<body>")[2]).split())


# The two pages.


async def test_the_password_comes_first(browser: Browser) -> None:
    """The first page asks for name and password, which can be typed, and for nothing else."""
    page = (await browser.get(LOGIN)).text
    assert 'name="username"' in page
    assert 'name="password"' in page
    assert "otp_token" not in page
    assert "otp_challenge" not in page
    assert "readonly" not in page


async def test_then_the_code_and_nobody_is_signed_in_between(
    browser: Browser, sessions: Sessions, alice: User
) -> None:
    """After the password the session is anonymous, nothing is called wrong, and the code alone
    is missing."""
    device = await make_totp(sessions, alice)
    page = await enter(browser, f"{LOGIN}?next=/vault")
    assert codes(page) == ["token_required"]
    assert "otp-error" not in page.text
    assert 'role="alert"' not in page.text
    assert 'type="password"' not in page.text
    assert f'<label for="otp_token">{APP_CODE}</label>' in page.text
    assert 'autocomplete="one-time-code"' in page.text
    assert "Signing in as alice." in text_of(page)
    assert await browser.state() == ANONYMOUS
    answer = await browser.submit(f"{LOGIN}?next=/vault", otp_token=totp_token())
    assert (answer.status_code, answer.headers["location"]) == (303, "/vault")
    assert await browser.state() == verified_by(device)


async def test_an_empty_code_is_missing(browser: Browser, sessions: Sessions, alice: User) -> None:
    """Who sends the second page empty is told."""
    await make_totp(sessions, alice)
    await enter(browser)
    page = await browser.submit(LOGIN, otp_token="")
    assert codes(page) == ["token_required"]
    assert "Please enter the code." in page.text


async def test_all_three_at_once(browser: Browser, sessions: Sessions, alice: User) -> None:
    """A script or an old template that sends all three to the first page is answered in one go."""
    device = await make_totp(sessions, alice)
    assert (await enter(browser, otp_token=totp_token())).status_code == 303
    assert await browser.state() == verified_by(device)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"password": "wrong"}, ["invalid_login"]),
        ({"username": "nobody"}, ["invalid_login"]),
        ({"username": "", "password": ""}, ["username_required", "password_required"]),
        ({"csrf_token": "wrong"}, ["csrf_failed"]),
    ],
)
async def test_the_first_page_has_its_codes(
    browser: Browser, alice: User, fields: dict[str, str], expected: list[str]
) -> None:
    """A wrong password brings the first page again, and is never written back."""
    page = await enter(browser, **fields)
    assert codes(page) == expected
    assert 'name="password"' in page.text
    assert "otp_token" not in page.text
    assert PASSWORD not in page.text


async def test_the_password_of_a_user_without_a_device(otp: OTP, alice: User) -> None:
    """Who has no second factor reads what to do, sees no field for a code and no error."""
    async with Browser(make_app(otp, login_view=CodesView)) as browser:
        page = await enter(browser)
        assert codes(page) == ["token_required"]
        said = "Your account has no second factor yet. Ask the people who run this site."
        assert said in text_of(page)
        assert "otp_token" not in page.text
        assert "otp-error" not in page.text
        assert await browser.state() == ANONYMOUS


class Nobody(AuthenticationBackend):
    """A backend of the host's, who knows users by other means."""

    async def authenticate(self, conn: HTTPConnection) -> None:
        return None


async def test_users_that_can_not_be_loaded(sessions: Sessions) -> None:
    """Where nothing can stand for the password in between, all three are on one page."""
    otp = OTP(sessions, make_host(users=None).Device, secret_key=SECRET_KEY)
    app = Starlette(
        routes=[Mount("/account", routes=otp.routes())],
        middleware=[
            Middleware(SessionMiddleware, secret_key=SECRET_KEY),
            Middleware(AuthenticationMiddleware, backend=Nobody()),
            Middleware(OTPMiddleware, otp=otp),
        ],
    )
    async with Browser(app) as browser:
        assert 'name="otp_token"' in (await browser.get(LOGIN)).text


# The ways through the second step.


async def test_the_last_used_comes_first(
    browser: Browser, sessions: Sessions, alice: User, box: Box
) -> None:
    """The page is about the device that was used last; the others are a list of what they are."""
    now = clock.now()
    app = await make_totp(sessions, alice, name="Phone", last_used_at=now - timedelta(days=2))
    mail = await add(
        sessions, EmailDevice(user_id=alice.id, email="zoe@home.example", last_used_at=now)
    )
    static, _ = await make_static(sessions, alice, None)
    page = await enter(browser)
    assert "Enter the code that we email you" in page.text
    assert ways(page) == {
        "Authenticator app · Phone": app.persistent_id,
        "Recovery code": static.persistent_id,
    }
    assert "Try another way" in page.text
    assert "zoe@home" not in page.text
    page = await browser.submit(LOGIN, username="alice", otp_way=app.persistent_id)
    assert codes(page) == []
    assert APP_CODE in page.text
    assert ways(page) == {
        "Email to z…@home.example": mail.persistent_id,
        "Recovery code": static.persistent_id,
    }


async def test_a_recovery_code_gets_letters(
    browser: Browser, sessions: Sessions, alice: User
) -> None:
    """Another way is another page: the keyboard has letters for a recovery code, and its device
    alone is asked."""
    await make_totp(sessions, alice)
    device, [token] = await make_static(sessions, alice, None)
    page = await enter(browser)
    assert 'inputmode="numeric"' in page.text
    page = await browser.submit(LOGIN, otp_way=ways(page)["Recovery code"])
    assert codes(page) == []
    assert "Enter a recovery code" in page.text
    assert 'inputmode="text"' in page.text
    chosen = {"otp_device": device.persistent_id}
    assert codes(await browser.submit(LOGIN, otp_token=totp_token(), **chosen)) == ["invalid_token"]
    assert (await browser.submit(LOGIN, otp_token=token, **chosen)).status_code == 303
    assert await browser.state() == verified_by(device)


async def test_a_recovery_code_is_spare(browser: Browser, sessions: Sessions, alice: User) -> None:
    """Who has used a recovery code is asked for the app's code the next time, not for another."""
    device, _ = await make_static(sessions, alice, None)
    await make_totp(sessions, alice)
    async with sessions.begin() as session:
        (await session.get_one(type(device), device.id)).last_used_at = clock.now()
    page = await enter(browser)
    assert APP_CODE in page.text
    assert ways(page) == {"Recovery code": device.persistent_id}


async def test_another_users_way_is_none(
    browser: Browser, sessions: Sessions, alice: User, bob: User
) -> None:
    """Another user's device can't be chosen, and says nothing of itself."""
    await make_totp(sessions, alice)
    theirs = await make_totp(sessions, bob, name="bob's")
    await enter(browser)
    page = await browser.submit(LOGIN, otp_way=theirs.persistent_id)
    assert APP_CODE in page.text
    assert "bob" not in page.text


async def test_devices_are_told_from_each_other(
    browser: Browser, sessions: Sessions, alice: User
) -> None:
    """By their kinds and names, and where these are the same by their numbers."""
    await add(
        sessions,
        HOTPDevice(user_id=alice.id, name="code GENERATOR"),
        *(HOTPDevice(user_id=alice.id) for _ in range(2)),
        HOTPDevice(user_id=alice.id, name="<b>Key</b>"),
    )
    page = await browser.log_in()
    names = list(ways(page))
    assert names == [
        "Code generator (2)",
        "Code generator (3)",
        "Code generator · &lt;b&gt;Key&lt;/b&gt;",
    ]


@pytest.mark.parametrize(
    ("destination", "shown"),
    [
        ("zoe@example.org", "z…@example.org"),
        ("z@example.org", "z…@example.org"),
        ("+4912345678", "…78"),
        ("", ""),
        (None, ""),
    ],
)
def test_a_destination_is_masked(destination: str | None, shown: str) -> None:
    """Its owner knows it; nobody else learns more than a letter or two digits."""
    assert masked(destination) == shown


# Codes that are sent.


@pytest.fixture
async def mail(sessions: Sessions, alice: User, box: Box) -> EmailDevice:
    device: EmailDevice = await add(
        sessions, EmailDevice(user_id=alice.id, email="zoe@example.org")
    )
    return device


async def test_the_button_sends_to_a_masked_address(
    browser: Browser, mail: EmailDevice, box: Box
) -> None:
    """The button names the address; afterwards the page says where the code went and when the
    next can be had, and nothing of an app."""
    with time_machine.travel(datetime(2030, 1, 1, tzinfo=UTC), tick=False) as now:
        page = await enter(browser)
        assert "Send me a code To z…@example.org." in text_of(page)
        page = await browser.submit(LOGIN, otp_challenge="1", otp_device=mail.persistent_id)
        assert codes(page) == ["challenge_message"]
        assert "We sent a code to z…@example.org." in text_of(page)
        assert "You can ask again in 60 seconds." in text_of(page)
        assert "authenticator" not in page.text
        now.shift(18)
        page = await browser.submit(LOGIN, otp_challenge="1", otp_device=mail.persistent_id)
        assert text_of(page).count("You can ask again in 42 seconds.") == 1
        answer = await browser.submit(LOGIN, otp_token=box.token, otp_device=mail.persistent_id)
    assert answer.status_code == 303
    assert await browser.state() == verified_by(mail)


async def test_without_a_choice_the_first_that_can_sends(
    browser: Browser, sessions: Sessions, alice: User, mail: EmailDevice, box: Box
) -> None:
    """On the app's page a code can be asked for, too; then the page is about that."""
    await make_totp(sessions, alice, last_used_at=clock.now())
    page = await enter(browser)
    assert APP_CODE in page.text
    assert "Send me a code To z…@example.org." in text_of(page)
    page = await browser.submit(LOGIN, otp_challenge="1", otp_device="")
    assert codes(page) == ["challenge_message"]
    assert "Enter the code that we email you" in page.text
    assert f'name="otp_device" value="{mail.persistent_id}"' in page.text
    assert (await browser.submit(LOGIN, otp_token=box.token)).status_code == 303


async def test_no_button_where_nothing_is_sent(
    browser: Browser, sessions: Sessions, alice: User, mail: EmailDevice
) -> None:
    """There is no button on the page of a chosen device that sends nothing."""
    device = await make_totp(sessions, alice)
    await enter(browser)
    page = await browser.submit(LOGIN, otp_way=device.persistent_id)
    assert "otp_challenge" not in page.text
    page = await browser.submit(LOGIN, otp_challenge="1", otp_device=device.persistent_id)
    assert codes(page) == ["not_interactive"]
    assert "No code is sent for this. Please try another way." in page.text


async def test_the_users_own_address(browser: Browser, sessions: Sessions, box: Box) -> None:
    """A device without an address of its own goes to the user's, and says so."""
    user = await add(sessions, User(username="carol", email="carol@home.example"))
    user = await reload(sessions, user)
    device = EmailDevice(user_id=user.id)
    assert device.shown_name(user) == "Email to c…@home.example"
    assert EmailDevice(name="Work").shown_name(User()) == "Email · Work"


# The site's own.


async def test_the_sites_name_and_links(sessions: Sessions, alice: User) -> None:
    """Pages have the site's name, and links where the host names their URLs, under its root."""
    otp = OTP(
        sessions,
        Device,
        secret_key=SECRET_KEY,
        site_name="Acme & Co",
        forgot_password_url="/help/password",
        lost_devices_url="https://help.example/devices",
    )
    app = make_app(otp, login_view=CodesView)
    async with Browser(app) as browser:
        page = await browser.get(LOGIN)
        assert "<title>Log in · Acme &amp; Co</title>" in page.text
        assert '<a href="/help/password">Forgot password?</a>' in page.text
        assert "help.example" not in page.text
        page = await enter(browser)
        assert '<a href="https://help.example/devices">Get help</a>' in page.text
        assert "Ask the people" not in page.text
        await make_totp(sessions, alice)
        page = await enter(browser)
        assert '<a href="https://help.example/devices">Can&#39;t use your devices?</a>' in page.text
        assert "Forgot password?" not in page.text


async def test_no_link_without_a_url(browser: Browser, sessions: Sessions, alice: User) -> None:
    """Without a name and URLs nothing is made up."""
    await make_totp(sessions, alice)
    page = await browser.get(LOGIN)
    assert "<title>Log in</title>" in page.text
    assert "Forgot" not in page.text
    assert "use your devices" not in (await enter(browser)).text


async def test_the_log_out_page_says_who_is_signed_in(
    browser: Browser, sessions: Sessions, alice: User
) -> None:
    """Who is about to log out reads as whom."""
    await make_totp(sessions, alice)
    assert "Nobody is signed in here." in text_of(await browser.get(LOGOUT))
    with time_machine.travel(time.time(), tick=False):
        await browser.log_in(totp_token())
        assert "You are signed in as alice ." in text_of(await browser.get(LOGOUT))
