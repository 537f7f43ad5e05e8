"""Every message of the corpus reaches accept as it was sent, whatever the packets were."""

import asyncio
import hashlib
from collections.abc import Iterator

import pytest

from tests.corpus import corpus, more_messages
from tests.smtpd.conftest import Start
from tests.smtpd.dialog import dotted

PACKETS = 3000
"""Packets of a message; a longer one is left to larger packets."""


def _messages() -> Iterator[tuple[str, bytes]]:
    yield from corpus()
    for name, message in more_messages():
        # SMTP carries whole lines.
        yield name, message if message.endswith(b"\r\n") else message + b"\r\n"


@pytest.mark.parametrize("size", [1, 7, 1460, 65536])
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_every_message_arrives_octet_for_octet(start: Start, size: int) -> None:
    service = await start(max_message_size=8 << 20)
    client = await service.greeted()
    sent = {name: message for name, message in _messages() if len(message) < PACKETS * size}
    assert len(sent) > 100
    for number, message in enumerate(sent.values()):
        for command in ("MAIL FROM:<anna@example.com>", f"RCPT TO:<b{number}@example.net>", "DATA"):
            await client.ask(command)
        wire = dotted(message)
        for position in range(0, len(wire), size):
            client.writer.write(wire[position : position + size])
            await asyncio.sleep(0)
        assert await client.reply() == "250 2.0.0 taken"
    arrived = {name: message for name, (_, message) in zip(sent, service.taken, strict=True)}
    different = [name for name in sent if _digest(sent[name]) != _digest(arrived[name])]
    assert different == []


def _digest(message: bytes) -> str:
    return hashlib.sha256(message).hexdigest()
