"""What people read of a device: its kind's plain name, what to type, where its codes go."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z][a-z]+|[a-z]+|[0-9]+")


class WordsMixin:
    """How pages call a device. A kind overrides the class attributes."""

    kind: Any
    name: Any

    kind_name: ClassVar[str] = ""
    """What people call the kind: "Authenticator app". Unless set, the words of the class's name."""
    code_prompt: ClassVar[str] = "Enter your code"
    """What is asked for where a token of this device goes."""
    code_has_letters: ClassVar[bool] = True
    """Whether a phone's keyboard has to have letters for it."""
    is_spare: ClassVar[bool] = False
    """Whether it is for when the others are out of reach: offered last, whenever it was used."""

    def shown_destination(self, user: object) -> str:
        """Where a challenge of this user's device goes, masked: "z…@example.org"; or nothing."""
        destination = getattr(self, "challenge_destination", None)
        return "" if destination is None else masked(destination(user))

    def shown_name(self, user: object) -> str:
        """What the device is, to choose it from others: "Authenticator app · Phone"."""
        return with_name(self.kind_name, self.name)


def shown_names(devices: Sequence[Any], user: object) -> list[str]:
    """What a user's devices are, each told from the others.

    By what they are; where that is the same, by their names, too; else by their numbers.
    """
    names = [device.shown_name(user) for device in devices]
    said = Counter(names)
    names = [
        with_name(name, device.name) if said[name] > 1 else name
        for name, device in zip(names, devices, strict=True)
    ]
    said = Counter(names)
    alike = {name: iter(range(1, count + 1)) for name, count in said.items() if count > 1}
    # By their ids, so that a number stays with its device whichever was used last.
    for at in sorted(range(len(devices)), key=lambda at: devices[at].id):
        if names[at] in alike:
            names[at] += f" ({next(alike[names[at]])})"
    return names


def plain_name(name: str) -> str | None:
    """A name that an owner gives a device, on one line; None for one that is not all visible."""
    words = " ".join(name.split())
    # A joiner stands in names of some scripts, and in pictures.
    visible = words.replace("\u200c", "").replace("\u200d", "").isprintable()
    return words if visible else None


def with_name(words: str, name: str) -> str:
    """A device's words and the name that its owner gave it, unless that says no more."""
    # On one line: it stands in mails, too.
    own = " ".join(name.split())
    known = words.casefold().endswith(own.casefold())
    return words if known else f"{words} · {own}"


def with_destination(message: str, device: Any, user: object) -> str:
    """What a challenge says, with where it went."""
    return message.replace("{destination}", device.shown_destination(user) or "you")


def masked(destination: str | None) -> str:
    """An address or a number, so that its owner knows it and nobody else learns it."""
    if not destination:
        return ""
    name, at, domain = destination.rpartition("@")
    return f"{name[:1]}…@{domain}" if at else f"…{destination[-2:]}"


def words_of(name: str) -> str:
    """The words of a class's name: "Grid card" of `GridCardDevice`."""
    name = name.removesuffix("Device") or name
    words = [word if word.isupper() else word.lower() for word in _WORDS.findall(name)]
    text = " ".join(words)
    return text[:1].upper() + text[1:]
