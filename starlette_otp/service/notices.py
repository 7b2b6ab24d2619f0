"""Notices: what happens to an account is mailed to its owner, or told to the host."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any

from jinja2 import Environment

from starlette_otp import clock, signals
from starlette_otp.devices.email import check_address, new_message
from starlette_otp.devices.static import StaticDeviceMixin
from starlette_otp.exceptions import ConfigurationError, described
from starlette_otp.mailer import Mailer
from starlette_otp.service.attempts import MANY_FAILURES
from starlette_otp.service.transactions import Transactions
from starlette_otp.service.users import loaded

logger = logging.getLogger("starlette_otp")

Notify = Callable[[Any, "Notice", dict[str, Any]], Awaitable[None]]

FEW_CODES = 3
"""Recovery codes left, from which on their owner is warned."""


class Notice(StrEnum):
    """What an owner of an account is told of."""

    DEVICE_ADDED = "device_added"
    DEVICE_REMOVED = "device_removed"
    RECOVERY_CODE_USED = "recovery_code_used"
    RECOVERY_CODES_RENEWED = "recovery_codes_renewed"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105
    NEW_BROWSER = "new_browser"
    WRONG_TOKENS = "wrong_tokens"
    AGENT_STOLEN = "agent_stolen"


class Notices:
    """Tells owners of accounts, after the commit and in the way of no request.

    Args:
        transactions: over the host's sessionmaker.
        mailer: with a sender; None: nothing is mailed.
        notify: `async (user, notice, data)`, called instead.
        environment: of the templates `otp/notice/*.txt`, whose first line is the subject.
        site_name: whose account it is, for the templates.

    Raises:
        ConfigurationError: the mailer has no sender.
    """

    def __init__(
        self,
        transactions: Transactions,
        mailer: Mailer | None,
        notify: Notify | None,
        environment: Environment,
        site_name: str,
    ) -> None:
        self._sender: str = getattr(mailer, "sender", None) or ""
        if mailer is not None and notify is None and not self._sender:
            raise ConfigurationError("OTP(mailer=) needs a mailer with a sender.")
        self._transactions = transactions
        self._mailer, self._notify = mailer, notify
        # Not escaped, whatever the environment does: it is text.
        self._environment = environment.overlay(autoescape=False)
        self._site_name = site_name
        self._tasks: set[asyncio.Task[None]] = set()

    def listen_to(self, sender: object) -> None:
        """Hear what an OTP's signals tell."""
        if self._mailer is None and self._notify is None:
            return
        for which, receiver in (
            (signals.otp_device_added, self._added),
            (signals.otp_device_removed, self._removed),
            (signals.otp_recovery_codes, self._codes),
            (signals.otp_password_changed, self._password),
            (signals.otp_new_browser, self._browser),
            (signals.otp_verified, self._verified),
            (signals.otp_agent_stolen, self._stolen),
        ):
            which.connect(receiver, sender=sender)

    async def settle(self) -> None:
        """Wait until everybody has been told."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _added(
        self, sender: Any, user: Any, device: Any, address: str = "", agent: str = ""
    ) -> None:
        # Of codes that are there for the first time RECOVERY_CODES_RENEWED tells.
        if not isinstance(device, StaticDeviceMixin):
            told: dict[str, Any] = {"device": device, "address": address, "agent": agent}
            self._tell(user, Notice.DEVICE_ADDED, **told)

    def _removed(
        self, sender: Any, user: Any, device: Any, address: str = "", agent: str = ""
    ) -> None:
        told: dict[str, Any] = {"device": device, "address": address, "agent": agent}
        self._tell(user, Notice.DEVICE_REMOVED, **told)

    def _codes(self, sender: Any, user: Any, device: Any, reason: str, left: int) -> None:
        used = reason == "used"
        notice = Notice.RECOVERY_CODE_USED if used else Notice.RECOVERY_CODES_RENEWED
        self._tell(user, notice, device=device, left=left, are_few=left <= FEW_CODES)

    def _password(self, sender: Any, user: Any, device: Any, address: str, agent: str) -> None:
        self._tell(user, Notice.PASSWORD_CHANGED, address=address, agent=agent)

    def _browser(self, sender: Any, user: Any, device: Any, address: str, agent: str) -> None:
        self._tell(user, Notice.NEW_BROWSER, device=device, address=address, agent=agent)

    def _stolen(self, sender: Any, user: Any, device: Any, agent: Any) -> None:
        self._tell(user, Notice.AGENT_STOLEN, agent_name=agent.user_agent)

    def _verified(
        self, sender: Any, user: Any, device: Any, failures_before: int, address: str, agent: str
    ) -> None:
        if failures_before >= MANY_FAILURES:
            told: dict[str, Any] = {"device": device, "address": address, "agent": agent}
            self._tell(user, Notice.WRONG_TOKENS, count=failures_before, **told)

    def _tell(self, user: Any, notice: Notice, **data: Any) -> None:
        # Held on to: a task that nobody holds may be gone before it is done.
        task = asyncio.create_task(self._deliver(user, notice, {**data, "at": clock.now()}))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, user: Any, notice: Notice, data: dict[str, Any]) -> None:
        try:
            user = await loaded(self._transactions, user)
            if self._notify is not None:
                await self._notify(user, notice, data)
            elif self._mailer is not None:
                await self._mail(self._mailer, user, notice, data)
        except asyncio.CancelledError:
            logger.error("A notice (%s) was not delivered: the process ended before.", notice)
            raise
        except Exception as exc:
            logger.error("A notice (%s) could not be delivered: %s.", notice, described(exc))

    async def _mail(self, mailer: Mailer, user: Any, notice: Notice, data: dict[str, Any]) -> None:
        address = getattr(user, "email", None)
        if not address:
            logger.info("A notice (%s) has nowhere to go: its user has no address.", notice)
            return
        template = self._environment.get_template(f"otp/notice/{notice}.txt")
        text = template.render(user=user, site_name=self._site_name, **data)
        subject, _, body = text.partition("\n")
        await mailer.send(
            new_message(self._sender, check_address(address), subject.strip(), body.lstrip("\n"))
        )
