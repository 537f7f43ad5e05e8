"""An HTTP server whose answers the test writes itself, octet for octet, and that counts connections."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson


@dataclass
class Request:
    """What came in. connection: the number of the connection it came on, from 0."""

    connection: int
    line: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The header's one value, None where it is absent."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, f"{name} is there {len(values)} times"
        return values[0] if values else None

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


Respond = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class RawServer:
    """A server that runs. connections: how many were made. open: how many are."""

    respond: Respond
    port: int = 0
    scheme: str = "http"
    connections: int = 0
    open: int = 0
    most_open: int = 0
    requests: list[Request] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/client/v4"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: requests and their answers until somebody closes it."""
        number = self.connections
        self.connections += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                while not writer.is_closing():
                    request = await read_request(reader, number)
                    self.requests.append(request)
                    await self.respond(request, writer)
                    await writer.drain()
        finally:
            self.open -= 1
            writer.close()


async def read_request(reader: asyncio.StreamReader, connection: int, *, body: bool = True) -> Request:
    """One request with its body, which must have a Content-Length."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *lines = head.rstrip("\r\n").split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (item.partition(":") for item in lines)]
    request = Request(connection, line, headers, b"")
    length = int(request.header("content-length") or 0) if body else 0
    request.body = await reader.readexactly(length)
    return request


@contextlib.asynccontextmanager
async def serving(respond: Respond, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
    """A RawServer on a free port of loopback."""
    running = RawServer(respond, scheme="https" if tls else "http")
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        writers.append(writer)
        try:
            with contextlib.suppress(asyncio.CancelledError):  # the end of the test
                await running.serve(reader, writer)
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls, limit=2**26)
    running.port = server.sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()  # TLS would wait for the client's goodbye


def http(status: str, body: bytes = b"", **headers: str) -> bytes:
    """An answer with a Content-Length. headers: `_` in their names stands for `-`."""
    fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{fields}\r\n".encode() + body


def ok(*delivered: str, **result: Any) -> bytes:
    """An answer of success, delivered to these recipients; `result` adds to it or changes it."""
    lists = {"delivered": list(delivered), "permanent_bounces": [], "queued": []} | result
    envelope = {"success": True, "errors": [], "messages": [], "result": lists}
    return http("200 OK", orjson.dumps(envelope), Content_Type="application/json")


def always(answer: bytes) -> Respond:
    """Answer every request the same."""

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    return respond
