"""Receipts: whether a client got the answer to its message. All that decides it is here.

A client that did not get it sends its message again, and must get the same answer then; one that got it may
send the same message again and means it. So an answer counts as lost only where that is proven.

- The client went on: whatever it sends after its answer, it has it.
- Its host has acknowledged the octets of the answer: TCP says how far it has (tcp(7), TCP_INFO), below TLS
  as well. A QUIT, a goodbye in TLS and the end of the stream acknowledge what came before them.
- A reset proves nothing by itself. A client that hangs up without reading our last words (the 221, TLS's
  goodbye) resets the connection, and Linux does not take note of what that reset acknowledges. It is a loss
  where the client had hung up in good order before without acknowledging the answer, or where the answer
  had to be sent again in vain.
- Nothing at all for LOST_AFTER is a loss, and so is an answer that could not be written any more.

On a unix socket an answer that the kernel took has arrived. Where TCP tells nothing, one is lost only to a
client that had hung up before and answers with a reset.

Knows no session and no relay.
"""

import asyncio
import contextlib
import fcntl
import os
import select
import socket
import sys
import termios
from collections.abc import Callable
from typing import NamedTuple

import structlog

from smtp2cf.envelope import Envelope
from smtp2cf.reply import Reply

LOOK_EVERY = 0.25
"""Seconds between two looks at the answers that no client has reacted to."""
RESET_WITHIN = 0.5
"""Seconds in which a host whose client is gone answers with a reset."""
LOST_AFTER = 30.0
"""Seconds after which an answer that nobody has acknowledged is lost."""

Answered = Callable[[Envelope, bool], None]
"""(envelope, whether its client got the answer to it): told once for every message accepted, and with
False also when its client hangs up while it is being relayed."""

log = structlog.stdlib.get_logger("smtp2cf.smtpd")


class Tcp(NamedTuple):
    """What the kernel knows of a connection.

    acknowledged: octets of ours that the peer's host has. pending: those it has not acknowledged.
    resent: packets that were sent again. hung_up: the peer has ended its side. closed: the connection is no
    more.
    """

    acknowledged: int
    pending: int
    resent: int
    hung_up: bool
    closed: bool


def tcp_info(sock: socket.socket) -> Tcp | None:
    """The state of a connection, None where it isn't told: a unix socket, another system, a sandbox."""
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


class _Answer(NamedTuple):
    """One that its client has not shown to have got.

    end: how many octets of ours the peer's host must have to have it. since: in the loop's seconds.
    """

    envelope: Envelope
    reply: Reply
    end: int
    resent: int
    since: float


def has_arrived(tcp: Tcp, end: int, *, resent: int, hung_up: bool) -> bool | None:
    """Whether an answer has got to its client; None where nobody can tell yet.

    end: the position behind its last octet. resent: what `Tcp.resent` was before it. hung_up: the client
    has ended its side.
    """
    if tcp.acknowledged >= end:
        return True
    if tcp.closed:
        return not hung_up and tcp.resent <= resent
    return None


class Receipts:
    """The receipts of one server's sessions. answered: who is told, None for nobody."""

    def __init__(self, answered: Answered | None) -> None:
        self._answered = answered
        self._open: set[SessionReceipts] = set()
        self._timer: asyncio.TimerHandle | None = None

    def of_session(self) -> "SessionReceipts":
        """Those of a new session."""
        return SessionReceipts(self)

    async def settle(self, timeout: float) -> None:  # noqa: ASYNC109 - what is open then is told as lost
        """Wait until every answer has arrived or is lost."""
        deadline = asyncio.get_running_loop().time() + timeout
        while self._open and asyncio.get_running_loop().time() < deadline:
            for receipts in tuple(self._open):
                receipts.look()
            await asyncio.sleep(min(LOOK_EVERY, timeout) / 10)
        for receipts in tuple(self._open):
            receipts.settle(received=False)
        if self._timer is not None:
            self._timer.cancel()

    def watch(self, receipts: "SessionReceipts") -> None:
        """Look at these now and then until they are settled."""
        self._open.add(receipts)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look_at_all)

    def forget(self, receipts: "SessionReceipts") -> None:
        """These are settled."""
        self._open.discard(receipts)

    def tell(self, envelope: Envelope, *, received: bool) -> None:
        """Say whether a client got its answer."""
        if self._answered is not None:
            self._answered(envelope, received)

    def _look_at_all(self) -> None:
        self._timer = None
        for receipts in tuple(self._open):
            receipts.look()
        if self._open and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look_at_all)


