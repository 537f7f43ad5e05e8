"""A stand-in for Cloudflare's API that takes any message and answers a while later.

Run as `python -m benchmarks.slow_api PORT SECONDS`. `GET /answers` lists when it answered each message, in
seconds of the monotonic clock. HTTP/1.1 with keep-alive, as little of it as such clients need: bodies
with a Content-Length (Cloudflare asks for one), no pipelining.
"""

import asyncio
import json
import sys
import time
from typing import cast

import uvloop

from benchmarks.api import SEND_RAW_PATH, SUCCESS, TOKEN

BACKLOG = 4096


def _http(body: str, status: str = "200 OK") -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


class SlowApi(asyncio.Protocol):
    """One connection. answers: when every message so far was answered, shared by all connections."""

    def __init__(self, delay: float, answers: list[float]) -> None:
        self._delay = delay
        self._answers = answers
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        request, *headers = bytes(self._received[:end]).decode("latin-1").split("\r\n")
        length = next((int(h.split(":")[1]) for h in headers if h.lower().startswith("content-length:")), 0)
        if len(self._received) < end + 4 + length:
            return
        self._received.clear()
        method, path, _ = request.split(" ")
        if (method, path) == ("POST", SEND_RAW_PATH):
            asyncio.get_running_loop().call_later(self._delay, self._answer_message)
        elif path == "/answers":
            self._write(_http(json.dumps(self._answers)))
        else:
            self._write(_http(TOKEN))

    def _answer_message(self) -> None:
        # A message whose sender is gone was not answered, and does not count.
        if self._transport is not None:
            self._write(_http(SUCCESS))
            self._answers.append(time.monotonic())

    def _write(self, answer: bytes) -> None:
        if self._transport is not None:
            self._transport.write(answer)


async def serve(port: int, delay: float) -> None:
    """Answer until the process is stopped."""
    answers: list[float] = []
    server = await asyncio.get_running_loop().create_server(
        lambda: SlowApi(delay, answers), "127.0.0.1", port, backlog=BACKLOG
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2])))
