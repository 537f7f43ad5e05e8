"""Limits on the admin's HTTP connections: how many, how long, and how much each may send.

aiohttp's server limits the length of a line and of a header field, but not the number of connections, nor
the time of one that sends its request byte by byte or never reads the answer. Here each connection is one
request: its head must arrive within HEAD_TIMEOUT and its answer be read within ANSWER_TIMEOUT. When there are
too many connections, the oldest one without a request is closed. Knows nothing of requests and answers.
"""

import asyncio
from collections.abc import Callable
from typing import cast

CONNECTIONS = 128
"""Open at once."""
HEAD_TIMEOUT = 10.0
"""Seconds a client has to send the head of its request."""
ANSWER_TIMEOUT = 300.0
"""Seconds a client has to read the answer: a queue of a million messages takes a while."""
REQUEST_LIMIT = 64 * 1024
"""Bytes of a request. A browser also sends the cookies of everything else on localhost."""


class Connections:
    """Makes the protocols for an event loop's server: each wraps one that `make` returns."""

    def __init__(
        self,
        make: Callable[[], asyncio.Protocol],
        *,
        limit: int = CONNECTIONS,
        head_timeout: float = HEAD_TIMEOUT,
        answer_timeout: float = ANSWER_TIMEOUT,
    ) -> None:
        self._make = make
        self._limit = limit
        self._head_timeout = head_timeout
        self._answer_timeout = answer_timeout
        self._open: dict[asyncio.BaseTransport, _Connection] = {}
        self._silent: dict[asyncio.BaseTransport, None] = {}

    def __call__(self) -> asyncio.Protocol:
        return _Connection(self, self._make())

    def asked(self, transport: asyncio.BaseTransport | None) -> None:
        """The head of a request has arrived; from now on the time for the answer counts."""
        if transport in self._open:
            self._silent.pop(transport, None)
            self._open[transport].set_timeout(self._answer_timeout)

    def opened(self, transport: asyncio.Transport, connection: "_Connection") -> None:
        """Register a connection; if there are too many, close the oldest without a request."""
        self._open[transport] = connection
        self._silent[transport] = None
        connection.set_timeout(self._head_timeout)
        if len(self._open) > self._limit:
            self._open[next(iter(self._silent))].abort()

    def closed(self, transport: asyncio.BaseTransport) -> None:
        """Unregister a connection."""
        self._open.pop(transport, None)
        self._silent.pop(transport, None)


class _Connection(asyncio.Protocol):
    """One connection: passes what arrives on to aiohttp's protocol, within the limits."""

    def __init__(self, connections: Connections, inner: asyncio.Protocol) -> None:
        self._connections = connections
        self._inner = inner
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._size = 0

    def set_timeout(self, seconds: float) -> None:
        """Abort it in so many seconds, unless it ends before."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.abort)

    def abort(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            self._connections.closed(self._transport)
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._inner.connection_made(transport)
        self._connections.opened(self._transport, self)

    def data_received(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > REQUEST_LIMIT:
            self.abort()
        else:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._connections.closed(self._transport)
        self._inner.connection_lost(error)
