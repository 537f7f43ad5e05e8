"""Reply arrival: whether a client got the reply to its message. Everything that decides this is here.

A client that did not get the reply sends its message again, and must then get the same reply. One that did
get it may send the same message again and mean it. So a reply counts as lost only if that is proven.

- The client went on: if it sends anything after the reply, it has the reply.
- Its host has acknowledged the octets of the reply. TCP says how far it has (tcp(7), TCP_INFO), below TLS
  too. A QUIT, TLS's goodbye and the end of the stream acknowledge what came before them.
- A reset proves nothing by itself. A client that hangs up without reading our last words (the 221, TLS's
  goodbye) resets the connection, and Linux does not record what that reset acknowledges. The reply is lost
  if the client had hung up in good order before without acknowledging it, or if it was sent again in vain.
- A reply is lost if nothing at all happens for LOST_AFTER, and if it could not be written any more.

On a unix socket, a reply that the kernel took has arrived. If TCP tells nothing, a reply is lost only if the
client had hung up before and answers with a reset.

A connection makes two calls: `replied`, when a message has its reply, and `noticed`, when its client shows
something of itself. Knows no session and no relay.
"""

import asyncio
import contextlib
import enum
import fcntl
import os
import select
import socket
import sys
import termios
from typing import NamedTuple

import structlog

from smtp2cf.envelope import Answered, Envelope
from smtp2cf.reply import Reply

LOOK_EVERY = 0.25
"""Seconds between two looks at the replies that no client has reacted to."""
RESET_WITHIN = 0.5
"""Seconds within which a host whose client is gone answers with a reset."""
LOST_AFTER = 30.0
"""Seconds after which a reply that nobody has acknowledged is lost."""

log = structlog.stdlib.get_logger("smtp2cf.smtpd")


class Tcp(NamedTuple):
    """What the kernel knows about a connection.

    acknowledged: octets of ours that the peer's host has. pending: those it has not acknowledged.
    resent: packets that were sent again. hung_up: the peer has ended its side. closed: there is no
    connection any more.
    """

    acknowledged: int
    pending: int
    resent: int
    hung_up: bool
    closed: bool


def tcp_info(sock: socket.socket) -> Tcp | None:
    """The state of a connection; None if the kernel doesn't tell (unix sockets, other systems, sandboxes)."""
    if sys.platform != "linux" or sock.family == socket.AF_UNIX:
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
        pending = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:
        return None
    acknowledged = int.from_bytes(info[120:128], sys.byteorder)  # tcpi_bytes_acked
    if not acknowledged:
        return None  # not filled in: no client gets to its answer without the greeting
    return Tcp(
        acknowledged,
        int.from_bytes(pending, sys.byteorder),
        resent=int.from_bytes(info[100:104], sys.byteorder),  # tcpi_total_retrans
        hung_up=info[0] in _HUNG_UP,
        closed=info[0] == _CLOSED,
    )


_HUNG_UP = frozenset({8, 9, 11})  # TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_CLOSING
_CLOSED = 7  # TCP_CLOSE


class Sign(enum.Enum):
    """What a client shows of itself."""

    SENT = "it has sent something"
    ENDED = "it sends no more"
    GONE = "the connection is closed, by whichever side"


class _SentReply(NamedTuple):
    """A reply that may not have arrived yet.

    end: how many octets of ours the peer's host must have to have all of it. since: in the loop's seconds.
    """

    envelope: Envelope
    reply: Reply
    end: int
    resent: int
    since: float


def has_arrived(tcp: Tcp, end: int, *, resent: int, hung_up: bool) -> bool | None:
    """Whether a reply has reached its client; None if nobody can tell yet.

    end: the position after its last octet. resent: what `Tcp.resent` was before it. hung_up: the client
    has ended its side.
    """
    if tcp.acknowledged >= end:
        return True
    if tcp.closed:
        return not hung_up and tcp.resent <= resent
    return None


class ReplyArrival:
    """Follows the replies of all sessions of a server. answered: whom to tell, None for nobody."""

    def __init__(self, answered: Answered | None) -> None:
        self._answered = answered
        self.open: set[SessionReplies] = set()
        """Those of the sessions with a reply that may not have arrived yet."""
        self._timer: asyncio.TimerHandle | None = None

    async def until_known(self, timeout: float) -> None:  # noqa: ASYNC109 - what is open then counts as lost
        """Wait until every reply has arrived or is lost."""
        deadline = asyncio.get_running_loop().time() + timeout
        while self.open and asyncio.get_running_loop().time() < deadline:
            for session in tuple(self.open):
                session.look()
            await asyncio.sleep(min(LOOK_EVERY, timeout) / 10)
        for session in tuple(self.open):
            session.conclude(received=False)
        if self._timer is not None:
            self._timer.cancel()

    def watch(self, session: "SessionReplies") -> None:
        """Look at a session's replies now and then until all of them have arrived or are lost."""
        self.open.add(session)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look_at_all)

    def tell(self, envelope: Envelope, *, received: bool) -> None:
        """Say whether a client got its reply."""
        if self._answered is not None:
            self._answered(envelope, received)

    def _look_at_all(self) -> None:
        self._timer = None
        for session in tuple(self.open):
            session.look()
        if self.open and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look_at_all)


