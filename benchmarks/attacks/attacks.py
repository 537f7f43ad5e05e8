"""The attacks: each an async function of a target and a size, bounded in time, over loopback only.

What a client of bad will sends, and nothing of what comes of it: that is for __main__.py to measure.
"""

import asyncio
import base64
import contextlib
import random
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.attacks.target import PROXY_ADDRESS, USER, Target

PATIENCE = 30.0
"""Seconds an attacker waits for an answer, or for its octets to be taken, before it gives up."""
BLOCK = b"A" * 65536
HELLO = b"EHLO attacker.example\r\n"
TO_RCPT = HELLO + b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\n"
TO_DATA = TO_RCPT + b"DATA\r\n"
BEGUN_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""The first octets of a ClientHello, which says that there is more of it."""
CROWDED_ADDRESS = "127.0.0.5"
CROWD = 50
"""Connections of a flood that are open at once."""

Attack = Callable[[Target, int], Awaitable[None]]


@dataclass(frozen=True)
class Planned:
    """An attack. quick, full: its size for the tests and for the table; what it counts is in `unit`.

    settings: of the bridge, without SMTP2CF_.
    """

    name: str
    run: Attack
    quick: int
    full: int
    unit: str
    settings: Mapping[str, str] = field(default_factory=dict)


# ---- what attackers do


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def _connect(port: int, source: str = "127.0.0.1", receive_buffer: int = 0) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    if source != "127.0.0.1":
        sock.bind((source, 0))
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock


@contextlib.asynccontextmanager
async def _connected(port: int, **options: int) -> AsyncIterator[tuple[socket.socket, "_Send"]]:
    sock = await _connect(port, **options)  # type: ignore[arg-type]
    with sock:
        yield sock, _Send(sock)


class _Send:
    """Sends octets, and is glad if nobody takes them."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def __call__(self, octets: bytes) -> bool:
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().sock_sendall(self._sock, octets)
        except (OSError, TimeoutError):
            return False
        return True


async def _read(sock: socket.socket, seconds: float = PATIENCE) -> int:
    """Read until nothing comes any more; how many octets came."""
    count = 0
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(seconds):
            while octets := await asyncio.get_running_loop().sock_recv(sock, 1 << 18):
                count += len(octets)
    return count


async def _read_until(sock: socket.socket, mark: bytes) -> None:
    seen = b""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while mark not in seen:
                octets = await asyncio.get_running_loop().sock_recv(sock, 1 << 18)
                if not octets:
                    break
                seen = seen[-100:] + octets


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def _crowd(count: int, one: Callable[[int], Awaitable[None]]) -> None:
    """So many of something, some of them at once."""
    numbers = iter(range(count))

    async def some() -> None:
        for number in numbers:
            with contextlib.suppress(OSError, TimeoutError, EOFError):
                await one(number)

    await asyncio.gather(*(some() for _ in range(min(CROWD, count))))


# ---- octets without end


async def endless_command(target: Target, size: int) -> None:
    """A command line of `size` MB without an end."""
    async with _connected(target.smtp) as (_, send):
        for _ in range(size * 16):
            if not await send(BLOCK):
                return


async def endless_header(target: Target, size: int) -> None:
    """Messages of one line, in three sessions at once, far beyond the limit, of `size` MB each."""

    async def one(_: int) -> None:
        async with _connected(target.smtp) as (sock, send):
            await send(TO_DATA + b"Subject: ")
            for _ in range(size * 16):
                await send(BLOCK)
            await send(b"\r\n.\r\nQUIT\r\n")
            await _read(sock)

    await _crowd(3, one)


async def pipeline(target: Target, size: int) -> None:
    """`size` MB of NOOP in one go, whose answers are read."""
    async with _connected(target.smtp) as (sock, send):
        reading = asyncio.ensure_future(_read(sock, 10 * PATIENCE))
        await send(HELLO)
        for _ in range(size):
            await send(b"NOOP\r\n" * 166_667)
        await send(b"QUIT\r\n")
        await reading


async def hello_flood(target: Target, size: int) -> None:
    """`size` times EHLO, pipelined, whose answers are read."""
    async with _connected(target.smtp) as (sock, send):
        reading = asyncio.ensure_future(_read(sock, 10 * PATIENCE))
        for _ in range(size // 1000):
            await send(HELLO * 1000)
        await send(b"QUIT\r\n")
        await reading


async def recipients(target: Target, size: int) -> None:
    """`size` recipients of one message."""
    async with _connected(target.smtp) as (sock, send):
        reading = asyncio.ensure_future(_read(sock, 10 * PATIENCE))
        await send(HELLO + b"MAIL FROM:<a@example.com>\r\n")
        for begin in range(0, size, 1000):
            await send(b"".join(b"RCPT TO:<b%d@example.net>\r\n" % n for n in range(begin, begin + 1000)))
        await send(b"RSET\r\nQUIT\r\n")
        await reading


async def deaf(target: Target, size: int) -> None:
    """`size` clients that send commands for as long as anybody takes them, and read no answer."""

    async def one(_: int) -> None:
        async with _connected(target.smtp, receive_buffer=4096) as (sock, _send):
            deadline = time.monotonic() + 3
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + 3):
                    while time.monotonic() < deadline:
                        await asyncio.get_running_loop().sock_sendall(sock, b"HELP\r\n" * 5000)

    await asyncio.gather(*(one(number) for number in range(size)))


