"""A whole life by JSON alone, by cookies and as a bearer."""

import time

import pytest
import time_machine

from starlette_otp.models import TOTPDevice, User
from tests.api.client import Client, Mailbox, make_api, token_of
from tests.support import PASSWORD, Sessions, make_static, make_totp, totp_token


async def test_anonymous(client: Client) -> None:
    """Who is nobody is told so, and what they would need."""
    said = await client.ask("GET", "/session")
    assert (said["state"], said["devices"], said["user"], said["amr"]) == (
        "anonymous",
        [],
        None,
        [],
    )
    assert "access_token" not in said
    for method, path in [("GET", "/devices"), ("GET", "/sessions"), ("POST", "/recovery-codes")]:
        assert await client.refused(method, path) == (401, "not_authenticated")
    assert await client.refused("POST", "/session/token", {"token": "1"}) == (
        401,
        "not_authenticated",
    )


async def test_sign_in_in_one_step(client: Client, alice: User, sessions: Sessions) -> None:
    """Name, password and token together; what follows is known."""
    device = await make_totp(sessions, alice, name="Phone")
    said = await client.sign_in(totp_token())
    assert said["state"] == "verified"
    assert said["user"] == {"id": alice.id, "name": "alice"}
    assert said["device"]["id"] == device.persistent_id
    assert said["device"]["name"] == "Phone"
    assert said["amr"] == ["pwd", "otp", "mfa"]
    assert said["acr"] == "aal2"
    assert 0 < said["max_age_left"] <= 300
    assert (await client.get("/notes")).json() == "alice"
    again = await client.ask("GET", "/session")
    assert again["state"] == "verified"
    assert "access_token" not in again
    assert again["expires_at"]
    assert again["login"] is None


async def test_sign_in_in_two_steps(client: Client, alice: User, sessions: Sessions) -> None:
    """A next step is 200; a wrong token is 400, and the password need not be sent again."""
    await make_totp(sessions, alice, name="Phone")
    said = await client.sign_in()
    assert said["state"] == "token_required"
    assert said["login"]
    assert [one["label"] for one in said["devices"]] == ["Authenticator app · Phone"]
    assert said["user"] is None
    assert (await client.get("/state")).json()["authenticated"] is False
    wrong = await client.call(
        "POST", "/session/token", {"token": "000000", **client.with_login(said)}
    )
    assert wrong.status_code == 400
    assert wrong.json()["code"] == "invalid_token"
    assert wrong.json()["login"] == said["login"]
    assert wrong.json()["devices"][0]["kind"] == "totp"
    locked = await client.call(
        "POST", "/session/token", {"token": totp_token(), **client.with_login(said)}
    )
    assert locked.status_code == 429
    assert locked.json()["code"] == "n_failed_attempts"
    assert locked.headers["retry-after"] == "1"
    assert locked.json()["locked_until"]
    with time_machine.travel(time.time() + 2):
        body = {"token": totp_token(), **client.with_login(said)}
        assert (await client.ask("POST", "/session/token", body))["state"] == "verified"
        # Once.
        assert (await client.call("POST", "/session/token", body)).status_code in (400, 410, 429)


async def test_a_reload_goes_on(alice: User, sessions: Sessions, api: object) -> None:
    """A pending log-in of cookies is there again; a bearer holds it itself."""
    await make_totp(sessions, alice)
    async with Client(api, "cookie") as client:
        said = await client.sign_in()
        assert (await client.ask("GET", "/session")) == said
        await client.ask("DELETE", "/session", status=204)
        assert (await client.ask("GET", "/session"))["state"] == "anonymous"


async def test_a_log_in_ends(client: Client, alice: User, sessions: Sessions) -> None:
    """After five minutes, and where its ticket was used: 410, begin again."""
    await make_totp(sessions, alice)
    said = await client.sign_in()
    with time_machine.travel(time.time() + 301):
        body = {"token": totp_token(), **client.with_login(said)}
        assert await client.refused("POST", "/session/token", body) == (410, "login_expired")
    assert await client.refused("POST", "/session/token", {"token": "1", "login": "x"}) == (
        410,
        "login_expired",
    )


