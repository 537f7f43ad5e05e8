"""Spool: what mail that waits is made of, and what a store of it promises.

A message and its envelope are written together; an operation that returned survives the process,
the host and the power (`put`, `settle`, `apply`), or at least the process (everything else). The
message bytes are read by `read` alone.

The spool's clock alone says what is due, what has expired and whose lease is over: nobody compares
with another. All times a caller gives are seconds from now. What it is shown as seconds since the epoch
is by the caller's own clock, which may be wrong, and so is for people.

The states, and what changes them:

| operation       | on                                 | becomes                                             |
|-----------------|------------------------------------|-----------------------------------------------------|
| put             | new mail                           | queued; deferred if it was tried; active if claimed |
| claim           | queued or deferred, due            | active, ours                                        |
| claim           | active, its lease over             | active, ours; `unanswered` says if a call had begun |
| begin           | active, ours                       | the same: one attempt more, `unanswered`            |
| settle retry_in | active, ours                       | deferred, not `unanswered` (held if marked)         |
| settle hold     | active, ours                       | held, not `unanswered`                              |
| settle          | active, ours                       | gone                                                |
| settle untried  | active, ours                       | as settle retry_in, with one attempt less           |
| give_back, close| active, ours                       | queued or deferred, due as before (held if marked)  |
| apply RETRY     | queued, deferred                   | the same, due now                                   |
| apply HOLD      | queued, deferred                   | held                                                |
| apply HOLD      | active                             | the same, marked: it is held when its owner is done |
| apply RELEASE   | held                               | queued or deferred, due now                         |
| apply RELEASE   | active, marked                     | the mark is gone                                    |
| apply DELETE    | any                                | gone; if active, `begin` and `settle` return False  |
| a restart       | active (SQLite, which has one owner) | as give_back, at once                             |

Mail is due when its next attempt is; if it was tried, also when it expires. A claim is a lease: the spool
renews those it gave out for as long as it is open, and nobody else gets the mail while it does.

Knows nothing of sockets, of Cloudflare or of the relay.
"""

import enum
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from smtp2cf.envelope import Envelope, Outcomes
from smtp2cf.reply import Reply, Scope, SendError

LEASE = 60.0
"""Seconds a claim lives without being renewed; it is renewed three times in that time."""

MEMORY = 600.0
"""Seconds that an unconfirmed transaction is remembered."""

PAGE = 500
"""Messages that are listed or changed in one go."""


class SpoolError(ValueError):
    """The spool cannot be opened; the text is one line for the operator."""


class SpoolFull(SendError):  # noqa: N818 - named for what it says of the spool
    """No room for more mail: disk, quota or memory."""

    def __init__(self, cause: object, *, unanswered: bool = False) -> None:
        reply = Reply(452, "4.3.1", f"The spool takes no more mail: {cause}")
        super().__init__(reply, Scope.ACCOUNT, unanswered=unanswered)


class SpoolUnavailable(SendError):  # noqa: N818 - as above
    """The spool cannot be reached now."""

    def __init__(self, cause: object, *, unanswered: bool = False) -> None:
        reply = Reply(451, "4.3.0", f"The spool cannot be reached: {cause}")
        super().__init__(reply, Scope.ACCOUNT, unanswered=unanswered)


class Status(enum.StrEnum):
    """Where mail is in the spool, in Postfix's words."""

    QUEUED = "queued"
    """Never tried."""
    DEFERRED = "deferred"
    """Tried; waits for its next attempt."""
    ACTIVE = "active"
    """Claimed by a process that sends it."""
    HELD = "held"
    """Waits for an operator."""


class Action(enum.StrEnum):
    """What an operator does to mail."""

    RETRY = "retry"
    HOLD = "hold"
    RELEASE = "release"
    DELETE = "delete"


