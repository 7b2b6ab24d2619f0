"""What is bad gets a clear problem, and changes nothing."""

import json
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from starlette_otp import OTP, clock
from starlette_otp.models import Device, User
from tests.api.client import ROOT, Client, make_api, problem_of
from tests.support import (
    PASSWORD,
    SECRET_KEY,
    Sessions,
    make_static,
    make_totp,
    reload,
    totp_token,
)

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
    (b'{"username": "alice", "password": "' + b"x" * 1025 + b'"}', (401, "invalid_login")),
    (b'{"username": "alice", "password": "x", "token": 123456}', (400, "invalid_request")),
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


async def test_a_log_in_that_is_none(api: object, alice: User, sessions: Sessions) -> None:
    """It takes the place of nothing: the client's own goes on, and keeps no text of another's."""
    await make_totp(sessions, alice)
    async with Client(api, "cookie") as client:
        said = await client.sign_in()
        for login in ("", "x" * 5000, said["login"][:-1] + "A"):
            body = {"login": login, "token": totp_token(), "device": "totp/1"}
            for path in ("/session/token", "/session/challenge"):
                answer = await client.call("POST", path, body)
                assert problem_of(answer) == (410, "login_expired")
                assert "set-cookie" not in answer.headers
        assert await client.ask("GET", "/session") == said


@pytest.mark.parametrize("field", ["token", "device", "login"])
async def test_what_is_no_text_is_not_left_out(
    client: Client, alice: User, sessions: Sessions, field: str
) -> None:
    """A lone surrogate names no device, and not any device either."""
    await make_totp(sessions, alice)
    said = await client.sign_in()
    body = {"token": totp_token(), **client.with_login(said)}
    # Written out, since it can't be encoded.
    text = json.dumps({**body, field: "\ud800"})
    answer = await client.post(
        f"{client.root}/session/token", content=text, headers={"content-type": "application/json"}
    )
    assert problem_of(answer) == (400, "invalid_request")
    assert answer.json()["errors"] == [{"field": field, "code": "invalid"}]
    assert (await client.ask("POST", "/session/token", body))["state"] == "verified"


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


async def test_a_token_as_people_type_it(client: Client, alice: User, sessions: Sessions) -> None:
    """With a space; a number is none."""
    await make_totp(sessions, alice)
    said = await client.sign_in()
    own = client.with_login(said)
    body = {"token": int(totp_token()), **own}
    assert await client.refused("POST", "/session/token", body) == (400, "invalid_request")
    token = totp_token()
    body = {"token": f"{token[:3]} {token[3:]}", **own}
    assert (await client.ask("POST", "/session/token", body))["state"] == "verified"


async def test_a_log_in_that_is_none_takes_no_others_place(
    api: object, alice: User, sessions: Sessions
) -> None:
    """What waits in the cookie goes on."""
    await make_totp(sessions, alice)
    async with Client(api, "cookie") as client:
        await client.sign_in()
        body = {"token": totp_token(), "login": "nonsense"}
        assert await client.refused("POST", "/session/token", body) == (410, "login_expired")
        assert (await client.ask("GET", "/session"))["state"] == "token_required"


@pytest.mark.parametrize("cookie", ["x", "A" * 43, "\\", "A" * 9000], ids=lambda value: value[:5])
async def test_forged_cookies(api: object, alice: User, cookie: str) -> None:
    """They are nobody's."""
    async with Client(api, "cookie") as client:
        client.cookies.set("otp_session", cookie)
        client.cookies.set("session", cookie)
        assert (await client.ask("GET", "/session"))["state"] == "anonymous"
        assert await client.refused("GET", "/devices") == (401, "not_authenticated")


@pytest.mark.parametrize("transport", ["cookie", "bearer"])
async def test_a_database_that_is_away(transport: str) -> None:
    """503 with Retry-After, whatever is asked of it."""
    engine = create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:1/nothing")
    otp = OTP(async_sessionmaker(engine), Device, secret_key=SECRET_KEY)
    async with Client(make_api(otp), transport) as client:
        body = {"username": "alice", "password": PASSWORD}
        answer = await client.call("POST", "/session", body)
        assert problem_of(answer) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) == answer.json()["retry_after"]
        client.cookies.set("otp_session", "A" * 43)
        if transport == "bearer":
            client.headers["authorization"] = "Bearer " + "A" * 43
        for method, path in [("GET", "/session"), ("GET", "/devices"), ("DELETE", "/session")]:
            assert await client.refused(method, path) == (503, "unavailable")
        assert problem_of(await client.get("/notes")) == (503, "unavailable")
    await engine.dispose()


async def test_an_enrolment_that_took_too_long(
    client: Client, alice: User, sessions: Sessions
) -> None:
    """410, and another is begun."""
    await make_totp(sessions, alice)
    _, (code,) = await make_static(sessions, alice, None)
    await client.sign_in(totp_token())
    begun = await client.ask("POST", "/devices", {"kind": "totp"}, 201)
    path = f"/devices/{begun['device']['id']}/confirm"
    with time_machine.travel(clock.now() + timedelta(seconds=601)):
        await client.ask("POST", "/session/token", {"token": code})
        assert await client.refused("POST", path, {"token": "123456"}) == (
            410,
            "enrolment_expired",
        )
        await client.ask("POST", "/devices", {"kind": "totp"}, 201)


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
    assert answer.json()["locked_until"] > clock.now().isoformat()


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


async def test_browsers_are_not_redirected(client: Client) -> None:
    """Whatever they accept: a script asks here, not a person."""
    client.headers["accept"] = "text/html"
    assert await client.refused("GET", "/devices") == (401, "not_authenticated")
    assert (await client.get("/notes", follow_redirects=False)).status_code == 303