async def test_enrol_and_look_around(client: Client, alice: User, mailbox: Mailbox, otp) -> None:  # type: ignore[no-untyped-def]
    """Enrol, keep the codes, step up, add mail, rename, remove, change the password, leave."""
    otp.password_is_enough = True
    said = await client.sign_in()
    assert said["state"] == "authenticated"
    assert said["acr"] == "aal1"
    assert said["amr"] == ["pwd"]
    assert 0 < said["max_age_left"] <= 300
    assert await client.refused("POST", "/recovery-codes") == (403, "enrolment_required")
    begun = await client.ask("POST", "/devices", {"kind": "totp", "name": "Phone"}, 201)
    assert begun["device"]["confirmed"] is False
    assert begun["challenge"] is None
    assert begun["setup"]["otpauth_url"].startswith("otpauth://totp/")
    assert begun["setup"]["qr_svg"].startswith("<svg")
    assert begun["expires_at"]
    path = f"/devices/{begun['device']['id']}"
    assert await client.refused("POST", f"{path}/confirm", {"token": "000000"}) == (
        400,
        "invalid_token",
    )
    now = time.time()
    with time_machine.travel(now + 2):
        token = token_of(begun["setup"], now + 2)
        done = await client.ask("POST", f"{path}/confirm", {"token": token, "name": "My phone"})
    assert done["device"]["confirmed"]
    assert done["device"]["name"] == "My phone"
    assert done["session"]["state"] == "verified"
    assert len(done["recovery_codes"]) == 10
    assert await client.refused("POST", f"{path}/confirm", {"token": token}) == (
        409,
        "already_confirmed",
    )
    left = await client.ask("GET", "/recovery-codes")
    assert left["remaining"] == 10
    assert left["created_at"]
    codes = await client.ask("POST", "/recovery-codes", status=201)
    assert len(codes["codes"]) == 10
    assert not set(codes["codes"]) & set(done["recovery_codes"])

    mail = {"kind": "email", "email": "alice@site.example"}
    begun = await client.ask("POST", "/devices", mail, 201)
    assert begun["setup"] is None
    assert begun["challenge"]["message"].endswith("a…@site.example.")
    assert begun["challenge"]["expires_at"]
    assert begun["challenge"]["next_at"]
    wanted = f"/devices/{begun['device']['id']}"
    assert await client.refused("POST", f"{wanted}/challenge") == (429, "cooldown")
    await client.ask("POST", f"{wanted}/confirm", {"token": mailbox.token})

    listed = (await client.ask("GET", "/devices"))["devices"]
    assert {one["kind"] for one in listed} == {"totp", "email", "static"}
    renamed = await client.ask("PATCH", path, {"name": "Old phone"})
    assert renamed["name"] == "Old phone"
    await client.ask("DELETE", wanted, status=204)
    assert await client.refused("DELETE", wanted) == (404, "no_such_device")

    changed = await client.ask("POST", "/password", {"password": "another good password"})
    assert changed["state"] == "verified"
    assert ("access_token" in changed) == client.is_bearer
    (one,) = (await client.ask("GET", "/sessions"))["sessions"]
    assert one["current"]
    assert one["device"] == listed[0]["id"]
    await client.ask("DELETE", "/session", status=204)
    assert (await client.call("GET", "/session")).status_code == (401 if client.is_bearer else 200)


