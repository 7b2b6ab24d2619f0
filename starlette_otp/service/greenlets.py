"""Greenlets that are kept: what SQLAlchemy's pool does wants to run in one.

A new greenlet for each request costs more than what runs in it, since memory for its stack is
mapped and given back; one that is used again does not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import local
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

T = TypeVar("T")

_MOST = 100
"""Greenlets that a thread keeps for later; each has 16 kB."""


class _Greenlet(greenlet):
    """One that does a piece of work, says what came of it, and waits for the next."""

    # By this SQLAlchemy's await_only knows a greenlet in which it may be called.
    __sqlalchemy_greenlet_provider__ = True

    outcome: tuple[Any, BaseException | None] | None = None
    """What the work gave, or raised."""


def _run(work: Callable[..., Any] | None, args: tuple[Any, ...]) -> None:
    while work is not None:
        try:
            outcome: Any = work(*args), None
        except BaseException as exc:
            outcome = None, exc
        _current().outcome = outcome
        # Nothing of a request's lives on in here; nor is there a name for the greenlet itself,
        # which nobody could collect then.
        work, args, outcome = None, (), None
        work, args = _current().parent.switch()


def _current() -> Any:
    return getcurrent()


class _Idle(local):
    def __init__(self) -> None:
        self.greenlets: list[_Greenlet] = []


_idle = _Idle()


async def spawn(work: Callable[..., T], *args: Any) -> T:
    """Call `work(*args)` in a greenlet, where it may call `await_only`: `greenlet_spawn`, but
    cheaper."""
    own = _idle.greenlets.pop() if _idle.greenlets else _Greenlet(_run)
    driver = getcurrent()
    own.parent, own.gr_context = driver, driver.gr_context
    awaited = own.switch(work, args)
    while own.outcome is None:
        try:
            value = await awaited
        except BaseException:
            awaited = own.throw(*sys.exc_info())
        else:
            awaited = own.switch(value)
    result: T
    (result, error), own.outcome = own.outcome, None
    own.gr_context = None
    if len(_idle.greenlets) < _MOST:
        _idle.greenlets.append(own)
    if error is None:
        return result
    try:
        raise error
    finally:
        del error
