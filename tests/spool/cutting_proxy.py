"""Between a spool and its PostgreSQL: hangs up instead of passing on an answer, after the server has done it.

It sees what the server sends (PostgreSQL's manual, "Frontend/Backend Protocol"): the end of a statement is
a CommandComplete with its tag, and once ReadyForQuery follows, the statement is committed.
"""

import asyncio
import contextlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.waiting import PATIENCE

SOCKET = ".s.PGSQL.5432"
IDLE = b"Z\x00\x00\x00\x05I"
"""ReadyForQuery, and no transaction is open."""


class CuttingProxy:
    """A unix socket in a directory of its own. cut: says of an answer whether it gets lost."""

    def __init__(self, server: Path, cut: Callable[[bytes], bool]) -> None:
        self._server = server
        self._cut = cut
        self._directory = Path(tempfile.mkdtemp(prefix="smtp2cf-proxy-"))
        self._listener: asyncio.Server | None = None
        self._sessions: set[asyncio.Task[None]] = set()
        self.lost = 0

    @property
    def directory(self) -> Path:
        return self._directory

    async def start(self) -> None:
        self._listener = await asyncio.start_unix_server(self._serve, self._directory / SOCKET)

    async def stop(self) -> None:
        assert self._listener is not None
        self._listener.close()
        for session in self._sessions:
            session.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)
        await asyncio.sleep(0)  # for the transports to close
        shutil.rmtree(self._directory)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = asyncio.ensure_future(self._serve_one(reader, writer))
        self._sessions.add(session)
        session.add_done_callback(self._sessions.discard)

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            below_reader, below = await asyncio.open_unix_connection(self._server / SOCKET)
        except OSError:
            writer.transport.abort()
            return
        up = asyncio.ensure_future(self._pass_on(reader, below))
        down = asyncio.ensure_future(self._pass_on(below_reader, writer, answers=True))
        try:
            await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in (up, down):
                way.cancel()
            below.transport.abort()
            writer.transport.abort()
            await asyncio.gather(up, down, return_exceptions=True)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False
    ) -> None:
        with contextlib.suppress(OSError):
            while octets := await reader.read(65536):
                if answers and octets.endswith(IDLE) and self._cut(octets):
                    self.lost += 1
                    return
                writer.write(octets)
                await writer.drain()


def tagged(*tags: str) -> Callable[[bytes], bool]:
    """Of an answer: it ends a statement of one of these kinds, such as INSERT or COMMIT."""
    wanted = tuple(tag.encode() for tag in tags)
    return lambda octets: any(tag in octets for tag in wanted)


@contextlib.contextmanager
def in_a_thread(proxy: CuttingProxy) -> Iterator[CuttingProxy]:
    """The proxy, while a test that blocks goes on."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(proxy.start(), loop).result(PATIENCE)
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(proxy.stop(), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()
