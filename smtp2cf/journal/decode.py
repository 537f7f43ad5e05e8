"""Decode: the rows of a journal's tables as what they say, for both databases.

Knows nothing of a database.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from smtp2cf.journal.record import Message, Past, Row
from smtp2cf.journal.rows import Address, seconds
from smtp2cf.journal.steps import MEANING, Kind, is_whole, kind_of, status_of

OF_MESSAGE = (
    *("queue_id", "received", "sender", "sender_domain", "header_from", "client", "login", "helo", "account"),
    *("size", "original_id", "parent", "subject"),
)
"""The columns that `message` takes, in order."""
_TEXTS_OF_MESSAGE = slice(3, 9)
OF_STEP = ["at", "kind", "reply", "detail", "attempt", "message_id"]
_TEXTS_OF_STEP = slice(2, 4)
OF_RECIPIENT = ["id", "local", "domain", "status"]
_DOMAIN = 2
_RECIPIENT = len(OF_RECIPIENT)
_MESSAGE = _RECIPIENT + len(OF_MESSAGE)

COLUMNS = ", ".join(
    [
        f"{table}.{name}"
        for table, names in (("r", OF_RECIPIENT), ("m", OF_MESSAGE), ("s", OF_STEP))
        for name in names
    ]
)
"""What `row` takes: of a recipient r, its message m and its last step s."""

_STATUS_AFTER = {
    str(kind): str(meaning.status) if meaning.status is not None else "" for kind, meaning in MEANING.items()
}
Columns = Sequence[Any]
Texts = Mapping[int, str]


def texts_in(rows: Iterable[Columns]) -> set[int]:
    """The numbers of texts in rows of COLUMNS."""
    found: set[int] = set()
    for row in rows:
        found.add(row[_DOMAIN])
        found.update(row[_RECIPIENT:_MESSAGE][_TEXTS_OF_MESSAGE])
        found.update(row[_MESSAGE:][_TEXTS_OF_STEP])
    return found - {0, None}


def row(columns: Columns, texts: Texts) -> Row:
    """A row of COLUMNS, of which the step may be missing."""
    number, local, domain, status = columns[:_RECIPIENT]
    recipient = str(Address(local, _text(domain, texts)))
    said = message(columns[_RECIPIENT:_MESSAGE], (recipient,), texts)
    step = columns[_MESSAGE:]
    last = (
        past(step, (), texts)
        if step[0] is not None
        else Past(said.received_at, str(Kind.KEPT), (), "", "", 0, "")
    )
    return Row(number, said, recipient, status_of(status), *_of_last(last))


def news(number: int, columns: Columns, recipients: Sequence[str], texts: Texts) -> Row:
    """A step as a follower gets it. columns: of the message, and of the step. recipients: whom it concerns,
    at least one."""
    said = message(columns[: len(OF_MESSAGE)], recipients, texts)
    step = past(columns[len(OF_MESSAGE) :], (), texts)
    status = _STATUS_AFTER.get(step.kind, "")
    return Row(number, said, recipients[0], status, *_of_last(step))


def _of_last(step: Past) -> tuple[str, float, str, str, int, str]:
    """The part of a Row that its last step says."""
    return step.kind, step.at, step.reply, step.message_id, step.attempt, step.detail


def message(columns: Columns, recipients: Sequence[str], texts: Texts) -> Message:
    """A row of OF_MESSAGE."""
    queue_id, received, sender, *named, size, original_id, parent, subject = columns
    domain, header_from, client, login, helo, account = (_text(number, texts) for number in named)
    return Message(
        queue_id,
        seconds(received),
        str(Address(sender, domain)),
        recipients,
        client,
        login,
        helo,
        account,
        size,
        header_from,
        original_id,
        parent or "",
        subject or "",
    )


def past(columns: Columns, recipients: tuple[str, ...], texts: Texts) -> Past:
    """A row of OF_STEP."""
    at, kind, reply, detail, attempt, message_id = columns
    return Past(
        seconds(at),
        kind_of(kind),
        recipients,
        _text(reply, texts),
        message_id or "",
        attempt,
        _text(detail, texts),
    )


def told(steps: Iterable[Columns], names: Mapping[int, str], texts: Texts) -> list[Past]:
    """Steps, of which those that several recipients took together are one.

    steps: rows of number, recipient and OF_STEP.
    """
    found: list[Past] = []
    for _, recipient, *columns in steps:
        whole = is_whole(columns[1])
        step = past(columns, () if whole else (names.get(recipient, "?"),), texts)
        if found and not whole and _is_same(found[-1], step):
            found[-1] = found[-1]._replace(recipients=(*found[-1].recipients, *step.recipients))
        else:
            found.append(step)
    return found


def _is_same(one: Past, other: Past) -> bool:
    """Whether it happened to both recipients together; one recipient may take two steps in a millisecond."""
    return one._replace(recipients=other.recipients) == other and other.recipients[0] not in one.recipients


def _text(number: int, texts: Texts) -> str:
    return texts.get(number, "?") if number else ""
