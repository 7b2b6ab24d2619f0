"""The rules: what of a brought device can be carried over, and what is not quite as it was.

They are the models' own: a device that is carried over was made by its class, which refuses what
it would refuse from anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from starlette_otp import clock, oath
from starlette_otp.devices.email import EmailDeviceMixin, check_address
from starlette_otp.devices.static import StaticDeviceMixin, canonical_static, chosen_shape
from starlette_otp.devices.totp import TOTPDeviceMixin
from starlette_otp.moving.brought import BroughtDevice
from starlette_otp.moving.columns import misfit, words_of
from starlette_otp.moving.options import Options

IMPORTED, PARTLY, SKIPPED, REFUSED, ALREADY = "imported", "partly", "skipped", "refused", "already"
_MAX_COUNT = 2**31 - 1
_SINCE = 1990
# What a device gets when it is written.
_LATER = frozenset({"user_id", "sealed_secret", "secret_id", "secret_digest"})


@dataclass(slots=True)
class Judged:
    """What becomes of a device.

    Attributes:
        brought: the device.
        outcome: imported, partly, skipped, refused or already.
        reasons: why, and what is not as it was, each a sentence.
        device: of ours, not saved, without an owner; None where there is none.
        tokens: of a static device, canonical.
        device_id: of ours, once there is one.
        imported_at: when an earlier run made it.
        protects: whether it can verify its owner here.
    """

    brought: BroughtDevice
    outcome: str
    reasons: list[str] = field(default_factory=list)
    device: Any = None
    tokens: list[str] = field(default_factory=list, repr=False)
    device_id: int | None = None
    imported_at: datetime | None = None
    protects: bool = False


def judge(
    brought: BroughtDevice, kinds: Mapping[str, type[Any]], address: str | None, options: Options
) -> Judged:
    """What becomes of a device.

    Args:
        brought: the device.
        kinds: the host's.
        address: where its owner gets mail, if it says none itself.
        options: the operator's choices.
    """
    reasons = list(brought.notes)
    model = kinds.get(brought.kind)
    if brought.refusal is not None:
        return Judged(brought, REFUSED, [*reasons, brought.refusal])
    if options.only and brought.kind not in options.only:
        return Judged(brought, SKIPPED, [*reasons, "Its kind was left out by --only."])
    if model is None:
        kind = f"This application has no kind of device {brought.kind!r}."
        return Judged(brought, REFUSED, [*reasons, kind])
    if not brought.confirmed and options.unconfirmed == "skip":
        return Judged(brought, SKIPPED, [*reasons, "It was not confirmed."])
    try:
        device = _made(model, brought, address, options, reasons)
    except Exception as exc:  # whatever a host's validator raises
        return Judged(brought, REFUSED, [*reasons, words_of(exc, model)])
    judged = Judged(brought, IMPORTED, reasons, device)
    if isinstance(device, StaticDeviceMixin):
        _take_tokens(judged, device)
    judged.protects = brought.confirmed and not (brought.tokens is not None and not judged.tokens)
    if options.knows_setup and (missing := model.missing_setting()) is not None:
        judged.protects = False
        reasons.append(missing)
    return judged


def _made(
    model: type[Any],
    brought: BroughtDevice,
    address: str | None,
    options: Options,
    reasons: list[str],
) -> Any:
    values = {**brought.values, "confirmed": brought.confirmed}
    unknown = sorted(name for name in values if not hasattr(model, name))
    if unknown:
        raise ValueError(f"{model.__name__} has no column {', '.join(unknown)}.")
    now = clock.now()
    if values.get("created_at") is None or not brought.confirmed:
        # One that waits to be confirmed has its time for that from now on.
        values["created_at"] = now
        reasons.append("It counts as made now.")
    _forget_moments(values, now, reasons)
    _count_failures(model, values, options, reasons)
    if issubclass(model, EmailDeviceMixin):
        values["email"] = values.get("email") or None
        if not (values["email"] or address):
            raise ValueError("It has no address, and neither has its owner.")
        check_address(values["email"] or address)
    device = model(**values)
    if (reason := misfit(device, _LATER, is_core=True)) is not None:
        raise ValueError(reason)
    if brought.secret is not None:
        device.secret = brought.secret
    if isinstance(device, TOTPDeviceMixin):
        if abs(device.drift or 0) > oath.MAX_DRIFT:
            reasons.append("Its drift is beyond ten steps, and stays where it is.")
        if device.is_ahead:
            reasons.append("Its last token lies ahead of the clock: reset it.")
    return device


def _forget_moments(values: dict[str, Any], now: datetime, reasons: list[str]) -> None:
    """Leave out times that are none, as infinity: nobody could reckon with them."""
    for name, value in values.items():
        if isinstance(value, datetime) and not _SINCE <= value.year <= now.year + 1:
            values[name] = now if name == "created_at" else None
            reasons.append(f"Its {name} was no time, and is forgotten.")


def _count_failures(
    model: type[Any], values: dict[str, Any], options: Options, reasons: list[str]
) -> None:
    """Carry the failures over, but none that would stop the device for good, unasked."""
    count, most = values.get("throttling_failure_count") or 0, model.max_failures
    if options.reset_throttling and count:
        reasons.append(f"Its {count} failures are forgotten.")
        count, values["throttling_failure_timestamp"] = 0, None
    if most is not None and count >= most:
        if options.keep_stopped:
            reasons.append(f"It had {count} failures, and is stopped until it is reset.")
        else:
            reasons.append(f"It had {count} failures, of which {most - 1} count.")
            count = most - 1
    values["throttling_failure_count"] = max(0, min(count, _MAX_COUNT))


def _take_tokens(judged: Judged, device: StaticDeviceMixin) -> None:
    """Take the tokens that a static device can have, each once."""
    taken: dict[str, None] = {}
    refused = twice = 0
    for token in judged.brought.tokens or ():
        plain_token = canonical_static(token)
        if plain_token is None or len(plain_token) < type(device).min_token_length:
            refused += 1
        elif plain_token in taken:
            twice += 1
        else:
            taken[plain_token] = None
    judged.tokens = list(taken)
    device.token_shape, device.digit_lengths = chosen_shape(judged.tokens)
    if twice:
        judged.reasons.append(f"Tokens that were there twice, and count once: {twice}.")
    if refused:
        judged.outcome = PARTLY
        judged.reasons.append(f"Tokens that are too short, or no text, and are gone: {refused}.")
