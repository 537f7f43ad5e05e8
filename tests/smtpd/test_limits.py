"""Limits: of messages, recipients, sessions, silence, nonsense and memory."""

import asyncio
import gc
import time
import tracemalloc
from collections.abc import MutableMapping
from typing import Any

import pytest

from smtp2cf.access.counts import Counts
from smtp2cf.access.limit import Limit, Named
from smtp2cf.access.quotas import Allowance, Quotas, ruling
from smtp2cf.envelope import Envelope, Verdict
from smtp2cf.reply import Reply
from tests.smtpd.conftest import TAKEN, Service, Start, pass_time, turns
from tests.smtpd.dialog import Client, dotted, until

MIB = 1 << 20
Lines = list[MutableMapping[str, Any]]


# ---- messages and recipients


async def test_a_message_over_the_limit_is_refused_and_the_session_goes_on(start: Start) -> None:
    service = await start(max_message_size=1000)
    client = await service.connect()
    await client.start_message()
    await client.send(dotted(b"x" * 998 + b"\r\n"))
    assert await client.reply() == "250 2.0.0 taken"
    for command in ("MAIL FROM:<anna@example.com>", "RCPT TO:<bert@example.net>", "DATA"):
        await client.ask(command)
    await client.send(dotted(b"x" * 999 + b"\r\n"))
    assert (await client.reply()).startswith("552 5.3.4 the message is larger than 1000 octets")
    assert (await client.ask("DATA")).startswith("503")
    assert (await client.ask("MAIL FROM:<anna@example.com>")).startswith("250")
    assert len(service.taken) == 1


async def test_a_message_of_200_mb_is_drained_without_being_held(start: Start) -> None:
    service = await start(max_message_size=MIB)
    client = await service.connect()
    await client.start_message()
    block = b"x" * 78 + b"\r\n"
    block *= MIB // len(block)
    await client.send(block)
    tracemalloc.start()
    for _ in range(200):
        await client.send(block)
    await client.send(b".\r\nNOOP\r\n")
    assert (await client.reply()).startswith("552 5.3.4")
    assert (await client.reply()).startswith("250 2.0.0")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * MIB
    assert service.taken == []


async def test_recipients_over_the_limit_are_for_another_transaction(start: Start) -> None:
    service = await start(max_recipients=2)
    await service.play("""
        S: 220
        C: HELO a
        S: 250
        C: MAIL FROM:<anna@example.com>
        S: 250
        C: RCPT TO:<b@example.net>
        S: 250 2.1.5
        C: RCPT TO:<c@example.net>
        S: 250 2.1.5
        C: RCPT TO:<d@example.net>
        S: 452 4.5.3 more than 2 recipients (SMTP2CF_MAX_RECIPIENTS)
        C: DATA
        S: 354
        C: .
        S: 250
    """)
    assert service.envelope.forward_paths == ("b@example.net", "c@example.net")


async def test_twenty_thousand_recipients_end_no_session(start: Start) -> None:
    service = await start(max_recipients=1000)
    client = await service.greeted()
    await client.ask("MAIL FROM:<anna@example.com>")
    sending = asyncio.ensure_future(client.send(b"RCPT TO:<bert@example.net>\r\n" * 20_000))
    codes = [(await client.line())[:3] for _ in range(20_000)]
    await sending
    assert codes == ["250"] * 1000 + ["452"] * 19_000
    assert (await client.ask("RSET")).startswith("250")


# ---- sessions


async def test_sessions_over_the_limit_are_told_to_come_back(start: Start) -> None:
    service = await start(max_sessions=2)
    first, second = await service.greeted(), await service.greeted()
    third = await service.connect()
    await third.play("S: 421 4.3.2 too many sessions (SMTP2CF_MAX_SESSIONS)\nS: <closed>")
    assert (await second.ask("NOOP")).startswith("250")
    await first.ask("QUIT")
    await until(lambda: len(service.server.sessions) == 1)
    await service.greeted()


async def test_a_thousand_sessions_at_once_are_served(start: Start) -> None:
    at_once = 0
    everybody = asyncio.Event()

    async def accept(envelope: Envelope, message: bytes) -> Verdict:
        nonlocal at_once
        at_once += 1
        if at_once == 1000:
            everybody.set()
        await everybody.wait()
        return await service.take(envelope, message)

    service: Service = await start(accept, max_sessions=1000)

    async def send(number: int) -> str:
        client = await service.connect()
        await client.start_message(f"bert{number}@example.net")
        await client.send(dotted(b"number %d\r\n" % number))
        reply = await client.reply()
        await client.ask("QUIT")
        return reply

    async with asyncio.timeout(60):
        replies = await asyncio.gather(*(send(number) for number in range(1000)))
    assert set(replies) == {"250 2.0.0 taken"}
    pairs = {(envelope.forward_paths, message) for envelope, message in service.taken}
    assert pairs == {((f"bert{n}@example.net",), b"number %d\r\n" % n) for n in range(1000)}
    await until(lambda: not service.server.sessions)


# ---- silence


