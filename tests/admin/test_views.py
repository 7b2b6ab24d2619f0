"""The lists: columns, filters, search."""

import csv
import io
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy import select, text

from starlette_otp.models import StaticToken, TOTPDevice, User
from tests.support import Browser, add, make_static, make_totp, make_user


def cells(page: Any) -> list[list[str]]:
    """The rows of the list, as texts."""
    body = page.text.partition("<tbody>")[2].partition("</tbody>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in body.split("</tr>")]
    return [[re.sub(r"<[^>]+>", "", cell).strip() for cell in row[2:]] for row in rows if row]


def names(page: Any) -> list[str]:
    """The names of the listed devices."""
    return [row[1] for row in cells(page)]


async def test_the_columns_of_a_device(desk: Browser, sessions: Any, bob: User) -> None:
    """User, name, kind, confirmed, created, last used, failures, locked until."""
    now = datetime.now(UTC).replace(second=30, microsecond=0) + timedelta(minutes=1)
    failed = {"throttling_failure_count": 3, "throttling_failure_timestamp": now}
    with time_machine.travel(now, tick=False):
        used = now - timedelta(hours=1)
        await make_totp(sessions, bob, name="new", last_used_at=used, **failed)
        page = await desk.get("/admin/otp-totp/list")
    headings = re.findall(r"<th>\s*(?:<a[^>]*>)?\s*([\w ]+?)\s*<", page.text)
    assert dict(zip(headings, cells(page)[0], strict=True)) == {
        "User": "bob",
        "Name": "new",
        "Kind": "totp",
        "Confirmed": "",
        "Created": f"{now:%Y-%m-%d %H:%M} UTC",
        "Last used": f"{used:%Y-%m-%d %H:%M} UTC",
        "Failures": "3",
        "Locked": f"{now + timedelta(seconds=4):%Y-%m-%d %H:%M:%S} UTC",
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["old", "fresh", "phone"]),
        ("confirmed=true", ["fresh", "phone"]),
        ("confirmed=false", ["old"]),
        ("created_at=7", ["fresh", "phone"]),
        ("created_at=30", ["old", "fresh", "phone"]),
        ("last_used_at=1", ["fresh"]),
        ("last_used_at=never", ["old", "phone"]),
        ("created_at=all", ["old", "fresh", "phone"]),
        ("created_at=nonsense&confirmed=nonsense", ["old", "fresh", "phone"]),
        ("search=carol", ["old"]),
        ("search=CAROL%40site", ["old"]),
        ("search=fresh", ["fresh"]),
        ("search=%25", []),
        ("search=_", []),
        ("search=nobody", []),
        ("search=%00", []),
        ("search=phone&confirmed=false", []),
        ("sortBy=name&sort=asc", ["fresh", "old", "phone"]),
    ],
)
async def test_filters_and_search(
    desk: Browser, sessions: Any, bob: User, query: str, expected: list[str]
) -> None:
    """By confirmed, created, last used; by the user's name and address, and the device's name."""
    carol = await make_user(sessions, "carol", email="carol@site.example")
    now = datetime.now(UTC)
    await make_totp(sessions, bob, name="fresh", last_used_at=now)
    await make_totp(
        sessions, carol, name="old", confirmed=False, created_at=now - timedelta(days=20)
    )
    assert names(await desk.get(f"/admin/otp-totp/list?{query}")) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("devices=none", ["carol", "dave"]),
        ("devices=some", ["alice", "bob"]),
        ("devices=none&search=dav", ["dave"]),
        ("devices=all", ["alice", "bob", "carol", "dave"]),
        ("devices=nonsense", ["alice", "bob", "carol", "dave"]),
    ],
)
async def test_who_has_no_device_yet(
    desk: Browser, sessions: Any, bob: User, query: str, expected: list[str]
) -> None:
    """An unconfirmed one is none; recovery codes are one."""
    await make_static(sessions, bob, None)
    await make_user(sessions, "carol")
    dave = await make_user(sessions, "dave")
    await make_totp(sessions, dave, confirmed=False)
    page = await desk.get(f"/admin/otp-users/list?{query}")
    assert sorted(row[1] for row in cells(page)) == expected


