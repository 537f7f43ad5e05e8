"""The webhook on both spools: bridges share the work, and whoever dies in the middle leaves the same id."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from smtp2cf.journal.news import News
from smtp2cf.relay import webhook
from smtp2cf.relay.webhook import Webhook
from smtp2cf.relay.webhook_call import CALL_TIMEOUT, Result
from smtp2cf.spool import Posting, Postings, postings
from tests.spool.conftest import Backend


class Receiver:
    """got: the ids, as they came. hold: keep back the answers. enough: set when so many have come."""

    host = "hooks.example.com"

    def __init__(self, enough: int) -> None:
        self.got: list[str] = []
        self.enough = asyncio.Event()
        self.hold = False
        self._wanted = enough

    async def post(self, posting: Posting) -> Result:
        self.got.append(posting.id)
        if len(self.got) >= self._wanted:
            self.enough.set()
        if self.hold:
            await asyncio.Event().wait()
        return Result()


class Watched:
    """A spool's postings. gone: set when so many are done."""

    def __init__(self, waiting: Postings, enough: int) -> None:
        self._waiting = waiting
        self._left = enough
        self.gone = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._waiting, name)

    async def settle(self, done: Sequence[str], later: Mapping[str, float]) -> None:
        await self._waiting.settle(done, later)
        self._left -= len(done)
        if self._left <= 0:
            self.gone.set()


def hook(waiting: Postings, receiver: Receiver) -> Webhook:
    return Webhook(waiting, receiver, ("mail.held",), "relay.example.com")


async def stopped(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_bridge_that_dies_after_a_call_leaves_the_event_under_its_id(backend: Backend) -> None:
    spool, receiver = await backend.open(), Receiver(1)
    receiver.hold = True
    first = hook(spool.postings, receiver)
    first.hear(News("mail.held", 0.0, "text", {}))
    await first.write()
    delivering = asyncio.create_task(first.deliver())
    await receiver.enough.wait()
    await stopped(delivering)  # as a kill would: the receiver has it, and the spool does not know

    receiver.hold = False
    await spool.postings.settle([], dict.fromkeys(receiver.got, 0.0))  # the lease is over
    watched = Watched(spool.postings, 1)
    delivering = asyncio.create_task(hook(watched, receiver).deliver())
    await watched.gone.wait()
    await stopped(delivering)
    assert len(receiver.got) == 2
    assert len(set(receiver.got)) == 1


async def test_two_bridges_on_one_spool_post_each_event_once(backend: Backend) -> None:
    spool = await backend.open()
    other = spool if backend.is_sqlite else await backend.open(serve=True)
    receiver = Receiver(30)
    hooks = [hook(each.postings, receiver) for each in (spool, other)]
    for number in range(30):
        hooks[number % 2].hear(News("mail.held", 0.0, str(number), {}))
    await asyncio.gather(*(each.write() for each in hooks))
    delivering = [asyncio.create_task(each.deliver()) for each in hooks]
    await receiver.enough.wait()
    await stopped(*delivering)
    assert len(receiver.got) == len(set(receiver.got)) == 30


def test_a_lease_lasts_longer_than_a_call() -> None:
    assert postings.LEASE >= 2 * CALL_TIMEOUT
    assert postings.KEPT_FOR > webhook.EXPIRE_AFTER > sum(webhook.SCHEDULE)
