"""Sites of allauth, two-factor and Flask-Security: what is read from tables of their shapes."""

import asyncio
import base64
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from starlette_otp import OTP, oath
from starlette_otp.cli import main
from tests.moving.old import KEY, Old, at
from tests.support import SECRET_KEY, Sessions

SECRET = bytes.fromhex(KEY)
ALLAUTH = """
CREATE TABLE auth_user (id int PRIMARY KEY, username varchar(150), password varchar(128) DEFAULT '',
    email varchar(254));
CREATE TABLE mfa_authenticator (
    id bigint PRIMARY KEY, user_id int NOT NULL REFERENCES auth_user, type varchar(20),
    data jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), last_used_at timestamptz
)
"""
FLASK = """
CREATE TABLE "user" (
    id int PRIMARY KEY, email varchar(255), username varchar(255), password varchar(255),
    active bool NOT NULL DEFAULT true, create_datetime timestamp NOT NULL DEFAULT now(),
    tf_primary_method varchar(64), tf_totp_secret varchar(255), tf_phone_number varchar(128),
    mf_recovery_codes text
)
"""


@pytest.fixture
def old(empty_url: str, tmp_path: Path) -> Old:
    return Old(empty_url, tmp_path)


async def run(old: Old, database_url: str, command: str, *options: str) -> Result:
    env = {"DATABASE_URL": database_url, "SECRET_KEY": SECRET_KEY}
    arguments = [command, "--from", old.url, "--report", str(old.report_file), "--yes"]
    arguments += ["--users", "create", *options]
    return await asyncio.to_thread(CliRunner().invoke, main, arguments, env=env)


async def test_allauth(otp: OTP, old: Old, sessions: Sessions, database_url: str) -> None:
    """An app, codes from their seed less those that were used, and codes that were migrated."""
    await old.run(ALLAUTH)
    now = time.time()
    for number, name in enumerate(("ann", "ben", "cat"), 1):
        await old.add("auth_user", id=number, username=name, email=f"{name}@old.example")
    app = {"secret": base64.b32encode(SECRET).decode()}
    seeded, migrated = {"seed": "ab" * 40, "used_mask": 5}, {"migrated_codes": ["abcd-1234"]}
    rows: list[tuple[int, str, Any]] = [
        (1, "totp", app),
        (1, "recovery_codes", seeded),
        (2, "recovery_codes", migrated),
        (3, "webauthn", {}),
    ]
    for number, (user, kind, data) in enumerate(rows, 1):
        used_at = at(now - 30) if kind == "totp" else None
        row = {"id": number, "user_id": user, "type": kind, "data": json.dumps(data)}
        await old.add("mfa_authenticator", **row, last_used_at=used_at)
    settings = old.report_file.parent / "settings"
    settings.write_text('{"MFA_TOTP_TOLERANCE": 1}')
    result = await run(old, database_url, "import-allauth", "--settings", str(settings))
    assert (result.exit_code, "here: cat (3)" in result.output) == (1, True), result.output
    options = ("--settings", str(settings), "--unprotected", "skip")
    result = await run(old, database_url, "import-allauth", *options)
    assert result.exit_code == 3, result.output
    ann: Any = await otp.find_user("ann")
    device, codes = await otp.devices_for_user(ann)
    step = oath.time_step(now)
    assert (device.secret, device.tolerance, device.last_t) == (SECRET, 1, step - 1)
    assert await otp.recovery_codes_left(ann) == 8
    # The second of ten; the first was used.
    assert await otp.verify_token(ann, codes.persistent_id, "17884826")
    assert not await otp.verify_token(ann, codes.persistent_id, "30590342")
    ben: Any = await otp.find_user("ben")
    assert await otp.match_token(ben, "ABCD1234")
    assert await otp.find_user("cat") is None
    settings.write_text('{"MFA_TOTP_DIGITS": "six"}')
    result = await run(old, database_url, "import-allauth", "--settings", str(settings))
    assert (result.exit_code, "MFA_TOTP_DIGITS is a number" in result.output) == (1, True)


def sealed(secret: str, cost: int = 4, tag: str = "1") -> str:
    """A key as passlib's wallet keeps it."""
    salt = os.urandom(12)
    derived = hashlib.pbkdf2_hmac("sha256", secret.encode(), salt, 1 << min(cost, 14), 48)
    text = Cipher(AES(derived[:32]), CTR(derived[32:])).encryptor().update(SECRET)
    encoded = {"k": base64.b32encode(text).decode(), "s": base64.b32encode(salt).decode()}
    enckey = {"c": cost, "t": tag, "v": 1, **{n: t.rstrip("=") for n, t in encoded.items()}}
    return json.dumps({"enckey": enckey, "type": "totp", "v": 1})


