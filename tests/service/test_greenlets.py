"""Greenlets that are kept: one after the other uses them, and nobody meets what was before."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import suppress
from contextvars import ContextVar
from threading import Thread

import pytest
from greenlet import getcurrent, greenlet
from sqlalchemy.util import await_only

from starlette_otp.service.greenlets import spawn

who: ContextVar[str] = ContextVar("who", default="nobody")


async def soon(value: object) -> object:
    await asyncio.sleep(0)
    return value


async def fail() -> None:
    await asyncio.sleep(0)
    raise LookupError("from what was awaited")


async def test_it_gives_what_the_work_gives() -> None:
    """The work waits by await_only, once or more or not at all."""
    assert await spawn(lambda one, two: one + two, 1, 2) == 3
    assert await spawn(lambda: (await_only(soon(1)), await_only(soon(2)))) == (1, 2)


async def test_it_raises_what_the_work_raises() -> None:
    """An error of the work's, or of what it waited for, is the caller's; the next one goes well."""
    with pytest.raises(ZeroDivisionError):
        await spawn(lambda: 1 // 0)
    with pytest.raises(LookupError):
        await spawn(lambda: await_only(fail()))
    assert await spawn(lambda: await_only(soon("well"))) == "well"


async def test_it_is_the_same_greenlet_again() -> None:
    """One after the other has the same one; two at a time have two."""
    first = await spawn(getcurrent)
    assert await spawn(getcurrent) is first

    def waiting() -> object:
        await_only(soon(None))
        return getcurrent()

    one, other = await asyncio.gather(spawn(waiting), spawn(waiting))
    assert one is not other


async def test_many_at_a_time_do_not_meet() -> None:
    """Each gets its own values back, whatever the others wait for meanwhile."""

    def work(number: int) -> list[object]:
        return [await_only(soon((number, turn))) for turn in range(number % 7)]

    found = await asyncio.gather(*[spawn(work, number) for number in range(300)])
    assert found == [[(n, turn) for turn in range(n % 7)] for n in range(300)]


async def test_who_is_cancelled_leaves_nothing() -> None:
    """The work is told where it waits, does what it has to in the end, and others go on."""
    told = []

    def work() -> None:
        try:
            await_only(asyncio.sleep(3600))
        except asyncio.CancelledError:
            told.append("cancelled")
            raise
        finally:
            told.append("finally")

    task = asyncio.create_task(spawn(work))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == ["cancelled", "finally"]
    assert await spawn(lambda: await_only(soon("well"))) == "well"


async def test_context_variables_are_the_callers() -> None:
    """Of each caller's own context, also where the greenlet has been another's."""

    async def call(name: str) -> tuple[str, object]:
        who.set(name)
        await asyncio.sleep(0)
        return await spawn(lambda: (who.get(), await_only(soon(who.get()))))

    for name in ("alice", "bob"):
        assert await asyncio.create_task(call(name)) == (name, name)
    assert await spawn(who.get) == "nobody"


async def test_nothing_of_a_request_lives_on() -> None:
    """What the work was given, gave and raised is garbage afterwards."""

    class Thing:
        pass

    def work(thing: Thing, fails: bool) -> Thing:
        if fails:
            raise LookupError(thing)
        return thing

    for fails in (False, True):
        thing = Thing()
        seen = weakref.ref(thing)
        with suppress(LookupError):
            await spawn(work, thing, fails)
        del thing
        gc.collect()
        assert seen() is None


def alive() -> int:
    gc.collect()
    return sum(type(one) is greenlet for one in gc.get_objects())


async def test_those_that_are_too_many_go() -> None:
    """After a crowd as many are kept as are worth keeping, and after the next one, too."""
    counts = []
    for _ in range(3):
        await asyncio.gather(*[spawn(lambda: await_only(soon(None))) for _ in range(300)])
        counts.append(alive())
    assert max(counts) <= 102


def test_those_of_a_thread_go_with_it() -> None:
    """A thread that has ended leaves none behind."""
    before = alive()
    for _ in range(20):
        thread = Thread(target=lambda: asyncio.run(spawn(getcurrent)))
        thread.start()
        thread.join()
    assert alive() <= before + 2


def test_each_thread_has_its_own() -> None:
    """An event loop in another thread can't be handed a greenlet of this one."""
    found: list[object] = []

    def run() -> None:
        found.append(asyncio.run(spawn(getcurrent)))

    run()
    thread = Thread(target=run)
    thread.start()
    thread.join()
    run()
    assert found[0] is found[2] is not found[1]
