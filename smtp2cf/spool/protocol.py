"""Spool: what waiting mail consists of, and what a store of it promises.

A message and its envelope are written together. Once an operation has returned, its effect survives a crash
of the process, the host and a power failure (`put`, `settle`, `apply`), or at least of the process
(everything else). Only `read` reads the message bytes.

Only the spool's clock decides what is due, what has expired and whose lease is over; never compare with
another clock. All times a caller passes are seconds from now. Times it gets as seconds since the epoch are
by its own clock, which may be wrong: they are for people.

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
| apply RETRY     | queued, deferred                   | the same, due now, or within some time              |
| apply HOLD      | queued, deferred                   | held                                                |
| apply HOLD      | active                             | the same, marked: it is held when its owner is done |
| apply RELEASE   | held                               | queued or deferred, due now                         |
| apply RELEASE   | active, marked                     | the mark is gone                                    |
| apply DELETE    | any                                | gone; if active, `begin` and `settle` return False  |
| a restart       | active (SQLite, which has one owner) | as give_back, at once                             |

Mail is due when its next attempt is; if it was tried, also when it expires. A claim is a lease: the spool
renews its own for as long as it is open, and nobody else gets the mail in that time.

Knows nothing of sockets, of Cloudflare or of the relay.
"""

import enum
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

from smtp2cf.envelope import Envelope, Outcomes
from smtp2cf.reply import Reply, Scope, SendError

T = TypeVar("T")
Change = Callable[[str, float], tuple[str, T]]
"""See Spool.amend."""


Kept = tuple[str, float]
"""A count to keep: its text, and the seconds until it may be forgotten."""
Recount = Callable[[Mapping[str, str], float], tuple[Mapping[str, Kept], T]]
"""See Spool.recount."""

LEASE = 60.0
"""Seconds a claim lasts unless renewed; it is renewed three times in that time."""

MEMORY = 600.0
"""Seconds that an unconfirmed transaction is remembered."""

MOST_COUNTS = 100_000
"""Counts that are kept; beyond that, those that end first are forgotten."""

PAGE = 500
"""Messages that are listed or changed in one go."""

ANOTHER_SPOOL = "it names a different spool: restart the bridge to use that one"
"""Why `use_url` refuses a URL."""


class SpoolError(ValueError):
    """The spool can't be opened; the text is one line for the operator."""


class SpoolFull(SendError):  # noqa: N818 - named for what it says of the spool
    """No room for more mail: disk, quota or memory."""

    def __init__(self, cause: object, *, unanswered: bool = False) -> None:
        reply = Reply(452, "4.3.1", f"the spool takes no more mail: {cause}")
        super().__init__(reply, Scope.ACCOUNT, unanswered=unanswered)


class SpoolUnavailable(SendError):  # noqa: N818 - as above
    """The spool can't be reached now."""

    def __init__(self, cause: object, *, unanswered: bool = False) -> None:
        reply = Reply(451, "4.3.0", f"the spool can't be reached: {cause}")
        super().__init__(reply, Scope.ACCOUNT, unanswered=unanswered)


class Status(enum.StrEnum):
    """Where mail is in the spool, in Postfix's words."""

    QUEUED = "queued"
    """Never tried."""
    DEFERRED = "deferred"
    """Tried; waits for its next attempt."""
    ACTIVE = "active"
    """Claimed by a process that is sending it."""
    HELD = "held"
    """Waits for an operator."""


class Action(enum.StrEnum):
    """What an operator does to mail."""

    RETRY = "retry"
    HOLD = "hold"
    RELEASE = "release"
    DELETE = "delete"


class Answer(NamedTuple):
    """What the client of a transaction is answered, to be remembered: see `Spool.remember`.

    unless_noted: don't keep the mail if the answer of another transaction stands under that digest.
    """

    digest: bytes
    reply: Reply
    unless_noted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMail:
    """Mail to put in.

    message: the bytes without dot-stuffing. outcomes: what is already known. attempts: made so far.
    delay: seconds until the next one. expires_in: seconds until it expires. claimed: this process is making
    an attempt, which `attempts` includes, and will settle it. answer: is remembered in the same transaction,
    so that a client that repeats its mail after a crash doesn't get it kept twice.
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
    attempts in a row that ended in a fault of the program. unanswered: an attempt was begun but its
    answer never recorded, so the mail may have been sent (on a fresh claim: by another process).
    due: its next attempt is due. expired: its time is over. age: seconds since it was received. These
    three are by the spool's clock, as of when it was read; next_attempt and expires are for people, in
    seconds since the epoch. size: bytes of the message. hold_reason: why an operator or the program
    held it. owner: who claims it, as host:pid:nonce; "" for nobody.
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
        """The recipients without a final outcome, in their order."""
        return tuple(
            path
            for path in self.envelope.forward_paths
            if (outcome := self.outcomes.get(path)) is None or outcome.transient
        )

    @property
    def last_reply(self) -> Reply | None:
        """The last answer about an unresolved recipient; None before the first one."""
        return next((self.outcomes[path] for path in self.unresolved if path in self.outcomes), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which mail; criteria that are left out match everything, so Filter() is all mail.

    queue_ids: any of these. sender, recipient: an address in which * matches anything; letter
    case is ignored; the null sender is "". older_than: seconds since it was received. statuses: any of.
    """

    queue_ids: tuple[str, ...] = ()
    sender: str | None = None
    recipient: str | None = None
    older_than: float | None = None
    statuses: tuple[Status, ...] = ()


