"""What a failed call means in SMTP's words: one table, read from the top.

Cloudflare's published errors for Email Sending. The message text decides first, since two numbers
are published both ways round, then the number, then the HTTP status. Knows no socket.
"""

import re
from typing import Any, NamedTuple

import orjson

from smtp2cf.reply import Reply, Scope, SendError

TEXT_LIMIT = 200
"""Characters of Cloudflare's own words that a reply repeats."""


class Row(NamedTuple):
    """One line of the table: what to look for, and what it means.

    from_api: only where the API itself speaks, in its own JSON, not the edge or a proxy before it.
    """

    text: str | None
    code: int | None
    http: int | range | None
    scope: Scope
    reply: Reply
    from_api: bool


def _row(
    reply: tuple[int, str, str],
    scope: Scope,
    text: str | None = None,
    code: int | None = None,
    http: int | range | None = None,
    *,
    from_api: bool = False,
) -> Row:
    return Row(text, code, http, scope, Reply(*reply), from_api)


_TOKEN = (451, "4.3.5", "Cloudflare refuses the API token: check SMTP2CF_API_TOKEN")
_FORBIDDEN = (451, "4.3.5", "the API token lacks the permission Email Sending: Edit (SMTP2CF_API_TOKEN)")
_PLAN = (451, "4.3.5", "the Cloudflare plan of SMTP2CF_ACCOUNT_ID does not include Email Sending")
_ACCOUNT_ID = (
    451,
    "4.3.5",
    "Cloudflare does not know this account: check SMTP2CF_ACCOUNT_ID and SMTP2CF_API_BASE_URL",
)
_DISABLED = (451, "4.3.5", "sending is disabled for this domain or account at Cloudflare")
_SENDER = (451, "4.3.5", "the sender's domain is not set up for sending at Cloudflare")
_THROTTLED = (451, "4.7.1", "Cloudflare's rate limit is reached, try again later")
_NOT_IMPLEMENTED = (451, "4.3.5", "Cloudflare does not implement this call: check SMTP2CF_API_BASE_URL")
_SUPPRESSED = (550, "5.7.1", "the recipient is on Cloudflare's suppression list (suppressed)")
_TOO_BIG = (552, "5.3.4", "the message is too big for Cloudflare")
_INVALID = (554, "5.6.0", "Cloudflare finds the message invalid")
_SCHEMA = (554, "5.6.0", "Cloudflare finds an address or the message malformed")
_LENGTH = (451, "4.3.5", "Cloudflare missed the Content-Length: does a proxy between drop it?")
_REFUSED = (554, "5.5.0", "Cloudflare refuses the message")
_SERVER = (451, "4.3.0", "Cloudflare has an error of its own, try again later")
_NO_ANSWER = (451, "4.3.0", "Cloudflare's answer can't be understood, try again later")

TABLE: tuple[Row, ...] = (
    _row(_SUPPRESSED, Scope.RECIPIENT, text="suppress", http=400),
    _row(_TOO_BIG, Scope.MESSAGE, text="too_big"),
    _row(_LENGTH, Scope.ACCOUNT, text="no_content_length"),
    _row(_INVALID, Scope.MESSAGE, text="email.invalid"),
    _row(_SCHEMA, Scope.RECIPIENT, text="invalid_request_schema"),
    _row(_PLAN, Scope.ACCOUNT, text="not_entitled"),
    _row(_FORBIDDEN, Scope.ACCOUNT, text="authentication.forbidden"),
    _row(_SERVER, Scope.ACCOUNT, text="authentication.upstream"),
    _row(_TOKEN, Scope.ACCOUNT, text="authentication."),
    _row(_DISABLED, Scope.ACCOUNT, text="sending_disabled"),
    _row(_SENDER, Scope.ACCOUNT, text="sender_not_configured"),
    _row(_THROTTLED, Scope.ACCOUNT, text="throttled"),
    _row(_NOT_IMPLEMENTED, Scope.ACCOUNT, text="not_implemented"),
    _row(_SERVER, Scope.ACCOUNT, text="internal_server"),
    _row(_ACCOUNT_ID, Scope.ACCOUNT, text="not_found", http=404),
    _row(_SCHEMA, Scope.RECIPIENT, code=10001),
    _row(_LENGTH, Scope.ACCOUNT, code=10201),
    _row(_TOKEN, Scope.ACCOUNT, code=10101),
    _row(_TOKEN, Scope.ACCOUNT, code=10103),
    _row(_FORBIDDEN, Scope.ACCOUNT, code=10102),
    _row(_PLAN, Scope.ACCOUNT, code=10105),
    _row(_DISABLED, Scope.ACCOUNT, code=10203),
    _row(_SENDER, Scope.ACCOUNT, code=10204),
    _row(_THROTTLED, Scope.ACCOUNT, code=10004),
    _row(_NOT_IMPLEMENTED, Scope.ACCOUNT, code=10003),
    _row(_SERVER, Scope.ACCOUNT, code=10002),
    _row(_SERVER, Scope.ACCOUNT, code=10100),
    _row(_TOKEN, Scope.ACCOUNT, http=401),
    _row(_FORBIDDEN, Scope.ACCOUNT, http=403),
    _row(_ACCOUNT_ID, Scope.ACCOUNT, http=404),
    _row(_TOO_BIG, Scope.MESSAGE, http=413),
    _row(_THROTTLED, Scope.ACCOUNT, http=429),
    _row(_NOT_IMPLEMENTED, Scope.ACCOUNT, http=501),
    _row(_SERVER, Scope.ACCOUNT, http=range(500, 600)),
    _row(_NO_ANSWER, Scope.ACCOUNT, http=408),
    _row(_REFUSED, Scope.MESSAGE, http=range(400, 500), from_api=True),
    # Success without success, redirects, HTML: nothing says that the mail went out, nothing blames it.
    _row(_NO_ANSWER, Scope.ACCOUNT, http=range(600)),
)


def error_of(http: int, body: bytes, retry_after: float | None) -> SendError:
    """The SendError for an answer that is no success. `body` may be anything."""
    errors = _errors_in(body)
    for row in TABLE:
        for code, text in errors or [(None, "")]:
            if _matches(row, http, code, text) and (errors or not row.from_api):
                return SendError(
                    _with_words(row.reply, text, http),
                    row.scope,
                    retry_after,
                    # An answer we can't read with a status of success may well have sent the mail.
                    unanswered=http < 400 and not errors,
                )
    raise AssertionError(f"no row for HTTP {http}")  # pragma: no cover - the last row takes all


def _matches(row: Row, http: int, code: int | None, text: str) -> bool:
    if row.text is not None and row.text not in text:
        return False
    if row.code is not None and row.code != code:
        return False
    if isinstance(row.http, range):
        return http in row.http
    return row.http is None or row.http == http


def _errors_in(body: bytes) -> list[tuple[int | None, str]]:
    try:
        answer: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return []
    errors = answer.get("errors") if isinstance(answer, dict) else None
    if not isinstance(errors, list):
        return []
    found: list[tuple[int | None, str]] = []
    for error in errors:
        if isinstance(error, dict):
            code, text = error.get("code"), error.get("message")
            found.append((code if isinstance(code, int) else None, text if isinstance(text, str) else ""))
    return found


def _with_words(reply: Reply, text: str, http: int) -> Reply:
    """The reply with what Cloudflare said, on one line and not too long."""
    words = re.sub(r"\s+", " ", text).strip()[:TEXT_LIMIT]
    return reply._replace(text=f"{reply.text} [HTTP {http}{': ' if words else ''}{words}]")
