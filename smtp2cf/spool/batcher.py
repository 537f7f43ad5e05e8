"""What waits goes together: one round trip to a database for all who ask for the same at a time.

Knows nothing of what is asked.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from smtp2cf.journal import tasks
from smtp2cf.reply import SendError

A = TypeVar("A")
R = TypeVar("R")

MAX_BATCH = 200
"""Asked for in one round trip."""


class Batcher(Generic[A, R]):
    """Collects arguments while a round trip is under way; they make the next one.

    work: takes arguments, gives their results in the same order; one that is an error is raised to who
    asked. If work itself raises SendError, all who asked get it; any other error is looked for by asking
    one at a time.
    """

    def __init__(self, work: Callable[[Sequence[A]], Awaitable[Sequence[R | SendError]]]) -> None:
        self._work = work
        self._waiting: list[tuple[A, asyncio.Future[R]]] = []
        self._task: asyncio.Task[None] | None = None

    def ask(self, argument: A) -> "asyncio.Future[R]":
        """The result, some time."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((argument, future))
        if self._task is None or self._task.done():
            self._task = tasks.start(self._run(), "spool.batch")
        return future

    async def finish(self) -> None:
        """Wait until nobody waits."""
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            await self._do(batch)

    async def _do(self, batch: list[tuple[A, "asyncio.Future[R]"]]) -> None:
        try:
            results = await self._work([argument for argument, _ in batch])
            answers = list(zip(batch, results, strict=True))
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait get it
            if len(batch) > 1 and not isinstance(error, SendError):
                for one in batch:
                    await self._do([one])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), result in answers:
                if future.done():
                    continue
                if isinstance(result, SendError):
                    future.set_exception(result)
                else:
                    future.set_result(result)
