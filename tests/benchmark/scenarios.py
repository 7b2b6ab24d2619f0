"""What is measured: the requests of each scenario, and the answer that has to come."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyotp

from tests.benchmark.common import PASSWORD, SECRET, STEP
from tests.benchmark.data import Person

MAX_SECONDS = 25
"""A window's tokens are those of its start, which a tolerance of one step accepts that long."""


NOBODY = Person("", "", "")


@dataclass(frozen=True)
class Scenario:
    """One kind of request.

    Attributes:
        name: for the command line.
        title: for the table.
        path: of the request; with a body it is a POST.
        expected: the status of every answer.
        body: its JSON, of who sends it and the token of now.
        cookie: whether it has the cookie of a verified session.
        once: everybody sends one request a window; otherwise they begin anew.
        alone: only one person sends them.
        writes: what it changes has to be put back.
        at_least: seconds; a window of slow answers has to be longer to hold some.
        limit: the site that the others are compared with.
        bearer: where the site takes a bearer's token, it comes as that instead of the cookie.
    """

    name: str
    title: str
    path: str
    expected: int = 200
    body: Callable[[Person, str], dict[str, str]] | None = None
    cookie: bool = True
    once: bool = False
    alone: bool = False
    writes: bool = True
    at_least: int = 0
    limit: str = "bare"
    bearer: bool = False

    def requests(self, people: Sequence[Person]) -> list[bytes]:
        """The requests of a window that begins now, in the order in which they are sent."""
        token = right_token() if self.expected == 200 else wrong_token()
        if not self.cookie and not self.body:
            return [self._request(NOBODY, token)]
        senders = people[:1] if self.alone else people
        return [self._request(person, token) for person in senders]

    def _request(self, person: Person, token: str) -> bytes:
        body = json.dumps(self.body(person, token)) if self.body else ""
        lines = [f"{'POST' if body else 'GET'} {self.path} HTTP/1.1", "Host: 127.0.0.1"]
        if self.bearer and person.bearer:
            lines.append(f"Authorization: Bearer {person.bearer}")
        elif self.cookie:
            lines.append(f"Cookie: {person.cookie}")
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return "\r\n".join([*lines, "", body]).encode()


def _token(step: int) -> str:
    return pyotp.HOTP(base64.b32encode(SECRET).decode()).at(step)


def right_token() -> str:
    """The token of now, for every device."""
    return _token(int(time.time()) // STEP)


def wrong_token() -> str:
    """A token that no step near now has."""
    now = int(time.time()) // STEP
    near = {_token(step) for step in range(now - 5, now + 6)}
    return next(token for token in map("{:06}".format, range(100)) if token not in near)


def _of_device(person: Person, token: str) -> dict[str, str]:
    return {"device": person.device, "token": token}


def _of_user(person: Person, token: str) -> dict[str, str]:
    return {"username": person.username, "password": PASSWORD, "token": token}


SCENARIOS = [
    Scenario("public", "public page", "/public", cookie=False, writes=False, limit="plain"),
    Scenario("vault", "guarded page", "/vault", writes=False),
    Scenario("bearer", "guarded page, by bearer", "/vault", writes=False, bearer=True),
    Scenario("verify", "token accepted", "/verify", body=_of_device, once=True),
    Scenario("stepup", "accepted, session renewed", "/stepup", body=_of_device, once=True),
    Scenario("refused", "token refused", "/verify", 403, body=_of_device),
    Scenario("contended", "refused, all on one row", "/verify", 403, body=_of_device, alone=True),
    Scenario(
        "signin",
        "log-in (Argon2)",
        "/signin",
        body=_of_user,
        cookie=False,
        once=True,
        at_least=8,
    ),
]
