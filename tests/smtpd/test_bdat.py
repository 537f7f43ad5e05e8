"""BDAT (RFC 3030): nothing in a chunk means anything, and however it is cut it is the same message."""

import asyncio
import itertools
import random
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smtp2cf.smtpd.chunks import Chunks, parse_bdat
from smtp2cf.smtpd.outgoing import State
from tests.smtpd.conftest import Start
from tests.smtpd.dialog import Client, until

ENVELOPE = b"MAIL FROM:<anna@example.com>\r\nRCPT TO:<bert@example.net>\r\n"
BINARY = bytes(range(256)) * 2
NASTY = b".\r\n..\r\n\r\n.\r\nQUIT\r\nBDAT 5 LAST\r\n\rDATA\n.\n\x00\xff.\r"


async def begun(start: Start, **options: object) -> tuple[object, Client]:
    """A service, and a client with a recipient."""
    service = await start(**options)
    client = await service.greeted()
    await client.send(ENVELOPE)
    assert [(await client.reply())[:3] for _ in range(2)] == ["250", "250"]
    return service, client


def chunks(*parts: bytes) -> bytes:
    """The parts as chunks, the last one as the last."""
    last = len(parts) - 1
    return b"".join(
        b"BDAT %d%b\r\n%b" % (len(part), b" LAST" if number == last else b"", part)
        for number, part in enumerate(parts)
    )


@pytest.mark.parametrize(
    "parts",
    [
        (b"Subject: x\r\n\r\nhello\r\n",),
        (b"Subject: x\r\n", b"\r\nhello", b"\r\n"),
        (b"Subject: x\r\n\r\nhello\r\n", b""),
        (b"", b"", b"Subject: x\r\n\r\nhello\r\n"),
        (b"",),
        (b"no line end",),
        (b"line end\r", b"\ncut in two\r", b"\n"),
        (NASTY,),
        (b"\r\n", b".\r\n", b"QUIT\r\n"),
        (BINARY, BINARY),
        (b"a\rb\nc\r\n",),
        (b"x" * 500_000, b"y" * 500_000),
    ],
    ids=lambda parts: repr([part[:12] for part in parts]),
)
async def test_chunks_arrive_as_they_are(start: Start, parts: tuple[bytes, ...]) -> None:
    service, client = await begun(start)
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        await client.send(b"BDAT %d%b\r\n%b" % (len(part), b" LAST" if last else b"", part))
        answer = await client.reply()
        assert answer == ("250 2.0.0 taken" if last else f"250 2.0.0 {len(part)} octets taken")
    assert service.message == b"".join(parts)
    assert await client.ask("NOOP") == "250 2.0.0 OK"


async def test_a_whole_session_in_one_packet(start: Start) -> None:
    service = await start()
    client = await service.connect()
    await client.send(
        b"EHLO a\r\n" + ENVELOPE + chunks(NASTY, b"more", b"") + ENVELOPE + chunks(b"two") + b"QUIT\r\n"
    )
    codes = [line[:3] for line in (await client.everything()).splitlines() if line[3] == " "]
    assert codes == ["220", "250", *["250"] * 5, *["250"] * 3, "221"]
    assert [message for _, message in service.taken] == [NASTY + b"more", b"two"]


SESSION = b"EHLO a\r\n" + ENVELOPE + chunks(NASTY, b"", BINARY) + ENVELOPE + chunks(b".\r\n") + b"QUIT\r\n"


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 90), min_size=1, max_size=20))
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_any_split_gives_the_same(start: Start, sizes: list[int]) -> None:
    service = await start()
    client = await service.connect()
    position, packets = 0, 0
    while position < len(SESSION):
        size = sizes[packets % len(sizes)]
        client.writer.write(SESSION[position : position + size])
        await asyncio.sleep(0)
        position, packets = position + size, packets + 1
    codes = [line[:3] for line in (await client.everything()).splitlines() if line[3] == " "]
    assert codes == ["220", "250", *["250"] * 5, *["250"] * 3, "221"]
    assert [message for _, message in service.taken] == [NASTY + BINARY, b".\r\n"]


