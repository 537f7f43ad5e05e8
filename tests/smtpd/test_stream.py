"""The stream of a session over real sockets: cut anywhere, pipelined, all at once, and hostile."""

import asyncio
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smtp2cf.smtpd.connection import PIPELINE_TURN
from tests.smtpd.conftest import Start
from tests.smtpd.dialog import Client, dotted, until
from tests.smtpd.test_data_reader import ENDINGS_THAT_ARE_NONE

HELLO = b"EHLO a\r\n"
TO_DATA = b"MAIL FROM:<anna@example.com>\r\nRCPT TO:<bert@example.net>\r\nDATA\r\n"
MESSAGE = b"Subject: x\r\n\r\n.\r\n..two\r\n\x00\xff\r\n"


async def _replies(client: Client, stream: bytes, sizes: list[int]) -> list[str]:
    """Send a whole session in packets of these sizes, over and over; how all answers begin."""
    position, packets = 0, 0
    while position < len(stream):
        size = sizes[packets % len(sizes)]
        client.writer.write(stream[position : position + size])
        await asyncio.sleep(0)
        position, packets = position + size, packets + 1
    return [line[:4] for line in (await client.everything()).splitlines()]


EHLO_REPLY = ["250-"] * 10 + ["250 "]
ANSWERS = ["220 ", *EHLO_REPLY, "250 ", "250 ", "354 ", "250 ", "250 ", "250 ", "354 ", "250 ", "221 "]
SESSION = HELLO + TO_DATA + dotted(MESSAGE) + TO_DATA + dotted(b"") + b"QUIT\r\n"


@pytest.mark.parametrize("size", [1, 2, 5, 64, 100_000])
async def test_a_whole_session_sent_without_waiting(start: Start, size: int) -> None:
    service = await start()
    client = await service.connect()
    client.writer.transport.set_write_buffer_limits(0)
    assert await _replies(client, SESSION, [size]) == ANSWERS
    assert [message for _, message in service.taken] == [MESSAGE, b""]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=30))
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_any_split_gives_the_same_messages_and_replies(start: Start, sizes: list[int]) -> None:
    service = await start()
    assert await _replies(await service.connect(), SESSION, sizes) == ANSWERS
    assert [message for _, message in service.taken] == [MESSAGE, b""]


async def test_data_and_its_message_in_one_packet(start: Start) -> None:
    service = await start()
    client = await service.greeted()
    await client.send(TO_DATA + dotted(MESSAGE))
    await client.play("S: 250 2.1.0\nS: 250 2.1.5\nS: 354\nS: 250 2.0.0 taken")
    assert service.message == MESSAGE


async def test_commands_behind_the_final_dot_wait_for_its_answer(start: Start) -> None:
    relayed = asyncio.Event()

    async def accept(envelope: object, message: bytes) -> object:
        await relayed.wait()
        return await service.take(envelope, message)

    service = await start(accept)
    client = await service.connect()
    await client.start_message()
    await client.send(
        dotted(MESSAGE) + b"NOOP\r\nVRFY x\r\nHELP\r\n" + TO_DATA + dotted(b"two\r\n") + b"RSET\r\n"
    )
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.reader.readline()
    relayed.set()
    codes = [(await client.reply())[:9] for _ in range(9)]
    assert codes == [
        "250 2.0.0", "250 2.0.0", "252 2.1.5", "214 2.0.0",
        "250 2.1.0", "250 2.1.5", "354 end w", "250 2.0.0", "250 2.0.0",
    ]  # fmt: skip
    assert [message for _, message in service.taken] == [MESSAGE, b"two\r\n"]


async def test_a_refused_data_makes_commands_of_what_follows(start: Start) -> None:
    service = await start()
    client = await service.greeted()
    await client.send(
        b"MAIL FROM:<anna@example.com>\r\nRCPT TO:<bert>\r\nDATA\r\nSubject: x\r\n.\r\nNOOP\r\n"
    )
    codes = [(await client.reply())[:3] for _ in range(6)]
    assert codes == ["250", "553", "503", "500", "500", "250"]
    assert service.taken == []