class Answer(NamedTuple):
    """What the client of a transaction is told, to be remembered: see `Spool.remember`."""

    digest: bytes
    reply: Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMail:
    """Mail to put in.

    message: the bytes without dot-stuffing. outcomes: what is already known. attempts: made so far.
    delay: seconds until the next one. expires_in: seconds until it has expired. claimed: an attempt is under
    way in this process, counted in `attempts`; its answer will be settled. answer: remembered in the
    same go, so that whoever asks again after a crash is not kept twice.
    """

    envelope: Envelope
    message: bytes
    expires_in: float
    outcomes: Outcomes = field(default_factory=dict)
    attempts: int = 0
    delay: float = 0.0
    is_dsn: bool = False
    claimed: bool = False
    answer: Answer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolItem:
    """Mail in the spool, without its bytes.

    outcomes: the last answer for each recipient that has one. attempts: begun so far. failures:
    attempts in a row that ended in an error of the program. unanswered: an attempt was begun and
    its answer never recorded, so the mail may have been sent (on a fresh claim: by somebody else).
    due: the time of its next attempt has come. expired: its time is over. age: seconds since it was
    received. All three are as of when it was read, by the spool's clock; next_attempt, expires: the
    same for people, in seconds since the epoch. size: bytes of the message. hold_reason: why an
    operator or the program held it. owner: who claims it, as host:pid:nonce, "" for nobody.
    """

    envelope: Envelope
    outcomes: Outcomes
    status: Status
    attempts: int
    failures: int
    unanswered: bool
    next_attempt: float = field(compare=False)
    expires: float = field(compare=False)
    due: bool
    expired: bool
    age: float = field(compare=False)
    is_dsn: bool
    size: int
    hold_reason: str
    owner: str

    @property
    def queue_id(self) -> str:
        """The envelope's queue id."""
        return self.envelope.queue_id

    @property
    def unresolved(self) -> tuple[str, ...]:
        """The recipients that have no final outcome, in their order."""
        return tuple(
            path
            for path in self.envelope.forward_paths
            if (outcome := self.outcomes.get(path)) is None or outcome.transient
        )

    @property
    def last_reply(self) -> Reply | None:
        """What an unresolved recipient was last told; None before the first answer."""
        return next((self.outcomes[path] for path in self.unresolved if path in self.outcomes), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which mail; what is left out does not matter, so Filter() is all of it.

    queue_ids: any of these. sender, recipient: an address in which * stands for anything, letter
    case ignored; the null sender is "". older_than: seconds since it was received. statuses: any of.
    """

    queue_ids: tuple[str, ...] = ()
    sender: str | None = None
    recipient: str | None = None
    older_than: float | None = None
    statuses: tuple[Status, ...] = ()


EVERYTHING = Filter()


class Total(NamedTuple):
    """The mail of one status: how many, their bytes, when the oldest was received (epoch seconds, by the
    caller's clock)."""

    messages: int
    bytes: int
    oldest: float


class Memory(NamedTuple):
    """What an earlier transaction with the same envelope and bytes left behind.

    reply: the answer its client may not have got; None if the process died before there was one,
    so that the mail may have been sent.
    """

    reply: Reply | None


class Spool(Protocol):
    """A store of mail that waits.

    Every method raises SpoolFull or SpoolUnavailable, both a SendError, when the store fails; then
    nothing has changed, claims stay, and the same call may be made again. Where the error is
    `unanswered`, the store went away before it said what it did: nobody knows if anything has changed,
    and the same call again does no harm. A cancelled call may have been carried out.
    """

    async def put(self, *mail: NewMail) -> None:
        """Keep mail: all of it, fsynced, or none.

        What is there already, the same envelope with the same queue id, is left alone; but where its
        first attempt is still under way here, what is said of it now takes the place of what was said
        then. A queue id that other mail has raises SpoolUnavailable.
        """

    async def claim(self, limit: int, *, expired: bool = False) -> list[SpoolItem]:
        """Take up to `limit` messages that are due, for this process alone.

        expired: of those that were tried, only what has expired.
        Half the places are for mail that was never tried, half for the rest, each longest due first
        and then oldest first; what one half leaves goes to the other.
        """

    async def begin(self, queue_id: str) -> bool:
        """Note that an attempt is about to begin; False: not ours any more, so do not send it."""

    def holds(self, queue_id: str) -> bool:
        """Its claim is ours for sure, by clocks that go on while this process stands still."""

    async def confirm(self, queue_id: str) -> bool:
        """See that its claim is ours, and renew it; False: it is not, so do not send it."""

    async def read(self, queue_id: str) -> bytes | None:
        """The message bytes; None when the mail is gone."""

    async def settle(
        self,
        queue_id: str,
        outcomes: Outcomes,
        *,
        retry_in: float | None = None,
        untried: bool = False,
        hold: str = "",
        failures: int = 0,
        dsns: Sequence[NewMail] = (),
    ) -> bool:
        """Record what an attempt gave and end the claim, all in one.

        outcomes: every recipient's that is known, earlier ones too. retry_in: seconds until the next
        attempt; with neither it nor `hold`, the reason for an operator to look, the mail is done
        with and removed. untried: no call was made, so what was begun counts as no attempt. dsns: mail
        to put in by the way. False: the claim was not ours any more and nothing was written, no DSN
        either.
        """

    async def give_back(self, *queue_ids: str) -> None:
        """End claims without an answer; a begun attempt stays `unanswered`."""

    async def wait_due(self, at_most: float) -> None:
        """Return when mail may be due, after `at_most` seconds in any case."""

    def items(self, which: Filter = EVERYTHING) -> AsyncIterator[SpoolItem]:
        """The mail, oldest first, read in pages: what changes meanwhile may or may not show."""

    async def count(self, which: Filter = EVERYTHING) -> int:
        """How many `items` would give."""

    def apply(self, action: Action, which: Filter, reason: str = "") -> AsyncIterator[list[str]]:
        """Do what an operator wants, page by page; yields the queue ids it was done to.

        reason: why it is held.
        """

    async def totals(self) -> dict[Status, Total]:
        """What waits, by status; a status without mail is left out."""

    async def check(self) -> None:
        """Write something, to see that it can be done; raises what `refusal` gives, too.

        Raises SpoolError, as `totals` does, where a store that could not be reached at the start can
        never be used.
        """

    def refusal(self) -> SendError | None:
        """Why no new mail may come in; None while it may.

        Asked at every MAIL, so it only looks, and not even that each time. What is in the spool
        goes out all the same.
        """

    async def recall(self, digest: bytes, *, begin: bool = True) -> Memory | None:
        """Look for an earlier transaction; where there is none and with `begin`, note that this one has
        begun, which then survives the process."""

    def remember(self, digest: bytes, reply: Reply | None) -> None:
        """Note the answer to a transaction, None while it has none, for MEMORY seconds; survives the process
        once written."""

    def forget(self, digest: bytes) -> None:
        """The client has its answer."""

    async def close(self) -> None:
        """Finish what was asked for, give back every claim, close."""
