"""The hashers of other libraries: each of their formats, and what is none."""

import base64
import hashlib
import subprocess
import sys
import unicodedata
from typing import Any

import pytest
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from starlette_otp import ConfigurationError
from starlette_otp.exceptions import install_hint
from starlette_otp.hashers import DjangoHasher, FlaskSecurityHasher

PASSWORD = "pass of zoë"
LONG = "é" * 1000
SALT = "salt of a site"
# Made by Django 5.2, at low costs: of PASSWORD, and of LONG.
DJANGO = {
    "pbkdf2_sha256": (
        "pbkdf2_sha256$600$twUd3Q1Eo4YxCuvawrR9lf$ZXNUexoXzH40fwKPdGMUTr9ekfayEnd0lzXovauHVrI=",
        "pbkdf2_sha256$600$A058CED4NnkvBFAsBn2E8J$9yrynpirb5D8lMBwk/nqS9G9MDfBzSgougVTFwL/Nzc=",
    ),
    "pbkdf2_sha1": (
        "pbkdf2_sha1$600$Tsc4eShGxZxxXK0szw4Hwy$31U+ymyh1MBx6SwhOGhCyYxfXXo=",
        "pbkdf2_sha1$600$9a65AmLrjLFeA0gKlmqoJh$zQeJbPbWxdxgPauXg7y+glGOO58=",
    ),
    "argon2": (
        "argon2$argon2id$v=19$m=64,t=1,p=1$azNQSk1odUc2MVpCMTd2UXRZOTBMdw"
        "$uHikjm1mznlfnmSCWZu2BD2KmmGx3mTH1ZvJBTII+dQ",
        "argon2$argon2id$v=19$m=64,t=1,p=1$TGhnZmV0YTN0WDZ2VEVyZWR2WjdwMw"
        "$64TtQdkFtMUFVWIXP5v7uA9T76BegL1H6y048h57ouY",
    ),
    "bcrypt_sha256": (
        "bcrypt_sha256$$2b$04$QL/ARyfaL8Iy1S87FWogduwLra7.ykIji2OcRXtIrebyCZLrXK9Xq",
        "bcrypt_sha256$$2b$04$HKnQZeD1WNDrB6pyFHM4l.krLCX1PClYn/KB8DrfggR5QAV7vwP9W",
    ),
    "bcrypt": (
        "bcrypt$$2b$04$k1iFEOPoJ.6nayur1..c..X9vAkf.XsRGfsLGJ/8VzsVQxt/Ct5oq",
        "bcrypt$$2b$04$y80/4OlF2aTKQ0jBHene6ur9ibgAWShvlzl7wl8bdoDJkqTUsWXvS",
    ),
    "scrypt": (
        "scrypt$16384$lM4sVa7Zv80R0hdVplYF9W$8$5"
        "$a2HLT+7QZb+/E+l3EW+DhqRSPngaKGojX3+bn2VmeCBqodD3Mq6Od7sysb+jyRlvHHjDMiV8SqWtI5F6QLu1Kg==",
        "scrypt$16384$tqCjgNXVzfu9bxFY6LmRCE$8$5"
        "$9tvcGsEt/BjMMwfRy40bSLH3R77tvCTFNASXqb02GoCgbx4061DZB9JR+kXOvmGwHyzYAOedCZSbuj75fFKXfg==",
    ),
}
# Made by Flask-Security 5.9's way, with libpass 1.9.
FLASK = {
    "argon2": (
        "$argon2id$v=19$m=64,t=1,p=1$rPV+T0npvReC8N57D6HU2g"
        "$gfqWiDYOPlcF6+z+pGZK3EChkLCGH1WTpLPA17mF5TQ",
        "$argon2id$v=19$m=64,t=1,p=1$ZIxRCkEoxRgjREhp7f0fQw"
        "$7ttpQCcKuAfl05hBNaOK+YoImk6sFgu77LWmp3S4SSc",
    ),
    "bcrypt": (
        "$2b$04$/X.LYTZ.jZ/LBaGIpneFYO5me/ErDSrkyN/ZQYqRHS4bwARF8kUIi",
        "$2b$04$rhSVPWaMHm.izgCklJMcjumNTMqgVJP0XarJgD3fGRjsYpj9AbmAe",
    ),
    "pbkdf2_sha512": (
        "$pbkdf2-sha512$600$prQWAkAoRWjt3TtnzFlrDQ$6wPhDY0rDQJaneoMij5X2Pqxmp.UEoIAy5tOK8khpL0KYh"
        "/Ld8N04qEkXqOMAXZAYN.sDgkjRm/gFyIm83Qe.w",
        "$pbkdf2-sha512$600$uLf2ntNaC2EMgTCGEEKoNQ$eTsPiQS0xRvBQ7QAY3NCuNRKpz1rtZ172HPk.YLs0dtOS0"
        "XU/3mjaAR2M1L0Kvpzhn99A.x9n26Gmzo3wjvTcA",
    ),
    "pbkdf2_sha256": (
        "$pbkdf2-sha256$600$jPHe.1/LmfM.57w35hxDCA$GlUzQH5ptFxudn.Ic3n.6AZnLBKFEBlrkVV7zIHAWXE",
        "$pbkdf2-sha256$600$GMPYmxMipPT./1/L2btXqg$sCOKQomdU9iwWYiXfCBGMdUAkMmR1tCdt1.eZ66OuG4",
    ),
}
WEAK = {
    "md5": "md5$NhwVl7OC0fXDSfOUGFpBPk$e7be0a069ccf826b798e08bd1f3d6300",
    "sha1": f"sha1$oldsalt${hashlib.sha1(f'oldsalt{PASSWORD}'.encode()).hexdigest()}",
    "md5 without a salt": hashlib.md5(PASSWORD.encode()).hexdigest(),
    "md5 with an empty salt": f"md5$${hashlib.md5(PASSWORD.encode()).hexdigest()}",
}
# The first is quick, so that a wrong password is, too.
django = DjangoHasher(iterations=600)
flask = FlaskSecurityHasher(SALT)
CASES = [
    *((django, *hashes) for hashes in DJANGO.values()),
    *((flask, *hashes) for hashes in FLASK.values()),
]


