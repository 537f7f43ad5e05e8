"""Background tasks, none of which ends unnoticed.

Every asyncio task whose result nobody awaits is started here. Work that has to run for as long as the bridge
is restarted after an error; for work that is done once, the error is logged.

Knows nothing of what the tasks do.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

T = TypeVar("T")

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
"""Seconds until failed work is restarted, doubling from the first to the longest."""

_log = structlog.get_logger(__name__)
_running: set["asyncio.Task[Any]"] = set()


def start(work: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
    """Run something once in the background; an error is logged."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    _running.add(task)  # the loop itself would let go of a task that waits
    task.add_done_callback(_ended)
    return task


def keep_running(
    work: Callable[[], Awaitable[None]], name: str, *, fatal: type[Exception] | tuple[()] = ()
) -> "asyncio.Task[None]":
    """Run something until it returns or the task is cancelled; after an error, log it and restart.

    fatal: an error that ends the task instead; whoever started it handles it.
    """
    task = asyncio.get_running_loop().create_task(_again_and_again(work, name, fatal), name=name)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


def is_cancelled(error: BaseException) -> bool:
    """Whether `error` is the cancellation of the running task.

    A library may raise CancelledError for its own reasons; that is an error like any other.
    """
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


async def _again_and_again(
    work: Callable[[], Awaitable[None]], name: str, fatal: type[Exception] | tuple[()]
) -> None:
    clock = asyncio.get_running_loop().time
    pause = FIRST_PAUSE
    while True:
        began = clock()
        try:
            await work()
        except fatal:
            raise
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled(error):
                raise
            if clock() - began > LONGEST_PAUSE:
                pause = FIRST_PAUSE
            _log.error("task.failed", task=name, again_in=pause, exc_info=error)
        else:
            return
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _ended(task: "asyncio.Task[Any]") -> None:
    _running.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("task.failed", task=task.get_name(), exc_info=error)