@pytest.mark.parametrize("said", [b"", b"HELO a\r\n", b"HELO a\r\nMAIL FROM:<a@b.c>\r\n", b"MAIL FR"])
async def test_silence_ends_a_session(start: Start, logged: Lines, said: bytes) -> None:
    service = await start(session_timeout=0.3)
    client = await service.connect()
    begin = time.monotonic()
    await client.send(said)
    last = (await client.everything()).splitlines()[-1]
    assert last.startswith("421 4.4.2 nothing heard for too long (SMTP2CF_SESSION_TIMEOUT)")
    assert 0.2 < time.monotonic() - begin < 20
    assert [line["event"] for line in logged].count("session.timeout") == 1
    await until(lambda: not service.server.sessions)


async def test_silence_in_the_message_ends_a_session(start: Start) -> None:
    service = await start(session_timeout=0.3)
    client = await service.connect()
    await client.start_message()
    await client.send(b"Subject: x\r\n\r\nand then")
    await client.play("S: 421 4.4.2\nS: <closed>")
    assert service.taken == []


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_a_client_that_says_something_now_and_then_is_not_silent(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await start(session_timeout=100)
    client = await service.greeted()
    for _ in range(6):
        pass_time(monkeypatch, 80)
        assert (await client.ask("NOOP")).startswith("250")
    for command in ("MAIL FROM:<anna@example.com>", "RCPT TO:<bert@example.net>", "DATA"):
        await client.ask(command)
    for _ in range(6):
        pass_time(monkeypatch, 80)
        await client.send((b"x" * 998 + b"\r\n") * 50)
        await turns()
    assert (await client.ask(".")).startswith("250")
    pass_time(monkeypatch, 101)
    await client.play("S: 421 4.4.2")


async def test_a_message_that_is_being_relayed_is_no_silence(start: Start) -> None:
    async def accept(envelope: Envelope, message: bytes) -> Verdict:
        await asyncio.sleep(0.8)
        return Verdict(TAKEN, {})

    service = await start(accept, session_timeout=0.3)
    client = await service.connect()
    await client.start_message()
    assert await client.ask(".") == "250 2.0.0 taken"
    # From here on it is the client's turn again.
    begin = time.monotonic()
    await client.play("S: 421 4.4.2\nS: <closed>")
    assert time.monotonic() - begin > 0.2


# ---- nonsense


async def test_nonsense_has_a_budget(start: Start, logged: Lines) -> None:
    client = await (await start()).greeted()
    for _ in range(20):
        assert (await client.ask("XYZZY")).startswith("500 5.5.1")
    await client.play("S: 421 4.7.0 too many errors\nS: <closed>")
    assert [line["event"] for line in logged].count("session.too_many_errors") == 1


async def test_delivered_mail_fills_the_budget_again(start: Start) -> None:
    service = await start()
    client = await service.connect()
    await client.start_message()
    await client.ask(".")
    for _ in range(5):
        for _ in range(19):
            assert (await client.ask("DATA")).startswith("503")
        for command in ("MAIL FROM:<anna@example.com>", "RCPT TO:<bert@example.net>", "DATA", "."):
            reply = await client.ask(command)
        assert reply == "250 2.0.0 taken"


async def test_refused_recipients_are_no_nonsense(start: Start) -> None:
    client = await (await start()).greeted()
    await client.ask("MAIL FROM:<anna@example.com>")
    for _ in range(50):
        assert (await client.ask("RCPT TO:<bert>")).startswith("553")
    assert (await client.ask("RCPT TO:<bert@example.net>")).startswith("250")


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("NOOP " + "x" * 505, "250 2.0.0"),
        ("NOOP " + "x" * 506, "500 5.5.2"),
        ("MAIL FROM:<anna@example.com> " + "x" * 2017, "555"),
        ("MAIL FROM:<anna@example.com> " + "x" * 2018, "500 5.5.2"),
        ("RCPT TO:<" + "x" * 3000, "500 5.5.2"),
        ("x" * 3000, "500 5.5.2"),
        ("x" * 100_000, "500 5.5.2"),
    ],
    ids=lambda value: f"{value[:6]}{len(value)}",
)
async def test_command_lines_have_a_length(start: Start, command: str, reply: str) -> None:
    client = await (await start()).greeted()
    assert (await client.ask(command)).startswith(reply)
    assert (await client.ask("NOOP")) == "250 2.0.0 OK"


async def test_a_command_line_without_end_is_not_held(start: Start) -> None:
    client = await (await start()).greeted()
    block = b"A" * 65536
    await client.send(block)
    tracemalloc.start()
    for _ in range(160):
        await client.send(block)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert await client.ask("") == "500 5.5.2 the command line is too long"
    assert peak < 4 * MIB
    assert (await client.ask("NOOP")) == "250 2.0.0 OK"


async def test_a_command_line_that_comes_octet_by_octet(start: Start) -> None:
    client = await (await start()).greeted()
    for octet in b"NOOP " + b"x" * 2100:
        client.writer.write(bytes([octet]))
        await asyncio.sleep(0)
    assert await client.ask("") == "500 5.5.2 the command line is too long"


# ---- clients that send much or read nothing


