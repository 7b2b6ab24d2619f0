"""What verifying costs: one locking SELECT, one UPDATE, one DELETE, however much there is."""

import itertools
import secrets
from collections.abc import Awaitable, Callable
from email.message import EmailMessage
from typing import Any

import pytest
from sqlalchemy import delete, event, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncEngine

from starlette_otp import OTP
from starlette_otp.devices.static import TokenShape
from starlette_otp.models import EmailDevice, HOTPDevice, StaticDevice, TOTPDevice, User
from starlette_otp.testing import make_device, token_at
from tests.support import Sessions, add, reload

CODE = "0123-4567-89ab-cdef"


class Sent(list[str]):
    """What verifications send: statements by their verbs, each as often as the server runs it."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__()
        event.listen(engine.sync_engine, "before_cursor_execute", self._note)

    def _note(
        self, conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        runs = len(parameters) if many else 1
        verb = statement.split()[0] + (" FOR UPDATE" if statement.endswith("FOR UPDATE") else "")
        self.extend([verb] * runs)

    def taken(self) -> list[str]:
        """What was sent since the last look."""
        sent = list(self)
        self.clear()
        return sent


ONE_ROW = ["SELECT FOR UPDATE", "UPDATE"]
WITH_STATIC = ["SELECT FOR UPDATE", "DELETE", "UPDATE"]


async def totp_of(otp: OTP, user: User) -> tuple[Any, str]:
    device = await make_device(otp, user, TOTPDevice)
    return device, token_at(device)


async def hotp_of(otp: OTP, user: User) -> tuple[Any, str]:
    device = await make_device(otp, user, HOTPDevice)
    return device, token_at(device)


async def static_of(otp: OTP, user: User) -> tuple[Any, str]:
    device = await make_device(otp, user, StaticDevice)
    return device, await otp.add_static_token(user)


async def email_of(otp: OTP, user: User) -> tuple[Any, str]:
    device = await make_device(otp, user, EmailDevice, email="alice@acme.example")
    sent: list[EmailMessage] = []

    class Drawer:
        sender = "otp@acme.example"

        async def send(self, message: EmailMessage) -> None:
            sent.append(message)

    EmailDevice.mailer = Drawer()
    await otp.generate_challenge(user, device.persistent_id)
    EmailDevice.mailer = None
    return device, str(sent[0]["Subject"]).split()[-1]


KINDS = [(totp_of, ONE_ROW), (hotp_of, ONE_ROW), (email_of, ONE_ROW), (static_of, WITH_STATIC)]


@pytest.fixture(autouse=True)
def _subject(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmailDevice, "subject", "Your token is {token}")


Make = Callable[[OTP, User], Awaitable[tuple[Any, str]]]


@pytest.mark.parametrize(("make", "cost"), KINDS)
async def test_a_verification_locks_and_writes_one_row(
    otp: OTP, engine: AsyncEngine, alice: User, make: Make, cost: list[str]
) -> None:
    """verify_token is one SELECT ... FOR UPDATE and one UPDATE, plus one DELETE for a static token,
    right or wrong; match_token and confirm_device cost the same, and a locked device its SELECT,
    after one UPDATE that notes the first attempt."""
    device, token = await make(otp, alice)
    wrong = CODE if make is static_of else str((int(token) + 1) % 10**6).zfill(6)
    sent = Sent(engine)
    assert await otp.verify_token(alice, device.persistent_id, wrong) is None
    assert sent.taken() == cost
    if make is not static_of:  # made tokens wait for nothing
        assert await otp.verify_token(alice, device.persistent_id, token) is None
        assert sent.taken() == ONE_ROW
        assert await otp.verify_token(alice, device.persistent_id, token) is None
        assert await otp.match_token(alice, token) is None
        assert sent.taken() == ["SELECT FOR UPDATE"] * 2
    await forget_failures(engine)
    sent.taken()
    assert await otp.confirm_device(alice, device.persistent_id, wrong) is None
    assert sent.taken() == cost
    await forget_failures(engine)
    sent.taken()
    assert await otp.verify_token(alice, device.persistent_id, token) == device
    assert sent.taken() == cost


@pytest.mark.parametrize(("make", "cost"), KINDS)
async def test_matching_one_device_costs_the_same(
    otp: OTP, engine: AsyncEngine, alice: User, make: Make, cost: list[str]
) -> None:
    """match_token over one device sends what verify_token sends."""
    device, token = await make(otp, alice)
    sent = Sent(engine)
    assert await otp.match_token(alice, token) == device
    assert sent.taken() == cost


async def test_nobody_and_nothing_cost_one_select_at_most(
    otp: OTP, engine: AsyncEngine, alice: User, bob: User
) -> None:
    """An id of garbage or of another user's, and a user without devices, cost no write."""
    device, token = await totp_of(otp, alice)
    sent = Sent(engine)
    assert await otp.verify_token(bob, device.persistent_id, token) is None
    assert await otp.verify_token(alice, "garbage", token) is None
    assert await otp.match_token(bob, token) is None
    assert set(sent.taken()) <= {"SELECT FOR UPDATE"}