@pytest.mark.parametrize("sequence", ENDINGS_THAT_ARE_NONE)
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_one_message_in_is_one_message_out(start: Start, sequence: bytes) -> None:
    service = await start()
    client = await service.connect()
    await client.start_message()
    smuggled = b"first" + sequence + TO_DATA + b"second"
    await client.send(smuggled + b"\r\n.\r\nQUIT\r\n")
    await client.play("S: 250 2.0.0 taken\nS: 221\nS: <closed>")
    assert service.message == smuggled.replace(b"\r\n.", b"\r\n") + b"\r\n"


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\r\n",
        b".\r\n",
        b"..\r\n.\r\n",
        b"x" * 1_000_000 + b"\r\n",
        b"." * 1_000_000 + b"\r\n",
        b"\x00" * 1000 + b"\r\n",
        bytes(range(256)).replace(b"\r", b"").replace(b"\n", b"") * 100 + b"\r\n",
        b"a\rb\nc\r\n",
        "Größe €\r\n".encode() * 1000,
    ],
    ids=lambda message: repr(message[:8]),
)
async def test_messages_of_all_shapes_arrive_as_they_are(start: Start, message: bytes) -> None:
    service = await start()
    client = await service.connect()
    await client.start_message()
    await client.send(dotted(message))
    assert await client.reply() == "250 2.0.0 taken"
    assert service.message == message


async def test_a_thousand_messages_in_one_stream(start: Start) -> None:
    service = await start()
    client = await service.greeted()
    messages = [random.Random(seed).randbytes(40).replace(b"\r", b"") + b"\r\n" for seed in range(1000)]
    sending = asyncio.ensure_future(client.send(b"".join(TO_DATA + dotted(message) for message in messages)))
    codes = [(await client.reply())[:3] for _ in range(4 * len(messages))]
    await sending
    assert codes == ["250", "250", "354", "250"] * len(messages)
    assert [message for _, message in service.taken] == messages


@pytest.mark.parametrize("ahead", range(PIPELINE_TURN - 4, PIPELINE_TURN))
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_commands_wait_for_a_message_that_ends_where_others_have_their_turn(
    start: Start, ahead: int
) -> None:
    async def accept(envelope: object, message: bytes) -> object:
        await asyncio.sleep(0.01)
        return await service.take(envelope, message)

    service = await start(accept)
    client = await service.greeted()
    await client.send(b"NOOP\r\n" * ahead + TO_DATA + dotted(MESSAGE) + TO_DATA + dotted(b"two\r\n"))
    codes = [(await client.reply())[:3] for _ in range(ahead + 8)]
    assert codes == ["250"] * ahead + ["250", "250", "354", "250"] * 2
    assert [message for _, message in service.taken] == [MESSAGE, b"two\r\n"]
    assert {len(envelope.forward_paths) for envelope, _ in service.taken} == {1}


async def test_an_answer_counts_as_received_once_the_client_goes_on(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nor does anybody look at what TCP has acknowledged meanwhile.
    monkeypatch.setattr("smtp2cf.smtpd.reply_arrival.LOOK_EVERY", 60.0)
    service = await start()
    client = await service.connect()
    await client.start_message()
    await client.send(dotted(MESSAGE) + TO_DATA + dotted(MESSAGE))
    for _ in range(5):
        await client.reply()
    # What was pipelined behind the first message proves nothing about its answer.
    assert service.confirmed == []
    await client.send(b"NOOP\r\n")
    await client.reply()
    assert service.confirmed == [(envelope.queue_id, True) for envelope, _ in service.taken]
    await client.send(b"QUIT\r\n")
    await client.everything()
    await until(lambda: not service.server.sessions)
    assert len(service.confirmed) == 2