async def unfinished_messages(target: Target, size: int) -> None:
    """`size` clients at once whose messages are nearly as large as they may be, and never end."""

    async def one(sock: socket.socket) -> None:
        send = _Send(sock)
        await send(TO_DATA)
        await _read_until(sock, b"354")
        for _ in range(79):  # 4.9 MiB
            if not await send(BLOCK):
                return

    socks = [await _connect(target.smtp) for _ in range(size)]
    await asyncio.gather(*(one(sock) for sock in socks))
    for sock in socks:
        _reset(sock)


# ---- many


async def idle_sessions(target: Target, size: int) -> None:
    """`size` sessions at once that say EHLO and nothing else."""
    socks: list[socket.socket] = []

    async def one(_: int) -> None:
        sock = await _connect(target.smtp)
        socks.append(sock)
        await _Send(sock)(HELLO)
        await _read_until(sock, b"250 HELP")

    await _crowd(size, one)
    await asyncio.sleep(1)
    if target.sessions() < size:
        raise RuntimeError(f"{target.sessions()} sessions of {size}")
    for sock in socks:
        sock.close()


async def idle_sessions_in_tls(target: Target, size: int) -> None:
    """`size` sessions at once in TLS that say EHLO and nothing else."""
    writers: list[asyncio.StreamWriter] = []
    context = _context()

    async def one(_: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", target.smtps, ssl=context)
        writers.append(writer)
        writer.write(HELLO)
        await reader.readuntil(b"250 HELP")

    await _crowd(size, one)
    for writer in writers:
        writer.transport.abort()


async def connections(target: Target, size: int) -> None:
    """`size` connections, each closed at once."""

    async def one(number: int) -> None:
        sock = await _connect((target.smtp, target.smtps, target.lmtp)[number % 3])
        if number % 2:
            _reset(sock)
        else:
            sock.close()

    await _crowd(size, one)


async def too_many_sessions(target: Target, size: int) -> None:
    """`size` connections from an address that may have fewer sessions, and has them."""
    held = [await _connect(target.smtp, CROWDED_ADDRESS) for _ in range(30)]
    await _crowd(size, lambda _: _one_reply(target.smtp))
    for sock in held:
        sock.close()


async def _one_reply(port: int) -> None:
    with await _connect(port, CROWDED_ADDRESS) as sock:
        await _read(sock, 0.5)


STAGES: Mapping[str, Sequence[bytes]] = {
    "the greeting": (b"",),
    "half a command": (b"EHL",),
    "commands": (HELLO, b"MAIL FROM:<a@example.com>\r\n"),
    "DATA": (TO_DATA, b"Subject: x\r\n\r\nhalf"),
    "the dot": (TO_DATA, b"x\r\n.\r\n"),
    "BDAT": (TO_RCPT, b"BDAT 100000\r\nxyz"),
    "the last chunk": (TO_RCPT, b"BDAT 3 LAST\r\nxyz"),
    "AUTH": (HELLO, b"STARTTLS\r\n", BEGUN_HELLO),
    "STARTTLS": (HELLO, b"STARTTLS\r\n"),
    "a pipeline": (TO_RCPT * 1, b"NOOP\r\n" * 5000),
}


async def resets(target: Target, size: int) -> None:
    """`size` resets at every stage of a session, in clear and in TLS."""
    stages = list(STAGES.values())

    async def one(number: int) -> None:
        sock = await _connect(target.lmtp if number % 5 == 4 else target.smtp)
        send = _Send(sock)
        for octets in stages[number % len(stages)]:
            await send(octets)
            if number % 3:
                await asyncio.sleep(0.001)
        _reset(sock)

    async def in_tls(number: int) -> None:
        if number % 3 == 0:  # in the handshake
            sock = await _connect(target.smtps)
            await _Send(sock)(BEGUN_HELLO)
            _reset(sock)
            return
        reader, writer = await asyncio.open_connection("127.0.0.1", target.smtps, ssl=_context())
        for octets in ((HELLO, b"AUTH LOGIN\r\n"), stages[4])[number % 2]:
            writer.write(octets)
            await asyncio.sleep(0.001)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        del reader

    await _crowd(size * len(stages), one)
    await _crowd(size * 3, in_tls)


# ---- other tongues


async def noise(target: Target, size: int) -> None:
    """`size` connections to each door with octets that mean nothing, HTTP, TLS where there is none, or SMTP
    where TLS is spoken."""
    chance = random.Random(5)
    strangers = (
        chance.randbytes(20_000),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chance.randbytes(512),
        TO_DATA + b"x\r\n.\r\n",
        b"\x00" * 10_000,
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    )

    async def one(number: int) -> None:
        port = (target.smtp, target.smtps, target.lmtp)[number % 3]
        async with _connected(port) as (sock, send):
            await send(strangers[number // 3 % len(strangers)])
            sock.shutdown(socket.SHUT_WR)
            await _read(sock, 5)

    await _crowd(size * 3, one)


async def proxy_headers(target: Target, size: int) -> None:
    """`size` connections from a proxy with headers that are none, half ones, long ones, and resets."""
    chance = random.Random(6)
    headers = (
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        b"PROXY TCP4\r\n",
        b"PROXY " + b"x" * 200,
        b"PROX",
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff" + b"x" * 70_000,
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x01x",
        b"\r\n\r\n\x00\r\nQUIT\n" + chance.randbytes(100),
        b"EHLO a\r\n",
    )

    async def one(number: int) -> None:
        sock = await _connect((target.smtp, target.smtps)[number % 2], PROXY_ADDRESS)
        await _Send(sock)(headers[number // 2 % len(headers)])
        if number % 3:
            await _read(sock, 0.05)
        _reset(sock)

    await _crowd(size, one)


# ---- TLS and passwords


async def handshakes(target: Target, size: int) -> None:
    """`size` times STARTTLS and a handshake, then STARTTLS again, and goodbye."""
    context = _context()

    async def one(_: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", target.smtp)
        try:
            await reader.readline()
            writer.write(b"STARTTLS\r\n")
            await reader.readline()
            await writer.start_tls(context)
            writer.write(b"STARTTLS\r\n" * 3)
            await reader.readline()
        finally:
            writer.transport.abort()

    await _crowd(size, one)


async def wrong_passwords(target: Target, size: int) -> None:
    """`size` wrong passwords, in sessions of five at most."""
    context = _context()
    wrong = base64.b64encode(f"\0{USER}\0wrong".encode())

    async def one(_: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", target.smtps, ssl=context)
        try:
            async with asyncio.timeout(20):
                writer.write(HELLO)
                await reader.readuntil(b"250 HELP\r\n")
                for _ in range(5):
                    writer.write(b"AUTH PLAIN " + wrong + b"\r\n")
                    if not (await reader.readline()).startswith(b"535"):
                        return
        finally:
            writer.transport.abort()

    await _crowd(size // 5, one)


# ---- an octet a moment


async def slow(target: Target, size: int) -> None:
    """`size` clients for each stage that send an octet now and then, until they are hung up on."""
    ahead = (b"", HELLO + b"MAIL FROM:<", TO_DATA, TO_RCPT + b"BDAT 100000 LAST\r\n", HELLO + b"STARTTLS\r\n")

    async def drip(sock: socket.socket, first: bytes) -> None:
        send = _Send(sock)
        await send(first)
        with sock, contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while await send(b"x"):  # noqa: ASYNC110 - nothing tells when the next is due
                    await asyncio.sleep(0.2)

    socks = [(await _connect(target.smtp), first) for first in ahead for _ in range(size)]
    socks += [(await _connect(target.smtps), BEGUN_HELLO) for _ in range(size)]
    await asyncio.gather(*(drip(sock, first) for sock, first in socks))


SHORT = {"SESSION_TIMEOUT": "2"}
ATTACKS = (
    Planned("a command line without end", endless_command, 10, 200, "MB"),
    Planned("headers without end, 3 sessions", endless_header, 8, 100, "MB each"),
    Planned("commands pipelined", pipeline, 1, 100, "MB"),
    Planned("EHLO again and again", hello_flood, 5_000, 200_000, "times"),
    Planned("recipients", recipients, 10_000, 100_000, ""),
    Planned("commands, no answer read", deaf, 10, 500, "sessions", SHORT),
    Planned("messages of 4.9 MiB that never end", unfinished_messages, 20, 300, "sessions",
            {"MAX_MESSAGE_MEMORY": "64MiB"}),
    Planned("idle sessions", idle_sessions, 300, 10_000, "", {"MAX_SESSIONS": "20000"}),
    Planned("idle sessions in TLS", idle_sessions_in_tls, 50, 1_000, ""),
    Planned("connections closed at once", connections, 600, 20_000, ""),
    Planned("more sessions than a client may have", too_many_sessions, 100, 2_000, "",
            {"CLIENT_MAX_SESSIONS": "30"}),
    Planned("resets at 10 stages, and in TLS", resets, 10, 300, "each"),
    Planned("noise, HTTP, TLS at the wrong door", noise, 30, 500, "at 3 doors"),
    Planned("PROXY headers that are none", proxy_headers, 60, 2_000, "",
            {"PROXY_NETWORKS": f"{PROXY_ADDRESS}/32"}),
    Planned("STARTTLS again and again", handshakes, 50, 2_000, "handshakes"),
    Planned("wrong passwords", wrong_passwords, 10, 500, ""),
    Planned("an octet now and then, at 6 stages", slow, 5, 100, "sessions each", SHORT),
)  # fmt: skip
