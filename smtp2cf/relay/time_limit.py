"""Time limit: wait for tasks, but count what had arrived in time even if the loop was too busy to read it.

asyncio.wait only looks at its clock: after the loop was blocked for a while, it gives up on an answer that is
already in the socket's buffer. Knows nothing of mail.
"""

import asyncio
from collections.abc import Collection
from typing import Any

ROUNDS = 100
"""Rounds of the loop after the limit, in which what has arrived can become an answer: about a millisecond."""


async def wait(tasks: Collection[asyncio.Task[Any]], timeout: float) -> set[asyncio.Task[Any]]:  # noqa: ASYNC109 - what is under way outlives it
    """Wait for all of `tasks`, `timeout` seconds at most. Returns those that are not done."""
    late: set[asyncio.Task[Any]] = set()
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=timeout)
    for _ in range(ROUNDS):
        late = {task for task in late if not task.done()}
        if not late:
            break
        await asyncio.sleep(0)
    return late
