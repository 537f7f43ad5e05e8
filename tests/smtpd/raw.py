"""A client that reads no octet more than it wants, in TLS too, and closes in every way there is.

What it has not read is what its kernel answers with a reset when it closes.
"""

import asyncio
import contextlib
import socket
import ssl
import struct

from tests.smtpd.dialog import TIMEOUT


class RawClient:
    """A connected one."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None

    @classmethod
    async def connect(cls, address: tuple[str, int] | str) -> "RawClient":
        sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        sock.setblocking(False)
        client = cls(sock)
        await asyncio.get_running_loop().sock_connect(sock, address)
        return client

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Shake hands."""
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._read_record()
            else:
                return await self._flush()

    async def send(self, text: bytes) -> None:
        if self._tls is None:
            return await self._loop.sock_sendall(self._sock, text)
        self._tls.write(text)
        return await self._flush()

    async def line(self) -> bytes:
        """The next line, and not an octet (in TLS: not a record) behind it."""
        line = b""
        async with asyncio.timeout(TIMEOUT):
            while not line.endswith(b"\n"):
                line += await self._octet()
        return line

    async def reply(self) -> str:
        """The next reply's last line."""
        while (line := await self.line())[3:4] == b"-":
            pass
        return line.decode().rstrip()

    async def ask(self, command: bytes) -> str:
        await self.send(command + b"\r\n")
        return await self.reply()

    async def say_goodbye(self) -> None:
        """TLS's close_notify; nothing without TLS."""
        if self._tls is not None:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.unwrap()
            await self._flush()

    def half_close(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """What a program does that closes its socket, or ends."""
        self._sock.close()

    def reset(self) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    async def _octet(self) -> bytes:
        while self._tls is not None:
            try:
                return self._tls.read(1)
            except ssl.SSLWantReadError:
                await self._read_record()
        return await self._exactly(1)

    async def _read_record(self) -> None:
        header = await self._exactly(5)
        self._incoming.write(header + await self._exactly(int.from_bytes(header[3:5])))

    async def _exactly(self, count: int) -> bytes:
        octets = b""
        async with asyncio.timeout(TIMEOUT):
            while len(octets) < count:
                if not (block := await self._loop.sock_recv(self._sock, count - len(octets))):
                    raise EOFError
                octets += block
        return octets

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._loop.sock_sendall(self._sock, self._outgoing.read())
