"""Lost answers: calls of which nobody knows whether Cloudflare took their mail, until an event shows it.

There is no idempotency key, so an event has to prove it: there is exactly one call without an answer from
this sender to this recipient with this subject, the call began before the event, and the event's message id
is no other call's. Anything less proves nothing, and the call is repeated once it was waited for long enough.
An event is judged only when every call that could have caused it has its answer, or is known here as lost.

What is known is kept among the spool's counts, so that it outlives the process and replicas share it: for
each message its lost calls, for each key (whom an event is about) where to find them, and for each message id
whose it is. Knows no HTTP, and makes no calls.
"""

import asyncio
import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from smtp2cf.cloudflare.events import FAILURES, Event
from smtp2cf.envelope import Outcomes, address_key
from smtp2cf.message.encoded_words_decode import decode_words
from smtp2cf.relay.waiting import make_due
from smtp2cf.reply import Reply
from smtp2cf.spool import NOW, Filter, Following, Spool
from smtp2cf.spool.following import recipient_key

KEPT_FOR = 3600.0
"""Seconds for which a lost call is known: the first event about it comes about a minute after it."""
IDS_KEPT_FOR = 8 * 86_400.0
"""The same of message ids of which there was an event: there may be another, days later."""
SHOWN = Reply(250, "2.0.0", "sent: the answer was lost, but an event shows it")
NOBODY = "-"
"""Whose a message id is that proved nothing."""

Kept = tuple[str, float]


class Said(NamedTuple):
    """What the latest event said of a recipient. kind: the event's. terminal: nothing else is to come."""

    kind: str
    reply: Reply
    terminal: bool


class Call(NamedTuple):
    """A call without an answer.

    to: forward paths. began: seconds since the epoch. over: it is no longer waited for. message_id:
    Cloudflare's, once an event has shown that the call went through. said: what events said, by
    recipient_key.
    """

    to: tuple[str, ...]
    began: float
    over: bool = False
    message_id: str = ""
    said: Mapping[str, Said] = {}


class LostCalls(NamedTuple):
    """The lost calls of one message. until: when they are no longer waited for, by the spool's clock."""

    until: float = 0.0
    calls: tuple[Call, ...] = ()

    @classmethod
    def read(cls, text: str) -> "LostCalls":
        """What `text` wrote; nothing if it can't be read."""
        with contextlib.suppress(ValueError, TypeError):
            until, calls = json.loads(text)
            return cls(until, tuple(_call(*each) for each in calls))
        return cls()

    def text(self) -> str:
        """For the spool."""
        return json.dumps([self.until, self.calls])

    def changed(self, number: int, call: Call) -> "LostCalls":
        """With another call in place of this one."""
        return self._replace(calls=(*self.calls[:number], call, *self.calls[number + 1 :]))


class Place(NamedTuple):
    """Where a lost call is found: the message, and the number of the call. since: by the spool's clock."""

    queue_id: str
    number: int
    since: float


class Unanswered(NamedTuple):
    """A message's calls without answers. sender, subject: as they were sent. calls: the recipients of each,
    and when it began in seconds since the epoch."""

    queue_id: str
    account: str
    sender: str
    subject: str
    calls: Sequence[tuple[Sequence[str], float]]

    def key(self, recipient: str) -> str:
        """What an event about a recipient is matched by."""
        return key_of(self.account, self.sender, recipient, self.subject)


class Look(NamedTuple):
    """What is known of a message that is to be sent again.

    remaining: seconds for which events may still tell, 0 for none. proven: calls that went through. given_up:
    recipients of calls that are no longer waited for from now on.
    """

    remaining: float
    proven: Sequence[Call]
    given_up: Sequence[str]


class Proof(NamedTuple):
    """An event has shown that a call went through. to: its recipients. late: it is repeated already."""

    queue_id: str
    to: Sequence[str]
    late: bool


class LostAnswers:
    """The lost calls of all who share a spool.

    wait: seconds until a call is no longer waited for. accounts: those whose events are heard.
    """

    def __init__(
        self, spool: Spool, following: Following, wait: float, accounts: Collection[str] = ("",)
    ) -> None:
        self._spool = spool
        self._following = following
        self.wait = wait
        self.accounts = frozenset(accounts)
        self._watched_until = 0.0
        self.added = asyncio.Event()
        """Set whenever there is something more that events may show."""

    @property
    def is_waiting(self) -> bool:
        """An event may show something that this process waits for."""
        return time.monotonic() < self._watched_until

    async def resume(self) -> None:
        """Go on waiting for what a process before this one, or another, has left. Raises SendError."""
        known, _ = await self._spool.counts()
        if any(name.startswith(_OF_MESSAGES) for name in known):
            self._watched_until = time.monotonic() + self.wait

    async def add(self, lost: Unanswered) -> None:
        """Wait for events about calls that had no answer. Raises SendError."""
        keys = {lost.key(who) for to, _ in lost.calls for who in to}
        names = [_of_message(lost.queue_id), *keys]
        await self._spool.recount(names, functools.partial(_add, lost=lost, wait=self.wait))
        self._watched_until = time.monotonic() + self.wait
        self.added.set()

    async def look(self, queue_id: str) -> Look:
        """What is known of a message; what was waited for long enough is over with this. Raises SendError."""
        return await self._spool.recount([_of_message(queue_id)], functools.partial(_look, queue_id))

    async def prove(self, event: Event, account: str) -> Proof | None:
        """What an event shows that is about no call with an answer. Raises SendError."""
        key = key_of(account, event.sender, event.recipient, event.subject or "")
        places = await self._spool.recount([key], lambda texts, now: ({}, _places(texts[key], now)))
        if not places:
            return None
        is_others = await self._following.knows(event.message_id)
        judge = functools.partial(_judge, event=event, key=key, is_others=is_others)
        names = [key, _of_id(event.message_id), *{_of_message(place.queue_id) for place in places}]
        return await self._spool.recount(names, judge)

    async def go_on(self, proof: Proof) -> None:
        """Have the message looked at now, which waits for this. Raises SendError."""
        await make_due(self._spool, Filter(queue_ids=(proof.queue_id,)), NOW)

    async def disregard(self, event: Event) -> None:
        """The event belongs to no call that is known here: nothing else about its message proves anything.

        Not kept for longer: a queue that another spool shares is full of these.
        """
        name = _of_id(event.message_id)
        await self._spool.recount(
            [name], lambda texts, _: ({} if texts[name] else {name: (NOBODY, KEPT_FOR)}, None)
        )