EVERYTHING = Filter()


class Period(NamedTuple):
    """Seconds from now: mail is spread evenly from `first` to `last`."""

    first: float
    last: float


NOW = Period(0.0, 0.0)


class Total(NamedTuple):
    """The mail of one status: how many, their bytes, when the oldest was received (epoch seconds, by the
    caller's clock)."""

    messages: int
    bytes: int
    oldest: float


class Memory(NamedTuple):
    """What an earlier transaction with the same envelope and bytes left behind.

    reply: the answer its client may not have got; None if the process died before there was one, in which
    case the mail may have been sent.
    """

    reply: Reply | None


class Spool(Protocol):
    """A store of waiting mail.

    When the store fails, every method raises SpoolFull or SpoolUnavailable, both SendErrors; then nothing
    has changed, claims stay, and the call may be repeated. If the error is `unanswered`, the store was lost
    before it answered: the change may have been made, and repeating the call does no harm. A cancelled call
    may have been carried out.
    """

    async def put(self, *mail: NewMail) -> Reply | None:
        """Keep mail: all of it, fsynced, or none.

        Returns the answer that another transaction has noted, if some of the mail was not kept because of
        that (`Answer.unless_noted`). `recall` misses it where what a killed process asked for is still being
        committed after its death. In SQLite, which has one process, that can't be.

        Mail that is there already, with the same envelope and queue id, is left alone; but if its first
        attempt is still being made here, it is updated. Raises SpoolUnavailable if other mail has the
        queue id.
        """

    async def claim(self, limit: int, *, expired: bool = False) -> list[SpoolItem]:
        """Take up to `limit` messages that are due, for this process alone.

        expired: only mail that was tried and has expired.
        Half of the places are for mail that was never tried, half for the rest, each longest due first
        and then oldest first; what one half leaves free goes to the other.
        """

    async def begin(self, queue_id: str) -> bool:
        """Record that an attempt is about to begin. False: it is no longer ours, so don't send it."""

    def holds(self, queue_id: str) -> bool:
        """Whether its claim is certainly ours, by clocks that run on while this process is stopped."""

    async def confirm(self, queue_id: str) -> bool:
        """Check that its claim is ours, and renew it. False: it isn't, so don't send it."""

    async def read(self, queue_id: str) -> bytes | None:
        """The message bytes; None if the mail is gone."""

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
        """Record the result of an attempt and end the claim, in one transaction.

        outcomes: all that are known, earlier ones too. retry_in: seconds until the next attempt. hold: why
        an operator has to look at it. With neither, the mail is finished and removed. untried: no call was
        made, so the attempt doesn't count. dsns: mail to put in as well. False: the claim was no longer
        ours, and nothing was written, no DSN either.
        """

    async def give_back(self, *queue_ids: str) -> None:
        """End claims without an answer; an attempt that was begun stays `unanswered`."""

    async def wait_due(self, at_most: float) -> None:
        """Return when mail may be due, or after `at_most` seconds."""

    def items(self, which: Filter = EVERYTHING) -> AsyncIterator[SpoolItem]:
        """The mail, oldest first, read in pages: changes made meanwhile may or may not show."""

    async def count(self, which: Filter = EVERYTHING) -> int:
        """How many `items` would return."""

    def apply(
        self, action: Action, which: Filter, reason: str = "", *, within: Period = NOW
    ) -> AsyncIterator[list[str]]:
        """Do what an operator asked for, page by page; yields the queue ids that were changed.

        reason: why it is held. within: when it is retried.
        """

    async def totals(self) -> dict[Status, Total]:
        """The waiting mail by status; a status without mail is left out."""

    async def check(self) -> None:
        """Write something, to see whether that works; also raises what `refusal` returns.

        Raises SpoolError, as `totals` does, if a store that couldn't be reached at the start can never
        be used.
        """

    def use_url(self, url: str) -> None:
        """Connect by this URL from now on: another login. Raises ValueError if it names another store."""

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

    async def amend(self, name: str, change: Change[T]) -> T:
        """Change a note that survives the process and that all who share the spool see.

        change: takes the note's text, "" for none yet, and the time in seconds by the spool's clock; returns
        the new text and what this call returns. It may run in another thread, and several times.
        """

    async def recount(self, names: Sequence[str], change: Recount[T]) -> T:
        """Change counts that survive the process and that all who share the spool see: all of them or none.

        change: takes the text of each, "" for none yet, and the time in seconds by the spool's clock; returns
        those to write, of these names, and what this call returns. As for `amend`. Waits for no disk.
        """

    async def counts(self) -> tuple[dict[str, str], float]:
        """All counts by name, those first that end first, and the time as for `recount`."""

    async def close(self) -> None:
        """Finish what was asked for, give back all claims, and close."""
