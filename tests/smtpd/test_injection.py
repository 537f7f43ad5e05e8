"""Words of clients that are meant for those who read logs and replies: line ends, escapes of terminals, marks
that turn text round. They reach neither."""

import base64
import io
import json
from collections.abc import MutableMapping
from typing import Any

import pytest
import structlog

from fuzz.reckoning import answers
from smtp2cf.journal import logs
from smtp2cf.reply import UNPRINTABLE, Reply
from tests.smtpd.conftest import Service, Start

Lines = list[MutableMapping[str, Any]]
HOSTILE = {
    "a line end": "x\r250 2.0.0 taken",
    "escapes of terminals": "x\x1b[2J\x1b]0;title\x07\x9b31m",
    "controls": "x\x00\x01\x08\x7f\x85",
    "other line ends": "x\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029y",
    "marks of direction": "x\u202egnp.exe\u202c\u2066\u2069\u200f",
    "no UTF-8": "x\udcff\udcfe\udcc3",
    "a form": '{"event": "serve.stopped"}',
    "a percent sign": "%s%n{0.__class__}",
}
PLACES = {
    "HELO": "HELO {}",
    "EHLO": "EHLO {}",
    "MAIL": "MAIL FROM:<{}@example.com>",
    "MAIL without brackets": "MAIL FROM:{}",
    "a domain": "MAIL FROM:<a@{}.example>",
    "ENVID": "MAIL FROM:<a@example.com> ENVID={}",
    "a parameter's name": "MAIL FROM:<a@example.com> {}=1",
    "AUTH=": "MAIL FROM:<a@example.com> AUTH={}",
    "RCPT": "RCPT TO:<{}@example.com>",
    "ORCPT": "RCPT TO:<a@example.com> ORCPT=rfc822;{}",
    "VRFY": "VRFY {}",
    "HELP": "HELP {}",
    "a command": "{}",
    "a mechanism": "AUTH {}",
    "a response": "AUTH PLAIN {}",
    "BDAT": "BDAT {}",
    "HTTP": "GET /{} HTTP/1.1",
}


async def _hear(service: Service, *commands: bytes) -> bytes:
    """Everything that is answered to a whole session."""
    client = await service.connect()
    await client.send(b"".join(command + b"\r\n" for command in commands))
    client.end()
    return (await client.everything()).encode()


def _rendered(logged: Lines) -> str:
    """The log as an operator reads it: in JSON, and on a terminal."""
    console = structlog.dev.ConsoleRenderer(colors=False)
    out = io.StringIO()
    for line in logged:
        event = {"level": line["log_level"], **line}
        event.pop("log_level")
        rendered = logs.render_json(None, "", dict(event))
        json.loads(rendered)
        out.write(rendered.decode())
        out.write(console(None, "", logs.escape_control_characters(None, "", dict(event))))  # type: ignore[arg-type]
    return out.getvalue()


@pytest.mark.parametrize("words", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_no_word_of_a_client_gets_into_a_reply_or_a_log_line(
    start: Start, logged: Lines, words: str
) -> None:
    async def nobody(*_: str) -> Reply:
        return Reply(535, "5.7.8", "wrong")

    service = await start(authenticate=nobody, auth_without_tls=True)
    for place, command in PLACES.items():
        octets = command.format(words).encode("utf-8", "surrogateescape")
        for ahead in ([], [b"EHLO a"], [b"EHLO a", b"MAIL FROM:<a@example.com> SMTPUTF8"]):
            heard = await _hear(service, *ahead, octets)
            replies = answers(heard)  # each of them well-formed
            assert len(replies) <= 4, (place, heard)
    rendered = _rendered(logged)
    assert not UNPRINTABLE.search(rendered), UNPRINTABLE.search(rendered)


@pytest.mark.parametrize("words", HOSTILE.values(), ids=HOSTILE)
async def test_nor_those_of_a_user_and_of_a_refused_sender(start: Start, logged: Lines, words: str) -> None:
    asked: list[str] = []

    async def anybody(_: str, name: str, __: str) -> None:
        asked.append(name)

    def refuse(user: str, sender: str) -> Reply:
        return Reply(550, "5.7.1", f"{user} may not send as {sender}")

    service = await start(
        authenticate=anybody, auth_without_tls=True, allow_networks=(), sender_refusal=refuse
    )
    name = words.encode("utf-8", "replace").decode()
    response = base64.b64encode(f"\0{name.replace(chr(0), '')}\0x".encode())
    heard = await _hear(service, b"EHLO a", b"AUTH PLAIN " + response, b"MAIL FROM:<a@example.com> SMTPUTF8")
    codes = [answer.code for answer in answers(heard)]
    assert codes == [220, 250, 235, 550]
    assert asked
    assert not UNPRINTABLE.search(_rendered(logged))


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("ENVID", "x+00"),
        ("ENVID", "x+0D+0A250+20ok"),
        ("ORCPT", "rfc822;x+00@example.com"),
        ("ORCPT", "rfc822;x+0D+0AX-Injected:+20y"),
        ("ORCPT", "rfc822;x+1B[31m"),
    ],
)
async def test_what_xtext_hides_stays_hidden(start: Start, logged: Lines, parameter: str, value: str) -> None:
    """It is kept as it came: who takes the xtext off has to look at what is in it."""
    service = await start()
    mail, rcpt = b"MAIL FROM:<a@example.com>", b"RCPT TO:<b@example.net>"
    given = f" {parameter}={value}".encode()
    mail, rcpt = (mail + given, rcpt) if parameter == "ENVID" else (mail, rcpt + given)
    heard = await _hear(service, b"EHLO a", mail, rcpt, b"DATA", b".")
    codes = [answer.code for answer in answers(heard)]
    assert codes in (
        [220, 250, 250, 250, 354, 250],
        [220, 250, 501, 503, 503, 500],
        [220, 250, 250, 501, 503, 500],
    )
    for envelope, _ in service.taken:
        assert (envelope.envid or envelope.orcpt["b@example.net"]) == value
    assert not UNPRINTABLE.search(_rendered(logged))
