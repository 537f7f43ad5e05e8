"""Server: the listening side of SMTP and LMTP. Holds the sessions, their number and their end.

Knows no relay and no users: it is handed `accept`, which takes an envelope and a message and answers with
a verdict, and what decides who may send.
"""

import asyncio
import contextlib
import functools
import itertools
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import structlog
from aiosmtpd.smtp import SMTP

from smtp2cf.envelope import Envelope, Verdict
from smtp2cf.reply import Reply
from smtp2cf.smtpd import replies
from smtp2cf.smtpd.before_session import Acceptor, turn_away_waiting
from smtp2cf.smtpd.connection import Connection
from smtp2cf.smtpd.descriptors import Files
from smtp2cf.smtpd.log_limit import LimitedLog
from smtp2cf.smtpd.networks import Network, is_in
from smtp2cf.smtpd.quotas import Quotas
from smtp2cf.smtpd.receipts import Answered, Receipts
from smtp2cf.smtpd.session import LMTP_COMMANDS, SMTP_COMMANDS, Command, Session

Accept = Callable[[Envelope, bytes], Awaitable[Verdict]]
Authenticate = Callable[[str, str, str], Awaitable[Reply | None]]
"""(client address, user name, password) → None where they are good, or the reply that refuses."""
SenderRefusal = Callable[[str, str], Reply | None]
"""(user name, "" for nobody; reverse path) → the reply where it may not send so."""

