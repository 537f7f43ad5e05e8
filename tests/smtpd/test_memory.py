"""The memory that messages of all sessions may take together, however they come in."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from smtp2cf.envelope import Envelope, Verdict
from smtp2cf.smtpd import connection
from tests.smtpd.conftest import Service, Start
from tests.smtpd.dialog import Client, dotted, until

Lines = list[MutableMapping[str, Any]]
MIB = 1 << 20
NO_ROOM = "452 4.3.1 too much mail at once (SMTP2CF_MAX_MESSAGE_MEMORY)"
BLOCK = b"x" * 62 + b"\r\n"


async def _half_a_message(service: Service, size: int) -> Client:
    """A client that has sent so much of its message, and does not go on."""
    client = await service.connect()
    await client.start_message()
    before = _held(service)
    await client.send(BLOCK * (size // len(BLOCK)))
    await until(lambda: _held(service) >= before + size)
    return client


def _held(service: Service) -> int:
    return sum(session.held for session in service.server.sessions)


async def test_messages_take_no_more_memory_than_they_may(start: Start, logged: Lines) -> None:
    service = await start(max_message_size=4 * MIB, max_message_memory=8 * MIB)
    sender = [await service.connect() for _ in range(40)]
    for client in sender:
        await client.start_message()
    sending = [asyncio.ensure_future(client.send(BLOCK * (3 * MIB // len(BLOCK)))) for client in sender]
    most = 0
    while not all(task.done() for task in sending):
        most = max(most, _held(service))
        await asyncio.sleep(0)
    assert most <= 8 * MIB + 40 * connection.ROOM_STEP
    replies = [await client.ask(".") for client in sender]
    taken = sum(reply.startswith("250") for reply in replies)
    assert 1 <= taken <= 3
    assert sum(reply.startswith(NO_ROOM) for reply in replies) == 40 - taken
    assert _held(service) == 0
    told = [line for line in logged if line["event"] == "session.no_room"]
    assert 1 <= len(told) <= 10


async def test_a_small_message_gets_in_beside_all_the_large_ones(start: Start) -> None:
    service = await start(max_message_size=4 * MIB, max_message_memory=4 * MIB)
    await _half_a_message(service, 3 * MIB)
    await _half_a_message(service, 3 * MIB // 4)
    client = await service.connect()
    await client.start_message()
    await client.send(dotted(BLOCK * 10))
    assert (await client.reply()).startswith("250")


@pytest.mark.parametrize("chunk", [100_000, 1_000_000])
async def test_chunks_count_too(start: Start, chunk: int) -> None:
    service = await start(max_message_size=4 * MIB, max_message_memory=3 * MIB)
    await _half_a_message(service, 2 * MIB)
    client = await service.greeted()
    for command in ("MAIL FROM:<anna@example.com>", "RCPT TO:<bert@example.net>"):
        await client.ask(command)
    answers = []
    for _ in range(2 * MIB // chunk):
        await client.send(b"BDAT %d\r\n" % chunk + b"y" * chunk)
        answers.append(await client.reply())
    assert answers[0].startswith("250" if chunk < MIB else ("250", "452"))
    assert answers[-1].startswith(NO_ROOM)
    assert (await client.ask("BDAT 0 LAST")).startswith(NO_ROOM)
    assert service.taken == []
    # The room comes back with the next transaction.
    assert (await client.ask("MAIL FROM:<anna@example.com>")).startswith("250")


async def test_messages_that_wait_for_their_answer_count_too(start: Start) -> None:
    opened = asyncio.Event()

    async def accept(envelope: Envelope, message: bytes) -> Verdict:
        await opened.wait()
        return await service.take(envelope, message)

    service = await start(accept, max_message_size=4 * MIB, max_message_memory=3 * MIB)
    waiting = await _half_a_message(service, 3 * MIB)
    await waiting.send(b".\r\n")
    other = await service.connect()
    await other.start_message()
    await other.send(dotted(BLOCK * (MIB // len(BLOCK))))
    assert (await other.reply()).startswith(NO_ROOM)
    opened.set()
    assert (await waiting.reply()).startswith("250")
    for command in ("MAIL FROM:<anna@example.com>", "RCPT TO:<bert@example.net>", "DATA"):
        await other.ask(command)
    await other.send(dotted(BLOCK * (MIB // len(BLOCK))))
    assert (await other.reply()).startswith("250")


async def test_a_client_that_leaves_gives_its_room_back(start: Start) -> None:
    service = await start(max_message_size=4 * MIB, max_message_memory=3 * MIB)
    client = await _half_a_message(service, 3 * MIB)
    client.reset()
    await until(lambda: not service.server.sessions)
    other = await _half_a_message(service, 2 * MIB)
    assert (await other.ask(".")).startswith("250")


async def test_the_only_message_may_be_as_large_as_messages_may_be(start: Start) -> None:
    service = await start(max_message_size=4 * MIB, max_message_memory=MIB)
    for _ in range(2):
        client = await _half_a_message(service, 3 * MIB)
        assert (await client.ask(".")).startswith("250")
