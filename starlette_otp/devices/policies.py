"""Policies every device keeps: when it may verify, when it may be challenged, when it was used."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import DateTime
from sqlalchemy.orm import Mapped, mapped_column

from starlette_otp import clock

Permission = tuple[bool, dict[str, Any] | None]
"""`(True, None)`, or `(False, evidence)` with a `reason` or an `error_message`."""

_MAX_COUNT = 2**31 - 1
"""The largest that the column holds."""


class VerifyNotAllowed(StrEnum):
    """Why a device may not verify a token now."""

    N_FAILED_ATTEMPTS = "N_FAILED_ATTEMPTS"


class VerificationFailure(StrEnum):
    """Why an attempt to verify failed, as the log and the signal say it; users are told less."""

    WRONG = "wrong"
    """No device has that token."""
    REPLAYED = "replayed"
    """It would be right, had it not been accepted before."""
    LOCKED = "locked"
    """Not tried: the device has to wait, or may not verify for a reason of its own."""
    STOPPED = "stopped"
    """Not tried: nothing but a reset ends the wait."""
    UNREADABLE = "unreadable"
    """Not tried: the secret of the device does not decrypt."""
    NO_DEVICE = "no_device"
    """The user has no device that could be asked, or not the one that was named."""


class GenerateNotAllowed(StrEnum):
    """Why a device may not make a challenge now."""

    COOLDOWN_DURATION_PENDING = "COOLDOWN_DURATION_PENDING"
    DAILY_LIMIT_REACHED = "DAILY_LIMIT_REACHED"


class TimestampMixin:
    """When a device was made and when it last accepted a token."""

    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=clock.now)
    last_used_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    def set_last_used_timestamp(self) -> None:
        """Note that the device accepted a token just now; the caller commits."""
        self.last_used_at = clock.now()


class ThrottlingMixin:
    """Growing waits after failures (RFC 4226 section 7.3) and a stop after many (NIST SP 800-63B).

    After n failures in a row a device is locked for `throttle_factor * 2 ** (n - 1)` seconds, at
    most `throttle_max_delay`. After `max_failures` it is stopped until someone resets it.
    """

    throttle_factor: ClassVar[float] = 1
    """Seconds; 0 disables the waits, failures are still counted."""
    throttle_max_delay: ClassVar[float] = 900
    """Seconds."""
    max_failures: ClassVar[int | None] = 100
    """NIST SP 800-63B: at most 100 consecutive failures. None disables the stop."""

    throttling_failure_count: Mapped[int] = mapped_column(default=0, server_default="0")
    throttling_failure_timestamp: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    turned_away_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """When the first attempt since the last failure was not even tried."""
    failures_told: Mapped[int] = mapped_column(default=0, server_default="0")
    """How many of the failures were counted before the user's last success at another device."""

    @property
    def failures_before(self) -> int:
        """Wrong tokens since the user's last success, as of the attempt that was just accepted.

        As that one of the user's devices has counted that had most of them. Never stored; 0 on a
        device that was only loaded.
        """
        count: int = self.__dict__.get("_failures_before", 0)
        return count

    @failures_before.setter
    def failures_before(self, count: int) -> None:
        self.__dict__["_failures_before"] = count

    @property
    def waits(self) -> bool:
        """Whether failures lock this device for a time."""
        return bool(self.throttle_factor)

    @property
    def failure_limit(self) -> int | None:
        """The number of failures in a row that stops this device, or None."""
        return self.max_failures

    @property
    def is_stopped(self) -> bool:
        """Whether only `throttle_reset` makes the device verify again."""
        limit = self.failure_limit
        return limit is not None and (self.throttling_failure_count or 0) >= limit

    @property
    def needs_reset(self) -> bool:
        """Whether the device verifies nothing, or nothing for long, until it is reset."""
        return self.is_stopped

    @property
    def locked_until(self) -> datetime | None:
        """When the wait after the last failure ends; None when the device is not waiting."""
        failed_at = self.throttling_failure_timestamp
        if not self.throttling_failure_count or failed_at is None or not self.waits:
            return None
        # The exponent is capped too: a large count must not overflow.
        doublings = min(self.throttling_failure_count - 1, 64)
        delay = min(self.throttle_factor * 2**doublings, self.throttle_max_delay)
        now, wait = clock.now(), timedelta(seconds=delay)
        until = failed_at + wait
        # A failure further ahead than its wait says that the clock was set back, which must lock
        # nobody out; one less far ahead may come from another server's clock.
        return until if now < until <= now + 2 * wait else None

    async def verify_is_allowed(self) -> Permission:
        """Whether a token may be tried now.

        Returns:
            `(True, None)`, or `(False, {"reason", "failure_count", "locked_until"})`; a stopped
            device has `locked_until` None.
        """
        until = None if self.is_stopped else self.locked_until
        if until is None and not self.is_stopped:
            return True, None
        return False, {
            "reason": VerifyNotAllowed.N_FAILED_ATTEMPTS,
            "failure_count": self.throttling_failure_count,
            "locked_until": until,
        }

    def throttle_increment(self) -> None:
        """Count one failure; the caller commits."""
        count = (self.throttling_failure_count or 0) + 1
        self.throttling_failure_count = min(count, _MAX_COUNT)
        self.throttling_failure_timestamp = clock.now()
        self.turned_away_at = None

    def throttle_reset(self) -> None:
        """Forget all failures; the caller commits."""
        self.throttling_failure_count = self.failures_told = 0
        self.throttling_failure_timestamp = self.turned_away_at = None

    def turn_away(self) -> bool:
        """Note that an attempt was not tried; the caller commits.

        Returns:
            Whether it is the first since the last failure, and so worth telling.
        """
        is_first = self.turned_away_at is None
        if is_first:
            self.turned_away_at = clock.now()
        return is_first


