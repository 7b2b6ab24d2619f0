"""Rows of sessions that somebody wrote into the database: they open nothing more than before."""

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import select, text, update

from starlette_otp import OTP, clock
from starlette_otp.models import OTPSession, TOTPDevice, User
from starlette_otp.service.sessions import Found
from tests.support import Sessions, make_totp

COLUMNS = [c.name for c in OTPSession.__table__.c if c.name != "id"]
BOUND = ["token_digest", "former_digest", "user_id", "device_id", "verified_at"]


@pytest.fixture
async def phone(sessions: Sessions, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice)


async def nobody(key: Any) -> None:
    return None


async def worth(otp: OTP, token: str) -> tuple[int, int | None] | None:
    """The user and the device that a token is worth."""
    found: Found | None = await otp.sessions.find(token, nobody)
    return found and (found.user.id, found.device and found.device.id)


async def copy(sessions: Sessions, names: Sequence[str], source: int, target: int) -> None:
    """Copy these columns from one row to another."""
    async with sessions.begin() as session:
        row = (await session.execute(select(OTPSession.__table__).filter_by(id=source))).one()
        values = {name: row._mapping[name] for name in names}
        if "token_digest" in names:
            # Unique: the source has to go.
            await session.execute(text("DELETE FROM otp_session WHERE id = :id"), {"id": source})
        change = update(OTPSession).where(OTPSession.id == target).values(values)
        await session.execute(change)


@pytest.mark.parametrize("name", [*COLUMNS, "all but the token", "all"])
async def test_a_victims_columns_in_an_attackers_row(
    otp: OTP, sessions: Sessions, alice: User, bob: User, phone: TOTPDevice, name: str
) -> None:
    """Bob's own session, and one of alice's that was got by her password alone, with columns of
    the session that her phone verified: bob's token is bob's or nobody's, hers stays unverified."""
    but_token = [column for column in COLUMNS if column != "token_digest"]
    names = {"all but the token": but_token, "all": COLUMNS}.get(name, [name])
    for user in (bob, alice):
        victims = await otp.sessions.begin(alice, phone)
        renewed = await otp.sessions.renew(alice, phone, victims.session_id, victims.token)
        attackers = await otp.sessions.begin(user)
        assert await worth(otp, renewed.token) == (alice.id, phone.id)
        await copy(sessions, names, renewed.session_id, attackers.session_id)
        assert await worth(otp, attackers.token) in (None, (user.id, None))


@pytest.mark.parametrize("name", [*COLUMNS, "the former token", "all"])
async def test_an_attackers_columns_in_a_victims_row(
    otp: OTP, sessions: Sessions, alice: User, bob: User, phone: TOTPDevice, name: str
) -> None:
    """With columns of bob's session in that which alice's phone verified, bob's token opens
    nothing of alice's."""
    watch = await make_totp(sessions, bob)
    former = ["former_digest", "former_until"]
    names = {"the former token": former, "all": COLUMNS}.get(name, [name])
    victims = await otp.sessions.begin(alice, phone)
    attackers = await otp.sessions.begin(bob, watch)
    renewed = await otp.sessions.renew(bob, watch, attackers.session_id, attackers.token)
    await copy(sessions, names, renewed.session_id, victims.session_id)
    for token in (attackers.token, renewed.token):
        assert (await worth(otp, token) or (bob.id,))[0] == bob.id
    assert await worth(otp, victims.token) in (None, (alice.id, None), (alice.id, phone.id))


async def test_what_is_bound_is_told(otp: OTP, sessions: Sessions, alice: User, bob: User) -> None:
    """Each bound column that is rewritten takes its worth from the session itself: whose it is, or
    that it is verified."""
    phone, other = [await make_totp(sessions, alice) for _ in range(2)]
    changed = {
        "token_digest": otp.keyring.digests("session", "A" * 43)[0],
        "user_id": bob.id,
        "device_id": other.id,
        "verified_at": clock.now(),
    }
    for name in [*BOUND, "password_fingerprint", "device_fingerprint"]:
        begun = await otp.sessions.begin(alice, phone)
        begun = await otp.sessions.renew(alice, phone, begun.session_id, begun.token)
        async with sessions.begin() as session:
            row = update(OTPSession).where(OTPSession.id == begun.session_id)
            await session.execute(row.values({name: changed.get(name, "0" * 64)}))
        is_device = name in ("device_id", "verified_at", "device_fingerprint")
        expected = (alice.id, None) if is_device else None
        assert (name, await worth(otp, begun.token)) == (name, expected)
        assert await worth(otp, "A" * 43) is None
        await otp.sessions.end(begun.token, begun.session_id)


async def test_a_ticket_is_no_session(otp: OTP, sessions: Sessions, alice: User) -> None:
    """The token of a ticket opens no session, nor that of a session a ticket's place, not even in
    a row that was made to look like the other."""
    for is_ticket in (True, False):
        ticket_token = await otp.tickets.issue(alice)
        async with sessions.begin() as session:
            await session.execute(update(OTPSession).values(is_ticket=is_ticket))
        assert await worth(otp, ticket_token) is None
        token = (await otp.sessions.begin(alice)).token
        async with sessions.begin() as session:
            await session.execute(update(OTPSession).values(is_ticket=not is_ticket))

        async def load(key: Any) -> Any:
            return alice

        assert await otp.tickets.redeem(token, load) is None
        await otp.revoke_sessions(alice)
