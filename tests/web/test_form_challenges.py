"""Challenges in the form, with a host's own kinds of device."""

from collections.abc import AsyncIterator
from typing import Any, ClassVar

import httpx2
import pytest
from sqlalchemy import String
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from starlette_otp import OTP, OTPAuthenticationForm
from starlette_otp.devices import DeviceMixin, OTPSessionMixin, UserMixin
from tests.support import (
    PASSWORD,
    SECRET_KEY,
    Browser,
    CodesView,
    Sessions,
    add,
    codes,
    make_app,
    password_hash,
    reload,
)

EVIL = "<script>alert('{challenge}')</script>"


class Base(DeclarativeBase):
    pass


class User(UserMixin, Base):
    __tablename__ = "person"

    id: Mapped[int] = mapped_column(primary_key=True)


class Device(DeviceMixin, Base):
    __user_model__ = User


class PagerDevice(Device):
    """An interactive device: it makes a token, and leaves it where its owner finds it."""

    token: Mapped[str | None] = mapped_column(String(16), use_existing_column=True)
    delivered: ClassVar[list[str]] = []

    async def prepare_challenge(self, **context: Any) -> str:
        self.token = "pager-17"
        return f"Sent to {self.name}."

    async def deliver(self, **context: Any) -> None:
        self.delivered.append(self.name)

    async def check_token(self, token: str) -> bool:
        return self.token is not None and token == self.token


class BrokenDevice(PagerDevice):
    """Its network is down."""

    __kind__ = "broken"

    async def deliver(self, **context: Any) -> None:
        raise OSError("connection refused by pager.internal")


class BuggyDevice(PagerDevice):
    """Its own code is wrong."""

    __kind__ = "buggy"

    async def prepare_challenge(self, **context: Any) -> str:
        raise KeyError("pager.internal")


class ClosedDevice(Device):
    """Its policy lets nothing be verified, in words of its own."""

    refusal: ClassVar[dict[str, Any] | None] = None

    async def verify_is_allowed(self) -> Any:
        return False, type(self).refusal

    async def check_token(self, token: str) -> bool:
        return True


class OTPSession(OTPSessionMixin, Base):
    __device_model__ = Device


