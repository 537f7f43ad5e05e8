"""Server: the listening side of SMTP and LMTP. Takes sessions, and ends them when the bridge stops.

Knows no relay and no users: it is given `accept`, which takes an envelope and a message and answers with a
verdict, and the rules.
"""

import asyncio
import contextlib
import functools
import socket
import sys
from collections.abc import Mapping
from typing import Any

import structlog

from smtp2cf.envelope import Accept, Answered
from smtp2cf.smtpd import replies
from smtp2cf.smtpd.before_session import Acceptor, turn_away_waiting
from smtp2cf.smtpd.connection import Connection
from smtp2cf.smtpd.listener import SMTP_LISTENER, Listener
from smtp2cf.smtpd.rules import Rules
from smtp2cf.smtpd.sessions import Sessions

KEEP_FILE: Mapping[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""A unix socket's file is removed by whoever made it, which may be systemd."""
ABORT_WAIT = 1.0
"""Seconds that sessions which are hung up on have to end."""
SETTLE_WAIT = 1.0
"""Seconds that clients which have hung up have to acknowledge their answers."""

log = structlog.stdlib.get_logger("smtp2cf.smtpd")


class Server:
    """Takes sessions on the sockets it is given and hands their messages to `accept`.

    rules: who may do what. answered: who is told whether clients got their replies.
    """

    connection = Connection

    def __init__(self, accept: Accept, rules: Rules, answered: Answered | None = None) -> None:
        self.sessions = Sessions(accept, rules, answered)
        self._rules = rules
        self._acceptors: list[Acceptor] = []
        self._served: list[asyncio.Server] = []
        self._own_sockets: list[socket.socket] = []

    async def start(
        self, sockets: list[socket.socket], listener: Listener = SMTP_LISTENER, *, shared: bool = False
    ) -> None:
        """Take sessions on listening sockets. Raises ValueError for TLS without a certificate.

        shared: another process has them too (systemd), so clients that wait there wait for the next bridge.
        """
        if listener.tls and self._rules.tls is None:
            raise ValueError("a listener with TLS needs a certificate")
        loop = asyncio.get_running_loop()
        backlog = self.sessions.files.backlog
        if not shared and not listener.tls:
            self._own_sockets += sockets
        for sock in sockets:
            is_unix = sock.family == socket.AF_UNIX
            if listener.tls or (self._rules.policy.proxy_networks and not is_unix):
                self._acceptors.append(Acceptor(self.sessions, sock, listener, self.connection))
                continue
            connection = functools.partial(self.connection, self.sessions, listener)
            if is_unix:
                served = await loop.create_unix_server(connection, sock=sock, backlog=backlog, **KEEP_FILE)
            else:
                served = await loop.create_server(connection, sock=sock, backlog=backlog)
            self._served.append(served)

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
        await self.sessions.reply_arrival.settle(SETTLE_WAIT)