async def test_a_code_by_mail(
    client: Client, alice: User, sessions: Sessions, mailbox: Mailbox
) -> None:
    """Asked for with the log-in, and good for who asked alone."""
    from starlette_otp.models import EmailDevice
    from tests.support import add

    device = await add(sessions, EmailDevice(user_id=alice.id, email="alice@site.example"))
    said = await client.sign_in()
    body = {"device": device.persistent_id, **client.with_login(said)}
    sent = await client.ask("POST", "/session/challenge", body)
    assert sent["state"] == "challenge_sent"
    assert "a…@site.example" in sent["challenge"]["message"]
    body = {"token": mailbox.token, **client.with_login(said)}
    assert (await client.ask("POST", "/session/token", body))["state"] == "verified"


async def test_a_code_is_good_for_who_asked_alone(
    api: object, client: Client, transport: str, alice: User, sessions: Sessions, mailbox: Mailbox
) -> None:
    """Another client with the password has no use for it (ASVS 6.6.2)."""
    from starlette_otp.models import EmailDevice
    from tests.support import add

    device = await add(sessions, EmailDevice(user_id=alice.id, email="alice@site.example"))
    said = await client.sign_in()
    body = {"device": device.persistent_id, **client.with_login(said)}
    await client.ask("POST", "/session/challenge", body)
    async with Client(api, transport) as thief:
        other = await thief.sign_in()
        body = {"token": mailbox.token, **thief.with_login(other)}
        assert (await thief.call("POST", "/session/token", body)).status_code == 400


async def test_passive_and_foreign_devices(
    client: Client, alice: User, bob: User, sessions: Sessions
) -> None:
    """A passive device gives no challenge; another's is not there, and nothing is tried."""
    device = await make_totp(sessions, alice)
    others = await make_totp(sessions, bob, secret=b"98765432109876543210")
    said = await client.sign_in()
    own = client.with_login(said)
    asked = {"device": device.persistent_id, **own}
    assert await client.refused("POST", "/session/challenge", asked) == (400, "not_interactive")
    asked = {"device": others.persistent_id, **own}
    assert await client.refused("POST", "/session/challenge", asked) == (404, "no_such_device")
    body = {"token": totp_token(), "device": others.persistent_id, **own}
    assert await client.refused("POST", "/session/token", body) == (404, "no_such_device")
    body["device"] = device.persistent_id
    assert (await client.ask("POST", "/session/token", body))["state"] == "verified"
    path = f"/devices/{others.persistent_id}"
    for method, rest, sent in [
        ("PATCH", "", {"name": "mine"}),
        ("DELETE", "", None),
        ("POST", "/confirm", {"token": "1"}),
        ("POST", "/challenge", None),
    ]:
        assert await client.refused(method, path + rest, sent) == (404, "no_such_device")


async def test_a_step_up(client: Client, alice: User, sessions: Sessions) -> None:
    """After five minutes a change asks again; a new token lets it through."""
    await make_totp(sessions, alice)
    _, (code,) = await make_static(sessions, alice, None)
    await client.sign_in(totp_token())
    with time_machine.travel(time.time() + 301):
        assert (await client.ask("GET", "/session"))["max_age_left"] == 0
        answer = await client.call("POST", "/devices", {"kind": "totp"})
        found = answer.json()
        assert (found["code"], found["max_age"]) == ("reverification_required", 300)
        # RFC 9470 section 3.
        assert answer.status_code == (401 if client.is_bearer else 403)
        challenge = answer.headers["www-authenticate"]
        assert challenge.startswith("Bearer " if client.is_bearer else "Session ")
        assert 'error="insufficient_user_authentication"' in challenge
        assert 'max_age="300"' in challenge
        guarded = await client.get("/transfer")
        assert guarded.status_code == answer.status_code
        assert guarded.json()["code"] == "reverification_required"
        before = dict(client.headers)
        said = await client.ask("POST", "/session/token", {"token": code})
        assert said["state"] == "verified"
        assert said["max_age_left"] > 290
        assert said["device"]["kind"] == "static"
        assert (await client.get("/transfer")).json() == "done"
        if client.is_bearer:
            # The token of before is worth authenticated for 30 seconds.
            client.headers["authorization"] = before["authorization"]
            assert (await client.ask("GET", "/session"))["state"] == "authenticated"
            assert (await client.get("/transfer")).json()["code"] == "not_verified"