class SessionReceipts:
    """The receipts of one session, which says what it does and what the client does, and asks nothing."""

    __slots__ = ("_all", "_answers", "_closed", "_hung_up", "_relaying", "_sock")

    def __init__(self, receipts: Receipts) -> None:
        self._all = receipts
        self._relaying: Envelope | None = None
        self._answers: list[_Answer] = []
        self._sock: socket.socket | None = None
        self._hung_up = False
        self._closed = False

    def begin(self, envelope: Envelope) -> None:
        """A message is being relayed."""
        self._relaying = envelope

    def fail(self) -> None:
        """It came to grief, and has no answer."""
        self._relaying = None

    def unanswered(self) -> None:
        """It has an answer that the client is not told, because of a mistake of ours."""
        envelope, self._relaying = self._relaying, None
        if envelope is not None:
            self._all.tell(envelope, received=False)

    def answer(self, reply: Reply, transport: asyncio.Transport | None, size: int) -> None:
        """It has its answer, which is about to be written.

        transport: None where nothing can be written any more. size: octets of what is written.
        """
        envelope, self._relaying = self._relaying, None
        if envelope is None:
            return None
        sock = self._keep_socket(transport)
        if transport is None or (sock is not None and _is_deaf(sock)):
            self._tell(envelope, reply, received=False)
            return self._clean_up()
        tcp = tcp_info(sock) if sock is not None else None
        end = resent = 0
        if tcp is not None:
            end = tcp.acknowledged + tcp.pending + transport.get_write_buffer_size() + size
            resent = tcp.resent
            self._hung_up = self._hung_up or tcp.hung_up
        now = asyncio.get_running_loop().time()
        self._answers.append(_Answer(envelope, reply, end, resent, now))
        return self._all.watch(self)

    def heard(self) -> None:
        """The client has said something."""
        if self._answers:
            self.settle(received=True)

    def hung_up(self) -> None:
        """The client sends no more; it may send the message that is being relayed over another connection."""
        self._hung_up = True
        if self._relaying is not None:
            self._all.tell(self._relaying, received=False)
        self.look()

    def closed(self) -> None:
        """The connection is closed, whoever did that."""
        if not self._closed and self._relaying is not None and not self._hung_up:
            self._all.tell(self._relaying, received=False)
        self._closed = True
        self.look()
        if self._sock is not None:
            with contextlib.suppress(OSError):  # reset already
                self._sock.shutdown(socket.SHUT_WR)  # ours is not the last descriptor of it: say goodbye

    def look(self) -> None:
        """Settle what can be settled now."""
        if not self._answers:
            return
        tcp = tcp_info(self._sock) if self._sock is not None else None
        if tcp is not None:
            self._hung_up = self._hung_up or tcp.hung_up
        now = asyncio.get_running_loop().time()
        answers, self._answers = self._answers, []
        for answer in answers:
            received = self._has_arrived(tcp, answer)
            if received is None and now - answer.since > LOST_AFTER:
                received = False
            if received is None:
                self._answers.append(answer)
            else:
                self._tell(answer.envelope, answer.reply, received=received)
        self._clean_up()

    def settle(self, *, received: bool) -> None:
        """All answers so far have arrived, or are lost."""
        answers, self._answers = self._answers, []
        for answer in answers:
            self._tell(answer.envelope, answer.reply, received=received)
        self._clean_up()

    def _has_arrived(self, tcp: Tcp | None, answer: _Answer) -> bool | None:
        if tcp is None or not answer.end:
            return self._is_not_reset(answer)
        return has_arrived(tcp, answer.end, resent=answer.resent, hung_up=self._hung_up)

    def _is_not_reset(self, answer: _Answer) -> bool | None:
        """The same where TCP does not tell."""
        if self._sock is None or self._sock.family == socket.AF_UNIX or not self._hung_up:
            return True
        if self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            return False
        return True if asyncio.get_running_loop().time() - answer.since > RESET_WITHIN else None

    def _tell(self, envelope: Envelope, reply: Reply, *, received: bool) -> None:
        if not received:
            log.warning(
                "session.reply_lost", queue_id=envelope.queue_id, client=envelope.client, reply=str(reply)
            )
        self._all.tell(envelope, received=received)

    def _keep_socket(self, transport: asyncio.Transport | None) -> socket.socket | None:
        """A descriptor of our own: the transport may be gone, TLS's most of all, before all is settled."""
        if self._sock is None and transport is not None:
            # No file left for it, or the socket is closed: then as where TCP tells nothing.
            with contextlib.suppress(OSError):
                if (sock := transport.get_extra_info("socket")) is not None:
                    self._sock = socket.socket(sock.family, sock.type, fileno=os.dup(sock.fileno()))
        return self._sock

    def _clean_up(self) -> None:
        if self._answers:
            return
        self._all.forget(self)
        if self._sock is not None:
            self._sock.close()
            self._sock = None


def _is_deaf(sock: socket.socket) -> bool:
    """The other end of a unix socket is closed, not just by half: nobody will read what is written."""
    if sock.family != socket.AF_UNIX:
        return False
    poll = select.poll()
    poll.register(sock, 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))
