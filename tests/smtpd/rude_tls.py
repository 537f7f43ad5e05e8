"""The client's end of TLS with every record in the test's hands: to stop, to leave and to cut anywhere."""

import asyncio
import contextlib
import ssl

from tests.smtpd.dialog import TIMEOUT, Client


class RudeTls:
    """TLS over a connected client. What is to be sent is returned, for the test to send or not."""

    def __init__(self, client: Client, context: ssl.SSLContext) -> None:
        self._client = client
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")

    def hello(self) -> bytes:
        """The first flight."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return self._outgoing.read()
        raise AssertionError

    async def finished(self) -> bytes:
        """The last flight, once the server has answered the first."""
        while True:
            await self._read()
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                if self._outgoing.pending and self._tls.version() != "TLSv1.3":
                    flight = self._outgoing.read()
                    await self._client.send(flight)
                continue
            return self._outgoing.read()

    def seal(self, text: bytes) -> bytes:
        """Records that hold `text`."""
        self._tls.write(text)
        return self._outgoing.read()

    def close_notify(self) -> bytes:
        """The record that says goodbye."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        return self._outgoing.read()

    async def heard(self, count: int = 1) -> list[bytes]:
        """The next lines."""
        heard = b""
        while heard.count(b"\n") < count:
            try:
                heard += self._tls.read(65536)
            except ssl.SSLWantReadError:
                await self._read()
        return heard.splitlines()

    async def _read(self) -> None:
        async with asyncio.timeout(TIMEOUT):
            block = await self._client.reader.read(65536)
        if not block:
            raise EOFError
        self._incoming.write(block)