async def test_flask_security(otp: OTP, old: Old, sessions: Sessions, database_url: str) -> None:
    """The key opened with the site's, and recovery codes by Fernet; others are told of."""
    await old.run(FLASK)
    fernet_key = Fernet.generate_key()
    hidden = Fernet(fernet_key).encrypt(b"abcd-efgh-jkmn").decode()
    rows = {
        "ann": {
            "tf_totp_secret": sealed("site secret"),
            "mf_recovery_codes": f"{hidden},plain-one",
        },
        "ben": {"tf_totp_secret": sealed("site secret", tag="9")},
        "cat": {"tf_totp_secret": sealed("site secret", cost=40)},
        "dan": {"tf_totp_secret": "garbage"},
        "eve": {"tf_primary_method": "sms", "tf_phone_number": "+15555550100"},
        "fay": {"tf_primary_method": None},
    }
    for name, values in rows.items():
        made = {"tf_primary_method": "authenticator", "email": f"{name}@old.example", **values}
        await old.add('"user"', username=name, **made)
    settings = old.report_file.parent / "settings"
    settings.write_text(
        json.dumps(
            {
                "SECURITY_TOTP_SECRETS": {"1": "site secret"},
                "SECURITY_MULTI_FACTOR_RECOVERY_CODES_KEYS": [fernet_key.decode()],
            }
        )
    )
    result = await run(old, database_url, "import-flask-security")
    assert (result.exit_code, "SECURITY_TOTP_SECRETS" in result.output) == (1, True)
    options = ("--settings", str(settings), "--unprotected", "deactivate")
    result = await run(old, database_url, "import-flask-security", *options)
    assert result.exit_code == 3, result.output
    ann: Any = await otp.find_user("ann@old.example")
    device, codes = await otp.devices_for_user(ann)
    assert (device.secret, device.tolerance) == (SECRET, 1)
    assert await otp.verify_token(ann, codes.persistent_id, "ABCD-efgh-jkmn")
    assert not await otp.verify_token(ann, codes.persistent_id, "plain-one")
    told = {line["user"]: line for line in old.report().values() if line["kind"] != "user"}
    assert "--settings does not have" in told["2"]["reason"]
    assert "--settings does not have" in told["3"]["reason"]
    assert "can't be read" in told["4"]["reason"]
    assert told["5"]["outcome"] == "refused"
    for name, is_active in (("ann", True), ("ben", False), ("eve", False), ("fay", True)):
        user: Any = await otp.find_user(f"{name}@old.example")
        assert user.is_active == is_active, name
    assert "plain-one" not in old.report_file.read_text() + result.output


async def test_two_factor_is_django(
    otp: OTP, old: Old, sessions: Sessions, database_url: str
) -> None:
    """With a table of phones, for which a kind can be named."""
    await old.make()
    await old.run(
        "CREATE TABLE two_factor_phonedevice (id int PRIMARY KEY, "
        "user_id int REFERENCES auth_user, "
        "name varchar(64), confirmed bool, number varchar(30), key varchar(40), method varchar(4))"
    )
    ann = await old.user("ann")
    await old.app(ann, name="default")
    phone = {"name": "backup", "confirmed": True, "number": "+15555550100", "key": KEY}
    number = await old.add("two_factor_phonedevice", user_id=ann, **phone, method="sms")
    result = await run(old, database_url, "import-two-factor")
    assert result.exit_code == 3, result.output
    assert old.outcomes[f"two_factor.phonedevice/{number}"] == "refused"
    into = "two_factor_phonedevice=email:number=email"
    result = await run(old, database_url, "import-two-factor", "--kind", into)
    line = old.report()[f"two_factor.phonedevice/{number}"]
    # A number is no address: the kind's own rule.
    assert (line["outcome"], "mail address" in line["reason"]) == ("refused", True)


async def test_older_allauth(otp: OTP, old: Old, sessions: Sessions, database_url: str) -> None:
    """Whose table had no times; and settings that no site can have had."""
    await old.run(ALLAUTH)
    await old.run("ALTER TABLE mfa_authenticator DROP created_at, DROP last_used_at")
    await old.add("auth_user", id=1, username="ann")
    app = json.dumps({"secret": base64.b32encode(SECRET).decode()})
    await old.add("mfa_authenticator", user_id=1, type="totp", data=app)
    settings = old.report_file.parent / "settings"
    settings.write_text('{"MFA_TOTP_PERIOD": 0}')
    result = await run(old, database_url, "import-allauth", "--settings", str(settings))
    said = "MFA_TOTP_PERIOD is a number from 1 to 3600"
    assert (result.exit_code, said in result.output) == (1, True), result.output
    result = await run(old, database_url, "import-allauth")
    assert result.exit_code == 0, result.output
    (device,) = await otp.devices_for_user(await otp.find_user("ann"))
    assert (device.secret, device.last_t) == (SECRET, -1)


WEBAUTHN = """
CREATE TABLE {table} (id int PRIMARY KEY, credential_id bytea, public_key bytea, usage varchar(64),
    name varchar(64), user_id int REFERENCES "user")
"""


