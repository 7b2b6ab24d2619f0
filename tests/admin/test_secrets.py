"""What is secret stays so: on every page, in every export, unless the site is told to show it."""

import base64
import re
from typing import Any

import pytest
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.requests import Request

from starlette_otp import OTP
from starlette_otp.admin import OTPAdmin
from starlette_otp.models import EmailDevice, HOTPDevice, User
from tests.admin.walk import urls
from tests.support import SECRET, Browser, add, make_static

KEY = base64.b32encode(SECRET).decode()


async def fill(sessions: Any, user: User) -> list[str]:
    """A device of each kind; what of the database must not be seen."""
    await add(sessions, HOTPDevice(user_id=user.id, secret=SECRET))
    mail = EmailDevice(user_id=user.id, token_digest="d16e57" * 10)
    await add(sessions, mail)
    _, tokens = await make_static(sessions, user, None)
    statement = """
        SELECT sealed_secret FROM otp_device UNION SELECT digest FROM otp_static_token
        UNION SELECT token_digest FROM otp_device WHERE token_digest IS NOT NULL
        UNION SELECT password_hash FROM otp_user UNION SELECT token_digest FROM otp_session
        UNION SELECT password_fingerprint FROM otp_session
    """
    async with sessions() as session:
        found = list(await session.scalars(text(statement)))
    assert len(found) >= 9
    return [*found, *tokens, KEY, "otpauth"]


async def test_no_response_has_a_secret(
    desk: Browser, admin: OTPAdmin, sessions: Any, staff: User
) -> None:
    """Lists, details, forms, exports, ajax, errors: no key, token, digest or hash in any."""
    secrets = await fill(sessions, staff)
    walked = 0
    pks = ["1", "2", "3", "4"]
    for url, methods in urls(admin, pk=pks, action=[]):
        if "GET" not in methods:
            continue
        for query in ("", "?name=user&term=a", "?search=a&sortBy=created_at"):
            answer = await desk.get(url + query)
            assert answer.status_code in (200, 400, 403, 404), url
            assert [secret for secret in secrets if secret in answer.text] == [], url
            assert "<svg" not in answer.text, url
            walked += 1
    assert walked > 200


@pytest.mark.parametrize("path", ["config", "qr.svg"])
async def test_key_and_qr_are_hidden_by_default(desk: Browser, path: str) -> None:
    """Without show_sensitive, config page and QR are 403."""
    assert (await desk.get(f"/admin/otp/device/totp/1/{path}")).status_code == 403


class Open(OTPAdmin):
    """A site that shows what is sensitive."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, show_sensitive=True, **kwargs)


@pytest.fixture
async def open_desk(app: Starlette, sessions: Any, otp: OTP) -> Any:
    Open(app, sessions, otp=otp)
    async with Browser(app) as browser:
        await browser.get("/enter")
        yield browser


async def test_key_and_qr_are_shown_when_asked_for(open_desk: Browser) -> None:
    """With show_sensitive the config page has key and QR, which are never stored."""
    details = await open_desk.get("/admin/otp-totp/details/1")
    assert "/admin/otp/device/totp/1/config" in details.text
    page = await open_desk.get("/admin/otp/device/totp/1/config")
    assert KEY in page.text
    assert "<svg" in page.text
    image = await open_desk.get("/admin/otp/device/totp/1/qr.svg")
    assert image.headers["content-type"] == "image/svg+xml"
    assert image.text.startswith("<?xml")
    for answer in (page, image):
        assert answer.headers["cache-control"] == "no-store"


async def test_only_kinds_with_a_key_show_one(
    open_desk: Browser, sessions: Any, staff: User
) -> None:
    """A static device has no config page, and its tokens and digests are never shown again."""
    device, tokens = await make_static(sessions, staff, None)
    details = await open_desk.get(f"/admin/otp-static/details/{device.id}")
    assert "config" not in details.text
    assert tokens[0] not in details.text
    answer = await open_desk.get(f"/admin/otp/device/static/{device.id}/config")
    assert answer.status_code == 404


async def test_only_who_may_edit_sees_a_key(app: Starlette, sessions: Any, otp: OTP) -> None:
    """Whom the authorization backend does not let edit sees no key, and no buttons."""
    from sqladmin.authorization import AuthorizationBackend

    class ReadOnly(AuthorizationBackend):
        def has_permission(
            self, request: Request, identity: str, action: str, obj: Any = None
        ) -> bool:
            return action in ("list", "details")

    Open(app, sessions, otp=otp, authorization_backend=ReadOnly())
    async with Browser(app) as browser:
        await browser.get("/enter")
        details = await browser.get("/admin/otp-totp/details/1")
        assert details.status_code == 200
        assert "reset-throttling" not in details.text
        token = re.search(r'otp-csrf-token" content="([^"]+)', details.text)
        assert token is not None
        for path in ("config", "qr.svg"):
            assert (await browser.get(f"/admin/otp/device/totp/1/{path}")).status_code == 403
        for url in (
            "device/totp/1/reset-throttling",
            "device/totp/1/delete",
            "add/totp",
            "user/revoke-sessions",
        ):
            answer = await browser.post(
                f"/admin/otp/{url}", data={"csrf_token": token[1], "user": "1"}
            )
            assert answer.status_code == 403, url


async def test_an_unreadable_key_is_no_traceback(
    open_desk: Browser, sessions: Any, phone: Any
) -> None:
    """A key that does not decrypt is an error page, which says nothing of it."""
    async with sessions.begin() as session:
        await session.execute(text("UPDATE otp_device SET sealed_secret = 'garbage'"))
    answer = await open_desk.get("/admin/otp/device/totp/1/config")
    assert answer.status_code == 409
    assert "garbage" not in answer.text