@pytest.mark.parametrize(
    "path",
    [
        "otp-totp/details/x",
        "otp-totp/details/0",
        "otp-totp/details/99999999999999999999",
        "otp-totp/details/1/sealed_secret/download/",
        "otp-totp/1/sealed_secret/preview/",
        "otp-users/1/password_hash/download/",
        "otp-users/details/%00",
        "otp-users/details/-1",
        "otp-nokind/list",
        "otp-totp/list?sortBy=sealed_secret",
        "otp-totp/list?page=x",
        "otp-totp/list?pageSize=0",
        "otp-totp/export/xml",
        "otp-totp/create",
        "otp-totp/edit/1",
        "otp-totp/ajax/lookup?name=user&term=a",
    ],
)
async def test_garbage_is_an_error_page(desk: Browser, path: str) -> None:
    """What is not there, or not offered, is 400, 403 or 404."""
    assert (await desk.get(f"/admin/{path}")).status_code in (400, 403, 404)


async def test_the_number_of_static_tokens(desk: Browser, sessions: Any, bob: User) -> None:
    """A static device shows how many tokens it has left."""
    await make_static(sessions, bob, None, None)
    await make_static(sessions, bob)
    page = await desk.get("/admin/otp-static/list")
    assert [row[-1] for row in cells(page)] == ["0", "2"]
    export = (await desk.get("/admin/otp-static/export/json")).json()
    assert [row["token_count"] for row in export] == [2, 0]


async def test_a_kind_that_is_no_longer_declared(desk: Browser, sessions: Any, bob: User) -> None:
    """Rows of a kind that the host does not declare are skipped."""
    async with sessions.begin() as session:
        await session.execute(
            text("INSERT INTO otp_device (kind, user_id, created_at) VALUES ('old', :u, now())"),
            {"u": bob.id},
        )
    page = await desk.get(f"/admin/otp-users/details/{bob.id}")
    assert "No device." in page.text


async def test_a_user_and_their_devices(desk: Browser, sessions: Any, bob: User) -> None:
    """The user's page has their devices of every kind, and leads to adding one for them."""
    await add(sessions, TOTPDevice(user_id=bob.id, name="<b>pad</b>"))
    page = await desk.get(f"/admin/otp-users/details/{bob.id}")
    assert "&lt;b&gt;pad&lt;/b&gt;" in page.text
    assert f"/admin/otp/add/hotp?user={bob.id}" in page.text
    form = await desk.get(f"/admin/otp/add/hotp?user={bob.id}")
    assert f'value="{bob.id}"' in form.text


async def test_an_export_has_no_formulas(desk: Browser, sessions: Any) -> None:
    """A name that a spreadsheet would run as a formula is quoted (CWE-1236); its owner is named."""
    mallory = await make_user(sessions, "=1+1")
    await make_totp(sessions, mallory, name="@SUM(A1)")
    first, *rows = csv.reader(io.StringIO((await desk.get("/admin/otp-totp/export/csv")).text))
    exported = [dict(zip(first, row, strict=True)) for row in rows]
    found = [(row["Username"], row["User"], row["Name"], row["Failures"]) for row in exported]
    assert ("'=1+1", str(mallory.id), "'@SUM(A1)", "0") in found


async def test_users_are_found(desk: Browser, sessions: Any, bob: User) -> None:
    """A search finds users by name and address; no hash is among the columns."""
    page = await desk.get("/admin/otp-users/list?search=ALICE%40")
    assert [row[1] for row in cells(page)] == ["alice"]
    assert [row[1] for row in cells(await desk.get("/admin/otp-users/list"))] == ["alice", "bob"]
    export = (await desk.get("/admin/otp-users/export/json")).json()
    assert set(export[0]) == {"id", "username", "email", "is_active", "is_staff"}


async def test_static_tokens_are_counted_not_shown(
    desk: Browser, sessions: Any, bob: User, staff: User
) -> None:
    """The tokens that are left have a list with owner and device; it finds them by the owner, and
    shows nothing of what they are."""
    device, tokens = await make_static(sessions, bob, None, None)
    await make_static(sessions, staff, None)
    page = (await desk.get("/admin/otp-tokens/list?search=bob")).text
    assert page.count(f">static/{device.id}</a>") == 2
    assert ">bob<" in re.sub(r"\s", "", page)
    async with sessions() as session:
        digests = list(await session.scalars(select(StaticToken.digest)))
    details = await desk.get("/admin/otp-tokens/details/1")
    export = await desk.get("/admin/otp-tokens/export/csv")
    assert (details.status_code, export.status_code) == (200, 200)
    for shown in (page, details.text, export.text):
        assert not [secret for secret in (*digests, *tokens) if secret in shown]
