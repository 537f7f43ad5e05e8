"""What a failed call means in SMTP's words: one table, read from the top.

Cloudflare's published errors for Email Sending. The message text decides first, since two numbers
are published both ways round, then the number, then the HTTP status. Knows no socket.
"""

from typing import Any, NamedTuple

import orjson

from smtp2cf.reply import SUPPRESSED, Reply, Scope, SendError, one_line

TEXT_LIMIT = 200
"""Characters of Cloudflare's own words that a reply repeats."""
ERRORS_LIMIT = 10
"""Errors of one answer that are looked at."""
MAYBE_SENT = frozenset({*range(200, 300), 500, 502, 504, 520, 524})
"""HTTP statuses behind which the mail may have gone out, where the API itself says nothing: it may
have been reached, and what it answered got lost on the way."""


class TokenRefusedError(SendError):
    """The API refuses the token itself: not this call is to blame, every call is refused."""


class Row(NamedTuple):
    """One line of the table: what to look for, and what it means.

    text: in lower case. from_api: only where the API itself speaks, in its own JSON, not the edge or a
    proxy before it. token: the token is to blame, for any call.
    """

    text: str | None
    code: int | None
    http: int | range | None
    scope: Scope
    reply: Reply
    from_api: bool
    token: bool


def _row(
    reply: tuple[int, str, str],
    scope: Scope,
    text: str | None = None,
    code: int | None = None,
    http: int | range | None = None,
    *,
    from_api: bool = False,
    token: bool = False,
) -> Row:
    return Row(text, code, http, scope, Reply(*reply), from_api, token)


_TOKEN = (451, "4.3.5", "Cloudflare refuses the API token: check SMTP2CF_API_TOKEN")
_PERMISSION = (451, "4.3.5", "the API token lacks the permission Email Sending: Edit (SMTP2CF_API_TOKEN)")
_PLAN = (451, "4.3.5", "the Cloudflare plan of SMTP2CF_ACCOUNT_ID does not include Email Sending")
_FORBIDDEN = (
    451,
    "4.3.5",
    "Cloudflare forbids this: check what SMTP2CF_API_TOKEN may do, the plan, and the sender's domain",
)
_BLOCKED = (
    451,
    "4.3.5",
    "the call is blocked before Cloudflare's API sees it: check SMTP2CF_API_BASE_URL and the proxy",
)
_PROXY = (451, "4.4.1", "the proxy wants to know who we are: check HTTPS_PROXY")
_ACCOUNT_ID = (
    451,
    "4.3.5",
    "Cloudflare does not know this account: check SMTP2CF_ACCOUNT_ID and SMTP2CF_API_BASE_URL",
)
_DISABLED = (451, "4.3.5", "sending is disabled for this domain or account at Cloudflare")
_SENDER = (451, "4.3.5", "the sender's domain is not set up for sending at Cloudflare")
_THROTTLED = (451, "4.7.1", "Cloudflare's rate limit is reached, try again later")
_NOT_IMPLEMENTED = (451, "4.3.5", "Cloudflare does not implement this call: check SMTP2CF_API_BASE_URL")
_TOO_BIG = (552, "5.3.4", "the message is too big for Cloudflare")
_INVALID = (554, "5.6.0", "Cloudflare finds the message invalid")
_SCHEMA = (554, "5.6.0", "Cloudflare finds an address or the message malformed")
_LENGTH = (451, "4.3.5", "Cloudflare missed the Content-Length: does a proxy between drop it?")
_REFUSED = (554, "5.5.0", "Cloudflare refuses the message")
_SERVER = (451, "4.3.0", "Cloudflare has an error of its own, try again later")
_REDIRECT = (451, "4.3.0", "redirected, which Cloudflare's API never does: check SMTP2CF_API_BASE_URL")
_NO_ANSWER = (
    451,
    "4.3.0",
    "Cloudflare's answer can't be understood, try again later (is SMTP2CF_API_BASE_URL right?)",
)