class CooldownMixin:
    """A wait between challenges, so that nobody's inbox is flooded.

    With a table for it (`ChallengeLimitMixin`) the wait is that of the user and of the address,
    and there is a limit a day; else each device waits alone.
    """

    cooldown_duration: ClassVar[float] = 60
    """Seconds; 0 disables the wait."""
    max_challenges_per_day: ClassVar[int | None] = 20
    """To one user, and to one address; those that a token has answered aside. None: any number."""

    last_generated_timestamp: Mapped[datetime | None] = mapped_column(
        DateTime(timezone=True), use_existing_column=True
    )

    answered_at: Mapped[datetime | None] = mapped_column(
        DateTime(timezone=True), use_existing_column=True
    )
    """When the challenge was made that the last accepted token has answered."""

    def challenge_destination(self, user: object) -> str | None:
        """Where a challenge of this user's device goes, spelled alike for all that go there.

        None where only the user is known: a kind that has addresses or numbers says which.
        """
        return None

    @property
    def next_generation_at(self) -> datetime | None:
        """When the next challenge may be made; None when it may be made now."""
        return self.next_after(self.last_generated_timestamp)

    def next_after(self, made_at: datetime | None) -> datetime | None:
        """When the wait after a challenge of that time is over; None when it is."""
        if made_at is None or not self.cooldown_duration:
            return None
        now, wait = clock.now(), timedelta(seconds=self.cooldown_duration)
        # As with failures: a clock that was set back must not stretch the wait.
        return made_at + wait if now < made_at + wait <= now + 2 * wait else None

    async def generate_is_allowed(self) -> Permission:
        """Whether a challenge may be made now.

        Returns:
            `(True, None)`, or `(False, {"reason", "next_generation_at"})`; of a device that is
            locked or stopped what `verify_is_allowed` says.
        """
        if isinstance(self, ThrottlingMixin):
            allowed, why = await ThrottlingMixin.verify_is_allowed(self)
            if not allowed:
                return False, why
        next_at = self.next_generation_at
        if next_at is None:
            return True, None
        reason = GenerateNotAllowed.COOLDOWN_DURATION_PENDING
        return False, {"reason": reason, "next_generation_at": next_at}

    def cooldown_set(self) -> None:
        """Begin the wait; the caller commits."""
        self.last_generated_timestamp = clock.now()

    def cooldown_reset(self) -> None:
        """End the wait; the caller commits."""
        self.last_generated_timestamp = None

    def challenge_answered(self) -> None:
        """End the wait, and note which challenge a token has answered; the caller commits."""
        self.answered_at = self.last_generated_timestamp or self.answered_at
        self.cooldown_reset()

    def cooldown_return(self, failed: CooldownMixin) -> None:
        """End the wait that `failed` began, unless a newer one has begun; the caller commits."""
        if self.last_generated_timestamp == failed.last_generated_timestamp:
            self.cooldown_reset()


def refusal_in_words(evidence: dict[str, Any] | None) -> str:
    """Why no challenge was made, as the message that the user gets in its place."""
    evidence = evidence or {}
    if evidence.get("reason") == VerifyNotAllowed.N_FAILED_ATTEMPTS:
        until = evidence["locked_until"]
        if until is None:
            return "After many wrong codes this is locked until it is reset."
        return f"After wrong codes you have to wait. You can ask again {clock.in_words(until)}."
    if evidence.get("reason") == GenerateNotAllowed.DAILY_LIMIT_REACHED:
        wait = clock.in_words(evidence["next_generation_at"])
        return f"No more codes are sent today. You can ask again {wait}."
    if evidence.get("reason") == GenerateNotAllowed.COOLDOWN_DURATION_PENDING:
        return f"You can ask again {clock.in_words(evidence['next_generation_at'])}."
    return str(evidence.get("error_message", "No code can be sent now."))