async def forget_failures(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE otp_device SET throttling_failure_count = 0"))


def a_hundred(user: User) -> list[Any]:
    """Devices of all kinds, ten of them static and open to digits."""
    static = {"token_shape": TokenShape.ANY}
    kinds: list[tuple[Any, dict[str, Any]]] = [
        *[(StaticDevice, static)] * 1,
        *[(TOTPDevice, {}), (HOTPDevice, {}), (EmailDevice, {})] * 3,
    ]
    return [
        model(user_id=user.id, secret=secrets.token_bytes(20), **values)
        for model, values in itertools.islice(itertools.cycle(kinds), 100)
    ]


async def counts(engine: AsyncEngine) -> dict[str, set[int]]:
    query = text(
        "SELECT kind, array_agg(DISTINCT throttling_failure_count) FROM otp_device GROUP BY kind"
    )
    async with engine.connect() as connection:
        return {kind: set(found) for kind, found in await connection.execute(query)}


async def test_a_hundred_devices(
    otp: OTP, sessions: Sessions, engine: AsyncEngine, alice: User
) -> None:
    """devices_for_user is one statement; a failing match_token one SELECT, one DELETE for all
    static devices and one UPDATE of every row asked; one that succeeds writes one row."""
    devices = a_hundred(alice)
    await add(sessions, *devices)
    sent = Sent(engine)
    assert len(await otp.devices_for_user(alice)) == 100
    assert sent.taken() == ["SELECT"]
    assert await otp.match_token(alice, "000000") is None
    assert sent.taken() == WITH_STATIC
    # No mail is out, so those devices could not be asked.
    assert await counts(engine) == {"static": {1}, "totp": {1}, "hotp": {1}, "email": {0}}
    sent.taken()
    assert await otp.match_token(alice, "000000") is None
    assert sent.taken() == ONE_ROW, "all are locked, and it is noted"
    assert await otp.match_token(alice, "000000") is None
    assert sent.taken() == ["SELECT FOR UPDATE"]
    await forget_failures(engine)
    last = next(device for device in reversed(devices) if isinstance(device, TOTPDevice))
    sent.taken()
    assert await otp.match_token(alice, token_at(last)) == last
    assert sent.taken() == WITH_STATIC
    assert await counts(engine) == {kind: {0} for kind in ("static", "totp", "hotp", "email")}


async def test_a_static_token_among_a_hundred_devices(
    otp: OTP, sessions: Sessions, engine: AsyncEngine, alice: User
) -> None:
    """A recovery code of the last of ten static devices is found by one DELETE."""
    devices = a_hundred(alice)
    await add(sessions, *devices)
    static = [device for device in devices if isinstance(device, StaticDevice)]
    assert len(static) == 10
    async with sessions.begin() as session:
        token = await (await session.get_one(StaticDevice, static[-1].id)).add_token()
    sent = Sent(engine)
    assert await otp.match_token(alice, token) == static[-1]
    assert sent.taken() == WITH_STATIC
    assert await otp.match_token(alice, token) is None
    assert sent.taken() == WITH_STATIC
    assert await counts(engine) == {"static": {1}, "totp": {0}, "hotp": {0}, "email": {0}}


async def test_the_failures_of_many_are_their_own(
    otp: OTP, sessions: Sessions, engine: AsyncEngine, alice: User
) -> None:
    """The one UPDATE counts each device on from its own failures."""
    devices = [
        TOTPDevice(user_id=alice.id, throttling_failure_count=count, name=str(count))
        for count in (0, 7, 99, 3)
    ]
    await add(sessions, *devices)
    assert await otp.match_token(alice, "000000") is None
    found = [(await reload(sessions, device)) for device in devices]
    # The one with 99 failures more is stopped at its hundredth.
    assert [device.throttling_failure_count for device in found] == [1, 8, 100, 4]
    assert all(device.throttling_failure_timestamp for device in found)


@pytest.fixture
async def many_tokens(sessions: Sessions, engine: AsyncEngine, otp: OTP, alice: User) -> Any:
    """A static device with ten thousand tokens and CODE."""
    device = await make_device(otp, alice, StaticDevice)
    async with sessions.begin() as session:
        await (await session.get_one(StaticDevice, device.id)).add_token(CODE)
    async with engine.connect() as connection:
        connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(
            text(
                "INSERT INTO otp_static_token (device_id, digest)"
                " SELECT :id, encode(sha256(n::text::bytea), 'hex')"
                " FROM generate_series(1, 10000) n"
            ),
            {"id": device.id},
        )
        await connection.execute(text("ANALYZE otp_static_token"))
    return device


async def test_ten_thousand_tokens(
    otp: OTP, engine: AsyncEngine, alice: User, many_tokens: Any
) -> None:
    """Among ten thousand tokens of one device the same number of statements, right or wrong, and
    the one token is gone."""
    device = many_tokens
    sent = Sent(engine)
    assert await otp.match_token(alice, CODE) == device
    assert sent.taken() == WITH_STATIC
    assert await otp.verify_token(alice, device.persistent_id, CODE) is None
    assert sent.taken() == WITH_STATIC
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM otp_static_token")) == 10_000


async def test_the_delete_uses_the_index(
    otp: OTP, engine: AsyncEngine, alice: User, many_tokens: Any
) -> None:
    """The planner looks the token up in the unique index and never reads the table through."""
    statements: list[Any] = []
    event.listen(
        engine.sync_engine,
        "before_execute",
        lambda conn, clause, *rest: statements.append(clause),
    )
    assert await otp.match_token(alice, CODE[::-1]) is None
    (query,) = [found for found in statements if isinstance(found, type(delete(StaticDevice)))]
    sql = query.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
    async with engine.connect() as connection:
        plan = "\n".join(await connection.scalars(text(f"EXPLAIN {sql}")))
    assert "Seq Scan" not in plan
    assert "uq_otp_static_token_device_id_digest" in plan
