"""Time limits: how long a client may take for what it is doing. No I/O, and no clock of its own.

A command must be complete in time. Its octets count for nothing, so that nobody holds a session by sending
one now and then. A message may take longer the larger it is, but must never pause for long.
"""

from smtp2cf.reply import Reply
from smtp2cf.smtpd import replies

LINGER = 30.0
"""Seconds a client has at least to read what was written before we hung up."""
REFUSED_LINGER = 1.0
"""The same for a client that was turned away."""
SLOWEST_MESSAGE = 500
"""Octets a second at which a message must arrive, SESSION_TIMEOUT aside (Postfix's smtpd_min_data_rate)."""


class TimeLimits:
    """Those of one session. All times are in the loop's seconds.

    timeout: seconds of silence. heard_at: when the client was last heard, or answered after a wait.
    message_began_at: when a message, or a chunk of one, began to come in.
    """

    __slots__ = ("heard_at", "message_began_at", "timeout")

    def __init__(self, timeout: float, now: float) -> None:
        self.timeout = timeout
        self.heard_at = now
        self.message_began_at = now

    def left(self, now: float, received: int | None) -> tuple[float, Reply]:
        """Seconds until the client is hung up on, unless it goes on, and what it is told then.

        received: octets of the message that is coming in, None if none is.
        """
        silence = self.heard_at + self.timeout - now
        if received is None:
            return silence, replies.TIMED_OUT
        rest = self.message_began_at + self.timeout + received / SLOWEST_MESSAGE - now
        return min((silence, replies.TIMED_OUT), (rest, replies.TOO_SLOW))