async def test_a_megabyte_of_commands_is_answered_while_others_are_served(start: Start) -> None:
    service = await start()
    greedy, other = await service.greeted(), await service.greeted()
    count = MIB // len(b"NOOP\r\n")
    sending = asyncio.ensure_future(greedy.send(b"NOOP\r\n" * count))
    answers = asyncio.ensure_future(greedy.reader.readexactly(count * len(b"250 2.0.0 OK\r\n")))
    served = 0
    while not answers.done():
        assert (await other.ask("NOOP")) == "250 2.0.0 OK"
        served += 1
    await sending
    assert answers.result() == b"250 2.0.0 OK\r\n" * count
    assert served > count // 1000


async def _deaf(service: Service) -> Client:
    """A client whose replies stay where they are: nobody reads them, and there is little room for them."""
    client = await service.connect(receive_buffer=4096)
    client.writer.transport.pause_reading()
    return client


@pytest.mark.parametrize("packet", [b"VRFY x\r\n", b"VRFY x\r\n" * 8000, b"HELP\r\n", b"HELP\r\n" * 8000])
async def test_a_client_that_reads_no_reply_costs_little_and_goes(start: Start, packet: bytes) -> None:
    service = await start(send_buffer=4096)
    deaf = await _deaf(service)
    gc.collect()
    tracemalloc.start()

    async def flood() -> None:
        while True:
            deaf.writer.write(packet)
            await deaf.writer.drain()
            await asyncio.sleep(0)

    flooding = asyncio.ensure_future(flood())
    other = await service.greeted()
    for _ in range(50):
        assert (await other.ask("NOOP")) == "250 2.0.0 OK"
        await asyncio.sleep(0.01)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    flooding.cancel()
    assert peak < 4 * MIB
    assert sum(session.stalled for session in service.server.sessions) == 1


async def test_a_client_that_never_reads_is_hung_up_on(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtp2cf.smtpd.time_limits.LINGER", 0.3)
    service = await start(session_timeout=0.3, send_buffer=4096)
    deaf = await _deaf(service)
    deaf.writer.write(b"VRFY x\r\n" * 100_000)
    await until(lambda: any(session.stalled for session in service.server.sessions))
    await until(lambda: not service.server.sessions)


async def test_a_recipient_that_is_refused_does_not_count_against_a_quota(start: Start) -> None:
    limit = Named(Limit(3, "recipients", 60), "SMTP2CF_CLIENT_QUOTA")
    quotas = Quotas(Allowance(client=ruling(limit)), Counts())
    client = await (await start(max_recipients=2, quotas=quotas)).greeted()
    for recipients in (("a", "b", "c", "d"), ("e", "f")):
        await client.ask("RSET")
        await client.ask("MAIL FROM:<anna@example.com>")
        replies = [(await client.ask(f"RCPT TO:<{who}@example.net>"))[:9] for who in recipients]
        expected = ["250 2.1.5", "250 2.1.5", "452 4.5.3", "452 4.5.3"]
        assert replies == (expected if recipients[0] == "a" else ["250 2.1.5", "450 4.7.1"])
    assert (await client.ask("DATA")).startswith("354"), "the one that was taken is still there"


class SlowQuotas:
    """Quotas that know the answer later: every second message, and every second recipient, is too many."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.asked: list[str] = []

    def message(self, *_: str) -> Any:
        return self._judge("message")

    def recipient(self, *_: str) -> Any:
        return self._judge("recipient")

    async def _judge(self, what: str) -> Reply | None:
        await self.go_on.wait()
        self.asked.append(what)
        return Reply(450, "4.7.1", "too many") if self.asked.count(what) % 2 == 0 else None


async def test_commands_wait_for_quotas_that_take_their_time(start: Start) -> None:
    quotas = SlowQuotas()
    service = await start(quotas=quotas)
    client = await service.greeted()
    one = "MAIL FROM:<anna@example.com>\r\nRCPT TO:<a@example.net>\r\nRCPT TO:<b@example.net>\r\nNOOP\r\n"
    client.writer.write((one + "RSET\r\n" + one).encode())
    await turns()
    assert quotas.asked == []
    quotas.go_on.set()
    replies = [(await client.reply())[:3] for _ in range(9)]
    assert replies == ["250", "250", "450", "250", "250", "450", "503", "503", "250"]
    client.writer.write(b"MAIL FROM:<anna@example.com>\r\nRCPT TO:<c@example.net>\r\nDATA\r\n")
    assert [(await client.reply())[:3] for _ in range(3)] == ["250", "250", "354"]
    client.writer.write(b"\r\n.\r\n")
    assert (await client.reply())[:3] == "250"
    assert service.envelope.forward_paths == ("c@example.net",)


async def test_a_client_that_goes_while_its_quota_is_looked_up_leaves_nothing(start: Start) -> None:
    quotas = SlowQuotas()
    service = await start(quotas=quotas)
    client = await service.greeted()
    client.writer.write(b"MAIL FROM:<anna@example.com>\r\n")
    await turns()
    client.reset()
    await turns()
    quotas.go_on.set()
    await until(lambda: not service.server.sessions)