def key_of(account: str, sender: str, recipient: str, subject: str) -> str:
    """The name under which lost calls are found that an event may be about. subject: in words, or encoded."""
    parts = (
        account,
        address_key(sender).casefold(),
        recipient_key(recipient),
        " ".join(decode_words(subject).split()),
    )
    return f"lost.key/{_hash(chr(0).join(parts))}"


def proven_outcomes(call: Call) -> Outcomes:
    """What became of a call's recipients, as far as it is known."""
    outcomes: Outcomes = {}
    for who in call.to:
        said = call.said.get(recipient_key(who))
        outcomes[who] = said.reply if said is not None and said.kind in FAILURES else SHOWN
    return outcomes


# ---- what changes in the spool


def _add(
    texts: Mapping[str, str], now: float, *, lost: Unanswered, wait: float
) -> tuple[Mapping[str, Kept], None]:
    name = _of_message(lost.queue_id)
    known = LostCalls.read(texts[name])
    calls = [*known.calls, *(Call(tuple(to), began) for to, began in lost.calls)]
    changed = {name: (LostCalls(now + wait, tuple(calls)).text(), KEPT_FOR)}
    for number, call in enumerate(calls[len(known.calls) :], len(known.calls)):
        for who in call.to:
            key = lost.key(who)
            places = _places(changed[key][0] if key in changed else texts[key], now)
            changed[key] = json.dumps([*places, Place(lost.queue_id, number, now)]), KEPT_FOR
    return changed, None


def _look(queue_id: str, texts: Mapping[str, str], now: float) -> tuple[Mapping[str, Kept], Look]:
    name = _of_message(queue_id)
    lost = LostCalls.read(texts[name])
    proven = [call for call in lost.calls if call.message_id]
    open_ = [call for call in lost.calls if not call.message_id and not call.over]
    if not open_ or now < lost.until:
        return {}, Look(max(0.0, lost.until - now) if open_ else 0.0, proven, ())
    over = lost._replace(calls=tuple(call._replace(over=True) for call in lost.calls))
    return {name: (over.text(), KEPT_FOR)}, Look(0.0, proven, [who for call in open_ for who in call.to])


def _judge(
    texts: Mapping[str, str], now: float, *, event: Event, key: str, is_others: bool
) -> tuple[Mapping[str, Kept], Proof | None]:
    """is_others: the event's message id is that of a call that had an answer."""
    all_lost = {name: LostCalls.read(text) for name, text in texts.items()}
    places = [
        place
        for place in _places(texts[key], now)
        if place.number < len(all_lost[_of_message(place.queue_id)].calls)
    ]
    owner = texts[_of_id(event.message_id)]
    calls = {_owner(place): all_lost[_of_message(place.queue_id)].calls[place.number] for place in places}
    chosen = owner or ("" if is_others else chosen_by(event, calls))
    changed: dict[str, Kept] = {}
    if not owner and not is_others:
        changed[_of_id(event.message_id)] = chosen or NOBODY, IDS_KEPT_FOR
    if chosen not in calls:
        return changed, None
    place = next(place for place in places if _owner(place) == chosen)
    call = calls[chosen]
    said = {**call.said, recipient_key(event.recipient): Said(event.kind, event.reply, event.terminal)}
    name = _of_message(place.queue_id)
    proven = all_lost[name].changed(place.number, call._replace(message_id=event.message_id, said=said))
    changed[name] = proven.text(), KEPT_FOR
    return changed, Proof(place.queue_id, call.to, late=call.over and not owner)


def chosen_by(event: Event, calls: Mapping[str, Call]) -> str:
    """Which of the lost calls with an event's sender, recipient and subject it shows to have gone through, ""
    for none. The event's message id is no other call's."""
    open_ = [owner for owner, call in calls.items() if not call.message_id]
    if len(open_) != 1 or calls[open_[0]].began >= event.at:
        return ""
    return open_[0]


# ---- how it is written


_OF_MESSAGES = "lost.call/"


def _of_message(queue_id: str) -> str:
    return f"{_OF_MESSAGES}{queue_id}"


def _of_id(message_id: str) -> str:
    return f"lost.id/{_hash(message_id)}"


def _owner(place: Place) -> str:
    return f"{place.queue_id}:{place.number}"


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _places(text: str, now: float) -> list[Place]:
    """Those that still count."""
    with contextlib.suppress(ValueError, TypeError):
        return [place for each in json.loads(text) if now - (place := Place(*each)).since < KEPT_FOR]
    return []


def _call(
    to: Sequence[str], began: float, over: bool, message_id: str, said: Mapping[str, Sequence[Any]]
) -> Call:
    known = {who: Said(kind, Reply(*reply), terminal) for who, (kind, reply, terminal) in said.items()}
    return Call(tuple(to), began, over, message_id, known)
