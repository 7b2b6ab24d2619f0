"""To give a user a device."""

import base64
import re
from typing import Any

import pytest
import segno
from sqlalchemy import select, text

from starlette_otp import otp_admin_action, otp_device_added
from starlette_otp.models import Device, EmailDevice, HOTPDevice, TOTPDevice, User
from tests.support import Browser, make_user, totp_token


async def devices_of(sessions: Any, user: User) -> list[Any]:
    async with sessions() as session:
        return list(await session.scalars(Device.devices_for_user(user)))


async def give(desk: Browser, kind: str, user: Any, **fields: str) -> Any:
    fields = {"confirmed": "y", "name": "new", "user": str(user), **fields}
    return await desk.submit(f"/admin/otp/add/{kind}", **fields)


@pytest.mark.parametrize(("kind", "model"), [("totp", TOTPDevice), ("hotp", HOTPDevice)])
async def test_the_qr_is_shown_once_right_after(
    desk: Browser, sessions: Any, bob: User, kind: str, model: Any
) -> None:
    """The page after adding has QR code and key, though the site hides them; no other has."""
    answer = await give(desk, kind, "bob")
    (device,) = await devices_of(sessions, bob)
    assert (type(device), device.name, device.confirmed) == (model, "new", True)
    key = base64.b32encode(device.secret).decode()
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert key in answer.text
    code = segno.make(device.config_url("bob"), error="m")
    assert code.svg_inline(scale=5, border=4, dark="#000", light="#fff") in answer.text
    assert key not in (await desk.get(f"/admin/otp-{kind}/details/{device.id}")).text


async def test_the_device_verifies_and_is_told(
    desk: Browser, otp: Any, sessions: Any, bob: User
) -> None:
    """A confirmed one verifies at once; it is told as any device that is added."""
    heard: list[Any] = []

    def added(otp: Any, user: Any, device: Any) -> None:
        heard.append((user.username, device.kind))

    def did(otp: Any, user: Any, device: Any, by: Any, action: str) -> None:
        heard.append((by.username, action, user.username))

    with otp_device_added.connected_to(added), otp_admin_action.connected_to(did):
        await give(desk, "totp", "bob")
        await give(desk, "totp", "bob", confirmed="")
    first, second = await devices_of(sessions, bob)
    assert (first.confirmed, second.confirmed) == (True, False)
    assert await otp.verify_token(bob, first.persistent_id, totp_token(first.secret))
    one = ("alice", "device added", "bob")
    assert heard == [("bob", "totp"), one, one]


async def test_a_static_device_comes_with_tokens(
    desk: Browser, otp: Any, sessions: Any, bob: User
) -> None:
    """Its ten tokens are shown this once, and each works."""
    answer = await give(desk, "static", "bob")
    tokens = re.findall(r"<li><code>([^<]+)", answer.text)
    assert len(tokens) == 10
    assert await otp.match_token(bob, tokens[9])


@pytest.mark.parametrize(
    ("address", "stored", "status"),
    [
        ("", None, 200),
        ("new@site.example", "new@site.example", 200),
        ("a@b, c@d", None, 400),
        ("a@b\nBcc: c@d", None, 400),
    ],
)
async def test_a_mail_device_has_one_address(
    desk: Browser, sessions: Any, bob: User, address: str, stored: str | None, status: int
) -> None:
    """An address of its own, or the user's; never two."""
    answer = await give(desk, "email", "bob", email=address)
    assert answer.status_code == status
    found = await devices_of(sessions, bob)
    assert [(type(d), d.email) for d in found] == [(EmailDevice, stored)] * (status == 200)


@pytest.mark.parametrize(
    "typed", ["bob", " bob ", "BOB@site.example", "2", "Bob"], ids=lambda text: text.strip()
)
async def test_who_is_meant(desk: Browser, sessions: Any, typed: str) -> None:
    """A name, an address or a key, typed."""
    bob = await make_user(sessions, "bob", email="bob@site.example")
    await make_user(sessions, "bobby")
    assert (await give(desk, "totp", typed)).status_code == 200
    assert len(await devices_of(sessions, bob)) == 1


async def test_the_beginning_of_a_name_offers_who_is_meant(desk: Browser, sessions: Any) -> None:
    """Several users are offered, ten at most; the one chosen gets the device, nobody else."""
    users = [await make_user(sessions, f"bob{n}") for n in range(12)]
    page = await give(desk, "totp", "bo")
    assert page.status_code == 400
    offered = re.findall(r'<option value="(\d+)">(\w+) \(\d+\)', page.text)
    assert [name for _, name in offered] == [f"bob{n}" for n in range(10)]
    assert (await give(desk, "totp", "bo", choice=str(users[3].id))).status_code == 200
    assert [len(await devices_of(sessions, user)) for user in users[:5]] == [0, 0, 0, 1, 0]


async def test_a_choice_that_does_not_fit_what_is_typed(desk: Browser, sessions: Any) -> None:
    """Who typed another name after the choice was offered means that other one."""
    bob, carol = await make_user(sessions, "bob1"), await make_user(sessions, "carol")
    assert (await give(desk, "totp", "carol", choice=str(bob.id))).status_code == 200
    assert len(await devices_of(sessions, carol)) == 1
    assert await devices_of(sessions, bob) == []


async def test_a_name_that_is_anothers_key(desk: Browser, sessions: Any, bob: User) -> None:
    """When a name is another user's key, nobody is taken for the other: both are offered."""
    await make_user(sessions, str(bob.id))
    page = await give(desk, "totp", bob.id)
    assert page.status_code == 400
    assert "Please choose who is meant." in page.text
    assert await devices_of(sessions, bob) == []
    assert (await give(desk, "totp", bob.id, choice=str(bob.id))).status_code == 200
    assert len(await devices_of(sessions, bob)) == 1


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"user": ""}, "Please say whose device it is."),
        ({"user": "nobody"}, "There is no such user."),
        ({"user": "%"}, "There is no such user."),
        ({"user": "\0"}, "There is no such user."),
        ({"user": "x" * 10_000}, "There is no such user."),
        ({"user": "9" * 19}, "There is no such user."),
        ({"user": "bob", "name": "n" * 65}, "A name has up to 64 characters."),
        ({"user": "bob", "name": "\0"}, "A name has up to 64 characters."),
    ],
)
async def test_what_does_not_do(
    desk: Browser, sessions: Any, bob: User, fields: dict[str, str], says: str
) -> None:
    """Bad input is said at its field and adds nothing."""
    page = await give(desk, "totp", **fields)
    assert page.status_code == 400
    assert says in page.text
    assert await devices_of(sessions, bob) == []


async def test_a_user_who_goes_meanwhile(
    desk: Browser, admin: Any, sessions: Any, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user deleted between the look-up and the INSERT is no such user."""
    find = admin.people.find

    async def find_and_delete(request: Any, term: str) -> Any:
        found = await find(request, term)
        async with sessions.begin() as session:
            await session.execute(text("DELETE FROM otp_user WHERE username = 'bob'"))
        return found

    monkeypatch.setattr(admin.people, "find", find_and_delete)
    page = await give(desk, "totp", "bob")
    assert page.status_code == 400
    assert "There is no such user." in page.text


async def test_an_opened_form_adds_nothing(desk: Browser, sessions: Any, bob: User) -> None:
    """GET shows the form, with whom it is for."""
    page = await desk.get("/admin/otp/add/totp?user=bob&name=x&confirmed=y")
    assert 'value="bob"' in page.text
    async with sessions() as session:
        assert len(list(await session.scalars(select(Device)))) == 1
