"""What is bad gets a clear problem, and changes nothing."""

from typing import Any

import pytest

from starlette_otp.models import Device, User
from tests.api.client import ROOT, Client, problem_of
from tests.support import PASSWORD, Sessions, make_totp, reload, totp_token

BODIES = [
    (b"{", (400, "malformed_json")),
    (b"", (400, "malformed_json")),
    (b"[]", (400, "malformed_json")),
    (b'"text"', (400, "malformed_json")),
    (b"null", (400, "malformed_json")),
    (b"NaN", (400, "malformed_json")),
    (b'{"username": NaN, "password": "x"}', (400, "malformed_json")),
    (b"\xff\xfe{}", (400, "malformed_json")),
    (b"[" * 60_000, (400, "malformed_json")),
    (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, (400, "malformed_json")),
    (b'{"username": ' + b"9" * 6000 + b', "password": "x"}', (400, "malformed_json")),
    (b"{}", (400, "invalid_request")),
    (b'{"username": 1, "password": true}', (400, "invalid_request")),
    (b'{"username": ["alice"], "password": {}}', (400, "invalid_request")),
    (b'{"username": "\\ud800", "password": "x"}', (400, "invalid_request")),
    (b'{"username": "", "password": ""}', (401, "invalid_login")),
    (b'{"username": "a\\u0000", "password": "\\u0000"}', (401, "invalid_login")),
    (b'{"username": "' + b"a" * 50_000 + b'", "password": "x"}', (401, "invalid_login")),
    (b'{"username": "alice", "username": "x", "password": "x"}', (401, "invalid_login")),
    (b'{"username": "' + b"a" * 1_000_000 + b'"}', (413, "too_large")),
]


@pytest.mark.parametrize(("body", "expected"), BODIES, ids=lambda value: str(value)[:24])
async def test_bodies(client: Client, alice: User, body: bytes, expected: tuple[int, str]) -> None:
    """Of all sizes and shapes."""
    headers = {"content-type": "application/json"}
    answer = await client.post(client.root + "/session", content=body, headers=headers)
    assert problem_of(answer) == expected


async def test_fields_are_named(client: Client) -> None:
    """What lacks and what is of another type."""
    answer = await client.call("POST", "/session", {"username": 1, "surplus": 2})
    assert answer.json()["errors"] == [
        {"field": "username", "code": "invalid"},
        {"field": "password", "code": "required"},
    ]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_content_types(client: Client, content_type: str) -> None:
    """JSON alone: a form of another site can send the others."""
    sent = '{"username": "alice", "password": "x"}'
    headers = {"content-type": content_type}
    answer = await client.post(client.root + "/session", content=sent, headers=headers)
    assert problem_of(answer) == (415, "unsupported_media_type")


async def test_tokens(client: Client, alice: User, sessions: Sessions) -> None:
    """Of any shape: none is an error, none opens anything."""
    device = await make_totp(sessions, alice)
    said = await client.sign_in()
    own = client.with_login(said)
    refused = client.refused
    assert await refused("POST", "/session/token", own) == (400, "token_required")
    assert await refused("POST", "/session/token", {"token": " ", **own}) == (400, "token_required")
    for token in ("x" * 50_000, "\u0661" * 6, "'; drop", "\0", "12345"):
        body = {"token": token, **own}
        assert await refused("POST", "/session/token", body) in [
            (400, "invalid_token"),
            (429, "n_failed_attempts"),
        ]
    for device_id in ("totp/0", "totp/99999999999999999999", "x", "totp/1/2", "\0", "", "t" * 5000):
        body = {"token": totp_token(), "device": device_id, **own}
        assert await refused("POST", "/session/token", body) == (404, "no_such_device")
    assert not (await reload(sessions, device)).last_used_at


async def test_what_no_client_may_set(client: Client, alice: User, sessions: Sessions) -> None:
    """A device is confirmed by a token, the user's own, under a key that we make."""
    await make_totp(sessions, alice)
    await client.sign_in(totp_token())
    body = {
        "kind": "totp",
        "confirmed": True,
        "user_id": 99,
        "id": 77,
        "secret": "AAAA",
        "step": 1,
        "throttling_failure_count": -5,
    }
    made = await client.ask("POST", "/devices", body, 201)
    assert made["device"]["confirmed"] is False
    row: Any = await reload(sessions, (await _rows(sessions))[-1])
    assert (row.user_id, row.confirmed, row.step) == (alice.id, False, 30)
    assert row.persistent_id == made["device"]["id"]
    assert len(row.secret) == 20


