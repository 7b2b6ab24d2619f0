"""What the application's own columns and constraints refuse: told before anything is written, or,
where only the database knows of it, of one user and not of a batch."""

import base64
import json
import os
import stat
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, make_url, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from starlette_otp import OTP, oath
from starlette_otp.models import Device, User
from starlette_otp.moving.write import Writer
from tests.moving.old import CREATE, KEY, OTHER_KEY, Old, Run
from tests.support import SECRET_KEY, Sessions, make_user

MFA = """
CREATE TABLE mfa_authenticator (id int PRIMARY KEY, user_id int REFERENCES auth_user,
    type varchar(20), data jsonb)
"""
HOST = """
import os
from sqlalchemy import Index, MetaData, String, func
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool
from starlette_otp import OTP
from starlette_otp.devices import *

class Base(DeclarativeBase):
    metadata = MetaData(schema="club")

class Person(Base):
    __tablename__ = "person"
    id: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(unique=True)
    email: Mapped[str | None] = mapped_column(String(30), {unique})
    {password}: Mapped[str] = mapped_column(default="")
    {more}

class Device(DeviceMixin, Base):
    __user_model__ = Person
    {column}

class TOTPDevice(TOTPDeviceMixin, Device): ...

class EmailDevice(EmailDeviceMixin, Device): ...

class SMSDevice(SideChannelDeviceMixin, Device):
    number: Mapped[str | None] = mapped_column(String(12))
    turns: Mapped[int | None]
    async def deliver(self, token, **context): ...

class OTPSession(OTPSessionMixin, Base):
    __device_model__ = Device

engine = create_async_engine(os.environ["HOST_DATABASE"], poolclass=NullPool)
otp = OTP(async_sessionmaker(engine), Device, secret_key=os.environ["HOST_KEY"])
"""


class Host:
    """An application of its own, with columns as a test wants them."""

    def __init__(self, folder: Path, url: str, engine: AsyncEngine) -> None:
        self._folder, self._url, self._engine = folder, url, engine

    async def make(
        self,
        monkeypatch: pytest.MonkeyPatch,
        unique: str = "",
        more: str = "",
        column: str = "",
        password: str = "password_hash",
    ) -> tuple[tuple[str, str], dict[str, str]]:
        """The option and the environment that a command wants for it."""
        name = f"host_{uuid.uuid4().hex}"
        source = HOST.replace("{unique}", unique).replace("{more}", more)
        source = source.replace("{password}", password)
        (self._folder / f"{name}.py").write_text(source.replace("{column}", column))
        monkeypatch.syspath_prepend(self._folder)
        env = {"HOST_DATABASE": self._url, "HOST_KEY": SECRET_KEY}
        for variable, value in env.items():
            monkeypatch.setenv(variable, value)
        module = __import__(name)
        async with self._engine.begin() as connection:
            await connection.execute(text("CREATE SCHEMA club"))
            await connection.run_sync(module.Base.metadata.create_all)
        return ("--app", f"{name}:otp"), env

    async def names(self) -> list[str]:
        async with self._engine.connect() as connection:
            found = await connection.execute(text("SELECT username FROM club.person ORDER BY 1"))
            return list(found.scalars())


@pytest.fixture
def host(engine: AsyncEngine, database_url: str, tmp_path: Path) -> Host:
    return Host(tmp_path, database_url, engine)


async def names(sessions: Sessions) -> list[str]:
    async with sessions() as session:
        return list(await session.scalars(select(User.username).order_by(User.username)))


async def test_too_long_for_a_column(otp: OTP, old: Old, run: Run, sessions: Sessions) -> None:
    """One user is refused, and told of before any batch is written."""
    await old.run("ALTER TABLE auth_user ALTER email TYPE text")
    for name, email in (("ann", "a@b.example"), ("ben", 300 * "b"), ("cat", "c@d.example")):
        await old.app(await old.user(name, email=email))
    result = await run(*CREATE, "--batch", "1", "--dry-run")
    assert result.exit_code == 3, result.output
    assert "The email has more than 254 characters." in result.output
    assert (await run(*CREATE, "--batch", "1")).exit_code == 3
    assert await names(sessions) == ["ann", "cat"]


