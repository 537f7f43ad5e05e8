"""Repairs: when mail goes out repaired (message/repair.py), and whose mail does so from the first call on.

A message is tried as it came. If Cloudflare calls it invalid, one more call tries it repaired: either it is
taken, or somebody else is to blame, such as a recipient. What helped is remembered for a day, in memory: a
restart costs each sender one call. Knows no HTTP and no spool.
"""

import functools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from smtp2cf.cloudflare import Sent
from smtp2cf.message.repair import Repaired, repair
from smtp2cf.reply import Reply, Scope, SendError

REMEMBERED_FOR = 24 * 60 * 60.0
"""Seconds."""
SENDERS_LIMIT = 10_000
"""Senders that are remembered; the one that was added first goes first."""

CAUSES = (
    "known causes: the domain of the sender or of From is not set up at Cloudflare, or is still pending;"
    r" an address begins or ends with a dot, or has two in a row; \r\n is written out in the header"
)
REPAIRABLE_CAUSES = (
    "; a header field is Cloudflare's own, such as Received; a name in From has a comma or parentheses in it"
    " and no quotes around it (SMTP2CF_ON_INVALID=repair mends these two)"
)

Send = Callable[[Sequence[str]], Awaitable[Sent]]
"""At most 50 recipients → Sent; raises SendError."""


class Version(NamedTuple):
    """A message as it can be sent. changed: what is repaired in it."""

    send: Send
    changed: tuple[str, ...] = ()


@dataclass(slots=True)
class Versions:
    """The versions of a message during one attempt.

    now: the one to send. repair: makes the repaired one, None where there is nothing to repair; None if
    messages are not to be repaired. settled: a call has shown that `now` is right. refused: replies that
    called the message invalid.
    """

    now: Version
    repair: Callable[[], Version | None] | None = None
    settled: bool = False
    refused: set[Reply] = field(default_factory=set)
    _repaired: Version | None = None
    _tried: bool = False

    def after(self, error: SendError, version: Version, recipients: Sequence[str]) -> Version | None:
        """The version to try next for recipients who were refused in `version`, None if no other can help.

        The repaired version is tried once for a group, and for single recipients until it is known which is
        right: a group may be refused for somebody in it, whatever the version.
        """
        if not error.invalid:
            if version is not self.now and error.scope in (Scope.MESSAGE, Scope.RECIPIENT):
                self.settle(version)  # Cloudflare has read on, and found something else
            return None
        self.refused.add(error.reply)
        if version is not self.now:
            return self.now if self.settled else None
        if self.settled or (self._tried and len(recipients) > 1):
            return None
        if not self._tried and self.repair is not None:
            self._repaired = self.repair()
        self._tried = True
        return self._repaired

    def settle(self, version: Version) -> None:
        """This version is right. The first one that is found to be stays."""
        if not self.settled:
            self.now, self.settled = version, True

    def explained(self, reply: Reply) -> Reply:
        """The reply, with what people have found to be the cause where Cloudflare calls a message invalid."""
        if reply not in self.refused:
            return reply
        more = REPAIRABLE_CAUSES if self.repair is None else ""
        return reply._replace(text=f"{reply.text}; {CAUSES}{more}")


def version_of(send: Callable[..., Awaitable[Sent]], repaired: Repaired) -> Version:
    """A repaired message. send: sends what it is given as `message`."""
    return Version(functools.partial(send, message=repaired.message), repaired.changed)


def repair_all(
    send: Callable[..., Awaitable[Sent]], message: bytes, already: tuple[str, ...]
) -> Version | None:
    """The message with all that can be repaired, None if there is nothing more than what is already."""
    repaired = repair(message)
    return version_of(send, repaired) if repaired.changed != already else None


class Repairs:
    """Whose mail goes out repaired, and what is repaired in it.

    by_sender: until when which kinds are repaired at once, in time.monotonic() seconds.
    """

    def __init__(self) -> None:
        self.by_sender: dict[str, dict[str, float]] = {}

    def at_once(self, sender: str, message: bytes) -> Repaired:
        """The message with what had to be repaired in this sender's mail lately."""
        now = time.monotonic()
        kinds = {kind for kind, until in self.by_sender.get(sender, {}).items() if until > now}
        if not kinds:
            self.by_sender.pop(sender, None)
        return repair(message, kinds)

    def remember(self, sender: str, changed: Sequence[str]) -> None:
        """It helped to repair these in a message of this sender."""
        until = time.monotonic() + REMEMBERED_FOR
        kinds = self.by_sender.pop(sender, {})
        self.by_sender[sender] = kinds | dict.fromkeys(changed, until)
        if len(self.by_sender) > SENDERS_LIMIT:
            del self.by_sender[next(iter(self.by_sender))]