class SessionReplies:
    """The replies of one session. sent: those that may not have arrived yet."""

    __slots__ = ("_all", "_hung_up", "_left", "_sock", "sent")

    def __init__(self, of_all: ReplyArrival) -> None:
        self._all = of_all
        self.sent: list[_SentReply] = []
        self._sock: socket.socket | None = None
        self._hung_up = False
        self._left: Envelope | None = None
        """The message that was still being relayed when its client left."""

    def replied(
        self, envelope: Envelope, reply: Reply, transport: asyncio.Transport | None, size: int
    ) -> None:
        """A message has its reply, which is about to be written.

        transport: None if it can't be written. size: octets of what is written.
        """
        sock = self._keep_socket(transport)
        if transport is None or (sock is not None and _is_deaf(sock)):
            self._tell(envelope, reply, received=False)
            self._clean_up()
            return
        tcp = tcp_info(sock) if sock is not None else None
        end = resent = 0
        if tcp is not None:
            end = tcp.acknowledged + tcp.pending + transport.get_write_buffer_size() + size
            resent = tcp.resent
            self._hung_up = self._hung_up or tcp.hung_up
        now = asyncio.get_running_loop().time()
        self.sent.append(_SentReply(envelope, reply, end, resent, now))
        self._all.watch(self)

    def noticed(self, sign: Sign, relaying: Envelope | None = None) -> None:
        """The client shows something of itself. relaying: the message that has no reply yet."""
        if sign is Sign.SENT:
            self.conclude(received=True)
            return
        if relaying is not None and relaying is not self._left:
            self._left = relaying
            self._all.tell(relaying, received=False)  # it may come again on another connection
        self._hung_up = self._hung_up or sign is Sign.ENDED
        self.look()
        if sign is Sign.GONE and self._sock is not None:
            with contextlib.suppress(OSError):  # reset already
                self._sock.shutdown(socket.SHUT_WR)  # our copy keeps the socket open: end it all the same

    def look(self) -> None:
        """Conclude as much as is known now."""
        if not self.sent:
            return
        tcp = tcp_info(self._sock) if self._sock is not None else None
        if tcp is not None:
            self._hung_up = self._hung_up or tcp.hung_up
        now = asyncio.get_running_loop().time()
        sent, self.sent = self.sent, []
        for one in sent:
            received = self._has_arrived(tcp, one)
            if received is None and now - one.since > LOST_AFTER:
                received = False
            if received is None:
                self.sent.append(one)
            else:
                self._tell(one.envelope, one.reply, received=received)
        self._clean_up()

    def conclude(self, *, received: bool) -> None:
        """All replies so far have arrived, or are lost."""
        sent, self.sent = self.sent, []
        for one in sent:
            self._tell(one.envelope, one.reply, received=received)
        self._clean_up()

    def _has_arrived(self, tcp: Tcp | None, sent: _SentReply) -> bool | None:
        if tcp is None or not sent.end:
            return self._is_not_reset(sent)
        return has_arrived(tcp, sent.end, resent=sent.resent, hung_up=self._hung_up)

    def _is_not_reset(self, sent: _SentReply) -> bool | None:
        """The same if TCP doesn't tell."""
        if self._sock is None or self._sock.family == socket.AF_UNIX or not self._hung_up:
            return True
        if self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            return False
        return True if asyncio.get_running_loop().time() - sent.since > RESET_WITHIN else None

    def _tell(self, envelope: Envelope, reply: Reply, *, received: bool) -> None:
        if not received:
            log.warning(
                "session.reply_lost", queue_id=envelope.queue_id, client=envelope.client, reply=str(reply)
            )
        self._all.tell(envelope, received=received)

    def _keep_socket(self, transport: asyncio.Transport | None) -> socket.socket | None:
        """A descriptor of our own: the transport may be gone before all is known, TLS's above all."""
        if self._sock is None and transport is not None:
            # No file is left for it, or the socket is closed: then it is as if TCP told nothing.
            with contextlib.suppress(OSError):
                if (sock := transport.get_extra_info("socket")) is not None:
                    self._sock = socket.socket(sock.family, sock.type, fileno=os.dup(sock.fileno()))
        return self._sock

    def _clean_up(self) -> None:
        if self.sent:
            return
        self._all.open.discard(self)
        if self._sock is not None:
            self._sock.close()
            self._sock = None


def _is_deaf(sock: socket.socket) -> bool:
    """The other end of a unix socket is closed, not just half of it: nobody will read what is written."""
    if sock.family != socket.AF_UNIX:
        return False
    poll = select.poll()
    poll.register(sock, 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))
