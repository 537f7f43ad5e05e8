"""Sessions: those that are open, how many there may be, and how much memory their messages may take.

Every connection is given this one object. Knows no protocol.
"""

import asyncio
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from smtp2cf.envelope import Accept, Answered
from smtp2cf.reply import Reply
from smtp2cf.smtpd import replies
from smtp2cf.smtpd.descriptors import Files
from smtp2cf.smtpd.log_limit import LimitedLog
from smtp2cf.smtpd.reply_arrival import ReplyArrival
from smtp2cf.smtpd.rules import Rules


class OpenSession(Protocol):
    """What has to be known about an open session."""

    client: str
    listener: str
    rules: Rules

    @property
    def held(self) -> int:
        """Octets of messages in memory for it."""

    def finish(self) -> None:
        """Hang up once the transaction under way is answered."""

    def abort(self) -> None:
        """Hang up now."""


class Capacity(NamedTuple):
    """What a server has room for at once: sessions, and octets of messages coming in or being relayed."""

    sessions: int
    message_memory: int = 512 << 20


class Sessions:
    """The open sessions of one server, and what they share.

    accept: takes an envelope and a message, and answers with a verdict.
    """

    def __init__(self, accept: Accept, capacity: Capacity, answered: Answered | None) -> None:
        self.accept = accept
        self.capacity = capacity
        self.reply_arrival = ReplyArrival(answered)
        self.limited_log = LimitedLog()
        self.files = Files()
        self._open: set[OpenSession] = set()
        self._emptied = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[OpenSession]:
        return iter(tuple(self._open))

    def at(self, listener: str) -> int:
        """How many are open at the listener with this name."""
        return sum(session.listener == listener for session in self._open)

    def admit(self, session: OpenSession, descriptor: int) -> Reply | None:
        """Count a session in; the reply if there are too many, or no more are wanted."""
        if self._closed:
            return replies.SHUTTING_DOWN
        if self.files.are_short(descriptor):
            return replies.NO_FILES
        if len(self._open) >= self.capacity.sessions:
            self.limited_log.warning("session.refused", client=session.client, sessions=len(self._open))
            return replies.TOO_MANY_SESSIONS
        if (refusal := session.rules.session_refusal(session.client)) is not None:
            self.limited_log.warning("session.refused", client=session.client, reply=str(refusal))
            return refusal
        self._open.add(session)
        return None

    def forget(self, session: OpenSession) -> bool:
        """Count a session out; False if it is not counted."""
        known = session in self._open
        if known:
            self._open.remove(session)
            session.rules.session_ended(session.client)
        if not self._open:
            self._emptied.set()
        return known

    def has_room(self, for_session: OpenSession) -> bool:
        """There is memory for more of a message that is coming in; for the only one there always is."""
        held = sum(session.held for session in self._open)
        return held <= self.capacity.message_memory or held == for_session.held

    def close(self) -> None:
        """Admit no more sessions, and let each finish its transaction."""
        self._closed = True
        for session in self:
            session.finish()

    async def until_empty(self, timeout: float) -> None:  # noqa: ASYNC109 - sessions outlive it
        """Wait until no session is left. Raises TimeoutError."""
        if self._open:
            self._emptied.clear()
            async with asyncio.timeout(timeout):
                await self._emptied.wait()
