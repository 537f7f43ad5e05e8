"""Connections of the admin's HTTP: how many, how long, how much each may send.

aiohttp's server bounds a line and a header field, but neither the number of connections nor the time of
one that sends its request octet by octet or never reads the answer. Here one connection is one request:
its head within HEAD_TIMEOUT, its answer within ANSWER_TIMEOUT, and where all places are taken the oldest
that has not asked for anything yet gives way. Knows nothing of what is asked and answered.
"""

import asyncio
from collections.abc import Callable
from typing import cast

CONNECTIONS = 128
"""Open at once."""
HEAD_TIMEOUT = 10.0
"""Seconds until a request's head must be there."""
ANSWER_TIMEOUT = 300.0
"""Seconds until an answer must be read: a queue of a million takes a while."""
REQUEST_LIMIT = 64 * 1024
"""Octets of a request. A browser has cookies of everything else on localhost to send."""


class Connections:
    """Makes protocols for an event loop's server, around those that `make` makes."""

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
        """The head of a request has come: from now on its answer is waited for."""
        if transport in self._open:
            self._silent.pop(transport, None)
            self._open[transport].give(self._answer_timeout)

    def opened(self, transport: asyncio.Transport, connection: "_Connection") -> None:
        """A new one; where there are too many, the oldest silent one ends, which may be this one."""
        self._open[transport] = connection
        self._silent[transport] = None
        connection.give(self._head_timeout)
        if len(self._open) > self._limit:
            self._open[next(iter(self._silent))].abort()

    def closed(self, transport: asyncio.BaseTransport) -> None:
        """One has ended."""
        self._open.pop(transport, None)
        self._silent.pop(transport, None)


class _Connection(asyncio.Protocol):
    """One connection: passes on what comes to aiohttp's protocol, within its limits."""

    def __init__(self, connections: Connections, inner: asyncio.Protocol) -> None:
        self._connections = connections
        self._inner = inner
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._size = 0

    def give(self, seconds: float) -> None:
        """It ends in so many seconds, unless it has ended by itself."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.abort)

    def abort(self) -> None:
        """End it at once."""
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