@pytest.mark.parametrize("table", ["webauthn", "web_authn"])
async def test_security_keys_of_flask_security(
    otp: OTP, old: Old, sessions: Sessions, database_url: str, table: str
) -> None:
    """Who had one for a second factor is named; one for the first was none."""
    await old.run(FLASK + ";" + WEBAUTHN.format(table=table))
    settings = old.report_file.parent / "settings"
    settings.write_text('{"SECURITY_TOTP_SECRETS": {"1": "site secret"}}')
    for number, (name, usage) in enumerate((("ann", "secondary"), ("ben", "first")), 1):
        await old.add('"user"', id=number, email=f"{name}@old.example")
        await old.add(table, id=number, user_id=number, usage=usage)
    options = ("--settings", str(settings))
    result = await run(old, database_url, "import-flask-security", *options)
    assert (result.exit_code, "here: ann@old.example (1)." in result.output) == (1, True)
    options += ("--unprotected", "skip")
    assert (await run(old, database_url, "import-flask-security", *options)).exit_code == 3
    assert old.outcomes[f"{table}/1"] == "refused"
    assert await otp.find_user("ann@old.example") is None
    assert await otp.find_user("ben@old.example") is not None


async def test_another_method_at_flask_security(
    otp: OTP, old: Old, sessions: Sessions, database_url: str
) -> None:
    """One row for whichever method: another one since is another device."""
    await old.run(FLASK)
    settings = old.report_file.parent / "settings"
    settings.write_text('{"SECURITY_TOTP_SECRETS": {"1": "site secret"}}')
    app = {"tf_primary_method": "authenticator", "tf_totp_secret": sealed("site secret")}
    await old.add('"user"', id=1, email="ann@old.example", **app)
    options = ("--settings", str(settings))
    assert (await run(old, database_url, "import-flask-security", *options)).exit_code == 0
    await old.run("UPDATE \"user\" SET tf_primary_method = 'email'")
    result = await run(old, database_url, "import-flask-security", *options)
    assert result.exit_code == 0, result.output
    devices = await otp.devices_for_user(await otp.find_user("ann@old.example"))
    assert [device.kind for device in devices] == ["totp", "email"]


async def test_catching_up_without_the_right_keys(
    otp: OTP, old: Old, sessions: Sessions, database_url: str
) -> None:
    """Codes that don't open are not known to be spent: those here stay."""
    await old.run(FLASK)
    fernet_key = Fernet.generate_key()
    codes = ",".join(Fernet(fernet_key).encrypt(c).decode() for c in (b"abcd-efgh", b"jkmn-pqrs"))
    await old.add('"user"', id=1, email="ann@old.example", mf_recovery_codes=codes)
    settings = old.report_file.parent / "settings"
    options = ("--settings", str(settings), "--catch-up")
    for key, code in ((fernet_key, 0), (Fernet.generate_key(), 3), (fernet_key, 0)):
        keys = {"SECURITY_MULTI_FACTOR_RECOVERY_CODES_KEYS": [key.decode()]}
        settings.write_text(json.dumps({"SECURITY_TOTP_SECRETS": {"1": "site secret"}, **keys}))
        result = await run(old, database_url, "import-flask-security", *options)
        assert result.exit_code == code, result.output
    user: Any = await otp.find_user("ann@old.example")
    assert await otp.recovery_codes_left(user) == 2


async def test_catching_up_with_one_key_of_two(
    otp: OTP, old: Old, sessions: Sessions, database_url: str
) -> None:
    """Codes under the other one may be there still: none is deleted here."""
    await old.run(FLASK)
    keys = [Fernet.generate_key() for _ in range(2)]
    pairs = zip(keys, (b"abcd-efgh", b"jkmn-pqrs"), strict=True)
    codes = ",".join(Fernet(key).encrypt(code).decode() for key, code in pairs)
    await old.add('"user"', id=1, email="ann@old.example", mf_recovery_codes=codes)
    settings = old.report_file.parent / "settings"
    for given in (keys, keys[:1]):
        names = {"SECURITY_TOTP_SECRETS": {"1": "site secret"}}
        fernet = [key.decode() for key in given]
        text = json.dumps({**names, "SECURITY_MULTI_FACTOR_RECOVERY_CODES_KEYS": fernet})
        settings.write_text(text)
        options = ("--settings", str(settings), "--catch-up")
        result = await run(old, database_url, "import-flask-security", *options)
        assert result.exit_code == 0, result.output
    assert await otp.recovery_codes_left(await otp.find_user("ann@old.example")) == 2


@pytest.mark.parametrize(
    ("kind", "data"),
    [("totp", '{"secret": 5}'), ("totp", "[]"), ("recovery_codes", '"x"'), (None, "{}")],
)
async def test_odd_rows_of_allauth(
    otp: OTP, old: Old, sessions: Sessions, database_url: str, kind: str | None, data: str
) -> None:
    """They are refused, each with its owner's name."""
    await old.run(ALLAUTH)
    await old.add("auth_user", id=1, username="ann")
    await old.add("mfa_authenticator", user_id=1, type=kind, data=data)
    result = await run(old, database_url, "import-allauth")
    assert (result.exit_code, "here: ann (1)" in result.output) == (1, True), result.output
