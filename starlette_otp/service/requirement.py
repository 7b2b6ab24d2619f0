"""Requirement: who has to have a device, and from when on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from starlette_otp import clock
from starlette_otp.exceptions import ConfigurationError
from starlette_otp.service.enrolment import Enrolment
from starlette_otp.service.users import of_host

RequireDevice = bool | Callable[[Any], Awaitable[datetime | bool]]
_ALWAYS = datetime.min.replace(tzinfo=UTC)


class Requirement:
    """Which users have to have a device, as the host says.

    Args:
        rule: everybody, nobody, or a function of the user that says whether, or from when on.
        enrolment: knows who has one.

    Raises:
        ConfigurationError: it is none of these.
    """

    def __init__(self, rule: RequireDevice, enrolment: Enrolment) -> None:
        if not isinstance(rule, bool) and not callable(rule):
            raise ConfigurationError(
                "OTP(require_device=) is True, False or an async function of the user, "
                f"not {rule!r}."
            )
        self._rule = rule
        self._enrolment = enrolment
        self.is_set = rule is not False

    async def since(self, user: Any) -> datetime | None:
        """From when on the user has to have a device, whether they have one or not.

        Args:
            user: the host's own object.

        Returns:
            A moment past or to come; None for who need not have one.

        Raises:
            ConfigurationError: the host's function says neither a bool nor an aware datetime.
            DatabaseUnavailable: its database is away.
        """
        rule = self._rule
        answer = rule if isinstance(rule, bool) else await of_host(rule(user))
        if isinstance(answer, bool):
            return _ALWAYS if answer else None
        if not isinstance(answer, datetime) or answer.tzinfo is None:
            raise ConfigurationError(
                "OTP(require_device=) has to answer with True, False or an aware datetime, "
                f"not {answer!r}."
            )
        return answer

    async def is_due(self, user: Any) -> bool:
        """Whether the user has to have a device now, whether they have one or not."""
        since = await self.since(user)
        return since is not None and since <= clock.now()

    async def is_lacking(self, user: Any) -> bool:
        """Whether a user has no device, who has to have one now or from some day on."""
        if await self.since(user) is None:
            return False
        return not await self._enrolment.user_has_device(user)
