"""Receipts: whether a client got the answers to its messages. No I/O.

It did if it goes on or hangs up in good order. Whoever relays must know of those that did not: such
a client sends its message again.
"""

from collections.abc import Callable

import structlog

from smtp2cf.envelope import Envelope
from smtp2cf.reply import Reply

Answered = Callable[[Envelope, bool], None]
"""(envelope, whether its client got the answer to it): told once for every message accepted, and with
False also when its client hangs up while it is being relayed."""

log = structlog.stdlib.get_logger("smtp2cf.smtpd")


class Receipts:
    """The receipts of one session."""

    __slots__ = ("_answered", "relaying", "unconfirmed")

    def __init__(self, answered: Answered | None) -> None:
        self._answered = answered
        self.relaying: Envelope | None = None
        """Of the message that has no answer yet."""
        self.unconfirmed: list[tuple[Envelope, Reply]] = []
        """Answers that the client has not shown to have got."""

    def begin(self, envelope: Envelope) -> None:
        """A message is being relayed."""
        self.relaying = envelope

    def end(self, reply: Reply | None) -> None:
        """It has its answer; None where it came to grief without one."""
        if self.relaying is not None and reply is not None:
            self.unconfirmed.append((self.relaying, reply))
        self.relaying = None

    def client_left(self) -> None:
        """The client may send its message again, over another connection, before this one is relayed."""
        if self.relaying is not None and self._answered is not None:
            self._answered(self.relaying, False)

    def confirm(self, *, received: bool) -> None:
        """Tell whether the client got the answers so far."""
        answers, self.unconfirmed = self.unconfirmed, []
        for envelope, reply in answers:
            if not received:
                log.warning(
                    "session.reply_lost",
                    queue_id=envelope.queue_id,
                    client=envelope.client,
                    reply=str(reply),
                )
            if self._answered is not None:
                self._answered(envelope, received)
