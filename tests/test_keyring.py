"""Keys derived from the application's secret."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from starlette.datastructures import Secret

from starlette_otp.exceptions import ConfigurationError
from starlette_otp.keyring import Keyring
from tests.support import OTHER_KEY, SECRET, SECRET_KEY

NOW = datetime(2030, 1, 1, tzinfo=UTC)
RING = Keyring(SECRET_KEY)
OTHER = Keyring(OTHER_KEY)
ROTATED = Keyring([OTHER_KEY, SECRET_KEY])
ROW = {"kind": "totp", "owner": "1"}


@pytest.mark.parametrize("keys", ["", "k" * 31, [], [SECRET_KEY, "short"], Secret("short")])
def test_a_short_key_is_refused(keys: object) -> None:
    """No key, or one under 32 characters among several, is an error in one sentence."""
    with pytest.raises(ConfigurationError, match="32 characters"):
        Keyring(keys)


@pytest.mark.parametrize(
    "key", ["a" * 32, "changeme" * 4, "0123456701234567" * 2, "12345678" * 4, "secret key! " * 3]
)
def test_a_key_of_few_characters_is_refused(key: str) -> None:
    """A key of few different characters, or of one text over and over, is no key, in a sentence."""
    for keys in (key, [SECRET_KEY, key], Secret(key)):
        with pytest.raises(ConfigurationError, match="few different characters"):
            Keyring(keys)


@pytest.mark.parametrize("make", [secrets.token_hex, secrets.token_urlsafe])
def test_a_key_that_was_drawn_is_none_of_those(make: Callable[[int], str]) -> None:
    """Keys as `secrets` makes them are taken."""
    for _ in range(50):
        Keyring(make(32))


@pytest.mark.parametrize("keys", [SECRET_KEY, Secret(SECRET_KEY), (SECRET_KEY, Secret(OTHER_KEY))])
def test_texts_and_starlette_secrets_are_keys(keys: object) -> None:
    """A key is a text or Starlette's Secret, alone or in a sequence."""
    ring = Keyring(keys)
    assert ring.open(ring.seal(SECRET, **ROW), **ROW) == SECRET


def test_a_sealed_secret_opens_for_its_own_row_only() -> None:
    """Owner and kind are inside the sealed text: for another row it does not open."""
    sealed = RING.seal(SECRET, **ROW)
    assert RING.open(sealed, **ROW) == SECRET
    assert RING.open(sealed, kind="totp", owner="2") is None
    assert RING.open(sealed, kind="totp", owner="") is None
    assert RING.open(sealed, kind="static", owner="1") is None
    assert RING.open(RING.seal(SECRET, kind="totp", owner="11"), **ROW) is None
    assert RING.seal(SECRET, **ROW) != sealed, "equal secrets look different"


@pytest.mark.parametrize("damage", ["", "x", "truncated", "flipped", "\0", "é", "\ud800"])
def test_a_damaged_text_does_not_open(damage: str) -> None:
    """Whatever stands in the row instead of what was sealed opens to nothing, without an error."""
    sealed = RING.seal(SECRET, **ROW)
    flipped = sealed[:40] + ("A" if sealed[40] != "A" else "B") + sealed[41:]
    assert (
        RING.open({"truncated": sealed[:-5], "flipped": flipped}.get(damage, damage), **ROW) is None
    )


def test_old_keys_still_open_and_the_first_key_seals() -> None:
    """After a rotation the old key's secrets, digests and tickets are still good; new are new."""
    assert ROTATED.open(RING.seal(SECRET, **ROW), **ROW) == SECRET
    assert RING.open(ROTATED.seal(SECRET, **ROW), **ROW) is None
    assert OTHER.open(ROTATED.seal(SECRET, **ROW), **ROW) == SECRET
    assert ROTATED.digests("session", "x") == [
        *OTHER.digests("session", "x"),
        *RING.digests("session", "x"),
    ]
    assert ROTATED.digest_matches("session", "x", RING.digests("session", "x")[0])
    assert ROTATED.read_ticket(RING.make_ticket({"user": 1}, NOW), NOW, 300) == {"user": 1}
    assert RING.read_ticket(ROTATED.make_ticket({"user": 1}, NOW), NOW, 300) is None
    assert ROTATED.csrf == [*RING.csrf, *OTHER.csrf], "itsdangerous signs with the last"


def test_digests_of_two_purposes_differ() -> None:
    """A digest made for one purpose or value is worthless for another."""
    digest = RING.digests("session", "x")[0]
    assert len(digest) == 64
    assert RING.digest_matches("session", "x", digest)
    assert not RING.digest_matches("password", "x", digest)
    assert not RING.digest_matches("session", "y", digest)
    assert not OTHER.digest_matches("session", "x", digest)


def test_what_has_another_name_is_worth_nothing() -> None:
    """Digests, tickets and browsers' cookies of one OTP are worth nothing at another of the same
    key; device secrets open, so that a table can be renamed."""
    own, other = Keyring(SECRET_KEY, "otp_device"), Keyring(SECRET_KEY, "club.otp_device")
    assert not other.digest_matches("session", "x", own.digests("session", "x")[0])
    assert other.read_ticket(own.make_ticket({"user": 1}, NOW), NOW, 300) is None
    assert own.browsers != other.browsers
    assert other.open(own.seal(SECRET, **ROW), **ROW) == SECRET
    assert RING.open(own.seal(SECRET, **ROW), **ROW) == SECRET
    assert own.csrf == other.csrf


def test_a_ticket_is_good_for_its_time() -> None:
    """A ticket opens until it is too old, never if it comes from the future, and can't be read."""
    ticket = RING.make_ticket({"user": "alice"}, NOW)
    assert "alice" not in ticket
    assert RING.read_ticket(ticket, NOW + timedelta(seconds=300), 300) == {"user": "alice"}
    assert RING.read_ticket(ticket, NOW + timedelta(seconds=301), 300) is None
    assert RING.read_ticket(ticket, NOW - timedelta(hours=1), 300) is None


@pytest.mark.parametrize(
    "forged",
    [None, 5, "", "x" * 200, "é", "\ud800", pytest.param(RING.seal(SECRET, **ROW), id="secret")],
)
def test_what_is_no_ticket_is_none(forged: object) -> None:
    """Anything but a ticket is none, a secret sealed under the same application key included."""
    assert RING.read_ticket(forged, NOW, 300) is None
