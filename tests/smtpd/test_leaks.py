"""Nothing is left of a session, however it ended: no object, no task, no timer, no file."""

import asyncio
import base64
import contextlib
import gc
import os
import sys
from collections.abc import Awaitable, Callable

import pytest

from smtp2cf.reply import Reply
from smtp2cf.smtpd import log_limit
from tests.smtpd.conftest import Service, Start, arriving, connections
from tests.smtpd.dialog import Client, until
from tests.support.certificates import Certificates
from tests.support.reach import kept_by

HELLO = b"EHLO a\r\n"
TO_DATA = HELLO + b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n"
PLAIN = b"AUTH PLAIN " + base64.b64encode(b"\0anna\0secret") + b"\r\n"
STAGES = {
    "the greeting": b"",
    "half a command": b"EHL",
    "EHLO": HELLO,
    "AUTH": HELLO + b"AUTH LOGIN\r\nYQ==\r\n",
    "a password": HELLO + PLAIN,
    "DATA": TO_DATA,
    "a message": TO_DATA + b"half of it",
    "the dot": TO_DATA + b"x\r\n.\r\n",
    "a chunk": TO_DATA[:-6] + b"BDAT 1000\r\nx",
    "the last chunk": TO_DATA[:-6] + b"BDAT 1 LAST\r\nx",
    "a message too big": TO_DATA + b"x" * 100_000 + b"\r\n.\r\n",
    "nonsense": b"x\r\n" * 30,
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "a pipeline": HELLO + b"HELP\r\n" * 500,
    "STARTTLS": HELLO + b"STARTTLS\r\n",
    "half a handshake": HELLO + b"STARTTLS\r\n\x16\x03\x01\x02\x00\x01",
}
"""What was sent when the client went away."""
COUNT = 6
"""Sessions for each of these, three times over."""
Kind = Callable[[Service, Certificates], Awaitable[Client]]


async def _check(_: str, name: str, password: str) -> Reply | None:
    await asyncio.sleep(0)
    return None if (name, password) == ("anna", "secret") else Reply(535, "5.7.8", "wrong")


async def _in_clear(service: Service, _: Certificates) -> Client:
    return await service.connect()


async def _in_tls(service: Service, certificates: Certificates) -> Client:
    if service.listener.tls_first:
        return await service.connect(tls=certificates.client)
    return await service.secured(certificates.client)


async def _sessions(service: Service, certificates: Certificates, kind: Kind, count: int) -> None:
    """So many sessions for each stage, of which some are reset, some closed, and some come to their end."""
    for sent in STAGES.values():
        for number in range(count):
            with contextlib.suppress(OSError):
                client = await kind(service, certificates)
                client.writer.write(sent)
                if number % 2:
                    await asyncio.sleep(0)
                if number % 3 == 0:
                    client.reset()
                elif number % 3 == 1:
                    await client.close()
                else:
                    client.writer.write(b"\r\n.\r\nQUIT\r\n")
                    with contextlib.suppress(TimeoutError, ConnectionResetError):
                        async with asyncio.timeout(0.02):
                            await client.reader.read()
                    client.reset()
        await until(lambda: not service.server.sessions)
    service.clients.clear()
    service.taken.clear()
    service.confirmed.clear()


def _files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("kind", "smtps"),
    [(_in_clear, False), (_in_tls, False), (_in_tls, True)],
    ids=["clear", "STARTTLS", "SMTPS"],
)
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_nothing_is_left_of_sessions(
    start: Start,
    certificates: Certificates,
    logged: list[object],
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    smtps: bool,
) -> None:
    monkeypatch.setattr(log_limit, "INTERVAL", 0.0)
    monkeypatch.setattr("smtp2cf.smtpd.time_limits.LINGER", 0.05)
    others = connections()
    service = await start(
        protocol="smtps" if smtps else "smtp", tls=certificates.server, authenticate=_check,
        auth_without_tls=True, max_message_size=50_000,
    )  # fmt: skip
    (await kind(service, certificates)).reset()  # what the loop opens for the first
    await until(lambda: not service.server.sessions and not arriving())
    blocks, idle = [], (len(asyncio.all_tasks()), _files())
    for _ in range(3):
        await _sessions(service, certificates, kind, COUNT)
        logged.clear()
        await until(lambda: len(asyncio.all_tasks()) <= idle[0] and _files() <= idle[1])
        gc.collect()
        blocks.append(sys.getallocatedblocks())
    sessions = COUNT * len(STAGES)
    assert not [found for found in kept_by(service.server.sessions.limited_log) if isinstance(found, tuple)]
    # A session alone is a hundred blocks; caches and free lists may still take a few.
    assert blocks[2] - blocks[1] < 3 * sessions + 500, blocks
    assert not [found for found in connections() if found not in others]
