"""What an accepted call says of each recipient: send_raw's lists, as Replies.

Cloudflare may spell an address differently than we did, or wrap it in an object: the same address is the same
recipient. A recipient in no list counts as accepted, because Cloudflare leaves some out and an error would
send their mail again; but a failure that matches nobody never passes for a success. Knows no HTTP.
"""

import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from smtp2cf.envelope import Outcomes, address_key
from smtp2cf.reply import ACCEPTED, BOUNCED, DELIVERED, QUEUED, SUPPRESSED, Reply, few_in_words, one_line

LISTS: tuple[tuple[str, Reply], ...] = (
    ("permanent_bounces", BOUNCED),
    ("suppressed_recipients", SUPPRESSED),
    ("queued", QUEUED),
    ("delivered", DELIVERED),
)
"""The lists of an answer and what each means; the first one with the address counts."""
FAILURES = ("permanent_bounces", "suppressed_recipients")
"""The lists of those who don't get the mail."""
ENTRIES_LIMIT = 200
"""Entries of one list in which other spellings are looked for; a call has 50 recipients."""
ENTRY_LIMIT = 500
"""Characters of an entry that may hold an address."""
ADDRESS_FIELDS = ("email", "address", "recipient", "to")
"""Where an address may be in an object."""
MESSAGE_ID_LIMIT = 998
"""Characters of a message id (RFC 5322 §2.1.1: it has to fit on a line)."""
SHOWN_LIMIT = 100
"""Characters that are shown of an entry that matches nobody."""
NAMED_LIMIT = 3
"""Entries that a reply names, of those that match nobody."""


class Sent(NamedTuple):
    """A call that Cloudflare accepted: each recipient's outcome, and its message id or "".

    unmatched: entries that are none of the recipients, each as "list: entry": failures, and others while some
    recipient is in no list.
    """

    outcomes: Outcomes
    message_id: str
    unmatched: tuple[str, ...] = ()


class _Entry(NamedTuple):
    """An entry of a list: the list's name and what it means, the entry, and the address in it as it is
    compared ("" for none)."""

    name: str
    reply: Reply
    item: object
    key: str


def read_sent(result: dict[str, Any], recipients: Sequence[str]) -> Sent:
    """What `result` says of the recipients of a call."""
    exactly = {item: reply for _, reply, item in _items(result) if isinstance(item, str)}
    outcomes = {recipient: exactly.get(recipient, ACCEPTED) for recipient in recipients}
    unmatched: tuple[str, ...] = ()
    if ACCEPTED in outcomes.values() or any(result.get(name) for name in FAILURES):
        entries = [
            _Entry(*found, address_key(_address_in(found[2]))) for found in _items(result, ENTRIES_LIMIT)
        ]
        unmatched = _match(outcomes, entries)
    return Sent(outcomes, _message_id_of(result), unmatched)


def _match(outcomes: Outcomes, entries: Sequence[_Entry]) -> tuple[str, ...]:
    """Find in other spellings those who are in no list, and change `outcomes`. Returns what matches nobody.

    A spelling that differs in the letter case of its local part is the last resort: it may be somebody else.
    """
    for case in (str, str.casefold):
        found = {case(entry.key): entry.reply for entry in entries if entry.key}
        for who in _in_no_list(outcomes):
            outcomes[who] = found.get(case(address_key(who)), ACCEPTED)
    _let_failures_count(outcomes, [entry for entry in entries if entry.name in FAILURES])
    known = {address_key(who).casefold() for who in outcomes}
    in_no_list = _in_no_list(outcomes)
    left = [
        entry
        for entry in entries
        if entry.key.casefold() not in known and (in_no_list or entry.name in FAILURES)
    ]
    failures = [entry.reply for entry in left if entry.name in FAILURES]
    if len(in_no_list) == 1 and failures:
        outcomes[in_no_list[0]] = failures[-1]
        return ()
    unmatched = tuple(f"{entry.name}: {_shown(entry.item)}" for entry in reversed(left))
    if unmatched:
        named = few_in_words(unmatched, NAMED_LIMIT)
        text = f"{ACCEPTED.text}, whose answer names unknown addresses ({named})"
        outcomes.update(dict.fromkeys(in_no_list, ACCEPTED._replace(text=text)))
    return unmatched


def _let_failures_count(outcomes: Outcomes, failures: Sequence[_Entry]) -> None:
    """Change `outcomes` of those who failed in one spelling, and succeeded in another."""
    for entry in failures:
        same = [who for who in outcomes if address_key(who) == entry.key] or [
            who for who in outcomes if address_key(who).casefold() == entry.key.casefold()
        ]
        if not any(outcomes[who].permanent for who in same):
            outcomes.update(dict.fromkeys(same, entry.reply))


def _in_no_list(outcomes: Outcomes) -> list[str]:
    return [who for who, reply in outcomes.items() if reply is ACCEPTED]


def _items(result: dict[str, Any], limit: int | None = None) -> Iterator[tuple[str, Reply, object]]:
    """What is in the lists, the worst last, so that it counts. limit: items of one list."""
    for name, reply in reversed(LISTS):
        listed = result.get(name)
        for item in itertools.islice(listed if isinstance(listed, list) else _entries(name, listed), limit):
            yield name, reply, item


def _entries(name: str, value: object) -> Collection[object]:
    """What is in a list of an answer that is no list.

    An address without a list around it is an entry; so is whatever stands for failures, such as their number.
    """
    is_address = isinstance(value, str) or (isinstance(value, dict) and value.keys() & ADDRESS_FIELDS)
    if is_address or (name in FAILURES and not isinstance(value, dict)):
        return [value] if value else []
    return value if isinstance(value, dict) else []


def _address_in(item: object) -> str:
    """The address in an entry, without the blanks, brackets or name around it; "" for none."""
    if isinstance(item, dict):
        named = [item[field] for field in ADDRESS_FIELDS if isinstance(item.get(field), str)]
        item = next(iter(named), "")
    if not isinstance(item, str) or len(item) > ENTRY_LIMIT:
        return ""
    text = item.strip()
    if text.endswith(">") and "<" in text:
        text = text[text.rindex("<") + 1 : -1].strip()
    return text


def _shown(item: object) -> str:
    return one_line(item if isinstance(item, str) else repr(item), SHOWN_LIMIT)


def _message_id_of(result: dict[str, Any]) -> str:
    """Cloudflare's message id; "" if there is none or it is invalid."""
    message_id = result.get("message_id")
    if not isinstance(message_id, str):
        return ""
    message_id = message_id.strip()
    return message_id if len(message_id) <= MESSAGE_ID_LIMIT and message_id.isprintable() else ""
