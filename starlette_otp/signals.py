"""Signals: what others may want to know, sent after the commit."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable
from typing import Any

from blinker import NamedSignal, signal

logger = logging.getLogger("starlette_otp")

otp_verified = signal("otp_verified")
"""A token was accepted; it does not mean that a session began. Receivers also get
`failures_before`, the wrong tokens since the user's last success, and `address` and `agent`, empty
without a request."""
otp_verification_failed = signal("otp_verification_failed")
"""A token was not accepted, or not even tried, which is told once a lock; the device is None if
none was chosen. Receivers also get `reason`, a VerificationFailure, `address` and `agent`."""
otp_challenge_sent = signal("otp_challenge_sent")
"""A challenge was delivered."""
otp_device_added = signal("otp_device_added")
"""The user has a device more that verifies them; receivers also get `address` and `agent`, which
are empty where they did not add it themselves."""
otp_device_removed = signal("otp_device_removed")
"""The user has a device less; receivers also get `address` and `agent` where they removed it."""
otp_recovery_codes = signal("otp_recovery_codes")
"""Recovery codes were made anew, or one was used; the device holds them. Receivers also get
`reason`, "renewed" or "used", and `left`, how many the user has now."""
otp_login_failed = signal("otp_login_failed")
"""A password was refused, or not even tried; receivers get `reason`, `address` and `agent`, too.
The user is None if nobody has the name, or the host's own check found nobody."""
otp_logged_in = signal("otp_logged_in")
"""A session began; receivers get the same, and the device is None where the password was enough."""
otp_new_browser = signal("otp_new_browser")
"""A device verified its user in a browser that had not been verified for this account before, nor
for 180 days; receivers also get `address` and `agent`."""
otp_logged_out = signal("otp_logged_out")
"""A session ended; receivers get the same."""
otp_password_changed = signal("otp_password_changed")
"""A user has a new password, by `OTP.change_password`; receivers also get `address` and `agent`."""
otp_agent_trusted = signal("otp_agent_trusted")
"""A user trusts a browser; `device` vouched for it, and receivers also get its row, `agent`."""
otp_agent_revoked = signal("otp_agent_revoked")
"""A user trusts a browser no more; receivers also get `agent_id`."""
otp_agent_stolen = signal("otp_agent_stolen")
"""A copy of a trusted browser's cookie was used: it is trusted no more, and receivers also get the
row that it was, `agent`."""
otp_admin_action = signal("otp_admin_action")
"""Staff did something to a user on the admin site; receivers get `by` and `action`, too."""


async def send(which: NamedSignal, sender: object, *, user: Any, device: Any, **more: Any) -> None:
    """Call the receivers one by one, sync and async alike, as `receiver(otp, user=, device=)`.

    Of what a signal tells besides, each gets what it has parameters for. One that raises is
    logged and changes nothing: the verdict is committed already.
    """
    if which.is_muted:
        return
    for receiver in which.receivers_for(sender):
        try:
            known = {name: more[name] for name in _wanted(receiver, more)}
            answer = receiver(sender, user=user, device=device, **known)
            if inspect.isawaitable(answer):
                await answer
        except Exception:
            logger.exception("A receiver of %s failed.", which.name)


def _wanted(receiver: Callable[..., Any], names: Iterable[str]) -> Iterable[str]:
    try:
        parameters = inspect.signature(receiver).parameters
    except (TypeError, ValueError):  # a callable that does not say
        return names
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return names if takes_all else [name for name in names if name in parameters]
