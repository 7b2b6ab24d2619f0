"""The report of a move: a line of JSON a row, and a summary; no secret, token or address in it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import IO

from starlette_otp.moving.plan import Planned
from starlette_otp.moving.rules import ALREADY, IMPORTED, PARTLY, REFUSED, SKIPPED

_NAMED = 20


class Report:
    """Counts what becomes of each row, and writes it down.

    Args:
        users_table: of the old site.
        tells_users: users are rows of it, too, as where they are made.
        file: for the lines, if they are wanted.
    """

    def __init__(self, users_table: str, tells_users: bool, file: IO[str] | None = None) -> None:
        self._users_table = users_table
        self._tells_users = tells_users
        self._file = file
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.reasons: Counter[str] = Counter()
        self.unprotected: list[str] = []
        self.refused: list[str] = []

    def forget(self) -> None:
        """Begin anew."""
        self.outcomes.clear()
        self.reasons.clear()
        self.unprotected.clear()
        self.refused.clear()
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()

    def add(self, batch: Iterable[Planned]) -> None:
        """Note what becomes of a batch."""
        for planned in batch:
            key = str(planned.user.key)
            if planned.is_unprotected:
                self.unprotected.append(shown(planned.user.username, planned.user.key))
            if planned.is_refused:
                self.refused.append(shown(planned.user.username, planned.user.key))
            is_refused = planned.outcome == REFUSED and planned.user.devices
            # The terminal names the first of many; here each of them is found.
            if self._tells_users or is_refused or planned.is_left_out or planned.is_unprotected:
                source = f"{self._users_table}/{key}"
                self._line(source, key, "user", planned.outcome, planned.reasons, None)
            for judged in planned.devices:
                device_id = judged.device_id
                kind = judged.brought.kind
                name = None if device_id is None else f"{kind}/{device_id}"
                source = judged.brought.label
                self._line(source, key, kind, judged.outcome, judged.reasons, name)
        if self._file is not None:
            self._file.flush()

    def _line(
        self,
        source: str,
        user: str,
        kind: str,
        outcome: str,
        reasons: list[str],
        device: str | None,
    ) -> None:
        self.outcomes[kind, outcome] += 1
        self.reasons.update(f"{kind}: {reason}" for reason in reasons)
        if self._file is not None:
            line = {"source": source, "user": user, "kind": kind, "outcome": outcome}
            line |= {"reason": " ".join(reasons)}
            self._file.write(json.dumps({**line, "device": device}) + "\n")

    @property
    def written(self) -> int:
        """How many rows are carried over, or would be."""
        here = (IMPORTED, PARTLY)
        return sum(number for (_, outcome), number in self.outcomes.items() if outcome in here)

    @property
    def is_whole(self) -> bool:
        """Whether all of it is carried over, now or before."""
        left = (PARTLY, SKIPPED, REFUSED)
        return not any(outcome in left for _, outcome in self.outcomes)

    def summary(self) -> list[str]:
        """What becomes of each kind, and why some of it does not, in lines."""
        kinds = sorted({kind for kind, _ in self.outcomes})
        lines = []
        for kind in kinds:
            numbers = [
                f"{self.outcomes[kind, outcome]} {outcome}"
                for outcome in (IMPORTED, PARTLY, ALREADY, SKIPPED, REFUSED)
                if self.outcomes[kind, outcome]
            ]
            lines.append(f"{kind}: {', '.join(numbers)}")
        return lines + self.told()

    def told(self, *only: str) -> list[str]:
        """Why something did not become what it was, in lines; these reasons alone, or all."""
        return [
            f"  {number} x {reason}"
            for reason, number in sorted(self.reasons.items())
            if not only or reason.partition(": ")[2] in only
        ]


def named(users: Sequence[str]) -> str:
    """Users as they are shown, the first of many."""
    more = len(users) - _NAMED
    return ", ".join(users[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def shown(name: str, key: object) -> str:
    """A user by a name, if they have one, and key."""
    # Without what a terminal would act on, and what would make one line two.
    text = f"{name} ({key})".lstrip()
    return "".join(sign if sign.isprintable() else "?" for sign in text)
