"""Callers of a pacer, for tests in virtual time."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from smtp2cf.cloudflare.pacing import Pacer, Turn
from smtp2cf.reply import SendError
from tests.cloudflare.virtual_time import run_in_virtual_time, settle

FOREVER = 1e6


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_in_virtual_time(test(*args, **kwargs))

    return run


def now() -> float:
    return asyncio.get_running_loop().time()


def pacer_of(concurrency: int) -> Pacer:
    return Pacer(concurrency, clock=asyncio.get_running_loop().time)


class Callers:
    """Callers of a pacer, one task each; `went` tells who was let in, in which order and when."""

    def __init__(self, pacer: Pacer) -> None:
        self.pacer = pacer
        self.went: list[tuple[int, float]] = []
        self.turns: dict[int, Turn] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def ask(self, *names: int, wait: float = FOREVER) -> None:
        for name in names:
            self.tasks[name] = asyncio.create_task(self._call(name, now() + wait))
        await settle()

    async def _call(self, name: int, deadline: float) -> None:
        self.turns[name] = await self.pacer.admit(deadline)
        self.went.append((name, now()))

    @property
    def order(self) -> list[int]:
        return [name for name, _ in self.went]

    async def succeed(self, name: int, ratelimit: str = "", policy: str = "") -> None:
        self.pacer.observe(self.turns[name], ratelimit, policy)
        await self.end(name)

    async def throttle(self, name: int, retry_after: float | None) -> None:
        self.pacer.block(self.turns[name], retry_after)
        await self.end(name)

    async def end(self, name: int) -> None:
        self.pacer.done(self.turns.pop(name))
        await settle()

    async def error_of(self, name: int) -> SendError:
        with pytest.raises(SendError) as caught:
            await self.tasks[name]
        return caught.value
