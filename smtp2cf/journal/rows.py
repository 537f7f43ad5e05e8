"""Rows: what a batch of entries comes to in the tables of a journal, for both databases.

A message's number is that of its first recipient, and its recipients are numbered on from there: so neither
row names the other. A step names the one before it of the same recipient (or of the whole message), and the
row of a recipient its last step: so neither needs an index. A text that is likely to come again (a domain,
a reply, a client) is kept once, and named by its number; 0 is the empty one.

A segment is SEGMENT numbers in a row. Every index begins with the segment, so that what is new is written in
one place, and a search looks through the segments from the newest on, until it has found enough.

Knows nothing of a database.
"""

import functools
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from smtp2cf.envelope import domain_of
from smtp2cf.journal.record import Entry, Message, Step
from smtp2cf.journal.steps import MEANING, OPEN, STATUS_NUMBERS, Kind, Status
from smtp2cf.reply import printable

SEGMENT_BITS = 15
TEXT_LIMIT = 500
"""Characters of a text."""
_OPEN = frozenset(STATUS_NUMBERS[status] for status in OPEN)
_KEPT = STATUS_NUMBERS[Status.KEPT]
_DEFERRED = STATUS_NUMBERS[Status.DEFERRED]
_BY_HAND = (STATUS_NUMBERS[Status.HELD], STATUS_NUMBERS[Status.DELETED])


def storable(text: str) -> str:
    """A text as every database takes it, and an index has room for it."""
    if text.isprintable() and len(text) <= TEXT_LIMIT:
        return text
    return printable(text[:TEXT_LIMIT])


class Address(NamedTuple):
    """An address in two parts, of which the domain is in the form that is compared."""

    local: str
    domain: str

    @staticmethod
    @functools.lru_cache(maxsize=4096)
    def of(address: str) -> "Address":
        """Its parts; the domain is "" where there is none."""
        local, at, domain = address.rpartition("@")
        return Address(storable(local), _compared(domain)) if at else Address(storable(address), "")

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}" if self.domain else self.local


@functools.lru_cache(maxsize=4096)
def _compared(domain: str) -> str:
    """A domain in the form that is compared."""
    return storable(domain_of(f"@{domain}"))


@dataclass(slots=True)
class Recipient:
    """A recipient's row. step: its last. changed: since the database was read."""

    number: int
    status: int
    step: int = 0
    changed: bool = False


@dataclass(slots=True)
class Known:
    """A message that the database has, or that this batch puts there. step: the last of the whole message.
    row: the other columns of one that is new. changed: since the database was read."""

    number: int
    step: int = 0
    recipients: dict[Address, Recipient] = field(default_factory=dict)
    row: tuple[object, ...] = ()
    changed: bool = False


@dataclass(slots=True)
class Rows:
    """What is to be written, in the order of the tables' columns."""

    messages: list[tuple[object, ...]] = field(default_factory=list)
    recipients: list[tuple[object, ...]] = field(default_factory=list)
    steps: list[tuple[object, ...]] = field(default_factory=list)
    words: list[tuple[int, int, int]] = field(default_factory=list)
    """Of message ids: segment, hash, number of the message."""
    changed_recipients: list[tuple[int, int, int]] = field(default_factory=list)
    """Status, last step, number."""
    changed_messages: list[tuple[int, int]] = field(default_factory=list)
    """Last step, number."""
    segments: dict[int, tuple[int, int]] = field(default_factory=dict)
    """The first and last time a message of it was received."""
    tallies: dict[tuple[int, int], int] = field(default_factory=dict)
    """By minute and status."""


class Counters(NamedTuple):
    """The next number of a recipient, and of a step."""

    recipient: int
    step: int


def milliseconds(at: float) -> int:
    """A time as it is stored."""
    return int(at * 1000)


def seconds(stored: int) -> float:
    """A stored time as seconds since the epoch."""
    return stored / 1000


def bare(message_id: str) -> str:
    """A Message-ID without its brackets."""
    return storable(message_id.strip().removeprefix("<").removesuffix(">")) if message_id else ""


def word(message_id: str) -> int:
    """What a bare Message-ID is found by, in 32 bits: two may have the same."""
    return zlib.crc32(message_id.encode()) - 2**31


def texts_of(entries: Iterable[Entry]) -> set[str]:
    """The texts that a batch names by their numbers."""
    found: set[str] = set()
    for message, steps in entries:
        found.update((message.header_from, message.client, message.user, message.helo, message.account))
        found.update(Address.of(address).domain for address in (message.sender, *message.recipients))
        for step in steps:
            found.update((step.reply, step.detail))
        found.add(message.rewritten)
    return {storable(text) for text in found if text}