@pytest.fixture
async def sessions(empty_url: str) -> AsyncIterator[Sessions]:
    engine = create_async_engine(empty_url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield async_sessionmaker(engine, expire_on_commit=False)
    await engine.dispose()


@pytest.fixture
def otp(sessions: Sessions) -> OTP:
    return OTP(sessions, Device, secret_key=SECRET_KEY)


@pytest.fixture
async def alice(otp: OTP, sessions: Sessions) -> Any:
    return await add(sessions, User(username="alice", password_hash=password_hash()))


async def ask(browser: Browser, device: Device, **fields: str) -> httpx2.Response:
    """Choose the device and press the button."""
    chosen = {"otp_device": device.persistent_id, "otp_challenge": "Send me a code"}
    return await browser.log_in(**{**chosen, **fields})


async def test_a_challenge_is_information(
    browser: Browser, sessions: Sessions, alice: User
) -> None:
    """The button sends a challenge and says so as a status, no error; its token logs in."""
    PagerDevice.delivered.clear()
    device = await add(sessions, PagerDevice(user_id=alice.id, name=EVIL))
    page = await ask(browser, device)
    assert codes(page) == ["challenge_message"]
    [status] = page.text.split('role="status">')[1:]
    assert status.startswith("Sent to &lt;script&gt;")
    assert 'role="alert"' not in page.text
    assert "aria-invalid" not in page.text
    assert "<script" not in page.text
    assert f'value="{device.persistent_id}"' in page.text
    assert PagerDevice.delivered == [EVIL]
    assert not (await browser.state())["authenticated"]
    answer = await browser.submit("/account/login", username="alice", otp_token="pager-17")
    assert answer.status_code == 303
    assert (await browser.state())["device"] == device.persistent_id


async def test_the_button_wants_the_password(
    browser: Browser, sessions: Sessions, alice: User
) -> None:
    """Without the password nobody makes a device send anything."""
    PagerDevice.delivered.clear()
    device = await add(sessions, PagerDevice(user_id=alice.id, name="pager"))
    assert codes(await ask(browser, device, password="wrong")) == ["invalid_login"]
    assert codes(await ask(browser, device, password="")) == ["password_required"]
    assert PagerDevice.delivered == []


async def test_another_users_device_sends_nothing(
    browser: Browser, sessions: Sessions, alice: User
) -> None:
    """The challenge of another user's device is asked for in vain, and that device is untouched."""
    PagerDevice.delivered.clear()
    bob = await add(sessions, User(username="bob"))
    theirs = await add(sessions, PagerDevice(user_id=bob.id, name="bob's"))
    page = await ask(browser, theirs)
    assert codes(page) == ["not_interactive"]
    assert "bob" not in page.text
    assert PagerDevice.delivered == []
    assert (await reload(sessions, theirs)).token is None


@pytest.mark.parametrize("kind", [BrokenDevice, BuggyDevice])
async def test_a_challenge_that_fails_keeps_its_reasons(
    browser: Browser,
    sessions: Sessions,
    alice: User,
    kind: type[Device],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The page says that it failed; the log has the type of the error and the place; its text,
    which may hold a token, is nowhere."""
    device = await add(sessions, kind(user_id=alice.id))
    page = await ask(browser, device)
    assert codes(page) == ["challenge_exception"]
    assert "The code could not be sent. Please try again later." in page.text
    assert 'aria-describedby="otp_challenge-hint otp_device-error"' in page.text
    assert "pager.internal" not in page.text
    assert f"Error at {__file__}:" in caplog.text
    assert "pager.internal" not in caplog.text


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ({"error_message": "The office is closed."}, "The office is closed."),
        ({"error_message": EVIL}, "&lt;script&gt;"),
        ({"reason": "OFFICE_HOURS"}, "This can&#39;t be used now"),
        ({}, "This can&#39;t be used now"),
    ],
)
@pytest.mark.parametrize("choose", [True, False])
async def test_a_third_partys_refusal_is_passed_on(
    browser: Browser,
    sessions: Sessions,
    alice: User,
    monkeypatch: pytest.MonkeyPatch,
    refusal: dict[str, Any],
    words: str,
    choose: bool,
) -> None:
    """A device that may not verify says why in its own words; the token is not tried."""
    monkeypatch.setattr(ClosedDevice, "refusal", refusal)
    device = await add(sessions, ClosedDevice(user_id=alice.id))
    fields = {"otp_device": device.persistent_id} if choose else {}
    page = await browser.log_in("anything", **fields)
    assert codes(page) == ["verification_not_allowed"]
    assert words in page.text
    assert "<script" not in page.text
    assert (await reload(sessions, device)).throttling_failure_count == 0


async def test_messages_of_the_hosts_own(otp: OTP, sessions: Sessions, alice: User) -> None:
    """The host's messages surround the challenge and the refusal."""

    class Form(OTPAuthenticationForm):
        otp_error_messages = {
            "challenge_message": "Pager: {challenge}",
            "not_interactive": "Press something else.",
        }

    class View(CodesView):
        authentication_form = Form

    pager = await add(sessions, PagerDevice(user_id=alice.id, name="five"))
    closed = await add(sessions, ClosedDevice(user_id=alice.id))
    async with Browser(make_app(otp, login_view=View)) as browser:
        assert "Pager: Sent to five." in (await ask(browser, pager)).text
        assert "Press something else." in (await ask(browser, closed)).text


async def test_a_third_party_gets_what_was_typed(
    browser: Browser, sessions: Sessions, alice: User
) -> None:
    """Nothing is stripped from a token for a third party's device; it is compared as it came."""
    device = await add(sessions, PagerDevice(user_id=alice.id, token=" Ab-1 "))
    assert codes(await browser.log_in("Ab-1")) == ["invalid_token"]
    await reset(sessions, device)
    page = await browser.log_in(" Ab-1 ", password=PASSWORD)
    assert page.status_code == 303


async def reset(sessions: Sessions, device: Device) -> None:
    async with sessions.begin() as session:
        (await session.get_one(type(device), device.id)).throttle_reset()
