"""A form that is sent twice: the page with the QR code reloaded, a double click."""

import asyncio
import re
from typing import Any

import httpx2
import pytest

from starlette_otp import otp_device_added
from starlette_otp.models import User
from tests.admin.test_add import devices_of
from tests.support import Browser, Sessions, csrf_of


async def fields_of(desk: Browser, kind: str, **more: str) -> dict[str, str]:
    """The form to add a device, filled in."""
    page = await desk.get(f"/admin/otp/add/{kind}")
    newest = re.search(r'name="newest"[^>]* value="(\d+)"', page.text)
    assert newest, page.text
    fields = {"csrf_token": csrf_of(page), "newest": newest[1]}
    return {**fields, "user": "bob", "name": "pad", "confirmed": "y", **more}


def is_shown(answer: httpx2.Response) -> bool:
    return answer.status_code == 200 and "this once" in answer.text


@pytest.mark.parametrize("kind", ["totp", "hotp", "static"])
async def test_a_reload_adds_no_second_device(
    desk: Browser, sessions: Sessions, bob: User, kind: str
) -> None:
    """POST again of what made a device leads to that device, and tells of none."""
    fields = await fields_of(desk, kind)
    heard: list[Any] = []

    def added(otp: Any, user: Any, device: Any) -> None:
        heard.append(device.persistent_id)

    with otp_device_added.connected_to(added):
        assert is_shown(await desk.post(f"/admin/otp/add/{kind}", data=fields))
        (device,) = await devices_of(sessions, bob)
        for _ in range(2):
            again = await desk.post(f"/admin/otp/add/{kind}", data=fields)
            assert again.status_code == 303
            assert again.headers["location"] == f"/admin/otp-{kind}/details/{device.id}"
    assert [d.persistent_id for d in await devices_of(sessions, bob)] == heard
    assert len(heard) == 1


async def test_a_double_click_adds_one_device(desk: Browser, sessions: Sessions, bob: User) -> None:
    """Of five that come at the same time one is shown; the others lead to its device."""
    fields = await fields_of(desk, "totp")
    posts = [desk.post("/admin/otp/add/totp", data=fields) for _ in range(5)]
    answers = await asyncio.gather(*posts)
    assert sorted(answer.status_code for answer in answers) == [200, 303, 303, 303, 303]
    assert len(await devices_of(sessions, bob)) == 1


@pytest.mark.parametrize(
    "more", [{"name": "other"}, {"user": "alice"}, {"email": "b@site.example"}]
)
async def test_another_device_is_no_reload(
    desk: Browser, sessions: Sessions, bob: User, more: dict[str, str]
) -> None:
    """What differs in name, address or owner is another device."""
    fields = await fields_of(desk, "email")
    for data in (fields, {**fields, **more}):
        assert (await desk.post("/admin/otp/add/email", data=data)).status_code == 200
    assert len(await devices_of(sessions, bob)) == (1 if "user" in more else 2)


async def test_a_form_that_is_opened_again_adds_another(
    desk: Browser, sessions: Sessions, bob: User
) -> None:
    """Who wants two devices of one name opens the form twice."""
    for _ in range(2):
        fields = await fields_of(desk, "totp")
        assert is_shown(await desk.post("/admin/otp/add/totp", data=fields))
    assert len(await devices_of(sessions, bob)) == 2


@pytest.mark.parametrize("newest", ["", "x", "-1", "9" * 30, "\0"])
async def test_a_form_without_the_newest_device_still_adds(
    desk: Browser, sessions: Sessions, bob: User, newest: str
) -> None:
    """A field that is empty or garbage adds the device."""
    fields = {**await fields_of(desk, "totp"), "newest": newest}
    assert is_shown(await desk.post("/admin/otp/add/totp", data=fields))
    assert len(await devices_of(sessions, bob)) == 1
