"""Server: the listening side of SMTP. Holds the sessions, their number and their end.

Knows no relay: it is handed `accept`, which takes an envelope and a message and answers with a verdict.
"""

import asyncio
import functools
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog

from smtp2cf.envelope import Envelope, Verdict
from smtp2cf.smtpd.session import Session

Accept = Callable[[Envelope, bytes], Awaitable[Verdict]]
Answered = Callable[[Envelope, bool], None]
"""(envelope, whether its client got the answer to it): told once for every message accepted."""
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

BACKLOG = 2048

log = structlog.stdlib.get_logger("smtp2cf.smtpd")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Who may send, and how much.

    hostname: what the greeting says. allow_networks: clients that may relay without AUTH.
    max_message_size: octets. max_recipients: of one transaction. max_sessions: at once.
    session_timeout: seconds of silence.
    """

    hostname: str
    allow_networks: tuple[Network, ...]
    max_message_size: int
    max_recipients: int
    max_sessions: int
    session_timeout: float

    def may_relay(self, client: str) -> bool:
        """A client at this address may relay; one on a unix socket has none and may."""
        return not client or _in_networks(client, self.allow_networks)


@functools.lru_cache(maxsize=4096)
def _in_networks(client: str, networks: tuple[Network, ...]) -> bool:
    address = ipaddress.ip_address(client.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


class Server:
    """Takes SMTP sessions on the sockets it is given and hands their messages to `accept`."""

    def __init__(self, accept: Accept, policy: Policy, answered: Answered | None = None) -> None:
        self.accept = accept
        self.answered = answered
        self.policy = policy
        self.sessions: set[Session] = set()
        self.session_state: dict[str, Any] | None = None
        self.greeting = f"220 {policy.hostname} ESMTP smtp2cf\r\n".encode()
        self.helo_reply = f"250 {policy.hostname}\r\n".encode()
        self.ehlo_reply = _ehlo_reply(policy)
        self._listeners: list[asyncio.Server] = []
        self._emptied = asyncio.Event()
        self._draining = False

    async def start(self, sockets: list[socket.socket]) -> None:
        """Take sessions on listening sockets."""
        loop = asyncio.get_running_loop()
        for sock in sockets:
            if sock.family == socket.AF_UNIX:
                listener = await loop.create_unix_server(self._session, sock=sock, backlog=BACKLOG)
            else:
                listener = await loop.create_server(self._session, sock=sock, backlog=BACKLOG)
            self._listeners.append(listener)

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - sessions outlive it and are told
        """Take no new sessions, let transactions finish for `timeout` seconds, then hang up."""
        self._draining = True
        for listener in self._listeners:
            listener.close()
        for session in tuple(self.sessions):
            session.finish()
        if self.sessions:
            self._emptied.clear()
            try:
                await asyncio.wait_for(self._emptied.wait(), timeout)
            except TimeoutError:
                log.warning("drain.timeout", sessions=len(self.sessions))
                for session in tuple(self.sessions):
                    session.abort()

    def admit(self, session: Session) -> bool:
        """Count a session in; False when there are too many, or no more are wanted."""
        if self._draining or len(self.sessions) >= self.policy.max_sessions:
            log.warning("session.refused", sessions=len(self.sessions))
            return False
        self.sessions.add(session)
        return True

    def forget(self, session: Session) -> None:
        """Count a session out."""
        self.sessions.discard(session)
        if not self.sessions:
            self._emptied.set()

    def _session(self) -> Session:
        return Session(self)


def _ehlo_reply(policy: Policy) -> bytes:
    offered = (
        policy.hostname,
        "PIPELINING",
        f"SIZE {policy.max_message_size}",
        "8BITMIME",
        "SMTPUTF8",
        "ENHANCEDSTATUSCODES",
        "DSN",
        "HELP",
    )
    last = len(offered) - 1
    return "".join(f"250{'-' if n < last else ' '}{word}\r\n" for n, word in enumerate(offered)).encode()