async def test_what_only_the_database_knows(
    otp: OTP, old: Old, run: Run, sessions: Sessions, engine: AsyncEngine
) -> None:
    """A constraint that no model declares: the others of the batch come, and who does not is
    named."""
    async with engine.begin() as connection:
        await connection.execute(
            text("ALTER TABLE otp_user ADD CONSTRAINT no_ben CHECK (username <> 'ben')")
        )
    for name in ("ann", "ben", "cat"):
        await old.app(await old.user(name))
    result = await run(*CREATE)
    assert result.exit_code == 3, result.output
    assert "whom the database refused: ben (3)" in result.output
    assert "no_ben" in old.report()["auth_user/3"]["reason"]
    assert await names(sessions) == ["ann", "cat"]
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(Device)) == 2
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE otp_user DROP CONSTRAINT no_ben"))
    result = await run(*CREATE)
    assert result.exit_code == 0, result.output
    assert await names(sessions) == ["ann", "ben", "cat"]


@pytest.mark.parametrize("unique", ["unique=True", ""], ids=["column", "index"])
async def test_addresses_that_are_unique_here(
    old: Old, run: Run, host: Host, monkeypatch: pytest.MonkeyPatch, unique: str
) -> None:
    """Two of one address would be refused by the host's table: neither comes; none is no address
    and no clash."""
    index = '__table_args__ = (Index("one_address", func.lower(email), unique=True),)'
    app, env = await host.make(monkeypatch, unique, "" if unique else index)
    for name, email in (("ann", "a@b.example"), ("ben", "a@b.example"), ("cat", None)):
        await old.app(await old.user(name, email=email))
    await old.app(await old.user("dan", email=None))
    result = await run(*CREATE, *app, "--batch", "1", **env)
    assert result.exit_code == 3, result.output
    assert "Several users there would have one email here." in result.output
    assert await host.names() == ["cat", "dan"]


MISSING = {
    "column": ("nick: Mapped[str]", "Person.nick is missing"),
    "constructor": ("def __init__(self, nick, **values): super().__init__(**values)", "'nick'"),
}


@pytest.mark.parametrize(("more", "said"), MISSING.values(), ids=MISSING)
async def test_users_who_want_more(
    old: Old, run: Run, host: Host, monkeypatch: pytest.MonkeyPatch, more: str, said: str
) -> None:
    """Users that can't be made of what there is: one sentence."""
    app, env = await host.make(monkeypatch, more=more)
    await old.app(await old.user("ann"))
    result = await run(*CREATE, *app, **env)
    assert (result.exit_code, said in result.output) == (1, True), result.output
    assert "Traceback" not in result.output


FILLED = """
    made: Mapped[str] = mapped_column(server_default="now")
    role: Mapped[Role]

    def __init__(self, **values):
        super().__init__(made=None, role=Role.MEMBER, **values)
"""


