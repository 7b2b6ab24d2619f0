"""A database that somebody wrote into, and keys that are gone: a refusal on the page, an error in
the log, and never a session."""

import logging
from typing import Any

import pytest
import time_machine
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from starlette_otp import OTP
from starlette_otp.models import Device, HOTPDevice, TOTPDevice, User
from starlette_otp.testing import make_device, token_at
from tests.support import (
    ANONYMOUS,
    OTHER_KEY,
    SECRET_KEY,
    Browser,
    CodesView,
    Sessions,
    codes,
    make_app,
    make_static,
    reload,
)

NOW = 1_900_000_000
MALLORYS = b"mallory's own secret"


@pytest.fixture(autouse=True)
def _stopped_clock() -> Any:
    with time_machine.travel(NOW, tick=False):
        yield


async def execute(engine: AsyncEngine, statement: str, **values: Any) -> None:
    async with engine.begin() as connection:
        assert (await connection.execute(text(statement), values)).rowcount


async def refused(otp: OTP, token: str, device_id: str = "") -> Any:
    """The log-in page's answer to alice's password with this token, which starts no session."""
    async with Browser(make_app(otp, login_view=CodesView)) as browser:
        answer = await browser.log_in(token, otp_device=device_id)
        assert await browser.state() == ANONYMOUS
    assert codes(answer)
    return answer


COPY = (
    "UPDATE otp_device SET sealed_secret ="
    " (SELECT sealed_secret FROM otp_device WHERE id = :theirs) WHERE id = :mine"
)
MOVE = "UPDATE otp_device SET user_id = :alice WHERE id = :theirs"
CUT = "UPDATE otp_device SET sealed_secret = left(sealed_secret, 70) WHERE id = :mine"
FLIP = "UPDATE otp_device SET sealed_secret = reverse(sealed_secret) WHERE id = :mine"
RETYPE = "UPDATE otp_device SET kind = 'hotp', counter = 0, tolerance = 5 WHERE id = :mine"


@pytest.mark.parametrize(
    "statement", [COPY, MOVE, CUT, FLIP, RETYPE], ids=["copy", "move", "cut", "flip", "retype"]
)
async def test_a_row_that_was_written_into(
    otp: OTP,
    sessions: Sessions,
    engine: AsyncEngine,
    alice: User,
    bob: User,
    caplog: pytest.LogCaptureFixture,
    statement: str,
) -> None:
    """RFC 6238 section 5.1: another user's secret copied into alice's row, another user's row given
    to her, a ciphertext cut short or changed, or a row of another kind made of hers: no token of
    either secret logs in, and the log names the device."""
    mine = await make_device(otp, alice, TOTPDevice)
    theirs = await make_device(otp, bob, TOTPDevice, secret=MALLORYS)
    prover = HOTPDevice(secret=mine.secret) if statement is RETYPE else mine
    own = token_at(prover)
    given = {"mine": mine.id, "theirs": theirs.id, "alice": alice.id}
    await execute(
        engine,
        statement,
        **{name: value for name, value in given.items() if f":{name}" in statement},
    )
    target = theirs if statement is MOVE else mine
    named = f"hotp/{target.id}" if statement is RETYPE else target.persistent_id
    for token, device_id in ((token_at(theirs), ""), (own, named), (own, "")):
        caplog.clear()
        answer = await refused(otp, token, device_id)
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert any(named in record.getMessage() for record in errors)
        assert all("does not decrypt" in record.getMessage() for record in errors)
        assert "decrypt" not in answer.text


async def test_a_retired_key(
    otp: OTP, sessions: Sessions, alice: User, caplog: pytest.LogCaptureFixture
) -> None:
    """After its key is gone a device verifies nothing, and the log names the command that would
    have rewritten it; with the key back it verifies again."""
    device = await make_device(otp, alice, TOTPDevice)
    static, (code,) = await make_static(sessions, alice, None)
    token = token_at(device)
    after = OTP(sessions, Device, secret_key=OTHER_KEY)
    for typed, row in ((token, device), (code, static)):
        for chosen in (row.persistent_id, ""):
            caplog.clear()
            await refused(after, typed, chosen)
            (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
            assert row.persistent_id in error.getMessage()
            assert "retired key" in error.getMessage()
            assert "`starlette-otp rotate-keys`" in error.getMessage()
    back = OTP(sessions, Device, secret_key=[OTHER_KEY, SECRET_KEY])
    assert await back.match_token(alice, token) == device
    assert await back.match_token(alice, code) == static


async def test_a_recovery_code_copied_to_another_device(
    otp: OTP, sessions: Sessions, engine: AsyncEngine, alice: User, bob: User
) -> None:
    """ASVS 6.5.2: the digest of mallory's code, moved to alice's device, opens nothing for her."""
    mine, _ = await make_static(sessions, alice, None)
    _, (code,) = await make_static(sessions, bob, None)
    await execute(engine, "DELETE FROM otp_static_token WHERE device_id = :id", id=mine.id)
    await execute(engine, "UPDATE otp_static_token SET device_id = :id", id=mine.id)
    assert codes(await refused(otp, code)) == ["invalid_token"]
    assert (await reload(sessions, mine)).throttling_failure_count == 1