KEEP_FILE: Mapping[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""A unix socket's file is removed by whoever made it, which may be systemd."""
ABORT_WAIT = 1.0
"""Seconds that sessions which are hung up on have to end."""

SETTLE_WAIT = 1.0
"""Seconds that clients which have hung up have to acknowledge their answers."""

log = structlog.stdlib.get_logger("smtp2cf.smtpd")


@dataclass(frozen=True, eq=False)
class Listener:
    """What is spoken at a listening socket.

    tls: from the first octet on. starttls: offered where there is a certificate.
    """

    commands: Mapping[str, Command]
    lmtp: bool = False
    tls: bool = False
    starttls: bool = True


SMTP_LISTENER = Listener(SMTP_COMMANDS)
SMTPS_LISTENER = Listener(SMTP_COMMANDS, tls=True)
LMTP_LISTENER = Listener(LMTP_COMMANDS, lmtp=True)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Who may send, and how much.

    hostname: what the greeting says. allow_networks: clients that may relay without AUTH.
    max_message_size: octets. max_recipients: of one transaction. max_sessions: at once.
    session_timeout: seconds of silence, and for one command to be whole. auth_without_tls: passwords may
    come in clear. proxy_networks: proxies that say for whom they connect. crlf_only: a command that ends
    with LF alone is refused. postmaster: who gets mail to `<Postmaster>`, "" for nobody. max_message_memory:
    octets of messages that are held at once while they come in and are relayed.
    """

    hostname: str
    allow_networks: tuple[Network, ...]
    max_message_size: int
    max_recipients: int
    max_sessions: int
    session_timeout: float
    auth_without_tls: bool = False
    proxy_networks: tuple[Network, ...] = ()
    crlf_only: bool = False
    postmaster: str = ""
    max_message_memory: int = 512 << 20

    def may_relay(self, client: str) -> bool:
        """A client at this address may relay; one on a unix socket has none and may."""
        return not client or is_in(client, self.allow_networks)


class Server:
    """Takes sessions on the sockets it is given and hands their messages to `accept`.

    authenticate: None where nobody may. sender_refusal: holds a reverse path against what its sender may
    use. quotas: of an address and of a user. closed: the reply to MAIL while no mail can be taken. tls: the
    context of the next handshake, None without TLS.
    """

    def __init__(
        self,
        accept: Accept,
        policy: Policy,
        answered: Answered | None = None,
        *,
        authenticate: Authenticate | None = None,
        sender_refusal: SenderRefusal | None = None,
        quotas: Quotas | None = None,
        closed: Callable[[], Reply | None] | None = None,
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        self.accept = accept
        self.receipts = Receipts(answered)
        self.policy = policy
        self.authenticate = authenticate
        self.tls = tls
        self._sender_refusal = sender_refusal
        self._quotas = quotas
        self.closed = closed
        self.limited_log = LimitedLog()
        self.files = Files()
        self.sessions: set[Connection] = set()
        self.session_template = _session_template(policy)
        self._may_relay = functools.lru_cache(maxsize=4096)(policy.may_relay)
        self.helo_reply = f"250 {policy.hostname}\r\n".encode()
        self._offers = {
            (lmtp, starttls, secure): self._offer(lmtp=lmtp, starttls=starttls and not secure, secure=secure)
            for lmtp, starttls, secure in itertools.product((False, True), repeat=3)
        }
        self._acceptors: list[Acceptor] = []
        self._served: list[asyncio.Server] = []
        self._own_sockets: list[socket.socket] = []
        self._emptied = asyncio.Event()
        self._draining = False

    async def start(
        self, sockets: list[socket.socket], listener: Listener = SMTP_LISTENER, *, shared: bool = False
    ) -> None:
        """Take sessions on listening sockets. Raises ValueError for TLS without a certificate.

        shared: another process has them too (systemd), and who waits there waits for the next bridge.
        """
        if listener.tls and self.tls is None:
            raise ValueError("a listener with TLS needs a certificate")
        loop = asyncio.get_running_loop()
        backlog = self.files.backlog
        if not shared and not listener.tls:
            self._own_sockets += sockets
        for sock in sockets:
            is_unix = sock.family == socket.AF_UNIX
            if listener.tls or (self.policy.proxy_networks and not is_unix):
                self._acceptors.append(Acceptor(self, sock, listener))
                continue
            session = functools.partial(Session, self, listener)
            if is_unix:
                served = await loop.create_unix_server(session, sock=sock, backlog=backlog, **KEEP_FILE)
            else:
                served = await loop.create_server(session, sock=sock, backlog=backlog)
            self._served.append(served)

    # ---- what sessions ask

    @property
    def sessions_of_one_client(self) -> int:
        """How many a client may have at once; 0 for any number."""
        return self._quotas.client_sessions if self._quotas is not None else 0

    def greeting(self, listener: Listener) -> bytes:
        """The first words."""
        return f"220 {self.policy.hostname} {'LMTP' if listener.lmtp else 'ESMTP'} smtp2cf\r\n".encode()

    def offer(self, listener: Listener, *, secure: bool) -> bytes:
        """The answer to EHLO and LHLO."""
        return self._offers[listener.lmtp, listener.starttls, secure]

    def commands(self, listener: Listener) -> list[str]:
        """The commands that this listener offers, with what is set up."""
        absent = {"STARTTLS"} if self.tls is None or not listener.starttls else set[str]()
        if self.authenticate is None:
            absent.add("AUTH")
        return [verb for verb in listener.commands if verb not in absent]

    def starttls_context(self, listener: Listener) -> ssl.SSLContext | None:
        """What to shake hands with after STARTTLS; None where it is not offered."""
        return self.tls() if self.tls is not None and listener.starttls else None

    def may_authenticate(self, *, secure: bool) -> bool:
        """A password may come over this connection."""
        return self.authenticate is not None and (secure or self.policy.auth_without_tls)

    def relay_refusal(self, session: Connection, *, secure: bool) -> Reply | None:
        """The reply for a client that may not relay: not for its address, and it is no user."""
        if session.user or self._may_relay(session.client):
            return None
        if self.authenticate is None:
            return replies.relaying_denied(session.client)
        return replies.authentication_required(
            session.client, tls_first=not self.may_authenticate(secure=secure)
        )

    def mail_refusal(self, session: Connection) -> Reply | None:
        """The reply where this sender may not be used, or too many messages came of late."""
        if self._sender_refusal is not None:
            refusal = self._sender_refusal(session.user, session.envelope.mail_from or "")
            if refusal is not None:
                return refusal
        return self._quotas.message(session.client, session.user) if self._quotas is not None else None

    def recipient_refusal(self, session: Connection) -> Reply | None:
        """The reply where too many recipients came of late."""
        return self._quotas.recipient(session.client, session.user) if self._quotas is not None else None

    def enter_user(self, session: Connection, name: str) -> Reply | None:
        """A session has authenticated; the reply where this user has too many."""
        if self._quotas is not None and (refusal := self._quotas.enter(user=name)) is not None:
            return refusal
        session.user = name
        return None

    def leave_user(self, session: Connection) -> None:
        """Nobody has authenticated any more."""
        if self._quotas is not None and session.user:
            self._quotas.leave(user=session.user)
        session.user = ""

    # ---- the sessions

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - sessions outlive it and are told
        """Take no new sessions, let transactions finish for `timeout` seconds, then hang up."""
        self._draining = True
        turn_away_waiting(self._own_sockets, replies.SHUTTING_DOWN)
        for served in self._served:
            served.close()
        for acceptor in self._acceptors:
            acceptor.close()
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
        await self.receipts.settle(SETTLE_WAIT)

    async def _until_empty(self, timeout: float) -> None:  # noqa: ASYNC109 - as above
        if self.sessions:
            self._emptied.clear()
            async with asyncio.timeout(timeout):
                await self._emptied.wait()

    def admit(self, session: Connection, descriptor: int) -> Reply | None:
        """Count a session in; the reply when there are too many, or no more are wanted."""
        if self._draining:
            return replies.SHUTTING_DOWN
        if self.files.are_short(descriptor):
            return replies.NO_FILES
        if len(self.sessions) >= self.policy.max_sessions:
            self.limited_log.warning("session.refused", client=session.client, sessions=len(self.sessions))
            return replies.TOO_MANY_SESSIONS
        if self._quotas is not None and (refusal := self._quotas.enter(client=session.client)) is not None:
            self.limited_log.warning("session.refused", client=session.client, reply=str(refusal))
            return refusal
        self.sessions.add(session)
        return None

    def has_room(self, for_session: Connection) -> bool:
        """There is memory for more of a message that is coming in; for the only one there always is."""
        held = sum(session.held for session in self.sessions)
        return held <= self.policy.max_message_memory or held == for_session.held

    def forget(self, session: Connection) -> None:
        """Count a session out."""
        if session in self.sessions:
            self.sessions.remove(session)
            if self._quotas is not None:
                self._quotas.leave(client=session.client)
                self.leave_user(session)
        if not self.sessions:
            self._emptied.set()

    def _offer(self, *, lmtp: bool, starttls: bool, secure: bool) -> bytes:
        words = [
            self.policy.hostname,
            "PIPELINING",
            f"SIZE {self.policy.max_message_size}",
            "8BITMIME",
            "SMTPUTF8",
        ]
        words += ["ENHANCEDSTATUSCODES", "DSN", "CHUNKING", f"LIMITS RCPTMAX={self.policy.max_recipients}"]
        if not lmtp:
            words.append("PRDR")
        if self.tls is not None and starttls:
            words.append("STARTTLS")
        if self.may_authenticate(secure=secure):
            words.append("AUTH PLAIN LOGIN")
        words.append("HELP")
        return "".join(f"250-{word}\r\n" for word in words[:-1]).encode() + f"250 {words[-1]}\r\n".encode()


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
    return {**plain, "_handle_hooks": nothing, "_auth_methods": nothing, "_smtp_methods": nothing}
