"""Outgoing: the replies on their way to a client, and the end of its connection.

The lower half of a connection (connection.py is the upper one): it sends what it is told, keeps an eye on
the time, and hangs up so that the client can still read what was written. Knows no command and no message,
and calls nothing of the upper half.

What falls short in aiosmtpd's SMTP class for a relay, and is different here: it inspects itself at every
connection, which costs more than all the rest of one (`__init__`); replies lack enhanced codes; every command
restarts a timer; a time-out says nothing; and a client that reads nothing is never hung up on.
"""

import asyncio
import enum
import socket
from typing import cast

import structlog
from aiosmtpd import smtp as aiosmtpd

from smtp2cf.envelope import Envelope
from smtp2cf.reply import Reply
from smtp2cf.smtpd import replies, time_limits
from smtp2cf.smtpd.aiosmtpd_base import aiosmtpd_attributes
from smtp2cf.smtpd.input import Input
from smtp2cf.smtpd.reply_arrival import SessionReplies
from smtp2cf.smtpd.rules import Rules
from smtp2cf.smtpd.sessions import Sessions
from smtp2cf.smtpd.steps import Event, Reader
from smtp2cf.smtpd.time_limits import TimeLimits

ERROR_BUDGET = 20
"""Wrong commands a session may send without delivering mail (Postfix's smtpd_hard_error_limit)."""
SEND_BUFFER = 65536
"""Octets of replies that the kernel holds for a client that reads none; left alone it holds megabytes."""

_NONSENSE = frozenset({500, 501, 502, 503, 504, 535, 555})

log = structlog.stdlib.get_logger("smtp2cf.smtpd")


class State(enum.Enum):
    """What a connection is doing."""

    COMMANDS = "what comes are commands"
    MESSAGE = "what comes is a message, for the reader"
    WORKING = "something is being done for the client, and its next commands wait"
    HANDSHAKE = "TLS begins"
    HUNG_UP = "we have hung up, and the client may still read"
    GONE = "there is no connection any more"


# To look a member up by its class takes ten times as long, and every packet does it.
COMMANDS, MESSAGE, WORKING, HANDSHAKE, HUNG_UP, GONE = State


class Outgoing(aiosmtpd.SMTP):
    """What goes out to one client.

    sessions: all that are open, and what they share. rules: who may do what, for how long. listener: the name
    of where it came in.
    """

    transport: asyncio.Transport | None

    def __init__(self, sessions: Sessions, rules: Rules, listener: str) -> None:
        policy = rules.policy
        # What aiosmtpd finds out about itself is the same for every session.
        shared = aiosmtpd_attributes(policy.hostname, policy.max_message_size, policy.session_timeout)
        vars(self).update(shared)
        self.loop = asyncio.get_running_loop()
        self.rules = rules
        self.client = ""
        self.listener = listener
        self._came_in = {"listener": listener} if listener else {}
        self.state = COMMANDS
        self.stalled = False
        """The client doesn't read its replies."""
        self.input = Input()
        """What has come and is not answered yet; nothing of it is once we have hung up."""
        self._sessions = sessions
        self._limits = TimeLimits(policy.session_timeout, self.loop.time())
        self._timer: asyncio.TimerHandle | None = None
        self._message_reader: Reader | None = None
        """Takes the message that is coming in."""
        self._replies = SessionReplies(sessions.reply_arrival)
        self._errors_left = ERROR_BUDGET

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self.transport = cast("asyncio.Transport", transport)  # asyncio names no better type here
        sock = transport.get_extra_info("socket")
        # Most inherit it from the listening socket: not unix sockets, and not if that had it too late. Linux
        # says the double of what it was told.
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) > 2 * SEND_BUFFER:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def pause_writing(self) -> None:
        """The client doesn't read its replies: it gets no more until it does."""
        self.stalled = True

    # ---- replies

    def _send(self, wire: bytes, code: int, event: Event | None = None) -> None:
        if event is not None:
            self._log(event)
        if self.transport is None or self.state is HUNG_UP:
            return
        if self.transport.is_closing():  # reset, as we shall be told
            self.input.clear()
            return
        self.transport.write(wire)
        if code in _NONSENSE:
            self._errors_left -= 1
            if self._errors_left <= 0:
                self._sessions.limited_log.warning(
                    "session.too_many_errors", client=self.client, **self._came_in
                )
                self.close(replies.TOO_MANY_ERRORS)

    def _send_answer(self, envelope: Envelope, reply: Reply, wire: bytes, *, unheard: bool) -> None:
        """Send what became of a message: the relay has to know whether it arrives.

        unheard: the client can't be told any more.
        """
        if reply.success:
            self._errors_left = ERROR_BUDGET
        transport = self.transport
        if transport is not None and (unheard or self.state is HUNG_UP or transport.is_closing()):
            transport = None
        self._replies.replied(envelope, reply, transport, len(wire))
        self._send(wire, reply.code)

    def _log(self, event: Event) -> None:
        if event.about_message:
            log.info(event.name, client=self.client, **self._came_in, **event.fields)
        else:
            fields = {**self._came_in, **event.fields}
            self._sessions.limited_log.warning(event.name, client=self.client, **fields)

    # ---- time

    def _look_at_time_in(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._look_at_time)

    def _look_at_time(self) -> None:
        """The one timer of the session looks at how long the client has been at what it is doing."""
        self._timer = None
        if self.state is HUNG_UP:
            self._abort_transport()  # it does not read what was written for it
            return
        if self.state in (WORKING, HANDSHAKE):  # it waits for us
            self._look_at_time_in(self._limits.timeout)
            return
        reader = self._message_reader
        left, goodbye = self._limits.left(self.loop.time(), reader.received if reader is not None else None)
        if left > 0:
            self._look_at_time_in(left)
            return
        self._sessions.limited_log.info(
            "session.timeout", client=self.client, **self._came_in, reply=str(goodbye)
        )
        self.close(goodbye)

    # ---- closing

    def close(self, reply: Reply) -> None:
        """Say goodbye and hang up; what was written before goes out first."""
        if self.transport is None or self.state is HUNG_UP:
            return
        if self.state is HANDSHAKE:
            self.transport.abort()  # the client would take a reply for a part of the handshake
        else:
            self.transport.write(reply.wire())
            self._hang_up()

    def _abort_transport(self) -> None:
        """Hang up at once, whatever was written."""
        if self.transport is not None:
            self.transport.abort()

    def _hang_up(self) -> None:
        self.state = HUNG_UP
        self.input.clear()
        if self.transport is not None:
            self.transport.close()
            if self._timer is None:
                self._look_at_time_in(time_limits.LINGER)