TABLE: tuple[Row, ...] = (
    # Email Sending's own errors.
    _row(SUPPRESSED, Scope.RECIPIENT, text="suppress", http=400),
    _row(_TOO_BIG, Scope.MESSAGE, text="too_big"),
    _row(_LENGTH, Scope.ACCOUNT, text="no_content_length"),
    _row(_INVALID, Scope.MESSAGE, text="email.invalid"),
    _row(_SCHEMA, Scope.RECIPIENT, text="invalid_request_schema"),
    _row(_PLAN, Scope.ACCOUNT, text="not_entitled", token=True),
    _row(_PERMISSION, Scope.ACCOUNT, text="authentication.forbidden", token=True),
    _row(_SERVER, Scope.ACCOUNT, text="authentication.upstream"),
    _row(_TOKEN, Scope.ACCOUNT, text="authentication.", token=True),
    _row(_DISABLED, Scope.ACCOUNT, text="sending_disabled"),
    _row(_SENDER, Scope.ACCOUNT, text="sender_not_configured"),
    _row(_THROTTLED, Scope.ACCOUNT, text="throttled"),
    _row(_NOT_IMPLEMENTED, Scope.ACCOUNT, text="not_implemented"),
    _row(_SERVER, Scope.ACCOUNT, text="internal_server"),
    _row(_ACCOUNT_ID, Scope.ACCOUNT, text="error.not_found"),
    # What Cloudflare's API says of any call, also with HTTP 400: a token or an account id of the wrong form.
    _row(_TOKEN, Scope.ACCOUNT, text="invalid request headers", token=True),
    _row(_TOKEN, Scope.ACCOUNT, text="authentication error", token=True),
    _row(_ACCOUNT_ID, Scope.ACCOUNT, text="could not route to"),
    _row(_SCHEMA, Scope.RECIPIENT, code=10001),
    _row(_LENGTH, Scope.ACCOUNT, code=10201),
    _row(_TOKEN, Scope.ACCOUNT, code=10101, token=True),
    _row(_TOKEN, Scope.ACCOUNT, code=10103, token=True),
    _row(_PERMISSION, Scope.ACCOUNT, code=10102, token=True),
    _row(_PLAN, Scope.ACCOUNT, code=10105, token=True),
    _row(_DISABLED, Scope.ACCOUNT, code=10203),
    _row(_SENDER, Scope.ACCOUNT, code=10204),
    _row(_THROTTLED, Scope.ACCOUNT, code=10004),
    _row(_NOT_IMPLEMENTED, Scope.ACCOUNT, code=10003),
    _row(_SERVER, Scope.ACCOUNT, code=10002),
    _row(_SERVER, Scope.ACCOUNT, code=10100),
    _row(_TOKEN, Scope.ACCOUNT, code=6003, token=True),
    _row(_TOKEN, Scope.ACCOUNT, code=9109, token=True),
    _row(_ACCOUNT_ID, Scope.ACCOUNT, code=7003),
    _row(_TOKEN, Scope.ACCOUNT, http=401, token=True),
    _row(_FORBIDDEN, Scope.ACCOUNT, http=403, from_api=True),
    _row(_BLOCKED, Scope.ACCOUNT, http=403),
    _row(_ACCOUNT_ID, Scope.ACCOUNT, http=404),
    _row(_PROXY, Scope.ACCOUNT, http=407),
    _row(_TOO_BIG, Scope.MESSAGE, http=413),
    _row(_THROTTLED, Scope.ACCOUNT, http=429),
    _row(_NOT_IMPLEMENTED, Scope.ACCOUNT, http=501),
    _row(_SERVER, Scope.ACCOUNT, http=range(500, 600)),
    _row(_REDIRECT, Scope.ACCOUNT, http=range(300, 400)),
    _row(_NO_ANSWER, Scope.ACCOUNT, http=408),
    _row(_REFUSED, Scope.MESSAGE, http=range(400, 500), from_api=True),
    # Success without success, HTML, half an answer: nothing says that the mail went out, nothing blames it.
    _row(_NO_ANSWER, Scope.ACCOUNT),
)


class _Error(NamedTuple):
    """One error of an answer; what is missing is None or ""."""

    code: int | None
    text: str


_SILENT = _Error(None, "")


def error_of(http: int, body: bytes, retry_after: float | None) -> SendError:
    """The SendError for an answer that is no success. `body` may be anything."""
    errors = _errors_in(body)
    for row in TABLE:
        for error in errors or [_SILENT]:
            if _matches(row, http, error) and (errors or not row.from_api):
                kind = TokenRefusedError if row.token else SendError
                return kind(
                    _with_words(row.reply, error, http),
                    row.scope,
                    retry_after,
                    unanswered=not errors and http in MAYBE_SENT,
                )
    raise AssertionError(f"no row for HTTP {http}")  # pragma: no cover - the last row takes all


def _matches(row: Row, http: int, error: _Error) -> bool:
    if row.text is not None and row.text not in error.text.lower():
        return False
    if row.code is not None and row.code != error.code:
        return False
    if isinstance(row.http, range):
        return http in row.http
    return row.http is None or row.http == http


def _errors_in(body: bytes) -> list[_Error]:
    try:
        answer: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return []
    errors = answer.get("errors") if isinstance(answer, dict) else None
    if not isinstance(errors, list):
        return []
    found = []
    for error in errors[:ERRORS_LIMIT]:
        if isinstance(error, dict):
            code, text = error.get("code"), error.get("message")
            found.append(
                _Error(code if isinstance(code, int) else None, text if isinstance(text, str) else "")
            )
    return found


def _with_words(reply: Reply, error: _Error, http: int) -> Reply:
    """The reply with what Cloudflare said, on one line and not too long."""
    words = one_line(error.text, TEXT_LIMIT) or (f"error {error.code}" if error.code is not None else "")
    return reply._replace(text=f"{reply.text} [HTTP {http}{': ' if words else ''}{words}]")