def digest_of(size: int) -> str:
    return base64.b64encode(bytes(size)).decode()


@pytest.mark.parametrize(("hasher", "stored", "stored_long"), CASES)
def test_every_format_is_verified(hasher: Any, stored: str, stored_long: str) -> None:
    """The password of a hash that the other library has made is right and no other is, as text and
    as bytes of the two; one of 1,000 letters, too."""
    assert hasher.identify(stored)
    assert hasher.identify(stored.encode())
    assert hasher.verify(PASSWORD, stored)
    assert hasher.verify(PASSWORD, stored.encode())
    assert hasher.verify(LONG, stored_long)
    for wrong in ("", PASSWORD + "!", PASSWORD.upper(), stored, LONG):
        assert not hasher.verify(wrong, stored)


def test_bytes_are_a_password_as_they_are() -> None:
    """A password in bytes is in no form that could be another."""
    stored = DJANGO["pbkdf2_sha256"][0]
    assert django.verify(PASSWORD.encode(), stored)
    assert not django.verify(unicodedata.normalize("NFD", PASSWORD).encode(), stored)


@pytest.mark.parametrize(("hasher", "stored", "stored_long"), CASES)
def test_a_changed_hash_is_no_ones(hasher: Any, stored: str, stored_long: str) -> None:
    """Cut, or with a letter before or behind, a hash is right for nobody and no error."""
    for changed in (stored[:-4], stored[4:], f" {stored}", f"{stored}\n", f"{stored}$", stored * 2):
        assert not hasher.verify(PASSWORD, changed)


@pytest.mark.parametrize("name", WEAK)
def test_weak_formats_are_for_who_asks_for_them(name: str) -> None:
    """MD5 and SHA-1 are recognized by `weak=True` alone."""
    weak = DjangoHasher(weak=True, iterations=600)
    assert isinstance(weak, DjangoHasher)
    assert weak.identify(WEAK[name])
    assert weak.verify(PASSWORD, WEAK[name])
    assert not weak.verify(PASSWORD + "!", WEAK[name])
    assert weak.verify(PASSWORD, DJANGO["pbkdf2_sha256"][0])
    assert not django.identify(WEAK[name])
    assert not django.verify(PASSWORD, WEAK[name])


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_django_hashes_what_was_typed(form: Any) -> None:
    """A password that was hashed as it was typed is right as it was typed, and one that was hashed
    in NFC however it is typed."""
    typed = unicodedata.normalize(form, PASSWORD)
    assert django.verify(typed, django_of(typed))
    assert django.verify(typed, DJANGO["pbkdf2_sha256"][0])