async def test_users_who_fill_in_the_rest(
    old: Old, run: Run, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SQLModel does: None where the table has a default, and members of an Enum."""
    role = "import enum\nRole = enum.Enum('Role', ['MEMBER'])\n\nclass Base("
    monkeypatch.setitem(globals(), "HOST", HOST.replace("class Base(", role))
    app, env = await host.make(monkeypatch, more=FILLED)
    await old.app(await old.user("ann", email="a@b.example"))
    result = await run(*CREATE, *app, **env)
    assert result.exit_code == 0, result.output
    assert await host.names() == ["ann"]


async def test_columns_of_a_kind(
    old: Old, run: Run, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that is too long, or no number: its owner is named, the number is not."""
    app, env = await host.make(monkeypatch)
    ann = await old.user("ann")
    await old.add("otp_twilio_twiliosmsdevice", user_id=ann, number="+1555555010099")
    for into, reason in (("number", "more than 12 characters"), ("number=turns", "is no number")):
        kind = ("--kind", f"otp_twilio_twiliosmsdevice=sms:{into}")
        result = await run(*CREATE, *app, *kind, **env)
        assert (result.exit_code, reason in result.output) == (1, True), result.output
        assert "here: ann (1)" in result.output
        assert "+1555" not in result.output + old.report_file.read_text()


async def test_a_column_of_all_devices(
    old: Old, run: Run, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That can't be empty, and nobody fills."""
    app, env = await host.make(monkeypatch, column="club: Mapped[str]")
    await old.app(await old.user("ann"))
    result = await run(*CREATE, *app, **env)
    assert (result.exit_code, "TOTPDevice.club is missing" in result.output) == (1, True)


async def test_mail_without_a_mailer(
    old: Old, run: Run, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It protects nobody in an application that can't send any."""
    app, env = await host.make(monkeypatch)
    await old.add("otp_email_emaildevice", user_id=await old.user("ann", email="a@b.example"))
    result = await run(*CREATE, *app, **env)
    assert (result.exit_code, "here: ann (1)" in result.output) == (1, True), result.output
    assert "EmailDevice has no mailer" in result.output


async def test_keys_of_one_spelling(otp: OTP, old: Old, run: Run, sessions: Sessions) -> None:
    """Texts there that are one number here are two users there: neither is this one."""
    user = await make_user(sessions, "ann")
    await old.run("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await old.make("people", "varchar(20)")
    for key, secret in ((str(user.id), KEY), (f"0{user.id}", OTHER_KEY)):
        await old.app(await old.user(f"ann{key}", id=key), secret, id=int(secret[:2]))
    result = await run()
    assert (result.exit_code, "key of one here" in result.output) == (3, True), result.output
    assert await otp.devices_for_user(user) == []


ELSEWHERE = "__user_model__ = None\n    user_id: Mapped[int] = mapped_column(index=True)"


async def test_keys_of_one_spelling_elsewhere(
    old: Old, run: Run, host: Host, monkeypatch: pytest.MonkeyPatch, engine: AsyncEngine
) -> None:
    """The same where the application's users are not in its database."""
    app, env = await host.make(monkeypatch, column=ELSEWHERE)
    await old.run("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await old.make("people", "varchar(20)")
    for key, secret in (("7", KEY), ("07", OTHER_KEY), ("8", KEY)):
        await old.app(await old.user(f"ann{key}", id=key), secret)
    result = await run(*app, **env)
    assert (result.exit_code, "key of one here" in result.output) == (3, True), result.output
    async with engine.connect() as connection:
        found = await connection.execute(text("SELECT user_id FROM club.otp_device"))
        assert list(found.scalars()) == [8]


@pytest.mark.parametrize(
    ("there", "here", "code"),
    [
        ("Boss@\N{KELVIN SIGN}.example", "boss@k.example", 3),
        ("boss@k.example", "boss@\N{KELVIN SIGN}.example", 3),
        ("BÖSS@K.example", "böss@k.example", 0),
    ],
)
async def test_addresses_that_look_alike(
    otp: OTP, old: Old, run: Run, sessions: Sessions, there: str, here: str, code: int
) -> None:
    """Whoever has another address is another person, though both be one in small letters."""
    boss = await make_user(sessions, "boss", email=here)
    await old.app(await old.user("mallory", email=there))
    result = await run("--users", "match", "--match", "email")
    assert result.exit_code == code, result.output
    assert len(await otp.devices_for_user(boss)) == (code == 0)


async def test_tables_without_constraints(otp: OTP, old: Old, run: Run, sessions: Sessions) -> None:
    """A device whose owner no foreign key names, with a key of another name, is a factor, too."""
    await old.run(
        "CREATE TABLE shop_pagerdevice (serial int PRIMARY KEY, user_id text, name text, "
        "confirmed bool)"
    )
    ann = await old.user("ann")
    await old.run("INSERT INTO shop_pagerdevice VALUES (7, $1, 'Pager', true)", str(ann))
    result = await run(*CREATE)
    assert (result.exit_code, f"here: ann ({ann})" in result.output) == (1, True), result.output
    assert old.outcomes["shop.pagerdevice/7"] == "refused"


async def test_a_kind_of_rows_without_a_key(
    old: Old, run: Run, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second would be taken for the first, moved already: it is refused before."""
    app, env = await host.make(monkeypatch)
    await old.run("CREATE TABLE shop_pagerdevice (user_id int, name text, confirmed bool)")
    for name in ("ann", "ben"):
        user = await old.user(name, email=f"{name}@b.example")
        await old.run("INSERT INTO shop_pagerdevice VALUES ($1, 'Pager', true)", user)
    result = await run(*CREATE, *app, "--kind", "shop_pagerdevice=sms:", **env)
    assert (result.exit_code, "shop_pagerdevice there has no id" in result.output) == (1, True)
    assert await host.names() == []


async def test_tokens_that_are_none(otp: OTP, old: Old, run: Run, sessions: Sessions) -> None:
    """A token that is NULL is one that is gone."""
    await old.codes(await old.user("ann"), "abcdefgh", None)
    result = await run(*CREATE)
    assert (result.exit_code, "and are gone: 1." in result.output) == (3, True), result.output


async def test_files_that_are_one(otp: OTP, old: Old, run: Run, tmp_path: Path) -> None:
    """Codes would be written over the report."""
    given = ("--unprotected", "codes", "--codes-file", str(old.report_file))
    assert (await run(*CREATE, *given)).exit_code == 2


async def test_names_that_a_terminal_would_act_on(
    otp: OTP, old: Old, run: Run, sessions: Sessions
) -> None:
    """Are shown without that; and a site's name may have a slash."""
    await old.app(await old.user("ann\x1b[2J\nDone"), "")
    await old.app(await old.user("ben"))
    result = await run(*CREATE, "--name", "club/north")
    assert "here: ann?[2J?Done (1)" in result.output
    given = (*CREATE, "--name", "club/north", "--unprotected", "skip")
    for outcome in ("imported", "already"):
        assert (await run(*given)).exit_code == 3
        assert old.outcomes["otp_totp.totpdevice/4"] == outcome


HIDDEN = {
    "table": "REVOKE ALL ON otp_yubikey_yubikeydevice FROM {reader}",
    "rows": "ALTER TABLE otp_yubikey_yubikeydevice ENABLE ROW LEVEL SECURITY",
}


@pytest.mark.parametrize("hide", HIDDEN.values(), ids=HIDDEN)
async def test_what_the_reader_may_not_read(
    otp: OTP, old: Old, run: Run, sessions: Sessions, hide: str
) -> None:
    """A second factor that is hidden from the reader is one all the same: nothing is written."""
    await old.add("otp_yubikey_yubikeydevice", user_id=await old.user("ann"))
    reader = f"reader_{uuid.uuid4().hex}"
    await old.run(
        f"CREATE ROLE {reader} LOGIN PASSWORD 'little'; GRANT USAGE ON SCHEMA public TO {reader}; "
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}; {hide.format(reader=reader)}"
    )
    try:
        url = make_url(old.url).set(username=reader, password="little")
        result = await run(*CREATE, "--from", url.render_as_string(hide_password=False))
    finally:
        await old.run(f"DROP OWNED BY {reader}; DROP ROLE {reader}")
    assert (result.exit_code, "otp_yubikey_yubikeydevice" in result.output) == (1, True), result
    assert await names(sessions) == []


NOT_STORED = {
    "attribute": "is_active = True",
    "property": "@property\n    def is_active(self): return True",
}


@pytest.mark.parametrize("more", NOT_STORED.values(), ids=NOT_STORED)
async def test_users_who_are_always_active(
    old: Old, run: Run, host: Host, monkeypatch: pytest.MonkeyPatch, more: str
) -> None:
    """Nobody can be deactivated, which is said before anything is written; and who was inactive
    there does not come back."""
    app, env = await host.make(monkeypatch, more=more)
    await old.app(await old.user("ann", email="a@b.example"))
    await old.app(await old.user("ben", email="b@b.example", is_active=False))
    result = await run(*CREATE, *app, "--unprotected", "deactivate", "--batch", "1", **env)
    assert (result.exit_code, "no column is_active" in result.output) == (1, True), result.output
    assert await host.names() == []
    result = await run(*CREATE, *app, **env)
    assert (result.exit_code, "They were inactive" in result.output) == (3, True), result.output
    assert await host.names() == ["ann"]


RAISED = "RAISE EXCEPTION '% is none', NEW.email USING ERRCODE = '{}'"
TRIGGERS = {
    "check": (RAISED.format("check_violation"), "a trigger refuses it"),
    "cast": ("PERFORM NEW.email\\:\\:int", "value it is out of range for type integer"),
    "state": (RAISED.format("U0001"), "a trigger refuses it"),
}


@pytest.mark.parametrize(("body", "said"), TRIGGERS.values(), ids=TRIGGERS)
async def test_triggers_that_name_a_value(
    otp: OTP, old: Old, run: Run, sessions: Sessions, engine: AsyncEngine, body: str, said: str
) -> None:
    """It is told without the value; and what was written before is no exit code 1."""
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                f"IF NEW.username = 'ben' THEN {body}; END IF; RETURN NEW; END $$"
            )
        )
        await connection.execute(
            text("CREATE TRIGGER no BEFORE INSERT ON otp_user FOR EACH ROW EXECUTE FUNCTION no()")
        )
    await old.app(await old.user("ann"))
    await old.app(await old.user("ben", email="15555550100"))
    result = await run(*CREATE, "--batch", "1")
    told = result.output + old.report_file.read_text()
    assert (result.exit_code, said in told, "1555" in told) == (3, True, False), told
    assert await names(sessions) == ["ann"]


async def test_the_old_database_goes_away(
    otp: OTP, old: Old, run: Run, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half-way: one sentence, and that some is written."""
    for name in ("ann", "ben"):
        await old.app(await old.user(name))
    written = Writer.batch

    async def batch(self: Writer, *given: Any) -> Any:
        await old.run(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return await written(self, *given)

    monkeypatch.setattr(Writer, "batch", batch)
    result = await run(*CREATE, "--batch", "1")
    assert isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code, "Broken off: 2 rows" in result.output) == (3, True), result.output
    assert await names(sessions) == ["ann"]
    monkeypatch.undo()
    assert (await run(*CREATE)).exit_code == 0
    assert await names(sessions) == ["ann", "ben"]


PICKY = """
class Picky(TypeDecorator):
    impl, cache_ok = String, True

    def process_bind_param(self, value, dialect):
        if value == "b@b.example":
            raise ValueError(f"{value} is none")
        return value

class Base("""


async def test_types_that_refuse_a_value(
    old: Old, run: Run, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A type of the host's own: one user is refused, without the statement and its values."""
    source = HOST.replace("class Base(", PICKY).replace(
        "import Index", "import TypeDecorator, Index"
    )
    monkeypatch.setitem(globals(), "HOST", source.replace("String(30), {unique}", "Picky(30)"))
    app, env = await host.make(monkeypatch)
    for name in ("ann", "ben", "cat"):
        await old.app(await old.user(name, email=f"{name[0]}@b.example"))
    result = await run(*CREATE, *app, "--batch", "1", **env)
    assert (result.exit_code, "refused: ben (3)" in result.output) == (3, True), result.output
    assert "b@b.example" not in result.output + old.report_file.read_text()
    assert await host.names() == ["ann", "cat"]


VALIDATOR = """from sqlalchemy.orm import validates
    @validates("email", "number", include_backrefs=False)
    def _check(self, key, value):
        if value in ("b@b.example", "+15555550100"):
            raise {}(f"{{value}} is none")
        return value
"""


@pytest.mark.parametrize("error", ["ValueError", "AssertionError", "KeyError"])
async def test_validators_that_name_a_value(
    old: Old, run: Run, host: Host, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    """Whatever a host's own check raises: one row is refused, and its value is not told."""
    validator = VALIDATOR.format(error)
    turns = "turns: Mapped[int | None]"
    monkeypatch.setitem(globals(), "HOST", HOST.replace(turns, f"{turns}\n    {validator}"))
    app, env = await host.make(monkeypatch, more=validator.replace('"number", ', ""))
    ann = await old.user("ann", email="a@b.example")
    for user in (ann, await old.user("ben", email="b@b.example")):
        await old.app(user)
    await old.add("otp_twilio_twiliosmsdevice", user_id=ann, number="+15555550100")
    kind = ("--kind", "otp_twilio_twiliosmsdevice=sms:number")
    result = await run(*CREATE, *app, *kind, **env)
    told = result.output + old.report_file.read_text()
    assert result.exit_code == 3, result.output
    for said in (f"Person refuses it: {error}.", f"SMSDevice refuses it: {error}."):
        assert said in told
    assert "b@b.example" not in told
    assert "+1555" not in told
    assert await host.names() == ["ann"]


async def test_each_of_many_is_named(
    otp: OTP, old: Old, run: Run, sessions: Sessions, tmp_path: Path
) -> None:
    """In the report, those beyond the first on the terminal, too; and the codes of each are known
    by their key, whatever their name."""
    users = [await make_user(sessions, f"user{number}") for number in range(25)]
    for number, user in enumerate(users):
        name = ("same", None, "eve\nsame")[number % 3]
        await old.user(str(name), id=user.id, username=name, email=None)
        await old.add("otp_yubikey_yubikeydevice", id=100 + number, user_id=user.id)
    given = ("--unprotected", "codes", "--codes-file", str(tmp_path / "codes"))
    result = await run(*given)
    assert (result.exit_code, "and 5 more" in result.output) == (3, True), result.output
    told = [line for line in old.report().values() if line["kind"] == "user"]
    assert {line["user"] for line in told} == {str(user.id) for user in users}
    lines = (tmp_path / "codes").read_text().splitlines()
    names = [f"same ({users[0].id})", f"({users[1].id})", f"eve?same ({users[2].id})"]
    assert [line.partition(": ")[0] for line in lines[:3]] == names
    assert len(lines) == len(users)


async def test_reports_into_what_is_no_file(
    otp: OTP, old: Old, run: Run, sessions: Sessions, tmp_path: Path
) -> None:
    """A device or a pipe is not made the operator's alone."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    pipe.chmod(0o644)
    result = await run(*CREATE, "--report", str(pipe))
    assert (result.exit_code, "pipe is no file" in result.output) == (2, True), result.output
    assert stat.S_IMODE(pipe.stat().st_mode) == 0o644


async def test_times_that_are_none(otp: OTP, old: Old, run: Run, sessions: Sessions) -> None:
    """Infinity and the year 1 are forgotten, and the device verifies."""
    ann = await old.user("ann")
    number = await old.app(ann, throttling_failure_count=1, created_at=None)
    await old.run(
        "UPDATE otp_totp_totpdevice SET throttling_failure_timestamp = 'infinity', "
        "last_used_at = '0001-01-01', created_at = '-infinity'"
    )
    result = await run(*CREATE)
    assert result.exit_code == 0, result.output
    assert "was no time" in old.report()[f"otp_totp.totpdevice/{number}"]["reason"]
    user = await otp.find_user("ann")
    (device,) = await otp.devices_for_user(user)
    token = oath.hotp(bytes.fromhex(KEY), oath.time_step(time.time()))
    assert await otp.verify_token(user, device.persistent_id, token)


async def test_a_host_without_passwords(
    old: Old, run: Run, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a password is left behind is said."""
    app, env = await host.make(monkeypatch, more="is_active: Mapped[bool]", password="hashed")
    await old.app(await old.user("ann", email="a@b.example", password="pbkdf2_sha256$1$s$AAAA"))
    result = await run(*CREATE, *app, **env)
    assert (result.exit_code, "no password_hash here" in result.output) == (3, True), result.output


async def test_two_libraries_in_one_database(
    otp: OTP, old: Old, run: Run, sessions: Sessions
) -> None:
    """Who has a device of the one that is not moved has a second factor there."""
    await old.run(MFA)
    ann, ben = await old.user("ann"), await old.user("ben")
    await old.add("mfa_authenticator", user_id=ann, type="totp", data="{}")
    await old.app(ben)
    result = await run(*CREATE)
    assert (result.exit_code, f"here: ann ({ann})." in result.output) == (1, True), result.output
    assert "import-allauth moves it" in result.output
    result = await run(*CREATE, command="import-allauth")
    assert f"here: ann ({ann}), ben ({ben})." in result.output
    assert "import-django moves it" in result.output


async def test_both_libraries_in_one_database_move(
    otp: OTP, old: Old, run: Run, sessions: Sessions
) -> None:
    """As the page says it: both create whom they can, and both add to whom the other has made."""
    await old.run(MFA)
    app = json.dumps({"secret": base64.b32encode(bytes.fromhex(OTHER_KEY)).decode()})
    ann, ben, cat = [await old.user(name) for name in ("ann", "ben", "cat")]
    for user in (ann, cat):
        await old.add("mfa_authenticator", user_id=user, type="totp", data=app)
    for user in (ben, cat):
        await old.app(user)
    for options in ((*CREATE, "--unprotected", "skip"), ("--users", "match")):
        for command in ("import-django", "import-allauth"):
            result = await run(*options, command=command)
            assert result.exit_code == 3, result.output
    counts = [
        len(await otp.devices_for_user(await otp.find_user(name))) for name in ("ann", "ben", "cat")
    ]
    assert counts == [1, 1, 2]
