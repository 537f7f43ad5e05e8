"""Replies: an enhanced code on each (RFC 2034), lines of at most 512 octets, and none but ours."""

import re

import pytest

from smtp2cf.envelope import Envelope, Verdict
from smtp2cf.reply import Reply
from tests.smtpd.conftest import Start

ENHANCED = re.compile(r"([245])\d\d[ -]\1\.\d{1,3}\.\d{1,3} ")

COMMANDS = """
NOOP
NOOP foo
RSET
RSET foo
HELP
HELP foo
HELP MAIL
HELP NOOP
HELP AUTH
HELP STARTTLS
VRFY
VRFY anna
EXPN
EXPN list
EHLO
HELO
MAIL
MAIL FROM:
MAIL FROM:<anna
MAIL FROM:<anna@example.com> SIZE=99999999
MAIL FROM:<anna@example.com> FOO
RCPT
RCPT TO:<bert@example.net>
DATA
AUTH PLAIN AGEAYg==
STARTTLS
BDAT 0 LAST
ETRN x
FOO
1
\x16
ü
AT+CGMI
MAIL FROM:<anna@example.com>
MAIL FROM:<anna@example.com>
DATA
RCPT TO:<>
RCPT TO:<bert>
RCPT TO:<bert@example.net> FOO=1
RCPT TO:<bert@example.net>
RCPT TO:<carla@example.net>
DATA foo
RSET
QUIT
""".splitlines()


@pytest.fixture(autouse=True)
def _errors_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtp2cf.smtpd.outgoing.ERROR_BUDGET", 10_000)


@pytest.mark.parametrize("hello", ["HELO a", "EHLO a", ""])
async def test_every_reply_has_an_enhanced_code(start: Start, hello: str) -> None:
    client = await (await start(max_recipients=1)).connect()
    await client.reply()
    if hello:
        await client.ask(hello)
    for command in COMMANDS:
        for line in (await client.ask(command)).split("\n"):
            assert ENHANCED.match(line), (command, line)
            assert len(line) > len("250 2.0.0 "), command


async def test_the_reply_to_a_message_carries_what_accept_said(start: Start) -> None:
    said = [
        Reply(250, "2.0.0", "queued as X"),
        Reply(451, "4.7.1", "slow down"),
        Reply(550, "5.1.1", "no such user"),
    ]
    answers = iter(said)

    async def accept(envelope: Envelope, message: bytes) -> Verdict:
        return Verdict(next(answers), {})

    client = await (await start(accept)).greeted()
    for reply in said:
        for command in ("MAIL FROM:<a@b.c>", "RCPT TO:<d@e.f>", "DATA"):
            await client.ask(command)
        assert await client.ask(".") == str(reply)


async def test_a_long_reply_becomes_several_lines(start: Start) -> None:
    text = " ".join(f"<recipient{number}@example.com>: refused" for number in range(50))

    async def accept(envelope: Envelope, message: bytes) -> Verdict:
        return Verdict(Reply(550, "5.1.1", text), {})

    client = await (await start(accept)).connect()
    await client.start_message()
    lines = (await client.ask(".")).split("\n")
    assert len(lines) > 3
    assert all(line.startswith("550-5.1.1 ") for line in lines[:-1])
    assert lines[-1].startswith("550 5.1.1 ")
    assert all(len(line) + 2 <= 512 for line in lines)
    assert " ".join(line[len("550 5.1.1 ") :] for line in lines) == text


async def test_a_refused_command_of_two_thousand_octets_is_answered_in_lines_that_fit(start: Start) -> None:
    client = await (await start()).greeted()
    lines = (await client.ask("MAIL FROM:<anna@example.com> " + "-" * 2000)).split("\n")
    assert all(len(line) + 2 <= 512 for line in lines)
    assert all(ENHANCED.match(line) for line in lines)


@pytest.mark.parametrize(
    "control", ["\r", "\x00", "\x0b", "\x0c", "\x1b[31m", "\x7f", "\x85", "\u2028", "\r250 OK\r"]
)
@pytest.mark.parametrize(
    "command", ["MAIL FROM:<an{}na>", "MAIL FROM:<anna@example.com> FO{}O=1", "FO{}O", "HELP {}", "VRFY a{}b"]
)
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_no_octet_of_a_command_starts_a_line_of_the_reply(
    start: Start, command: str, control: str
) -> None:
    client = await (await start()).greeted()
    # Client.line fails at a CR or LF inside of a line.
    reply = await client.ask(command.format(control))
    assert reply.isprintable()
    assert ENHANCED.match(reply)
    assert (await client.ask("NOOP")) == "250 2.0.0 OK"


async def test_no_octet_of_what_accept_says_starts_a_line_either(start: Start) -> None:
    async def accept(envelope: Envelope, message: bytes) -> Verdict:
        return Verdict(Reply(550, "5.1.1", "no\r\n250 2.0.0 yes\nreally\x00"), {})

    client = await (await start(accept)).connect()
    await client.start_message()
    assert await client.ask(".") == "550 5.1.1 no 250 2.0.0 yes really "
    assert (await client.ask("NOOP")) == "250 2.0.0 OK"


async def test_help_names_the_commands_there_are(start: Start) -> None:
    client = await (await start()).greeted()
    reply = await client.ask("HELP")
    assert reply == "214 2.0.0 commands: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY HELP"
    assert await client.ask("HELP mail") == "214 2.0.0 syntax: MAIL FROM:<address> [parameters]"
    assert await client.ask("HELP AUTH") == "504 5.5.4 AUTH: no such command"
