"""Loop: how a command that stays runs: on uvloop, if the platform has it."""

import asyncio
import contextlib
import gc
from collections.abc import Callable, Coroutine
from typing import Any


def run_loop(main_task: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end."""
    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        import uvloop

        new_event_loop = uvloop.new_event_loop
    # What is loaded now stays: the collector need not look at it again every few messages.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main_task)
