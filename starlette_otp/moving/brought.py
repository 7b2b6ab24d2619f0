"""What a site brings along, in our words, whichever library it had: users and their devices."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

NO_KIND = "There is no such kind of device here."
"""Why a device of another kind can't be carried over."""


@dataclass(slots=True)
class BroughtDevice:
    """A device as its old row has it.

    Attributes:
        table: of its row, and of the row `id`: together they name it for good.
        label: what the old library calls it.
        kind: of ours; of a kind that there is not, what the old one is called.
        confirmed: whether it verified there.
        values: by our columns.
        secret: what its tokens are made of, if it has one.
        tokens: of a device with a set of them.
        refusal: why it can't be carried over, in a sentence.
        notes: what is not quite as it was.
        is_whole: all of its tokens could be read.
    """

    table: str
    id: str
    label: str
    kind: str
    confirmed: bool = True
    values: dict[str, Any] = field(default_factory=dict, repr=False)
    secret: bytes | None = field(default=None, repr=False)
    tokens: Sequence[str] | None = field(default=None, repr=False)
    refusal: str | None = None
    notes: list[str] = field(default_factory=list)
    is_whole: bool = True


@dataclass(slots=True)
class BroughtUser:
    """A user as their old row has them; `has_factor` says that a device verified them there."""

    key: Any
    username: str = field(default="", repr=False)
    email: str = field(default="", repr=False)
    password_hash: str = field(default="", repr=False)
    is_active: bool = True
    is_staff: bool = False
    devices: list[BroughtDevice] = field(default_factory=list)

    @property
    def has_factor(self) -> bool:
        """Whether the old site asked them for a second factor."""
        return any(device.confirmed for device in self.devices)


class OldSite(Protocol):
    """A site that is read, in the order of its users' keys."""

    name: str
    """What its rows are recorded under."""
    users_table: str

    def users(self, batch: int) -> AsyncIterator[list[BroughtUser]]:
        """All users, `batch` at a time, each with all of their devices."""

    async def count(self) -> int:
        """How many users there are."""
