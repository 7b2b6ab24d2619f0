"""Random histories of a device: what was typed, and what the clock did, against a simple model."""

import asyncio
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from starlette_otp import OTP, oath
from starlette_otp.models import Device, HOTPDevice, TOTPDevice, User
from starlette_otp.testing import make_device
from tests.support import SECRET, SECRET_KEY, Sessions, add, reload

START = 1_900_000_000


@dataclass(frozen=True)
class Typed:
    """One attempt, so many seconds after the former one.

    It is the token of a step or counter `offset` away from the present one; garbage if that is
    None; or, `repeated`, the token accepted last.
    """

    offset: int | None
    seconds: int
    repeated: bool = False

    def number(self, present: int, accepted: list[int]) -> int | None:
        if self.repeated and accepted:
            return accepted[-1]
        return None if self.offset is None or present + self.offset < 0 else present + self.offset


# Mostly near the window; waits that end a throttling; steps of the clock forwards and backwards.
OFFSETS = st.one_of(st.integers(-4, 4), st.integers(-4, 14), st.none())
STEPS = [0, 30, 60, 900, 3600, -1, -30, -61, -3600]
SECONDS = st.one_of(st.integers(0, 40), st.sampled_from(STEPS))
HISTORIES = st.lists(st.builds(Typed, OFFSETS, SECONDS, st.booleans()), min_size=1, max_size=14)
quickly = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@dataclass
class Model:
    """What a device has to be. Its numbers are steps (TOTP) or counters (HOTP).

    `present` says which number a prover is at, `window` which numbers are accepted then.
    """

    present: Callable[["Model", int], int]
    window: Callable[["Model", int], range]
    sync: bool = False
    accepted: list[int] = field(default_factory=list)
    failures: int = 0
    failed_at: int = 0
    drift: int = 0

    @property
    def newest(self) -> int:
        return self.accepted[-1] if self.accepted else -1

    def is_locked(self, now: int) -> bool:
        wait = min(2 ** max(self.failures - 1, 0), 900)
        # A failure further ahead than its wait says that the clock was set back.
        return self.failures > 0 and now < self.failed_at + wait <= now + 2 * wait

    def attempt(self, number: int | None, now: int) -> bool:
        """Whether it is accepted; None is no token at all."""
        if self.is_locked(now):
            return False
        if number is None or number not in self.window(self, now):
            self.failures, self.failed_at = self.failures + 1, now
            return False
        if self.sync:
            self.drift = max(-10, min(10, number - self.present(self, now)))
        self.accepted.append(number)
        self.failures = 0
        return True


@dataclass
class Stage:
    """An event loop for all examples of a test, and an OTP whose connections live in it."""

    runner: asyncio.Runner
    sessions: Sessions
    otp: OTP

    def play(self, model: Model, history: list[Typed], kind: type[Any], **values: Any) -> None:
        self.runner.run(self._play(model, history, kind, **values))

    async def _play(
        self, model: Model, history: list[Typed], kind: type[Any], **values: Any
    ) -> None:
        """Run a history against a new device and the model, and compare after each attempt."""
        alice = await add(self.sessions, User(username=uuid.uuid4().hex))
        device = await make_device(self.otp, alice, kind, secret=SECRET, **values)
        now, accepted = START, []
        before = columns(await reload(self.sessions, device))
        with time_machine.travel(now, tick=False) as clock:
            for typed in history:
                clock.shift(timedelta(seconds=typed.seconds))
                now += typed.seconds
                number = typed.number(model.present(model, now), accepted)
                was_locked, expected = model.is_locked(now), model.attempt(number, now)
                token = "nothing" if number is None else oath.hotp(SECRET, number)
                found = await self.otp.verify_token(alice, device.persistent_id, token)
                assert (found is not None) is expected
                after = columns(await reload(self.sessions, device))
                if found is not None:
                    accepted.append(number)
                if was_locked:
                    assert after == {**before, "turned_away_at": after["turned_away_at"]}
                assert after["throttling_failure_count"] == model.failures
                assert (after["drift"] or 0) == model.drift
                assert abs(model.drift) <= oath.MAX_DRIFT
                for name in ("last_t", "counter"):
                    assert (after[name] or 0) >= (before[name] or 0), "went back"
                before = after
        assert accepted == sorted(set(accepted)), "accepted twice, or after a newer one"


def columns(device: Any) -> dict[str, Any]:
    """All that the row of the device holds."""
    return {column.key: getattr(device, column.key, None) for column in Device.__table__.columns}


@pytest.fixture
def stage(database_url: str) -> Iterator[Stage]:
    with asyncio.Runner() as runner:
        engine = create_async_engine(database_url)
        sessions = async_sessionmaker(engine, expire_on_commit=False)
        yield Stage(runner, sessions, OTP(sessions, Device, secret_key=SECRET_KEY))
        runner.run(engine.dispose())


# A prover whose clock runs away: as far as the drift goes, and further.
RUNAWAY = [Typed(offset, 60) for offset in (3, 6, 9, 12, 13, 14, 13)]


@quickly
@example(history=RUNAWAY, tolerance=3, sync=True)
@given(history=HISTORIES, tolerance=st.integers(0, 3), sync=st.booleans())
def test_totp(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    history: list[Typed],
    tolerance: int,
    sync: bool,
) -> None:
    """RFC 6238 sections 5.2 and 6: over any history of tokens and clock no token is accepted
    twice, `last_t` never goes back, drift follows within its bounds, failures are the model's."""

    def window(model: Model, now: int) -> range:
        middle = now // 30 + model.drift
        return range(max(middle - tolerance, model.newest + 1), middle + tolerance + 1)

    with monkeypatch.context() as patch:
        patch.setattr(TOTPDevice, "sync", sync)
        model = Model(lambda model, now: now // 30, window, sync)
        stage.play(model, history, TOTPDevice, tolerance=tolerance)


@quickly
@given(history=HISTORIES, tolerance=st.integers(0, 6), start=st.integers(0, 50))
def test_hotp(stage: Stage, history: list[Typed], tolerance: int, start: int) -> None:
    """RFC 4226 sections 7.2 and 7.4: over any history no token is accepted twice, the counter only
    goes forward, and failures are the model's."""

    def present(model: Model, now: int) -> int:
        return max(model.newest + 1, start)

    def window(model: Model, now: int) -> range:
        return range(present(model, now), present(model, now) + tolerance + 1)

    values = {"tolerance": tolerance, "counter": start}
    stage.play(Model(present, window), history, HOTPDevice, **values)
