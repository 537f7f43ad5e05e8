"""Server: the listening side of SMTP and LMTP. Takes sessions, and ends them when the bridge stops.

Knows no relay and no users: it is given `accept`, which takes an envelope and a message and answers with a
verdict, and listeners, each with its own rules.
"""

import asyncio
import contextlib
import functools
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from smtp2cf.envelope import Accept, Answered
from smtp2cf.smtpd import replies
from smtp2cf.smtpd.before_session import Acceptor, turn_away_waiting
from smtp2cf.smtpd.connection import Connection
from smtp2cf.smtpd.listener import Listener
from smtp2cf.smtpd.sessions import Capacity, Sessions

KEEP_FILE: Mapping[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""A unix socket's file is removed by whoever made it, which may be systemd."""
ABORT_WAIT = 1.0
"""Seconds that sessions which are hung up on have to end."""
ARRIVAL_WAIT = 1.0
"""Seconds that clients which have hung up have to acknowledge their answers."""

log = structlog.stdlib.get_logger("smtp2cf.smtpd")


class Server:
    """Takes sessions at its listeners and hands their messages to `accept`.

    capacity: for the sessions of all listeners. answered: who is told whether clients got their replies.
    """

    connection = Connection

    def __init__(self, accept: Accept, capacity: Capacity, answered: Answered | None = None) -> None:
        self.sessions = Sessions(accept, capacity, answered)
        self._listeners: list[Listener] = []
        self._acceptors: list[Acceptor] = []
        self._served: list[asyncio.Server] = []
        self._own_sockets: list[socket.socket] = []

    async def start(self, listener: Listener) -> None:
        """Take sessions at one more listener."""
        self._listeners.append(listener)
        loop = asyncio.get_running_loop()
        backlog = self.sessions.files.backlog
        if not listener.shared and not listener.tls_first:
            self._own_sockets += listener.sockets
        for sock in listener.sockets:
            is_unix = sock.family == socket.AF_UNIX
            if listener.tls_first or (listener.rules.policy.proxy_networks and not is_unix):
                self._acceptors.append(Acceptor(self.sessions, sock, listener, self.connection))
                continue
            connection = functools.partial(self.connection, self.sessions, listener)
            if is_unix:
                served = await loop.create_unix_server(connection, sock=sock, backlog=backlog, **KEEP_FILE)
            else:
                served = await loop.create_server(connection, sock=sock, backlog=backlog)
            self._served.append(served)

    def where_mail_is_taken(self) -> dict[str, str]:
        """The endpoints of each protocol, and of each listener with a name, for the status page."""
        endpoints: dict[str, list[str]] = {}
        for listener in self._listeners:
            spoken = "" if listener.protocol == "smtp" else f", over {listener.protocol.upper()}"
            named = f" ({listener.name})" if listener.name else ""
            endpoints.setdefault(f"takes mail on{spoken}{named}", []).extend(listener.endpoints)
        return {label: ", ".join(known) for label, known in endpoints.items()}

    def sessions_at(self) -> dict[str, Callable[[], float]]:
        """What counts the open sessions of each listener with a name."""
        names = {listener.name: None for listener in self._listeners if listener.name}
        return {name: functools.partial(self.sessions.at, name) for name in names}

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - sessions outlive it and are told
        """Take no new sessions, let transactions finish for `timeout` seconds, then hang up."""
        turn_away_waiting(self._own_sockets, replies.SHUTTING_DOWN)
        for served in self._served:
            served.close()
        for acceptor in self._acceptors:
            acceptor.close()
        self.sessions.close()
        try:
            await self.sessions.until_empty(timeout)
        except TimeoutError:
            log.warning("drain.timeout", sessions=len(self.sessions))
            for session in self.sessions:
                session.abort()
            with contextlib.suppress(TimeoutError):
                await self.sessions.until_empty(ABORT_WAIT)
        await self.sessions.reply_arrival.until_known(ARRIVAL_WAIT)