class Compiler:
    """Makes the rows of one batch.

    known: the messages of the batch that the database has, by queue id. counters: the next numbers; `compile`
    moves them on. texts: the numbers of those of `texts_of`.
    """

    def __init__(self, known: dict[str, Known], counters: Counters, texts: Mapping[str, int]) -> None:
        self._known = known
        self._number, self._step = counters
        self._texts = texts
        self._rows = Rows()

    def compile(self, entries: Sequence[Entry]) -> tuple[Rows, Counters]:
        """The rows, and the next numbers."""
        met: dict[str, Known] = {}
        for message, steps in entries:
            known = self._known.get(message.queue_id)
            if known is None and not message.recipients:
                continue
            if known is None:
                known = self._known[message.queue_id] = self._add(message)
            met[message.queue_id] = known
            for step in steps:
                self._add_step(known, step)
        for known in met.values():
            self._finish(known)
        return self._rows, Counters(self._number, self._step)

    def _add(self, message: Message) -> Known:
        addresses = dict.fromkeys(map(Address.of, message.recipients))
        received = milliseconds(message.received_at)
        self._number = _start(self._number, len(addresses))
        known = Known(self._number, row=self._columns(message, len(addresses), received))
        known.recipients = {
            address: Recipient(number, _KEPT) for number, address in enumerate(addresses, self._number)
        }
        self._number += max(1, len(addresses))
        for segment in range(known.number >> SEGMENT_BITS, ((self._number - 1) >> SEGMENT_BITS) + 1):
            first, last = self._rows.segments.get(segment, (received, received))
            self._rows.segments[segment] = min(first, received), max(last, received)
        self._find_by(known, bare(message.original_id))
        if message.rewritten:
            self._add_step(known, Step(message.received_at, Kind.REWRITTEN, detail=message.rewritten))
        return known

    def _columns(self, message: Message, count: int, received: int) -> tuple[object, ...]:
        sender = Address.of(message.sender)
        texts = (message.header_from, message.client, message.user, message.helo, message.account)
        return (
            message.queue_id,
            received,
            count,
            sender.local,
            self._text(sender.domain),
            *map(self._text, texts),
            message.size,
            bare(message.original_id),
            message.parent or None,
            storable(message.subject) or None,
        )

    def _add_step(self, known: Known, step: Step) -> None:
        meaning = MEANING[step.kind]
        at = milliseconds(step.at)
        shared = (at, meaning.number, self._text(step.reply), self._text(step.detail), step.attempt)
        message_id = bare(step.message_id)
        self._find_by(known, message_id)
        if meaning.whole:
            known.step = self._append(known.number, shared, message_id, known.step)
            known.changed = True
            if meaning.status is not None:
                status = STATUS_NUMBERS[meaning.status]
                for recipient in known.recipients.values():
                    if recipient.status in _OPEN:
                        self._set(recipient, status, at)
            return
        for recipient in self._named(known, step.recipients):
            recipient.step = self._append(recipient.number, shared, message_id, recipient.step)
            recipient.changed = True
            if meaning.status is not None:
                self._set(recipient, STATUS_NUMBERS[meaning.status], at)

    @staticmethod
    def _named(known: Known, recipients: Iterable[str]) -> Iterable[Recipient]:
        addresses = dict.fromkeys(map(Address.of, recipients))
        return [known.recipients[address] for address in addresses if address in known.recipients]

    def _append(self, number: int, shared: tuple[int, ...], message_id: str, previous: int) -> int:
        self._rows.steps.append((self._step, number, *shared, message_id or None, previous))
        self._step += 1
        return self._step - 1

    def _set(self, recipient: Recipient, status: int, at: int) -> None:
        # What an operator did stays, whatever an attempt says that was under way.
        if status != _DEFERRED or recipient.status not in _BY_HAND:
            recipient.status = status
        recipient.changed = True
        key = at // 60_000, status
        self._rows.tallies[key] = self._rows.tallies.get(key, 0) + 1

    def _find_by(self, known: Known, message_id: str) -> None:
        if message_id:
            self._rows.words.append((known.number >> SEGMENT_BITS, word(message_id), known.number))

    def _text(self, text: str) -> int:
        return self._texts[storable(text)] if text else 0

    def _finish(self, known: Known) -> None:
        rows = self._rows
        if known.row:
            rows.messages.append((known.number, *known.row, known.step))
            rows.recipients += [
                (
                    recipient.number,
                    address.local,
                    self._text(address.domain),
                    recipient.status,
                    recipient.step,
                )
                for address, recipient in known.recipients.items()
            ]
            return
        if known.changed:
            rows.changed_messages.append((known.step, known.number))
        rows.changed_recipients += [
            (recipient.status, recipient.step, recipient.number)
            for recipient in known.recipients.values()
            if recipient.changed
        ]


def _start(number: int, count: int) -> int:
    """Where a message's numbers begin: all in one segment, unless they are more than that has."""
    within = (number >> SEGMENT_BITS) == ((number + max(1, count) - 1) >> SEGMENT_BITS)
    return number if within else ((number >> SEGMENT_BITS) + 1) << SEGMENT_BITS