def django_of(password: str) -> str:
    digest = hashlib.pbkdf2_hmac("sha256", password.encode(), b"salt", 600)
    return f"pbkdf2_sha256$600$salt${base64.b64encode(digest).decode()}"


def test_flask_security_normalizes_as_its_site_says() -> None:
    """NFKD is the default, in which ligatures are letters; a site may have set none."""
    spelled, ligature = "ﬁrst of zoë", "first of zoe\u0308"
    stored = flask.hash(spelled)
    assert flask.verify(spelled, stored)
    assert flask.verify(ligature, stored)
    as_typed = FlaskSecurityHasher(SALT, normal_form=None, format="pbkdf2_sha512")
    stored = as_typed.hash(spelled)
    assert as_typed.verify(spelled, stored)
    assert not as_typed.verify(ligature, stored)
    assert flask.verify(spelled, stored), "what a script has hashed without normalizing"


def test_another_sites_salt_is_another_hash() -> None:
    """Flask-Security's hashes look like Argon2 and are not; its salt is text or bytes."""
    stored = FLASK["argon2"][0]
    assert not Argon2Hasher().verify(PASSWORD, stored)
    assert not FlaskSecurityHasher("salt of another").verify(PASSWORD, stored)
    assert FlaskSecurityHasher(SALT.encode()).verify(PASSWORD, stored)
    assert SALT not in repr(flask)


@pytest.mark.parametrize("format", DJANGO)
def test_a_hash_in_djangos_format(format: Any) -> None:
    """A made hash is one of the format that was asked for, verifies, and is different each time."""
    hasher = DjangoHasher(format=format, iterations=600)
    stored = hasher.hash(PASSWORD)
    assert stored.startswith(f"{format}$")
    assert hasher.verify(PASSWORD, stored)
    assert not hasher.verify(PASSWORD + "!", stored)
    assert hasher.hash(PASSWORD) != stored
    salt = stored.split("$")[2].encode()
    if format.startswith("pbkdf2"):
        assert hasher.hash(PASSWORD, salt=salt) == stored
        assert stored.split("$")[1] == "600"


@pytest.mark.parametrize("format", FLASK)
def test_a_hash_in_flask_securitys_format(format: Any) -> None:
    """A made hash is one of the format that was asked for, and verifies."""
    hasher = FlaskSecurityHasher(SALT, format=format)
    stored = hasher.hash(LONG)
    assert stored.startswith(FLASK[format][0][:4])
    assert hasher.verify(LONG, stored)
    assert not hasher.verify(LONG + "!", stored)


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "!",
        "!9JLRHh1Yiidze7Zw2uqgwSRytdeusr16NgVW4CEr",
        "plain",
        "$",
        "pbkdf2_sha256",
        "pbkdf2_sha256$",
        "pbkdf2_sha256$0$salt$" + digest_of(32),
        "pbkdf2_sha256$-1$salt$" + digest_of(32),
        "pbkdf2_sha256$1e3$salt$" + digest_of(32),
        "pbkdf2_sha256$\u0661$salt$" + digest_of(32),
        "pbkdf2_sha256$10000001$salt$" + digest_of(32),
        "pbkdf2_sha256$" + "9" * 5000 + "$salt$" + digest_of(32),
        "pbkdf2_sha256$600$salt$" + digest_of(16),
        "pbkdf2_sha256$600$salt$not base 64",
        "pbkdf2_sha256$600$salt$",
        "pbkdf2_md5$600$salt$" + digest_of(16),
        "argon2$",
        "argon2$argon2id$v=19$m=9999999,t=1,p=1$c2FsdHNhbHQ$" + digest_of(32),
        "argon2$argon2id$v=19$m=102400,t=9999,p=1$c2FsdHNhbHQ$" + digest_of(32),
        "bcrypt$",
        "bcrypt$$2b$31$k1iFEOPoJ.6nayur1..c..X9vAkf.XsRGfsLGJ/8VzsVQxt/Ct5oq",
        "bcrypt$$2b$03$k1iFEOPoJ.6nayur1..c..X9vAkf.XsRGfsLGJ/8VzsVQxt/Ct5oq",
        "bcrypt_sha256$$2b$31$k1iFEOPoJ.6nayur1..c..X9vAkf.XsRGfsLGJ/8VzsVQxt/Ct5oq",
        "scrypt$16383$salt$8$5$" + digest_of(64),
        "scrypt$0$salt$8$5$" + digest_of(64),
        "scrypt$16384$salt$0$5$" + digest_of(64),
        "scrypt$1073741824$salt$8$5$" + digest_of(64),
        "scrypt$16384$salt$8$9999$" + digest_of(64),
        "scrypt$16384$salt$8$5$" + digest_of(32),
        "$pbkdf2-sha512$10000001$c2FsdA$" + digest_of(64).rstrip("="),
        "$pbkdf2-sha512$600$c2FsdA$AAAA",
        "$pbkdf2-sha512$600$a$" + digest_of(64).rstrip("="),
        "$pbkdf2-sha1$600$c2FsdA$" + digest_of(20).rstrip("="),
        "$2b$31$k1iFEOPoJ.6nayur1..c..X9vAkf.XsRGfsLGJ/8VzsVQxt/Ct5oq",
        "md5$salt$short",
        "0" * 31,
        b"pbkdf2_sha256$600$salt$\xff",
    ],
)
def test_what_is_no_hash_or_costs_too_much(stored: Any) -> None:
    """Unusable, empty, malformed and absurdly expensive hashes are recognized by nobody, match no
    password, themselves included, and take no time."""
    for hasher in (DjangoHasher(weak=True), FlaskSecurityHasher(SALT)):
        assert not hasher.identify(stored)
        for password in ("", PASSWORD, stored):
            assert not hasher.verify(password, stored)