@given(
    message=st.binary(max_size=300),
    cuts=st.lists(st.integers(0, 300), max_size=6),
    blocks=st.lists(st.integers(1, 50), min_size=1, max_size=6),
)
def test_any_chunks_in_any_blocks_are_one_message(message: bytes, cuts: list[int], blocks: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(message)) for cut in cuts), len(message)]
    reader = Chunks(limit=1000)
    for number, (first, end) in enumerate(itertools.pairwise(edges)):
        reader.begin(end - first, last=number == len(edges) - 2)
        stream, fed, whole = message[first:end] + b"NOOP\r\n", 0, False
        while not whole:
            size = blocks[fed % len(blocks)]
            whole = reader.feed(stream[:size])
            stream, fed = reader.rest + stream[size:], fed + 1
        assert stream == b"NOOP\r\n", "what is behind a chunk is not its own"
    assert reader.last
    assert reader.message() == message


@pytest.mark.parametrize(
    ("argument", "read"),
    [
        ("0", (0, False)),
        ("12 LAST", (12, True)),
        ("12  last", (12, True)),
        ("0 LAST", (0, True)),
        ("007", (7, False)),
        ("9" * 18, (10**18 - 1, False)),
        ("9" * 19, None),
        ("", None),
        ("LAST", None),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("0x10", None),
        ("1_000", None),
        ("12LAST", None),
        ("12 LAST x", None),
        ("12 FIRST", None),
        ("\u0661", None),
        ("1 \u017fLAST", None),
    ],
)
def test_the_argument(argument: str, read: tuple[int, bool] | None) -> None:
    assert parse_bdat(argument) == read


# ---- what is refused is read to its end all the same


