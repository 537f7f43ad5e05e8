"""Journal: what is recorded of every message, and what a store of it promises.

The journal is for people to look at; nothing depends on it. It holds no content: who sent what to whom,
when, and what became of it. A row of it is one recipient of one message.

Times are seconds since the epoch by the clock of the host that recorded them. Knows nothing of a database.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from smtp2cf.journal.steps import Kind, Status

PAGE = 50
"""Rows of one answer, unless another number is asked for."""


class JournalError(Exception):
    """The journal can't be used now; the text is one line for the operator.

    damaged: what is in it can't be read, and never will be. missing: there is none.
    """

    def __init__(self, text: str, *, damaged: bool = False, missing: bool = False) -> None:
        super().__init__(text)
        self.damaged = damaged
        self.missing = missing


def no_journal(place: object) -> JournalError:
    """Why nothing can be read where no bridge has made a journal."""
    return JournalError(f"there is no journal at {place}: 'smtp2cf serve' creates it", missing=True)


class Message(NamedTuple):
    """What is known of a message. header_from: the address in its From, "" for the sender's. original_id: its
    own Message-ID. parent: the queue id of the message that this one, a DSN, is about. subject: "" unless it
    is to be kept. rewritten: what its addresses became, which is its first step. Message-IDs are without
    brackets. A message without recipients is only recorded if it is known already."""

    queue_id: str
    received_at: float
    sender: str
    recipients: Sequence[str]
    client: str = ""
    user: str = ""
    helo: str = ""
    account: str = ""
    size: int = 0
    header_from: str = ""
    original_id: str = ""
    parent: str = ""
    subject: str = ""
    rewritten: str = ""


class Step(NamedTuple):
    """Something that happened. recipients: to whom; nobody for what happens to the whole message. reply: as a
    log line has it. message_id: Cloudflare's, without brackets. attempt: the number of the attempt, 0 for
    none. detail: what else there is to say: what was changed, why, or who did it."""

    at: float
    kind: Kind
    recipients: Collection[str] = ()
    reply: str = ""
    message_id: str = ""
    attempt: int = 0
    detail: str = ""


class Entry(NamedTuple):
    """Steps of one message."""

    message: Message
    steps: Sequence[Step]


class Action(NamedTuple):
    """What an operator did. name: such as `operator.hold`. fields: what to, as in the log line."""

    at: float
    name: str
    who: str
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Which rows; criteria left out match everything.

    recipient, sender: an address; `@example.com` for a domain, `anna` for every address that begins with it,
    and `<>` for the null sender. statuses: any of. since, until: when the message was received. queue_id.
    message_id: Cloudflare's or the message's own, with brackets or without. limit: rows, the newest first.
    before: `Row.number` of the last row of the page before.
    """

    recipient: str = ""
    sender: str = ""
    statuses: tuple[Status, ...] = ()
    since: float | None = None
    until: float | None = None
    queue_id: str = ""
    message_id: str = ""
    limit: int = PAGE
    before: int | None = None


class Row(NamedTuple):
    """One recipient of one message, and what it came to last.

    number: rises from row to row. at: when that was. kind: what that was, for `Journal.follow`.
    """

    number: int
    message: Message
    recipient: str
    status: str
    kind: str
    at: float
    reply: str
    message_id: str
    attempt: int
    detail: str


class Past(NamedTuple):
    """A step of a message's story. kind: a Kind's value, or what a newer bridge wrote."""

    at: float
    kind: str
    recipients: tuple[str, ...]
    reply: str
    message_id: str
    attempt: int
    detail: str


class Story(NamedTuple):
    """All that is known of a message. recipients: what each is now. dsns: the queue ids of DSNs about it."""

    message: Message
    recipients: Mapping[str, str]
    steps: Sequence[Past]
    dsns: Sequence[str]


class Cursor(NamedTuple):
    """How far a follower has come. journal: which one; a new one has numbers of its own."""

    journal: str = ""
    step: int = 0


class News(NamedTuple):
    """What a follower has not seen yet, the oldest first, and how far that is."""

    rows: Sequence[Row]
    cursor: Cursor


class Tally(NamedTuple):
    """How many recipients became `status` in a minute. at: its beginning."""

    at: float
    status: str
    recipients: int


class Forgotten(NamedTuple):
    """What `forget` removed. recipients: rows. messages: those that the address had sent."""

    recipients: int
    messages: int


class Journal(Protocol):
    """A store of what happened. Every method raises JournalError."""

    async def record(self, entries: Sequence[Entry], actions: Sequence[Action] = ()) -> None:
        """Write all of it or nothing, in one transaction; it survives the process."""

    async def search(self, which: Search) -> list[Row]:
        """The rows that match, the newest first."""

    async def follow(self, after: Cursor, limit: int = 500) -> News:
        """The steps after `after`, each as a row; `begin` says where to begin. From the first one on where
        `after` is of another journal."""

    async def begin(self, which: Search) -> News:
        """What a follower sees first: the rows that match, the newest first, and where the journal ended at
        that moment."""

    async def story(self, queue_id: str) -> Story | None:
        """All that is known of one message."""

    async def actions(self, since: float, limit: int = PAGE) -> list[Action]:
        """What operators did last, the newest first, as far as that was not before `since`."""

    async def tallies(self, since: float, until: float) -> list[Tally]:
        """What became of how many recipients in each minute, in order."""

    async def forget(self, address: str) -> Forgotten:
        """Remove a person: the rows of mail to this address, mail from it, and the address from texts."""

    async def prune(self, before: float, actions_before: float) -> bool:
        """Delete some of what is older; True if there may be more."""

    async def size(self) -> int:
        """Octets it takes on disk."""

    def use_url(self, url: str) -> None:
        """Connect by this URL from now on: another login to the same database."""

    async def close(self) -> None:
        """Let go of it."""
