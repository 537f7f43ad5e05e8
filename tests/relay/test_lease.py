"""The right to send a message: whose it is before it is kept, while it is put into the spool, and after."""

import asyncio
from typing import Any

import pytest

from smtp2cf.relay.lease import TAKEN_OVER, Lease
from smtp2cf.reply import SendError
from smtp2cf.spool import SpoolUnavailable
from tests.spool.conftest import new_mail


class Spool:
    """A spool in which nothing is ours. put: waits for `written`, then raises `fails` if there is one."""

    def __init__(self, fails: SendError | None = None) -> None:
        self.written = asyncio.Event()
        self._fails = fails
        self.asked = 0

    async def put(self, _: object) -> None:
        await self.written.wait()
        if self._fails is not None:
            raise self._fails

    def holds(self, _: str) -> bool:
        return False

    async def confirm(self, _: str) -> bool:
        self.asked += 1
        return False


async def refused(lease: Lease) -> bool:
    try:
        await lease.confirm()
    except SendError as error:
        return error.reply == TAKEN_OVER
    return False


async def test_what_its_client_still_owns_is_nobody_elses() -> None:
    spool: Any = Spool()
    lease = Lease(spool, "ID", kept=False)
    assert lease.holds()
    assert not await refused(lease)
    assert (lease.called, spool.asked) == (True, 0)


async def test_what_is_kept_is_asked_for() -> None:
    spool: Any = Spool()
    lease = Lease(spool, "ID", kept=True)
    assert not lease.holds()
    assert await refused(lease)
    assert (lease.called, spool.asked) == (False, 1)


@pytest.mark.parametrize(
    ("fails", "ours"),
    [
        (None, False),
        (SpoolUnavailable("no"), True),  # the client has no 250, so it is still its mail
        (SpoolUnavailable("gone", unanswered=True), False),  # it may be kept
    ],
)
async def test_while_it_is_put_into_the_spool_nobody_asks(fails: SendError | None, ours: bool) -> None:
    spool: Any = Spool(fails)
    lease = Lease(spool, "ID", kept=False)
    keeping = asyncio.create_task(lease.keep(new_mail()))
    await asyncio.sleep(0)
    assert not lease.holds()
    asking = asyncio.create_task(refused(lease))
    await asyncio.sleep(0.01)
    assert spool.asked == 0
    spool.written.set()
    assert await asking is not ours
    assert (lease.holds(), lease.called) == (ours, ours)
    (error,) = await asyncio.gather(keeping, return_exceptions=True)
    assert error is fails