async def test_other_sessions(
    api: object, client: Client, transport: str, alice: User, sessions: Sessions
) -> None:
    """They are listed, and ended one by one or all; another's is not there."""
    await make_totp(sessions, alice)
    codes = (await make_static(sessions, alice, *[None] * 3))[1]
    await client.sign_in(codes[0])
    others = [Client(api, transport) for _ in range(2)]
    for other, code in zip(others, codes[1:], strict=True):
        await other.sign_in(code)
    listed = (await client.ask("GET", "/sessions"))["sessions"]
    assert sorted(one["current"] for one in listed) == [False, False, True]
    first = next(one["id"] for one in listed if not one["current"])
    await client.ask("DELETE", f"/sessions/{first}", status=204)
    assert await client.refused("DELETE", f"/sessions/{first}") == (404, "no_such_session")
    for wrong in ("0", "-1", "x", "9" * 30, "%00"):
        assert (await client.call("DELETE", f"/sessions/{wrong}")).status_code == 404
    assert await client.refused("DELETE", "/sessions") == (400, "invalid_request")
    await client.ask("DELETE", "/sessions?others=true", status=204)
    states = [(await other.call("GET", "/session")) for other in others]
    for answer in states:
        assert answer.status_code == 401 or answer.json()["state"] == "anonymous"
        await_code = answer.json().get("code", "session_expired")
        assert await_code == "session_expired"
    own = next(one["id"] for one in listed if one["current"])
    await client.ask("DELETE", f"/sessions/{own}", status=204)
    assert (await client.get("/notes")).status_code == 401
    for other in others:
        await other.aclose()


async def test_a_password_without_a_device(client: Client, alice: User, otp) -> None:  # type: ignore[no-untyped-def]
    """That of now is asked for."""
    otp.password_is_enough = True
    await client.sign_in()
    body = {"password": "another good password"}
    answer = await client.call("POST", "/password", body)
    assert answer.json()["errors"] == [{"field": "current_password", "code": "required"}]
    wrong = {**body, "current_password": "no"}
    assert await client.refused("POST", "/password", wrong) == (400, "wrong_password")
    short = {"password": "short", "current_password": PASSWORD}
    answer = await client.call("POST", "/password", short)
    assert answer.json()["errors"][0]["field"] == "password"
    said = await client.ask("POST", "/password", {**body, "current_password": PASSWORD})
    assert said["state"] == "authenticated"


async def test_who_has_to_have_a_device(client: Client, alice: User, otp) -> None:  # type: ignore[no-untyped-def]
    """Enrolment comes first, and the last device stays."""
    from starlette_otp.service.requirement import Requirement

    otp.requirement = Requirement(True, otp.enrolment)
    said = await client.sign_in()
    assert said["state"] == "enrolment_required"
    assert (await client.get("/state")).json()["authenticated"] is False
    assert await client.refused("GET", "/sessions") == (403, "enrolment_required")
    begun = await client.ask("POST", "/devices", {"kind": "totp"}, 201)
    path = f"/devices/{begun['device']['id']}"
    token = token_of(begun["setup"], time.time())
    done = await client.ask("POST", f"{path}/confirm", {"token": token})
    assert done["session"]["state"] == "verified"
    assert await client.refused("DELETE", path) == (403, "last_device")


def test_make(otp) -> None:  # type: ignore[no-untyped-def]
    assert make_api(otp)


async def test_what_a_kind_is_called(
    client: Client, alice: User, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kind says what verifying by it is called (RFC 8176)."""
    monkeypatch.setattr(TOTPDevice, "amr", "swk")
    await make_totp(sessions, alice)
    assert (await client.sign_in(totp_token()))["amr"] == ["pwd", "swk", "mfa"]
