"""Dialogs: what a client says and what it is told, written as they would be in an RFC.

    C: EHLO client.example      sent, with CRLF
    S: 250-bridge.example       a line that the server sends starts so
    S: <closed>                 the server hangs up

Escapes such as \\t, \\xe9 and \\u20ac stand for octets and characters; a line without C: or S: is a
comment.
"""

import asyncio
import contextlib
import re
import socket
import ssl
import struct
from collections.abc import Callable

TIMEOUT = 60.0


class Client:
    """A client's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, octets: bytes) -> None:
        """Send octets as they are."""
        self.writer.write(octets)
        await self.writer.drain()

    async def line(self) -> str:
        """The next line, without its CRLF; "<closed>" where there is none."""
        async with asyncio.timeout(TIMEOUT):
            try:
                line = await self.reader.readline()
            except ConnectionResetError:
                return "<closed>"
        if not line:
            return "<closed>"
        assert line.endswith(b"\r\n"), line
        assert b"\r" not in line[:-2], line
        return line[:-2].decode()

    async def reply(self) -> str:
        """The next reply, its lines joined with "\\n"."""
        lines = [await self.line()]
        while lines[-1][3:4] == "-":
            lines.append(await self.line())
        return "\n".join(lines)

    async def ask(self, command: str | bytes) -> str:
        """Send a command and return the reply."""
        await self.send((command if isinstance(command, bytes) else command.encode()) + b"\r\n")
        return await self.reply()

    async def everything(self) -> str:
        """All that comes until the server hangs up."""
        async with asyncio.timeout(TIMEOUT):
            return (await self.reader.read()).decode()

    async def play(self, dialog: str) -> None:
        """Have a dialog; fails at the first line that differs."""
        for number, line in enumerate(dialog.splitlines(), 1):
            said = re.match(r"\s*([CS]): ?(.*)", line)
            if said is None:
                continue
            speaker, text = said.groups()
            if speaker == "C":
                await self.send(unescape(text) + b"\r\n")
            else:
                heard = await self.line()
                assert heard.startswith(unescape(text).decode()), f"line {number}: {text!r} was to come"

    async def start_message(self, *recipients: str) -> None:
        """From the greeting to the 354 of DATA."""
        assert (await self.reply()).startswith("220")
        for command in ("EHLO client.example", "MAIL FROM:<anna@example.com>"):
            assert (await self.ask(command)).startswith("250")
        for recipient in recipients or ("bert@example.net",):
            assert (await self.ask(f"RCPT TO:<{recipient}>")).startswith("250")
        assert (await self.ask("DATA")).startswith("354")

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """The handshake; raises what ssl and asyncio do."""
        async with asyncio.timeout(TIMEOUT):
            await self.writer.start_tls(context, server_hostname="127.0.0.1")

    def end(self) -> None:
        """Say that nothing more will be sent; replies can still be read."""
        self.writer.write_eof()

    def reset(self) -> None:
        """Vanish, so that the server gets a reset."""
        if not self.writer.transport.is_closing():
            sock = self.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        """Close the connection, whatever became of it."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


def unescape(text: str) -> bytes:
    """The octets that a line of a dialog stands for."""
    return re.sub(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|[trn\\])", _character, text).encode(
        "utf-8", "surrogateescape"
    )


def _character(escape: re.Match[str]) -> str:
    code = escape[0][1:]
    if code[0] == "x":
        octet = int(code[1:], 16)
        return chr(octet) if octet < 0x80 else chr(0xDC00 + octet)
    return chr(int(code[1:], 16)) if code[0] == "u" else {"t": "\t", "r": "\r", "n": "\n", "\\": "\\"}[code]


def dotted(message: bytes) -> bytes:
    """A message as it is sent after DATA: dot-stuffed and with the final dot (RFC 5321 §4.5.2)."""
    stuffed = re.sub(rb"(?:(?<=\r\n)|\A)\.", b"..", message)
    return stuffed + b".\r\n"


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so that nobody announces."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 - the server sets no event
            await asyncio.sleep(0.005)
