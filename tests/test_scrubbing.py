"""What error trackers send: every local of ours that holds something secret is named for it."""

import base64
import hashlib
import re
import secrets
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from pathlib import Path
from types import FrameType
from typing import Any, get_args
from urllib.parse import quote

import pytest
from starlette.requests import Request

import starlette_otp
from starlette_otp import OTP, ConfigurationError, PasswordQueue, SMTPMailer, oath
from starlette_otp.devices.policies import refusal_in_words
from starlette_otp.hashers import DjangoHasher, FlaskSecurityHasher, django, flask_security
from starlette_otp.models import Device, EmailDevice, HOTPDevice, StaticDevice, User
from starlette_otp.service import passwords, rotation
from tests.api.client import Client, make_api
from tests.support import PASSWORD as PASSWORD_OF_ALL
from tests.support import SECRET_KEY, Browser, Sessions, add, csrf_of, make_totp, totp_token

PACKAGE = str(Path(starlette_otp.__file__).parent)
KNOWN = re.compile("token|secret|password|session|cookie", re.IGNORECASE)
"""What scrubbers look for in names (Sentry, Django, Rollbar)."""
SECRET = b"!a secret of the tests' own!"
KEYS = ["a newer key of the tests' own, which is long", SECRET_KEY]
PASSWORD = "the password of one test"


class Watch:
    """Looks at the locals of the package's functions, as they return, for one of `needles`."""

    def __init__(self) -> None:
        self.needles = [SECRET.decode(), base64.b32encode(SECRET).decode().rstrip("="), PASSWORD]
        self.needles += [quote(PASSWORD), *KEYS]
        self.found: set[str] = set()
        self.seen: set[str] = set()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "call":
            frame.f_trace_lines = False
            return self
        self.seen.add(frame.f_code.co_qualname)
        for name, value in frame.f_locals.items():
            if self.shows(name, value):
                self.found.add(f"{frame.f_code.co_qualname}: {name}")
        return self

    def shows(self, name: object, value: object) -> bool:
        if KNOWN.search(str(name)):
            return False
        if issubclass(type(value), Mapping):  # a half-made proxy can not be asked
            return any(self.shows(key, inner) for key, inner in value.items())
        try:
            shown = repr(value)
        except Exception:  # half made
            return False
        return any(needle in shown for needle in self.needles)


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch what runs in this thread."""
    watch, before = Watch(), sys.gettrace()
    sys.settrace(watch)
    threading.settrace(watch)
    try:
        yield watch
    finally:
        sys.settrace(before)
        threading.settrace(before)  # type: ignore[arg-type]


class Mailbox:
    """Keeps the token of the last mail."""

    sender = "no-reply@acme.example"

    def __init__(self, watch: Watch) -> None:
        self.watch, self.token = watch, ""

    async def send(self, message: EmailMessage) -> None:
        [self.token] = re.findall("[0-9]{6}", message.get_content())
        self.watch.needles.append(self.token)


async def test_what_is_secret_is_named_so(
    otp: OTP, sessions: Sessions, alice: User, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No local of ours holds a secret, a token or a password under a name that scrubbers do not
    know, in whatever a log-in, a verification, an enrolment or a rotation runs."""
    with watching() as watch:
        needles = watch.needles
        alice.set_password(PASSWORD)
        assert passwords._fits(PASSWORD, alice.password_hash)
        async with sessions.begin() as session:
            (await session.get_one(User, alice.id)).password_hash = alice.password_hash
        totp = await make_totp(sessions, alice, secret=SECRET)
        hotp = await add(sessions, HOTPDevice(user_id=alice.id, secret=SECRET, digits=8))
        needles += [token.config_url("alice") for token in (totp, hotp)]
        needles += (pair := [totp_at(hotp, 7), totp_at(hotp, 8)])
        needles += (good := [totp_token(SECRET), totp_at(hotp, 0)])
        assert await otp.verify_token(alice, hotp.persistent_id, good[1])
        assert await otp.resynchronize(alice, hotp.persistent_id, *pair)

        needles += ["code-of-mine", "codeofmine", "mademade-tkentken", "mademadetkentken"]
        monkeypatch.setattr("starlette_otp.devices.static.make_token", lambda: "mademade-tkentken")
        await otp.add_static_token(alice, "code-of-mine")
        assert await otp.match_token(alice, "CODE-of-mine")
        await otp.add_static_token(alice)
        async with sessions.begin() as session:
            static = await session.get_one(StaticDevice, (await statics(otp, alice))[0].id)
            await static.replace_tokens(1)
        assert await otp.match_token(alice, "MADEMADE-TKENTKEN")
        assert not await otp.match_token(alice, "mademade-tkentken")

        monkeypatch.setattr(EmailDevice, "mailer", box := Mailbox(watch))
        email = await add(sessions, EmailDevice(user_id=alice.id, email="a@home.example"))
        assert await otp.generate_challenge(alice, email.persistent_id)
        assert await otp.verify_token(alice, email.persistent_id, box.token)

        page = await browser.get("/account/login")
        fields = {"csrf_token": csrf_of(page), "username": "alice", "password": PASSWORD}
        monkeypatch.setattr(secrets, "token_urlsafe", lambda size: "session" + size * "x")
        needles.append("session" + 32 * "x")
        answer = await browser.post("/account/login", data={**fields, "otp_token": good[0]})
        assert answer.status_code == 303
        async for _ in rotation.rotate_keys(OTP(sessions, Device, secret_key=KEYS), 10):
            pass
        for url in ("smtps://me:{}@mail.example", "smtps://me:{}@mail.example/inbox"):
            with suppress(ConfigurationError):
                SMTPMailer(url.format(quote(PASSWORD)))
    assert not watch.found, "\n".join(sorted(watch.found))
    assert {"SealedSecretMixin._seal", "TOTPDeviceMixin.check_token", "_fits"} <= watch.seen


