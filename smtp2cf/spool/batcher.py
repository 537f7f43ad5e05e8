"""One round trip to a database for all who ask for the same thing at the same time.

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
"""Arguments in one round trip."""


class Batcher(Generic[A, R]):
    """Collects arguments during a round trip; they are sent with the next one.

    work: takes arguments and returns their results in the same order; an error among these is raised in the
    task that asked. If work itself raises SendError, all of them get it; after any other error the arguments
    are tried one by one.
    """

    def __init__(self, work: Callable[[Sequence[A]], Awaitable[Sequence[R | SendError]]]) -> None:
        self._work = work
        self._waiting: list[tuple[A, asyncio.Future[R]]] = []
        self._task: asyncio.Task[None] | None = None

    def ask(self, argument: A) -> "asyncio.Future[R]":
        """A future for the result."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((argument, future))
        if self._task is None or self._task.done():
            self._task = tasks.start(self._run(), "spool.batch")
        return future

    async def finish(self) -> None:
        """Wait until everything is done."""
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
