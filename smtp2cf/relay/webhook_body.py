"""What a webhook is sent: an event as JSON, in the form of the Standard Webhooks specification.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

An event about many recipients becomes several, so that none is large. Knows neither HTTP nor the spool.
"""

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime

import orjson

from smtp2cf.journal.news import News
from smtp2cf.spool import Posting

MOST_RECIPIENTS = 50
"""Recipients in one event: the specification asks for less than 20 kB."""
LONGEST_TEXT = 1000
"""Characters of a text; what is cut off is in the log."""


def postings(news: News, hostname: str) -> Iterator[Posting]:
    """What is to be posted about it, each with an id of its own. hostname: of this bridge."""
    to = news.facts.get("to")
    if not isinstance(to, list) or len(to) <= MOST_RECIPIENTS:
        yield Posting(_new_id(), _body(news, hostname))
        return
    for first in range(0, len(to), MOST_RECIPIENTS):
        some = {**news.facts, "to": to[first : first + MOST_RECIPIENTS]}
        yield Posting(_new_id(), _body(news._replace(facts=some), hostname))


def kind_of(posting: Posting) -> str:
    """The kind of event."""
    return str(orjson.loads(posting.body)["type"])


def _body(news: News, hostname: str) -> str:
    at = datetime.fromtimestamp(news.at, UTC).isoformat(timespec="milliseconds")
    told = {"hostname": hostname, "text": news.text, **news.facts}
    body = {
        "type": news.kind,
        "timestamp": at.replace("+00:00", "Z"),
        "data": {name: _short(value) for name, value in told.items()},
    }
    return orjson.dumps(body, default=str).decode()


def _short(value: object) -> object:
    """Text in full, or as far as it goes; orjson takes no lone surrogates."""
    if isinstance(value, str):
        return value[:LONGEST_TEXT].encode("utf-8", "replace").decode()
    if isinstance(value, list | tuple):
        return [_short(each) for each in value[:MOST_RECIPIENTS]]
    return value


def _new_id() -> str:
    """It tells a repeated event from a new one."""
    return f"msg_{secrets.token_hex(16)}"
