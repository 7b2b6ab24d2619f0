"""Ways around the site's rules that attackers tried."""

from typing import Any

import pytest
from sqladmin.authorization import Action, AuthorizationBackend
from sqlalchemy import func, select
from starlette.applications import Starlette

from starlette_otp import OTP
from starlette_otp.admin import OTPAdmin
from starlette_otp.admin.people import People
from starlette_otp.admin.views import OTPView, path_key
from starlette_otp.models import Device, OTPSession, TOTPDevice, User
from tests.support import Browser, csrf_of, make_totp, make_user


class Rows(AuthorizationBackend):
    """The boss is not for everybody to edit, and devices are for nobody to see."""

    def __init__(self, hide_devices: bool = False) -> None:
        self.hide_devices = hide_devices

    def has_permission(
        self, request: Any, identity: Any, action: str, obj: Any | None = None
    ) -> bool:
        if action == Action.EDIT and getattr(obj, "username", "") == "boss":
            return False
        return not (self.hide_devices and isinstance(obj, Device))


async def test_revoking_asks_for_the_user(
    app: Starlette, sessions: Any, otp: OTP, staff: User
) -> None:
    """A POST to revoke the sessions of a user whom this staff may not edit is 403."""
    await make_user(sessions, "boss")
    OTPAdmin(app, sessions, otp=otp, authorization_backend=Rows())
    async with sessions() as session:
        boss = await session.scalar(select(User).where(User.username == "boss"))
    async with Browser(app) as browser:
        await browser.get("/enter")
        page = await browser.get(f"/admin/otp-users/details/{boss.id}")
        assert "revoke-sessions" not in page.text
        token = csrf_of(await browser.get("/admin/otp/add/totp"))
        data = {"csrf_token": token, "user": str(boss.id)}
        answer = await browser.post("/admin/otp/user/revoke-sessions", data=data)
        assert answer.status_code == 403
        data["user"] = str(staff.id)
        answer = await browser.post("/admin/otp/user/revoke-sessions", data=data)
        assert answer.status_code == 303
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(OTPSession)) == 0


async def test_a_users_page_shows_no_device_that_is_hidden(
    app: Starlette, sessions: Any, otp: OTP, staff: User, phone: TOTPDevice
) -> None:
    """Who may not see a device does not see it on its owner's page either."""
    OTPAdmin(app, sessions, otp=otp, authorization_backend=Rows(hide_devices=True))
    async with Browser(app) as browser:
        await browser.get("/enter")
        page = await browser.get(f"/admin/otp-users/details/{staff.id}")
        assert page.status_code == 200
        assert "No device." in page.text


@pytest.mark.parametrize("charset", ["raw_unicode_escape", "unicode_escape", "punycode"])
async def test_a_foreign_charset_is_no_token(desk: Browser, charset: str) -> None:
    """A body in a codec of the client's choice is refused like one without a token."""
    body = (
        b'--x\r\nContent-Disposition: form-data; name="csrf_token"\r\n\r\n\\ud800abc\r\n--x--\r\n'
    )
    answer = await desk.post(
        "/admin/otp/device/totp/1/confirm",
        content=body,
        headers={"content-type": f"multipart/form-data; boundary=x; charset={charset}"},
    )
    assert answer.status_code == 403


@pytest.mark.parametrize("name", ["漢" * 254, "😀" * 254])
async def test_a_long_name_has_its_qr_code(desk: Browser, sessions: Any, name: str) -> None:
    """A name of 254 characters of many bytes each does not keep a new device's key from showing."""
    user = await make_user(sessions, name)
    fields = {"user": str(user.id), "confirmed": "y"}
    answer = await desk.submit("/admin/otp/add/totp", **fields)
    assert (answer.status_code, "<svg" in answer.text) == (200, True)


async def test_names_are_looked_up_for_any_number_of_owners(otp: OTP, staff: User) -> None:
    """An export of more owners than a statement has parameters finds their names."""
    names = await People(otp).names(range(40_000))
    assert names == {staff.id: "alice"}


async def test_a_name_is_found_whatever_its_case(desk: Browser, sessions: Any) -> None:
    """A name that differs in its case comes before those that only begin like it."""
    for number in range(11):
        await make_user(sessions, f"bob{number}")
    bob = await make_user(sessions, "bob")
    answer = await desk.submit("/admin/otp/add/totp", user="Bob", confirmed="y")
    assert answer.status_code == 200
    async with sessions() as session:
        assert await session.scalar(select(Device.user_id).where(Device.user_id == bob.id))


async def test_deleting_the_device_that_let_one_in_says_so(
    desk: Browser, sessions: Any, phone: TOTPDevice, bob: User
) -> None:
    """Who deletes the very device of this session is warned; for another there is no warning."""
    other = await make_totp(sessions, bob)
    warning = "This device let you in"
    assert warning in (await desk.get(f"/admin/otp-totp/details/{phone.id}")).text
    assert warning not in (await desk.get(f"/admin/otp-totp/details/{other.id}")).text


def test_a_key_is_one_part_of_a_path() -> None:
    """Keys that are texts may have any character without leaving their place in a link."""
    assert path_key("../x?b#c%2F") == "..%2Fx%3Fb%23c%252F"


@pytest.mark.parametrize("text", ["=1", "\n=1+1", " +1", "\uff1dcmd", "@x", "\tx"])
async def test_no_cell_is_a_formula(text: str) -> None:
    """CWE-1236: a text of an export does not begin as a spreadsheet's formula does."""
    cell = await OTPView.custom_export_cell(None, None, "name", text)  # type: ignore[arg-type]
    assert cell == f"'{text}"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("\ufeff=1", "'\ufeff=1"),
        ("\u200b\u2060=1", "'\u200b\u2060=1"),
        ("\0\xad+1", "'\0\xad+1"),
        ('"=1', "'\"=1"),
        ("\ufe66=1", "'\ufe66=1"),
        ("\u22121", "'\u22121"),
        (";=1", ";'=1"),
        ("a;\u200b=1;b|@x", "a;'\u200b=1;b|'@x"),
        ("a\t=1", "a\t'=1"),
        ("\t=1", "'\t'=1"),
        ("a; =1", "a;' =1"),
        ("O'Brien-Smith; 1+1=2", "O'Brien-Smith; 1+1=2"),
        ("", ""),
        ("bob@site.example", "bob@site.example"),
        ("\u4e0d", "\u4e0d"),
    ],
)
async def test_no_part_of_a_cell_is_a_formula(text: str, cell: str) -> None:
    """Nor behind what nobody sees, nor where a spreadsheet splits at another separator."""
    assert await OTPView.custom_export_cell(None, None, "name", text) == cell  # type: ignore[arg-type]