async def test_what_is_secret_in_a_hash_from_elsewhere_is_named_so(sessions: Sessions) -> None:
    """The same for the passwords that users brought along, and the salt of their site."""
    with watching() as watch:
        watch.needles.append(salt := "the salt of the site they were at")
        hashers = [DjangoHasher(weak=True, iterations=1), FlaskSecurityHasher(salt)]
        # With threads of its own: those from before are not watched.
        values = {"password_hashers": hashers, "password_queue": PasswordQueue()}
        otp = OTP(sessions, Device, secret_key=SECRET_KEY, **values)
        made = [
            *(DjangoHasher(format=name, iterations=1) for name in get_args(django.Format)),
            *(FlaskSecurityHasher(salt, format=name) for name in get_args(flask_security.Format)),
        ]
        stored = [hasher.hash(PASSWORD) for hasher in made]
        stored.append(f"md5$salt${hashlib.md5(f'salt{PASSWORD}'.encode()).hexdigest()}")
        request = Request({"type": "http", "headers": []})
        for number, password_hash in enumerate(stored):
            user = await add(sessions, User(username=f"user{number}", password_hash=password_hash))
            assert await otp.authenticate(request, user.username, PASSWORD), password_hash
            assert await otp.authenticate(request, user.username, "wrong") is None
    assert not watch.found, "\n".join(sorted(watch.found))
    assert {"Formats.look", "DjangoHasher.make", "argon2.<locals>.<lambda>"} <= watch.seen


OF_ASGI = re.compile(r": (request|conn|scope|send|websocket|app|_)$")
"""What every application holds, headers and all: trackers know those by their names."""


async def test_what_is_secret_in_json_is_named_so(
    otp: OTP, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for the JSON routes: bodies, answers, problems, and the tokens of bearers."""
    otp.password_is_enough = True
    with watching() as watch:
        needles = watch.needles
        needles.append(PASSWORD_OF_ALL)
        monkeypatch.setattr(EmailDevice, "mailer", box := Mailbox(watch))
        async with Client(make_api(otp), "bearer") as client:

            async def ask(method: str, path: str, body: Any = None, status: int = 200) -> Any:
                said = await client.ask(method, path, body, status)
                session = said.get("session", said)
                needles.extend(filter(None, map(session.get, ("access_token", "login"))))
                return said

            await ask("POST", "/session", {"username": "alice", "password": PASSWORD_OF_ALL})
            begun = await ask("POST", "/devices", {"kind": "totp"}, 201)
            needles.append(begun["setup"]["secret"])
            secret = base64.b32decode(begun["setup"]["secret"])
            needles.append(token := oath.hotp(secret, int(time.time() // 30)))
            path = f"/devices/{begun['device']['id']}/confirm"
            needles += (await ask("POST", path, {"token": token}))["recovery_codes"]
            mail = await ask("POST", "/devices", {"kind": "email", "email": "a@home.example"}, 201)
            await ask("POST", f"/devices/{mail['device']['id']}/confirm", {"token": box.token})
            needles += (codes := (await ask("POST", "/recovery-codes", status=201))["codes"])
            await ask("POST", "/session/token", {"token": codes[0]})
            await ask("POST", "/password", {"password": PASSWORD})
            await client.ask("DELETE", "/session", status=204)
            client.headers.pop("authorization", None)

            otp.password_is_enough = False
            said = await ask("POST", "/session", {"username": "alice", "password": PASSWORD})
            login = {"login": said["login"]}
            challenged = {"device": mail["device"]["id"], **login}
            await ask("POST", "/session/challenge", challenged)
            await client.refused("POST", "/session/token", {"token": codes[0], **login})
            await ask("POST", "/session/token", {"token": codes[1], **login})
    found = [one for one in sorted(watch.found) if not OF_ASGI.search(one)]
    assert not found, "\n".join(found)


def totp_at(device: Any, counter: int) -> str:
    return oath.hotp(SECRET, counter, device.digits)


async def statics(otp: OTP, user: User) -> list[Any]:
    return [d for d in await otp.devices_for_user(user) if isinstance(d, StaticDevice)]


async def test_the_watch_sees() -> None:
    """A secret under an innocent name would be found, and so it would be as an innocent item."""
    with watching() as watch:
        oath.canonical_digits(PASSWORD, 6)
        assert refusal_in_words({"error_message": PASSWORD}) == PASSWORD
    assert watch.found == {"refusal_in_words: evidence"}
