"""SMTP smuggling: one message in is one message out, whatever looks like an end of it.

Two servers that see different ends in the same octets see different messages: what is the text of one for
the first is a second message, with an envelope of its own, for the other. Here stands every sequence that
servers were found to take for the end of DATA (SEC Consult, December 2023), that scanners try (SMTP
Smuggling Tools, smtpsmug and smtp_smuggling_checker on GitHub), and every other of its kind. Only
<CR><LF>.<CR><LF> is an end (RFC 5321 §4.1.1.4), and what goes out holds no bare CR or LF that the next
server could take for one.

Through the session and the relay to send_raw; the last part over real sockets.
"""

import asyncio
import itertools
import re
from collections.abc import Iterator, Sequence

import pytest

from fuzz.wire import HANDSHAKE, PROTOCOLS, Call, House
from smtp2cf.cloudflare import Sent
from smtp2cf.message.newlines import normalize_newlines
from smtp2cf.relay import MessagePolicy, Relay
from smtp2cf.reply import DELIVERED
from smtp2cf.smtpd import MailProtocol
from smtp2cf.smtpd.data import DataReader
from tests.smtpd.conftest import Start

END = b"\r\n.\r\n"
LINE_ENDS = (
    *(b"\r\n", b"\n", b"\r", b"\n\n", b"\r\r", b"\n\r", b"\r\r\n", b"\r\n\n", b"\r\n\r", b"\n\r\n"),
    *(b"\r\n\x00", b"\n\x00", b"\r\x00", b"\r\x00\n", b"\x00\r\n", b"\x00\n", b"\x00\r", b"\x00"),
    *(b"\x0b", b"\x0c", b"\x1c", b"\x85", b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xa9", b"\x8d\x8a", b""),
)
DOTS = (
    *(b".", b"..", b"...", b"\x00.", b".\x00", b". ", b" .", b".\t", b"\t.", b"\x7f."),
    *(b"\xae", b"\xe2\x80\xa4", b"\xef\xbc\x8e", b"=2E", b".\x08.", b".\xef\xbb\xbf"),
)
NO_ENDS = sorted(
    sequence
    for sequence in {b"".join(parts) for parts in itertools.product(LINE_ENDS, DOTS, LINE_ENDS)}
    if END not in b"first" + sequence + b"MAIL"
)
"""What is no end of a message, about eleven thousand sequences."""
ENDS = sorted(
    {
        b"".join(parts)
        for parts in itertools.product(LINE_ENDS, DOTS, LINE_ENDS)
        if END in b"".join(parts) and b"".join(parts) != END
    }
)
"""What has an end of a message in it, with something before or behind it."""
PUBLISHED = (
    *(b"\n.\n", b"\n.\r", b"\r.\n", b"\r.\r", b"\n.\r\n", b"\r.\r\n", b"\r\n.\n", b"\r\n.\r", b"\n\n.\r\n"),
    *(b"\r\n.\r\r\n", b"\r\r\n.\r\r\n", b"\r\n\x00.\r\n", b"\r\n\x00.\r", b"\r\n\x00.\n", b"\r\n.\x00\r\n"),
    *(
        b"\r\x00\n.\r\n",
        b"\r\n.\r\x00\n",
        b"\r\r\n\x00.\r\n",
        b"\n\x00.\n",
        b"\r\n.",
        b"\r\r.\r\r",
        b"\n\r.\n\r",
    ),
)
"""What was found to work somewhere, or is tried by the scanners."""
SMUGGLED = (
    b"MAIL FROM:<admin@victim.example>\r\nRCPT TO:<target@victim.example>\r\nDATA\r\nFrom: admin\r\n\r\nhi"
)
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


class Bridge:
    """A session's server with the relay behind it, and the calls of send_raw that came out."""

    def __init__(self, bare_newline: str) -> None:
        self.calls: list[tuple[str, list[str], bytes]] = []
        relay = Relay(self._send_raw, MessagePolicy(bare_newline=bare_newline))  # type: ignore[arg-type]
        self.house = House(relay.accept, max_message_size=1 << 20, crlf_only=bare_newline == "reject")

    async def _send_raw(
        self, sender: str, recipients: Sequence[str], message: bytes, deadline: float
    ) -> Sent:
        self.calls.append((sender, list(recipients), message))
        return Sent(dict.fromkeys(recipients, DELIVERED), "<1@cf>")

    def transaction(self, protocol: MailProtocol = "smtp") -> Call:
        """A client that has said MAIL and RCPT."""
        self.calls.clear()
        call = self.house.call(protocol)
        call.send(b"LHLO a\r\n" if protocol == "lmtp" else b"EHLO a\r\n")
        call.send(b"MAIL FROM:<anna@example.com>\r\nRCPT TO:<bert@example.net>\r\n")
        return call

    def finish(self, call: Call) -> list[bytes]:
        """Its answers since, when it is gone: the replies' codes."""
        call.send(b"QUIT\r\n")
        self.house.loop.pass_time(40)
        assert call.gone
        self.house.empty()
        return [line[:3] for line in bytes(call.heard).splitlines() if line[3:4] == b" "]


@pytest.fixture(scope="module", params=["normalize", "reject"])
def bridge(request: pytest.FixtureRequest) -> Iterator[Bridge]:
    found = Bridge(request.param)
    yield found
    found.house.close()


def _is_normal(bridge: Bridge) -> bool:
    return not bridge.house.listeners["smtp"].rules.policy.crlf_only


def _check(bridge: Bridge, call: Call, message: bytes) -> None:
    """`message` came out, once and with its envelope, or was refused for its bare newlines; nothing else."""
    codes = bridge.finish(call)
    is_clean = _BARE.search(message) is None
    if not is_clean and not _is_normal(bridge):
        assert bridge.calls == []
        assert codes[-2:] == [b"550", b"221"], codes
        return
    assert codes[-2:] == [b"250", b"221"], codes
    ((sender, recipients, sent),) = bridge.calls
    assert (sender, recipients) == ("anna@example.com", ["bert@example.net"])
    assert _BARE.search(sent) is None
    if message.isascii():
        assert sent == re.sub(rb"\r+\n|\r|\n", b"\r\n", message)
    assert END not in sent.replace(b"\r\n.", b"\r\n..")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_sequence_but_one_ends_a_message(bridge: Bridge, protocol: MailProtocol) -> None:
    """With some of them: where a message ends is its reader's alone, which has all of them below."""
    for sequence in (*PUBLISHED, *NO_ENDS[:: 11 if protocol == "smtp" else 37]):
        text = b"Subject: x\r\n\r\nfirst" + sequence + SMUGGLED
        call = bridge.transaction(protocol)
        call.send(b"DATA\r\n")
        call.send(text + END)
        _check(bridge, call, (text + b"\r\n").replace(b"\r\n.", b"\r\n"))


def test_no_sequence_but_one_ends_what_is_read_and_none_is_left_to_end_what_is_sent() -> None:
    for sequence in NO_ENDS:
        text = b"Subject: x\r\n\r\nfirst" + sequence + SMUGGLED + b"\r\n"
        reader = DataReader(1 << 20)
        assert reader.feed(text + END[2:]), sequence
        message = reader.message()
        assert (message, bytes(reader.rest)) == (text.replace(b"\r\n.", b"\r\n"), b""), sequence
        assert END not in normalize_newlines(message).replace(b"\r\n.", b"\r\n.."), sequence


def test_what_the_scanners_try_is_among_them() -> None:
    assert set(PUBLISHED) - {b"\r\n."} <= {*NO_ENDS, *ENDS}
    assert {sequence for sequence in PUBLISHED if sequence in ENDS} == set()
    assert len(NO_ENDS) > 5000


@pytest.mark.parametrize("sequence", PUBLISHED)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nor_when_it_comes_in_pieces(bridge: Bridge, sequence: bytes, protocol: MailProtocol) -> None:
    wire = b"DATA\r\nfirst" + sequence + SMUGGLED + END
    message = wire[6:-3].replace(b"\r\n.", b"\r\n")
    begin = wire.index(b"first") + 3
    for at in range(begin, begin + len(sequence) + 6):
        call = bridge.transaction(protocol)
        call.send(wire[:at])
        call.send(wire[at:])
        _check(bridge, call, message)
    call = bridge.transaction(protocol)
    for octet in wire:
        call.send(bytes([octet]))
    _check(bridge, call, message)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_ends_a_chunk(bridge: Bridge, protocol: MailProtocol) -> None:
    for sequence in (*PUBLISHED, END, *ENDS, *NO_ENDS[::23]):
        message = b"Subject: x\r\n\r\nfirst" + sequence + SMUGGLED + b"\r\n.\r\nQUIT\r\n"
        call = bridge.transaction(protocol)
        cut = len(message) // 2
        call.send(b"BDAT %d\r\n" % cut + message[:cut])
        call.send(b"BDAT %d LAST\r\n" % (len(message) - cut) + message[cut:])
        _check(bridge, call, message)


@pytest.mark.parametrize("sequence", ENDS, ids=repr)
def test_an_end_with_something_around_it_is_an_end(bridge: Bridge, sequence: bytes) -> None:
    """What follows are commands, as RFC 5321 and every careful sender have it."""
    call = bridge.transaction()
    text = b"first" + sequence
    call.send(b"DATA\r\n" + text)
    bridge.house.loop.pass_time(1)
    at = text.index(END)
    assert [bytes(message) for _, message in bridge.house.accepted] == [
        text[: at + 2].replace(b"\r\n.", b"\r\n")
    ]
    call.send(b"\r\n")
    bridge.finish(call)


@pytest.mark.parametrize("sequence", PUBLISHED)
def test_a_second_message_behind_has_an_answer_of_its_own(bridge: Bridge, sequence: bytes) -> None:
    """Pipelined: what is in the first stays there, what is behind its end is the second."""
    text = b"first" + sequence + SMUGGLED
    second = b"MAIL FROM:<carla@example.com>\r\nRCPT TO:<dora@example.net>\r\nDATA\r\nsecond\r\n.\r\n"
    call = bridge.transaction()
    call.send(b"DATA\r\n" + text + END + second)
    bridge.house.loop.pass_time(1)
    messages = [message for _, message in bridge.house.accepted]
    assert messages == [(text + b"\r\n").replace(b"\r\n.", b"\r\n"), b"second\r\n"]
    senders = [sender for sender, _, _ in bridge.calls]
    clean = _BARE.search(messages[0]) is None or _is_normal(bridge)
    assert senders == ["anna@example.com"] * clean + ["carla@example.com"]
    bridge.finish(call)


# ---- commands


@pytest.mark.parametrize("end", [b"\n", b"\r\r\n", b"\n\r\n", b"\x0b\n"], ids=repr)
def test_a_bare_lf_ends_a_command_where_it_may(bridge: Bridge, end: bytes) -> None:
    call = bridge.house.call()
    call.send(b"HELO a\r\nNOOP" + end)
    answer = bytes(call.heard).splitlines()[2]
    bridge.finish(call)
    assert answer.startswith(b"250" if _is_normal(bridge) else b"500 5.5.2 a command must end with CR LF")


@pytest.mark.parametrize(
    "command",
    [
        b"MAIL FROM:<anna@example.com>\rRCPT TO:<x@victim.example>",
        b"MAIL FROM:<anna@example.com>\r\x00\rRCPT TO:<x@victim.example>",
        b"MAIL FROM:<anna@example.com>\x00",
        b"MAIL FROM:<anna@example.com> \x00SIZE=1",
        b"MAIL FROM:<anna\r@example.com>",
        b"HELO a\rMAIL FROM:<x@victim.example>",
        b"HELO a\x00b",
        b"NOOP \rRSET",
        b"VRFY \x00",
    ],
    ids=repr,
)
def test_a_bare_cr_or_a_nul_ends_no_command_and_is_in_none(bridge: Bridge, command: bytes) -> None:
    call = bridge.house.call()
    call.send(b"HELO a\r\n" + command + b"\r\nRCPT TO:<bert@example.net>\r\n")
    lines = bytes(call.heard).splitlines()[2:]
    bridge.finish(call)
    assert lines[0].startswith(b"500 5.5.2 the command contains a bare CR or a NUL")
    assert lines[1].startswith(b"503 5.5.1 send MAIL")


@pytest.mark.parametrize(
    "command",
    [
        b"BDAT 6 LAST\x00",
        b"BDAT 6\r LAST",
        b"BDAT 6 LAST" + b" " * 600,
        b"BDAT 6 LAST x",
        b"BDAT +6",
        b"BDAT 0x6",
    ],
    ids=lambda command: repr(command[:16]),
)
def test_what_follows_a_bdat_that_is_none_is_no_command(bridge: Bridge, command: bytes) -> None:
    call = bridge.transaction()
    call.send(command + b"\r\nRSET\r\nVRFY x\r\n")
    last = bytes(call.heard).splitlines()[-1]
    assert last.startswith((b"500 5.5.2", b"501 5.5.4"))
    bridge.house.loop.pass_time(40)
    assert call.gone
    bridge.house.empty()


def test_a_bdat_that_ends_with_lf_alone_is_none_where_that_is_refused(bridge: Bridge) -> None:
    call = bridge.transaction()
    call.send(b"BDAT 6 LAST\nRSET\r\n")
    bridge.house.loop.pass_time(1)
    closed = call.transport.closing
    bridge.finish(call)
    assert closed is not _is_normal(bridge)


@pytest.mark.parametrize(
    "verb", ["M\u0131A\u0131L", "R\u017fET", "\uff2d\uff21\uff29\uff2c", "\xa0NOOP", "\x85NOOP"]
)
def test_letters_of_other_scripts_are_no_commands(bridge: Bridge, verb: str) -> None:
    call = bridge.house.call()
    call.send(b"HELO a\r\n" + verb.encode() + b"\r\n")
    assert bytes(call.heard).splitlines()[2].startswith(b"500 5.5.2")
    bridge.finish(call)


@pytest.mark.parametrize("behind", [b"MAIL FROM:<x@victim.example>\r\n", HANDSHAKE, b"RSET\r\nMAIL FROM:<"])
def test_what_was_sent_in_clear_before_tls_is_nobodys(bridge: Bridge, behind: bytes) -> None:
    call = bridge.house.call()
    call.send(b"EHLO a\r\nSTARTTLS\r\n" + behind)
    call.send(HANDSHAKE + b"RCPT TO:<bert@example.net>\r\nEHLO a\r\nRCPT TO:<bert@example.net>\r\n")
    codes = bridge.finish(call)
    assert codes[-4:] == [b"503", b"250", b"503", b"221"]


# ---- over real sockets


@pytest.mark.parametrize("bare_newline", ["normalize", "reject"])
@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_over_sockets(start: Start, bare_newline: str, lmtp: bool) -> None:
    calls: list[bytes] = []

    async def send_raw(sender: str, recipients: Sequence[str], message: bytes, deadline: float) -> Sent:
        assert (sender, list(recipients)) == ("anna@example.com", ["bert@example.net"])
        calls.append(message)
        return Sent(dict.fromkeys(recipients, DELIVERED), "<1@cf>")

    relay = Relay(send_raw, MessagePolicy(bare_newline=bare_newline))  # type: ignore[arg-type]
    service = await start(relay.accept, protocol="lmtp" if lmtp else "smtp")
    for sequence in PUBLISHED:
        client = await service.greeted()
        for command in ("MAIL FROM:<anna@example.com>", "RCPT TO:<bert@example.net>", "DATA"):
            await client.ask(command)
        calls.clear()
        await client.send(b"first" + sequence)
        await asyncio.sleep(0)
        await client.send(SMUGGLED + END + b"QUIT\r\n")
        refused = bare_newline == "reject" and _BARE.search(sequence + b"MAIL") is not None
        assert (await client.reply())[:3] == ("550" if refused else "250")
        assert (await client.everything()).startswith("221")
        assert len(calls) == (not refused)
        assert not any(_BARE.search(message) for message in calls)
