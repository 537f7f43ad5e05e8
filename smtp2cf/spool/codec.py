"""Envelopes and outcomes as columns: JSON that any text column accepts, and text to search addresses in.

The JSON is exact: NUL and lone surrogates (bytes that were not UTF-8, PEP 383) survive it. The search text
is not exact; it is only for filters.

Knows nothing of either database.
"""

import dataclasses
import json
import re
import time
from collections.abc import Sequence
from typing import Any

import orjson

from smtp2cf.envelope import Envelope, Outcomes
from smtp2cf.reply import Reply, printable
from smtp2cf.spool.protocol import NewMail, SpoolItem, Status

_ENVELOPE_FIELDS = frozenset(field.name for field in dataclasses.fields(Envelope))

ITEM_COLUMNS = (
    "envelope, outcomes, status, attempts, failures, unanswered, next_attempt, expires, received_at, is_dsn, "
    "size, hold_reason, owner"
)

SHARE = "(id % 1000003 * 618036 % 1000003 / 1000003.0)"
"""For a row of mail, in SQL: a number from 0 to 1. Those of rows that follow one another lie far apart, and
those of many rows evenly: the steps are a golden section of the whole, a prime number."""


def decode_item(row: Sequence[Any], now: float) -> SpoolItem:
    """The item in a row of ITEM_COLUMNS. now: by the spool's clock."""
    envelope, outcomes, status, attempts, failures, unanswered, *rest = row
    next_attempt, expires, received_at, is_dsn, size, hold_reason, owner = rest
    ahead = time.time() - now
    return SpoolItem(
        envelope=decode_envelope(envelope),
        outcomes=decode_outcomes(outcomes),
        status=Status(status),
        attempts=attempts,
        failures=failures,
        unanswered=bool(unanswered),
        next_attempt=next_attempt + ahead,
        expires=expires + ahead,
        due=next_attempt <= now,
        expired=expires <= now,
        age=max(0.0, now - received_at),
        is_dsn=bool(is_dsn),
        size=size,
        hold_reason=hold_reason,
        owner=owner,
    )


def initial_status(mail: NewMail) -> Status:
    """The status of new mail."""
    if mail.claimed:
        return Status.ACTIVE
    return Status.DEFERRED if mail.attempts else Status.QUEUED


def age(envelope: Envelope) -> float:
    """Seconds since the mail was received, by our own clock."""
    return max(0.0, time.time() - envelope.received_at)


def encode_envelope(envelope: Envelope) -> str:
    """The envelope as JSON, without the fields that have their default."""
    fields: dict[str, object] = {
        "queue_id": envelope.queue_id,
        "received_at": envelope.received_at,
        "reverse_path": envelope.reverse_path,
        "forward_paths": envelope.forward_paths,
        "client": envelope.client,
        "helo": envelope.helo,
    }
    if envelope.body != "7BIT":
        fields["body"] = envelope.body
    if envelope.smtputf8:
        fields["smtputf8"] = True
    if envelope.ret is not None:
        fields["ret"] = envelope.ret
    if envelope.envid is not None:
        fields["envid"] = envelope.envid
    if envelope.notify:
        fields["notify"] = dict(envelope.notify)
    if envelope.orcpt:
        fields["orcpt"] = dict(envelope.orcpt)
    if envelope.auth_user:
        fields["auth_user"] = envelope.auth_user
    if envelope.listener:
        fields["listener"] = envelope.listener
    if envelope.per_recipient:
        fields["per_recipient"] = True
    if envelope.given_reverse_path is not None:
        fields["given_reverse_path"] = envelope.given_reverse_path
    if envelope.given_forward_paths:
        fields["given_forward_paths"] = dict(envelope.given_forward_paths)
    if envelope.dsn_for:
        fields["dsn_for"] = envelope.dsn_for
    return _dumps(fields)


def decode_envelope(text: str) -> Envelope:
    """The envelope in JSON of `encode_envelope`; fields of a newer version are ignored."""
    found = {name: value for name, value in _loads(text).items() if name in _ENVELOPE_FIELDS}
    found["forward_paths"] = tuple(found["forward_paths"])
    if given := found.get("given_forward_paths"):
        found["given_forward_paths"] = {path: tuple(those) for path, those in given.items()}
    return Envelope(**found)


def encode_outcomes(outcomes: Outcomes) -> str:
    """Outcomes as JSON: each different reply once, and which of them each recipient got."""
    if not outcomes:
        return ""
    replies: dict[Reply, int] = {}
    of = {path: replies.setdefault(reply, len(replies)) for path, reply in outcomes.items()}
    return _dumps({"replies": [list(reply) for reply in replies], "of": of})


def decode_outcomes(text: str) -> Outcomes:
    """The outcomes in JSON of `encode_outcomes`."""
    if not text:
        return {}
    fields = _loads(text)
    replies = [Reply(*parts[:3]) for parts in fields["replies"]]
    return {path: replies[number] for path, number in fields["of"].items()}


def encode_reply(reply: Reply | None) -> str:
    """One reply as JSON, "" for None."""
    return "" if reply is None else _dumps(list(reply))


def decode_reply(text: str) -> Reply | None:
    """The reply in JSON of `encode_reply`."""
    return Reply(*_loads(text)[:3]) if text else None


def lookup(addresses: Sequence[str]) -> str:
    """Addresses as filters see them: in lower case, one per line, ? for unprintable characters."""
    return "\n".join(printable(address).lower() for address in addresses)


def lookup_pattern(pattern: str, *, atomic: bool = False) -> str:
    """A regular expression that finds an address in `lookup` text; * stands for anything within one address.

    atomic: with Python's atomic groups, which never backtrack: with a dozen of *, Python (but not
    PostgreSQL) would need years for the other form.
    """
    first, *others = (re.escape(printable(part).lower()) for part in pattern.split("*"))
    if atomic and others:
        between = "".join(rf"(?>[^\n]*?{part})" for part in others[:-1] if part)
        body = rf"{first}{between}[^\n]*{others[-1]}"
    else:
        body = r"[^\n]*".join((first, *others))
    return rf"(^|\n){body}(\n|$)"


def _dumps(value: object) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # a lone surrogate, which orjson refuses
        return json.dumps(value)


def _loads(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)
