"""How sessions end: clients that close, half-close and vanish, an accept that fails, a server that stops."""

import asyncio
import time
from collections.abc import MutableMapping
from typing import Any

import pytest

from smtp2cf.envelope import Envelope, Verdict
from smtp2cf.reply import Reply
from smtp2cf.smtpd.outgoing import State
from tests.smtpd.conftest import TAKEN, Service, Start
from tests.smtpd.dialog import Client, dotted, until

Lines = list[MutableMapping[str, Any]]
SESSION = b"HELO a\r\nMAIL FROM:<anna@example.com>\r\nRCPT TO:<bert@example.net>\r\nDATA\r\n"


class Gate:
    """An accept that takes messages only once it is opened."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.opened = asyncio.Event()
        self.done: list[bytes] = []
        self.cancelled = 0

    async def __call__(self, envelope: Envelope, message: bytes) -> Verdict:
        self.entered.set()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.done.append(message)
        return Verdict(TAKEN, {})


def _events(logged: Lines) -> list[str]:
    return [line["event"] for line in logged if line["log_level"] != "debug"]


async def _relaying(service: Service) -> Client:
    """A client whose message is being relayed."""
    client = await service.connect()
    await client.start_message()
    await client.send(dotted(b"hello\r\n"))
    await service.server.sessions.accept.entered.wait()
    return client


# ---- the client


async def test_a_client_that_sent_everything_and_closed_its_side_gets_all_replies(start: Start) -> None:
    service = await start()
    client = await service.connect()
    await client.send(SESSION + dotted(b"one\r\n") + SESSION + dotted(b"two\r\n") + b"NOOP\r\n")
    client.end()
    codes = [line[:3] for line in (await client.everything()).splitlines()]
    assert codes == ["220", *["250", "250", "250", "354", "250"] * 2, "250"]
    assert [message for _, message in service.taken] == [b"one\r\n", b"two\r\n"]


async def test_a_half_closed_client_hears_of_a_message_that_took_its_time(
    start: Start, logged: Lines
) -> None:
    gate = Gate()
    service = await start(gate)
    client = await _relaying(service)
    client.end()
    # Its end is seen long before the message is through.
    await until(lambda: all(session.client_ended for session in service.server.sessions))
    gate.opened.set()
    assert await client.everything() == "250 2.0.0 taken\r\n"
    # At first it may have been gone, and sending its message again; now it is clear that it was not.
    await until(lambda: [received for _, received in service.confirmed] == [False, True])
    assert _events(logged) == []


async def test_a_half_closed_client_gets_replies_that_do_not_fit_the_buffers(start: Start) -> None:
    service = await start(send_buffer=4096)
    client = await service.connect(receive_buffer=4096)
    client.writer.transport.pause_reading()
    await client.send(b"VRFY x\r\n" * 7000)
    client.end()
    await until(lambda: any(session.stalled and session.client_ended for session in service.server.sessions))
    client.writer.transport.resume_reading()
    assert (await client.everything()).count("252 2.1.5") == 7000


async def test_an_unfinished_command_at_the_end_is_no_command(start: Start) -> None:
    service = await start()
    client = await service.connect()
    await client.send(b"HELO a\r\nNOO")
    client.end()
    assert [line[:3] for line in (await client.everything()).splitlines()] == ["220", "250"]


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("early", [True, False])
async def test_half_a_message_is_no_message(start: Start, logged: Lines, how: str, early: bool) -> None:
    service = await start()
    client = await service.connect()
    if early:
        await client.send(SESSION + b"Subject: x\r\n\r\n.\r")
    else:
        await client.start_message()
        await client.send(b"Subject: x\r\n\r\n.\r")
    await until(lambda: any(session.state is State.MESSAGE for session in service.server.sessions))
    getattr(client, how)()
    await until(lambda: not service.server.sessions)
    assert service.taken == []
    assert _events(logged) == ["session.lost_in_data"]


async def test_half_a_message_behind_another_is_no_message(start: Start, logged: Lines) -> None:
    gate = Gate()
    service = await start(gate)
    client = await service.connect()
    await client.send(SESSION + dotted(b"one\r\n") + SESSION + b"two\r\n")
    client.end()
    await gate.entered.wait()
    gate.opened.set()
    assert (await client.everything()).splitlines()[-1].startswith("354")
    await until(lambda: not service.server.sessions)
    assert gate.done == [b"one\r\n"]
    assert _events(logged) == ["session.lost_in_data"]


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_message_whose_client_vanished_is_relayed_to_its_end(
    start: Start, logged: Lines, how: str
) -> None:
    gate = Gate()
    service = await start(gate)
    client = await _relaying(service)
    if how == "reset":
        client.reset()
        await until(lambda: all(session.transport is None for session in service.server.sessions))
    else:
        await client.close()
        await until(lambda: all(session.client_ended for session in service.server.sessions))
    # It counts as a session as long as its message is under way.
    assert len(service.server.sessions) == 1
    # It is told at once, since the client may already be sending its message again.
    assert {received for _, received in service.confirmed} == {False}
    gate.opened.set()
    await until(lambda: not service.server.sessions)
    assert gate.done == [b"hello\r\n"]
    await until(lambda: "session.reply_lost" in _events(logged))
    (lost,) = [line for line in logged if line["event"] == "session.reply_lost"]
    assert (lost["client"], lost["reply"]) == ("127.0.0.1", str(TAKEN))
    await until(lambda: len(service.confirmed) == 2)
    assert set(service.confirmed) == {(lost["queue_id"], False)}


async def test_a_client_that_closes_after_its_reply_has_it(start: Start, logged: Lines) -> None:
    service = await start()
    client = await service.connect()
    await client.start_message()
    assert (await client.ask(".")).startswith("250")
    await client.close()
    await until(lambda: [received for _, received in service.confirmed] == [True])
    assert _events(logged) == []


# ---- accept


async def test_an_accept_that_fails_is_logged_and_answered(start: Start, logged: Lines) -> None:
    failing = True

    async def accept(envelope: Envelope, message: bytes) -> Verdict:
        if failing:
            raise RuntimeError("a mistake of ours")
        return await service.take(envelope, message)

    service = await start(accept)
    client = await service.connect()
    await client.start_message()
    assert (await client.ask(".")).startswith("451 4.3.0 internal error")
    (line,) = [line for line in logged if line["event"] == "session.error"]
    assert (line["log_level"], line["command"], line["exc_info"]) == ("error", "DATA", True)
    failing = False
    assert (await client.ask("DATA")).startswith("503")
    for command in ("MAIL FROM:<anna@example.com>", "RCPT TO:<bert@example.net>", "DATA"):
        await client.ask(command)
    assert await client.ask(".") == "250 2.0.0 taken"


async def test_a_command_that_fails_is_logged_and_answered(
    start: Start, logged: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await (await start()).greeted()
    monkeypatch.setattr("smtp2cf.smtpd.transaction.parse_path", None)
    assert (await client.ask("MAIL FROM:<anna@example.com>")).startswith("451 4.3.0 internal error")
    assert _events(logged) == ["session.error"]
    monkeypatch.undo()
    assert (await client.ask("MAIL FROM:<anna@example.com>")).startswith("250")


# ---- the server


async def test_idle_sessions_are_told_when_the_server_stops(start: Start) -> None:
    service = await start()
    clients = [await service.connect(), await service.greeted(), await service.greeted()]
    await clients[0].reply()
    await clients[2].ask("MAIL FROM:<anna@example.com>")
    await clients[2].ask("RSET")
    begin = time.monotonic()
    await service.server.drain(10)
    assert time.monotonic() - begin < 9
    for client in clients:
        await client.play("S: 421 4.3.2 shutting down\nS: <closed>")
    with pytest.raises(OSError):
        await service.connect()


async def test_a_transaction_under_way_finishes_when_the_server_stops(start: Start) -> None:
    gate = Gate()
    service = await start(gate)
    relaying = await _relaying(service)
    in_data = await service.connect()
    await in_data.start_message()
    begun = await service.greeted()
    await begun.ask("MAIL FROM:<anna@example.com>")
    stopping = asyncio.create_task(service.server.drain(10))
    await until(lambda: all(session.finishing for session in service.server.sessions))
    assert not stopping.done()
    for command in ("RCPT TO:<bert@example.net>", "DATA"):
        assert (await begun.ask(command))[0] in "23"
    gate.opened.set()
    await in_data.send(dotted(b"two\r\n"))
    await begun.send(dotted(b"three\r\n"))
    for client in (relaying, in_data, begun):
        await client.play("S: 250 2.0.0 taken\nS: 421 4.3.2 shutting down\nS: <closed>")
    await stopping
    assert sorted(gate.done) == [b"hello\r\n", b"three\r\n", b"two\r\n"]


@pytest.mark.parametrize("command", ["RSET", "EHLO a", "HELO a"])
async def test_a_transaction_given_up_ends_the_session_when_the_server_stops(
    start: Start, command: str
) -> None:
    service = await start()
    client = await service.greeted()
    await client.ask("MAIL FROM:<anna@example.com>")
    stopping = asyncio.create_task(service.server.drain(10))
    await until(lambda: all(session.finishing for session in service.server.sessions))
    assert (await client.ask(command)).startswith("250")
    await client.play("S: 421 4.3.2\nS: <closed>")
    await stopping


async def test_no_second_transaction_starts_when_the_server_stops(start: Start) -> None:
    gate = Gate()
    service = await start(gate)
    client = await _relaying(service)
    await client.send(SESSION + dotted(b"second\r\n"))
    stopping = asyncio.create_task(service.server.drain(10))
    await until(lambda: all(session.finishing for session in service.server.sessions))
    gate.opened.set()
    await client.play("S: 250 2.0.0 taken\nS: 421 4.3.2 shutting down\nS: <closed>")
    await stopping
    assert gate.done == [b"hello\r\n"]


async def test_stopping_waits_for_mail_whose_client_has_gone(start: Start) -> None:
    gate = Gate()
    service = await start(gate)
    client = await _relaying(service)
    client.reset()
    await until(lambda: all(session.transport is None for session in service.server.sessions))
    stopping = asyncio.create_task(service.server.drain(10))
    await asyncio.sleep(0.05)
    assert not stopping.done()
    gate.opened.set()
    await stopping
    assert gate.done == [b"hello\r\n"]


async def test_after_the_timeout_the_rest_is_hung_up_on(start: Start, logged: Lines) -> None:
    gate = Gate()
    service = await start(gate)
    relaying = await _relaying(service)
    begun = await service.greeted()
    await begun.ask("MAIL FROM:<anna@example.com>")
    await service.server.drain(0.1)
    assert not service.server.sessions
    for client in (relaying, begun):
        await client.play("S: 421 4.3.2 shutting down\nS: <closed>")
    assert gate.cancelled == 1
    assert _events(logged) == ["drain.timeout"]


async def test_a_client_that_comes_while_the_server_stops_is_turned_away(start: Start) -> None:
    service = await start()
    begun = await service.greeted()
    await begun.ask("MAIL FROM:<anna@example.com>")
    stopping = asyncio.create_task(service.server.drain(10))
    await until(lambda: all(session.finishing for session in service.server.sessions))
    (session,) = service.server.sessions
    assert service.server.sessions.admit(session, 3) == Reply(421, "4.3.2", "shutting down, try again later")
    await begun.ask("RSET")
    await stopping
