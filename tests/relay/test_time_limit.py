"""What has come while the loop stood still counts, though its time is over."""

import asyncio
import socket
import time

from smtp2cf.relay import time_limit


async def test_what_came_while_the_loop_stood_still_is_taken() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)

    async def answer() -> bytes:
        lines = [await reader.readline() for _ in range(20)]
        for _ in range(20):
            await asyncio.sleep(0)
        return lines[-1]

    task = asyncio.create_task(answer())
    waiting = asyncio.create_task(time_limit.wait((task,), 0.05))
    await asyncio.sleep(0)
    theirs.sendall(b"line\r\n" * 20)
    time.sleep(0.1)  # noqa: ASYNC251 - this is what a stall is
    assert await waiting == set()
    assert task.result() == b"line\r\n"
    writer.close()
    theirs.close()


async def test_what_has_not_come_is_late() -> None:
    never = asyncio.create_task(asyncio.Event().wait())
    assert await time_limit.wait((never,), 0.01) == {never}
    assert await time_limit.wait((), 0.01) == set()
    never.cancel()


async def test_a_task_that_is_done_is_not_waited_for_until_the_limit() -> None:
    started = time.monotonic()
    assert await time_limit.wait((asyncio.create_task(asyncio.sleep(0)),), 60) == set()
    assert time.monotonic() - started < 10