async def test_a_chunk_without_a_recipient_is_no_commands(start: Start) -> None:
    service = await start()
    client = await service.greeted()
    await client.send(b"BDAT 12 LAST\r\nQUIT\r\nNOOP\r\n" + b"MAIL FROM:<anna@example.com>\r\n")
    await client.send(b"BDAT 6\r\nQUIT\r\n" + b"RCPT TO:<nonsense>\r\n" + b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n")
    heard = [(await client.reply())[:24] for _ in range(6)]
    assert heard == [
        "503 5.5.1 send MAIL FROM", "250 2.1.0 sender OK", "503 5.5.1 send RCPT TO f",
        "553 5.1.3 <nonsense>: th", "503 5.5.1 send RCPT TO f", "250 2.0.0 OK",
    ]  # fmt: skip
    assert service.taken == []


async def test_a_refused_chunk_leaves_nothing_behind(start: Start) -> None:
    service = await start()
    client = await service.greeted()
    await client.ask("MAIL FROM:<anna@example.com>")
    await client.send(b"BDAT 5\r\nevil\n")
    assert (await client.reply()).startswith("503")
    await client.ask("RCPT TO:<bert@example.net>")
    await client.send(b"BDAT 4 LAST\r\ngood")
    assert await client.reply() == "250 2.0.0 taken"
    assert service.message == b"good"


@pytest.mark.parametrize("command", ["BDAT", "BDAT x", "BDAT -1 LAST", "BDAT 5 FIRST", "BDAT " + "9" * 20])
async def test_a_size_that_is_none_ends_the_session(start: Start, command: str) -> None:
    """How many octets follow nobody knows: to go on would be to take them for commands."""
    service, client = await begun(start)
    await client.send(command.encode() + b"\r\nQUIT\r\nMAIL FROM:<evil@example.com>\r\n")
    assert await client.everything() == "501 5.5.4 syntax: BDAT size [LAST]\r\n"
    assert service.taken == []


@pytest.mark.parametrize("command", ["DATA", "RCPT TO:<carla@example.net>", "MAIL FROM:<a@b.c>"])
async def test_once_begun_there_are_only_chunks(start: Start, command: str) -> None:
    service, client = await begun(start)
    await client.send(b"BDAT 3\r\none")
    await client.reply()
    assert (await client.ask(command)).startswith("503 5.5.1")
    await client.send(b"BDAT 3 LAST\r\ntwo")
    assert await client.reply() == "250 2.0.0 taken"
    assert (service.message, service.envelope.forward_paths) == (b"onetwo", ("bert@example.net",))


@pytest.mark.parametrize("command", ["RSET", "EHLO a", "HELO a"])
async def test_what_was_begun_is_forgotten(start: Start, command: str) -> None:
    service, client = await begun(start)
    await client.send(b"BDAT 3\r\none")
    await client.reply()
    assert (await client.ask(command)).startswith("250")
    await client.send(b"BDAT 3 LAST\r\ntwo" + ENVELOPE + b"BDAT 5 LAST\r\nthree")
    assert [(await client.reply())[:3] for _ in range(4)] == ["503", "250", "250", "250"]
    assert service.message == b"three"


@pytest.mark.parametrize("command", ["NOOP", "VRFY x", "HELP"])
async def test_harmless_commands_come_between(start: Start, command: str) -> None:
    service, client = await begun(start)
    await client.send(b"BDAT 3\r\none" + command.encode() + b"\r\nBDAT 3 LAST\r\ntwo")
    assert [(await client.reply())[:1] for _ in range(3)] == ["2"] * 3
    assert service.message == b"onetwo"


# ---- sizes


async def test_the_limit_holds_to_the_octet(start: Start) -> None:
    service, client = await begun(start, max_message_size=1000)
    await client.send(chunks(b"x" * 500, b"x" * 500))
    assert [(await client.reply())[:3] for _ in range(2)] == ["250", "250"]
    await client.send(ENVELOPE + chunks(b"x" * 500, b"x" * 501))
    assert [(await client.reply())[:9] for _ in range(4)][2:] == ["250 2.0.0", "552 5.3.4"]
    assert len(service.taken) == 1
    assert (await client.ask("MAIL FROM:<anna@example.com>")).startswith("250"), "the transaction is over"


async def test_chunks_behind_one_that_was_too_big_are_refused_with_it(start: Start) -> None:
    service, client = await begun(start, max_message_size=1000)
    await client.send(chunks(b"x" * 1001, b"y", b"z"))
    assert [(await client.reply())[:9] for _ in range(3)] == ["552 5.3.4"] * 3
    assert service.taken == []
    await client.send(ENVELOPE + chunks(b"ok"))
    assert [(await client.reply())[:3] for _ in range(3)] == ["250"] * 3


async def test_a_hundred_megabytes_are_drained_without_being_held(start: Start) -> None:
    service, client = await begun(start, max_message_size=1 << 20)
    block = b"x" * (1 << 20)
    await client.send(b"BDAT %d\r\n" % (100 << 20))
    tracemalloc.start()
    for _ in range(100):
        await client.send(block)
    await client.send(b"BDAT 0 LAST\r\nNOOP\r\n")
    assert [(await client.reply())[:9] for _ in range(3)] == ["552 5.3.4", "552 5.3.4", "250 2.0.0"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
    assert service.taken == []


async def test_a_size_that_is_only_said_costs_nothing(start: Start) -> None:
    _, client = await begun(start, max_message_size=1 << 40)
    tracemalloc.start()
    await client.send(b"BDAT 999999999999\r\nx")
    await asyncio.sleep(0.02)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


async def test_a_client_that_leaves_in_a_chunk(start: Start, logged: list) -> None:
    service, client = await begun(start)
    await client.send(b"BDAT 10 LAST\r\nhalf")
    await until(lambda: any(session.state is State.MESSAGE for session in service.server.sessions))
    client.end()
    assert await client.everything() == ""
    await until(lambda: not service.server.sessions)
    assert service.taken == []
    assert [line["event"] for line in logged if line["log_level"] != "debug"] == ["session.lost_in_data"]


async def test_a_message_octet_by_octet_in_chunks_of_one(start: Start) -> None:
    message = random.Random(5).randbytes(2000)
    service, client = await begun(start)
    await client.send(chunks(*(bytes([octet]) for octet in message)))
    codes = [(await client.reply())[:3] for _ in range(len(message))]
    assert set(codes) == {"250"}
    assert service.message == message