class Iterations(list[int]):
    """How many of PBKDF2 a call has done."""


@pytest.fixture
def iterations(monkeypatch: pytest.MonkeyPatch) -> Iterations:
    done, made = Iterations(), hashlib.pbkdf2_hmac

    def counted(name: str, password: bytes, salt: bytes, count: int, *size: Any) -> bytes:
        done.append(count)
        return made(name, password, salt, count, *size)

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", counted)
    return done


def test_a_wrong_password_takes_as_long_as_a_new_hash(iterations: Iterations) -> None:
    """Of a hash with fewer iterations, or of a weak one, the time says nothing: what is missing is
    done after it was wrong. Of one with more there is nothing to do."""
    hasher = DjangoHasher(weak=True, iterations=1000)
    older = DJANGO["pbkdf2_sha256"][0]
    for stored, wanted in [(older, [600, 400]), (WEAK["md5"], [1000]), (DJANGO["bcrypt"][0], [])]:
        assert not hasher.verify("wrong", stored)
        assert iterations == wanted
        iterations.clear()
    assert hasher.verify(PASSWORD, older)
    assert iterations == [600]
    iterations.clear()
    for other in (DjangoHasher(iterations=599), DjangoHasher(format="argon2")):
        assert not other.verify("wrong", older)
    assert iterations == [600, 600]


def test_they_are_hashers_of_pwdlibs() -> None:
    """Behind an Argon2Hasher, a hash of theirs is verified and to be replaced."""
    ours = PasswordHash([Argon2Hasher(), django])
    is_right, replacement = ours.verify_and_update(PASSWORD, DJANGO["scrypt"][0])
    assert is_right
    assert replacement is not None
    assert ours.verify_and_update(PASSWORD, replacement) == (True, None)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DjangoHasher(iterations=0), "1 to 10,000,000, not 0"),
        (lambda: DjangoHasher(iterations=10**8), "not 100,000,000"),
        (lambda: DjangoHasher(format="md5"), "is one of pbkdf2_sha256, .* not 'md5'"),  # type: ignore[arg-type]
        (lambda: FlaskSecurityHasher(SALT, format="plaintext"), "not 'plaintext'"),  # type: ignore[arg-type]
        (lambda: FlaskSecurityHasher(""), "SECURITY_PASSWORD_SALT"),
        (lambda: FlaskSecurityHasher(None), "SECURITY_PASSWORD_SALT"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_setting_is_said(make: Any, said: str) -> None:
    """No such format, no such number, no salt: a sentence that says what there is."""
    with pytest.raises(ConfigurationError, match=said):
        make()


def test_a_missing_library_is_named() -> None:
    """Without bcrypt the import says which extra brings it."""
    script = "import sys; sys.modules['bcrypt'] = None; import starlette_otp.hashers"
    missing = """
import sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "bcrypt":
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Finder())
import starlette_otp.hashers
"""
    for text in (script, missing):
        shown = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
        assert f"starlette_otp.hashers needs bcrypt: {install_hint('django')}" in shown.stderr