async def _rows(sessions: Sessions) -> list[Any]:
    from sqlalchemy import select

    async with sessions() as session:
        return list(await session.scalars(select(Device).order_by(Device.id)))


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "static"},
        {"kind": "hotp", "name": "a" * 65},
        {"kind": "totp", "name": "\u202e"},
        {"kind": "nothing"},
        {"kind": 1},
        {},
        {"kind": "email"},
        {"kind": "email", "email": 5},
        {"kind": "email", "email": " "},
        {"kind": "email", "email": "no address"},
        {"kind": "email", "email": "a@b.example, c@d.example"},
        {"kind": "email", "email": "a" * 300 + "@b.example"},
        {"kind": "email", "email": "a\0@b.example"},
    ],
    ids=str,
)
async def test_new_devices(
    client: Client, alice: User, sessions: Sessions, mailbox: object, body: dict[str, Any]
) -> None:
    """A kind that can't be added, a name or an address that can't be one."""
    await make_totp(sessions, alice)
    await client.sign_in(totp_token())
    before = len(await _rows(sessions))
    assert await client.refused("POST", "/devices", body) == (400, "invalid_request")
    assert len(await _rows(sessions)) == before


async def test_a_mail_that_does_not_arrive(
    client: Client, alice: User, sessions: Sessions, mailbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503, and nothing was added."""

    async def fail(message: object) -> None:
        raise OSError

    await make_totp(sessions, alice)
    await client.sign_in(totp_token())
    monkeypatch.setattr(mailbox, "send", fail)
    before = len(await _rows(sessions))
    body = {"kind": "email", "email": "a@b.example"}
    assert await client.refused("POST", "/devices", body) == (503, "challenge_exception")
    assert len(await _rows(sessions)) == before


async def test_too_many_pending(client: Client, alice: User, sessions: Sessions) -> None:
    """Five that wait are enough."""
    await make_totp(sessions, alice)
    await client.sign_in(totp_token())
    for _ in range(5):
        await client.ask("POST", "/devices", {"kind": "totp"}, 201)
    assert await client.refused("POST", "/devices", {"kind": "totp"}) == (409, "too_many_pending")


async def test_too_many_passwords(client: Client, alice: User) -> None:
    """429 with the time to wait, whatever the transport."""
    body = {"username": "alice", "password": "wrong"}
    for _ in range(5):
        assert await client.refused("POST", "/session", body) == (401, "invalid_login")
    right = {"username": "alice", "password": PASSWORD}
    answer = await client.call("POST", "/session", right)
    assert problem_of(answer) == (429, "too_many_attempts")
    assert answer.json()["retry_after"] >= 1


FOREIGN = [
    {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
    {"sec-fetch-site": "same-site", "origin": "http://neighbour.site.example"},
    {"sec-fetch-site": "", "origin": "null"},
    {"sec-fetch-site": "", "origin": "https://evil.example"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_other_origins(api: object, alice: User, headers: dict[str, str]) -> None:
    """No page of another site logs anybody in or out, with a body or without one."""
    async with Client(api, "cookie") as client:
        own = {name: value for name, value in headers.items() if value}
        client.headers.pop("sec-fetch-site")
        client.headers.update(own)
        body = {"username": "alice", "password": PASSWORD}
        assert await client.refused("POST", "/session", body) == (403, "cross_site")
        assert await client.refused("DELETE", "/session") == (403, "cross_site")
        assert await client.refused("POST", "/recovery-codes") == (403, "cross_site")
        assert (await client.ask("GET", "/session"))["state"] == "anonymous"


async def test_a_browser_that_says_nothing(api: object, alice: User, sessions: Sessions) -> None:
    """With a cookie it may be one that another site's page drives; a program has none yet."""
    await make_totp(sessions, alice)
    async with Client(api, "cookie") as client:
        client.headers.pop("sec-fetch-site")
        await client.sign_in(totp_token())
        assert await client.refused("DELETE", "/session") == (403, "cross_site")
        client.headers["origin"] = "http://site.example"
        await client.ask("DELETE", "/session", status=204)


@pytest.mark.parametrize(
    "authorization", ["Basic YTpi", "Bearer", "Bearer x", "x" * 9000, "Bearer =,="]
)
async def test_authorization_of_any_shape(api: object, alice: User, authorization: str) -> None:
    """Nobody's; and no cookie counts beside it."""
    async with Client(api, "bearer") as client:
        client.headers["authorization"] = authorization
        answer = await client.call("GET", "/session")
        is_token = authorization.startswith("Bearer ")
        assert answer.status_code == (401 if is_token else 200)
        if is_token:
            assert problem_of(answer) == (401, "session_expired")
            assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        assert (await client.get("/notes")).status_code == 401
        on_cookies = await client.get(ROOT["cookie"] + "/session")
        assert problem_of(on_cookies) == (400, "invalid_request")
