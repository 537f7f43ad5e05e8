"""Server: the listening side of SMTP. Holds the sessions, their number and their end.

Knows no relay: it is handed `accept`, which takes an envelope and a message and answers with a verdict.
"""

import asyncio
import contextlib
import functools
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import structlog
from aiosmtpd.smtp import SMTP

from smtp2cf.envelope import Envelope, Verdict
from smtp2cf.reply import Reply
from smtp2cf.smtpd import replies
from smtp2cf.smtpd.receipts import Answered
from smtp2cf.smtpd.session import AIOSMTPD_COMMANDS, COMMANDS, Session

Accept = Callable[[Envelope, bytes], Awaitable[Verdict]]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

BACKLOG = 2048
ABORT_WAIT = 1.0
"""Seconds that sessions which are hung up on have to end."""

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
        if not client:
            return True
        address = ipaddress.ip_address(client.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self.allow_networks)


class Server:
    """Takes SMTP sessions on the sockets it is given and hands their messages to `accept`."""

    def __init__(self, accept: Accept, policy: Policy, answered: Answered | None = None) -> None:
        self.accept = accept
        self.answered = answered
        self.policy = policy
        self.sessions: set[Session] = set()
        self.session_template = _session_template(policy)
        self.may_relay = functools.lru_cache(maxsize=4096)(policy.may_relay)
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
        try:
            await self._until_empty(timeout)
        except TimeoutError:
            log.warning("drain.timeout", sessions=len(self.sessions))
            for session in tuple(self.sessions):
                session.abort()
            with contextlib.suppress(TimeoutError):
                await self._until_empty(ABORT_WAIT)

    async def _until_empty(self, timeout: float) -> None:  # noqa: ASYNC109 - as above
        if self.sessions:
            self._emptied.clear()
            await asyncio.wait_for(self._emptied.wait(), timeout)

    def admit(self, session: Session) -> Reply | None:
        """Count a session in; the reply when there are too many, or no more are wanted."""
        if self._draining:
            return replies.SHUTTING_DOWN
        if len(self.sessions) >= self.policy.max_sessions:
            log.warning("session.refused", sessions=len(self.sessions))
            return replies.TOO_MANY_SESSIONS
        self.sessions.add(session)
        return None

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


def _session_template(policy: Policy) -> dict[str, Any]:
    """The attributes that aiosmtpd gives every session: names, limits, switches.

    Nothing that can change: its reader, futures and bound methods belong to one session alone.
    """
    loop = asyncio.new_event_loop()
    try:
        found = SMTP(
            None,
            hostname=policy.hostname,
            data_size_limit=policy.max_message_size,
            enable_SMTPUTF8=True,
            timeout=policy.session_timeout,
            loop=loop,
        )
    finally:
        loop.close()
    plain = {
        name: value for name, value in vars(found).items() if isinstance(value, (str, int, float, type(None)))
    }
    nothing: MappingProxyType[str, Any] = MappingProxyType({})
    commands = MappingProxyType({**COMMANDS, **AIOSMTPD_COMMANDS})
    return {**plain, "_handle_hooks": nothing, "_auth_methods": nothing, "_smtp_methods": commands}
