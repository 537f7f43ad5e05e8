"""What a failed call means in SMTP's terms: one table, the first match counts.

Cloudflare's published errors for Email Sending. The error's text decides first, since two codes are published
with swapped meanings; then the code together with the HTTP status it is known for (the gateway in front uses
some of the same codes); then the HTTP status. Knows no socket.
"""

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import httpx
import orjson

from smtp2cf.reply import SUPPRESSED, Reply, Scope, SendError, one_line

TEXT_LIMIT = 200
"""Characters of Cloudflare's message that a reply quotes."""
ERRORS_LIMIT = 10
"""Errors of one answer that are looked at."""
MAYBE_SENT = frozenset({*range(200, 300), 500, 502, 504, 520, 524})
"""HTTP statuses with which the mail may have been sent, if the API itself says nothing: it may have been
reached, and its answer lost on the way."""
REASON_LIMIT = 300
"""Characters of the reason why there is no answer."""
NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
"""Errors of a transport that happen before a request goes out."""
AS_IN_THE_ENVIRONMENT: Mapping[str, str] = {}
"""The names of settings that replies have, where they are the right ones."""
_DIGITS = re.compile(r"[0-9]{1,9}")


class TokenRefusedError(SendError):
    """The API refuses the token, so every call is refused, not just this one."""


@contextlib.contextmanager
def permission(name: str) -> Iterator[None]:
    """Says which permission a token lacks that may not do what is within."""
    try:
        yield
    except TokenRefusedError as error:
        text = f"the token may not do that: it needs the permission {name} ({error.reply.text})"
        raise SendError(error.reply._replace(text=text), Scope.ACCOUNT) from None


class Row(NamedTuple):
    """One line of the table: what to look for, and what it means.

    text: in lower case. http: HTTP statuses; None for any. from_api: only if the API itself answers, in its
    JSON, not the edge or a proxy in front. token: the token is the cause, so every call fails. invalid: the
    message may be taken repaired.
    """

    text: str | None
    code: int | None
    http: Collection[int] | None
    scope: Scope
    reply: Reply
    from_api: bool
    token: bool
    invalid: bool


def _row(
    reply: tuple[int, str, str],
    scope: Scope,
    text: str | None = None,
    code: int | None = None,
    http: int | Collection[int] | None = None,
    *,
    from_api: bool = False,
    token: bool = False,
    invalid: bool = False,
) -> Row:
    http = (http,) if isinstance(http, int) else http
    return Row(text, code, http, scope, Reply(*reply), from_api, token, invalid)


_TOKEN = (
    451,
    "4.3.5",
    "Cloudflare refuses the API token, or it lacks the permission Email Sending: Edit (SMTP2CF_API_TOKEN)",
)
_PERMISSION = (451, "4.3.5", "the API token lacks the permission Email Sending: Edit (SMTP2CF_API_TOKEN)")
_PLAN = (451, "4.3.5", "the Cloudflare plan of SMTP2CF_ACCOUNT_ID does not include Email Sending")
_FORBIDDEN = (
    451,
    "4.3.5",
    "Cloudflare forbids this: check the permissions of SMTP2CF_API_TOKEN, the plan and the sender's domain",
)
_BLOCKED = (
    451,
    "4.3.5",
    "the call was blocked before it reached Cloudflare's API: check SMTP2CF_API_BASE_URL and the proxy",
)
_PROXY = (451, "4.4.1", "the proxy requires a login: check HTTPS_PROXY")
_ACCOUNT_ID = (
    451,
    "4.3.5",
    "Cloudflare does not know this account: check SMTP2CF_ACCOUNT_ID and SMTP2CF_API_BASE_URL",
)
_SENDER = (
    451,
    "4.3.5",
    "Cloudflare does not send for the sender's domain: it is not set up, was only just added, or is disabled",
)
_THROTTLED = (451, "4.7.1", "Cloudflare's rate limit is reached, try again later")
_NOT_IMPLEMENTED = (451, "4.3.5", "Cloudflare does not implement this call: check SMTP2CF_API_BASE_URL")
_TOO_BIG = (552, "5.3.4", "the message is too big for Cloudflare")
_INVALID = (554, "5.6.0", "Cloudflare rejects the message as invalid")
_SCHEMA = (554, "5.6.0", "Cloudflare rejects an address or the message as malformed")
_LENGTH = (451, "4.3.5", "Cloudflare got no Content-Length: a proxy in between may have removed it")
_REFUSED = (554, "5.5.0", "Cloudflare refuses the message")
_SERVER = (451, "4.3.0", "Cloudflare had an internal error, try again later")
_REDIRECT = (451, "4.3.0", "redirected, which Cloudflare's API never does: check SMTP2CF_API_BASE_URL")
_NO_ANSWER = (
    451,
    "4.3.0",
    "Cloudflare's answer makes no sense, try again later (is SMTP2CF_API_BASE_URL right?)",
)

TABLE: tuple[Row, ...] = (
    # Email Sending's own errors, by their text.
    _row(SUPPRESSED, Scope.RECIPIENT, text="suppress", http=400),
    _row(_TOO_BIG, Scope.MESSAGE, text="too_big"),
    _row(_LENGTH, Scope.ACCOUNT, text="no_content_length"),
    # These two may be about the message as well as about a recipient: whoever calls has to find out.
    _row(_INVALID, Scope.RECIPIENT, text="email.invalid", invalid=True),
    _row(_SCHEMA, Scope.RECIPIENT, text="invalid_request_schema"),
    _row(_PLAN, Scope.ACCOUNT, text="not_entitled", token=True),
    _row(_PERMISSION, Scope.ACCOUNT, text="authentication.forbidden", token=True),
    _row(_SERVER, Scope.ACCOUNT, text="authentication.upstream"),
    _row(_SENDER, Scope.SENDER, text="sending_disabled"),
    _row(_SENDER, Scope.SENDER, text="sender_not_configured"),
    _row(_THROTTLED, Scope.ACCOUNT, text="throttled"),
    _row(_NOT_IMPLEMENTED, Scope.ACCOUNT, text="not_implemented"),
    _row(_SERVER, Scope.SENDER, text="internal_server"),  # seen for one domain while others worked
    _row(_ACCOUNT_ID, Scope.ACCOUNT, text="error.not_found"),
    # What Cloudflare's API says of any call, also with HTTP 400: a token or an account id that is wrong, or
    # of the wrong form.
    _row(_TOKEN, Scope.ACCOUNT, text="authentication.", token=True),
    _row(_TOKEN, Scope.ACCOUNT, text="authentication error", token=True),
    _row(_TOKEN, Scope.ACCOUNT, text="invalid request headers", token=True),
    _row(_ACCOUNT_ID, Scope.ACCOUNT, text="unable to authenticate", http=404),
    _row(_TOKEN, Scope.ACCOUNT, text="unable to authenticate", token=True),
    _row(_ACCOUNT_ID, Scope.ACCOUNT, text="could not route to"),
    # By their number.
    _row(_LENGTH, Scope.ACCOUNT, code=10201, http=400),
    _row(_TOKEN, Scope.ACCOUNT, code=6003, http=400, token=True),
    _row(_TOKEN, Scope.ACCOUNT, code=9109, http=(400, 403), token=True),
    _row(_TOKEN, Scope.ACCOUNT, code=10000, http=(401, 403), token=True),
    _row(_TOKEN, Scope.ACCOUNT, code=10101, http=(401, 403), token=True),
    _row(_TOKEN, Scope.ACCOUNT, code=10103, http=(401, 403), token=True),
    _row(_TOKEN, Scope.ACCOUNT, code=2036, http=(401, 403), token=True),
    _row(_PERMISSION, Scope.ACCOUNT, code=10102, http=403, token=True),
    _row(_PLAN, Scope.ACCOUNT, code=10105, http=403, token=True),
    _row(_SENDER, Scope.SENDER, code=10203, http=403),
    _row(_SENDER, Scope.SENDER, code=10204, http=403),
    _row(_ACCOUNT_ID, Scope.ACCOUNT, code=7003, http=(400, 404)),
    _row(_SERVER, Scope.SENDER, code=10002, http=500),
    _row(_NOT_IMPLEMENTED, Scope.ACCOUNT, code=10003, http=500),
    # Unknown words, but Email Sending's own about mail: a recipient who is not authorized is not the account.
    _row(_INVALID, Scope.RECIPIENT, text="sending.error.email.", code=10202, http=400, invalid=True),
    _row(_REFUSED, Scope.RECIPIENT, text="sending.error.email.", http=400),
    # Words of the gateway's that nobody has seen yet, but are about the token or the account: no mail bounces
    # for those. They come before 10001, which is the gateway's for many things.
    _row(_FORBIDDEN, Scope.ACCOUNT, text="authenticat", http=400),
    _row(_FORBIDDEN, Scope.ACCOUNT, text="authoriz", http=400),
    _row(_FORBIDDEN, Scope.ACCOUNT, text="token", http=400),
    _row(_ACCOUNT_ID, Scope.ACCOUNT, text="account", http=400),
    _row(_SCHEMA, Scope.RECIPIENT, code=10001, http=400),
    _row(_INVALID, Scope.RECIPIENT, code=10202, http=400, invalid=True),
    # By the HTTP status.
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
    # Nobody has seen yet how a suppressed recipient is told, so a refusal of unknown words may be one.
    _row(_REFUSED, Scope.RECIPIENT, http=range(400, 500), from_api=True),
    # Success without success, HTML, half an answer: nothing says that the mail went out, nothing blames it.
    _row(_NO_ANSWER, Scope.ACCOUNT),
)


class _Error(NamedTuple):
    """One error of an answer; missing parts are None or ""."""

    code: int | None
    text: str


_SILENT = _Error(None, "")


def error_of(
    http: int, body: bytes, retry_after: float | None, names: Mapping[str, str] = AS_IN_THE_ENVIRONMENT
) -> SendError:
    """The SendError for an unsuccessful answer. `body` may be anything.

    names: what settings of the account are called, by the name that the table has for them.
    """
    errors = _errors_in(body)
    for row in TABLE:
        for error in errors or [_SILENT]:
            if _matches(row, http, error) and (errors or not row.from_api):
                kind = TokenRefusedError if row.token else SendError
                return kind(
                    _with_words(_renamed(row.reply, names), error, http),
                    row.scope,
                    retry_after,
                    unanswered=not errors and http in MAYBE_SENT,
                    invalid=row.invalid,
                )
    raise AssertionError(f"no row for HTTP {http}")  # pragma: no cover - the last row takes all


def no_answer(error: httpx.HTTPError, host: str, timeout: float) -> SendError:
    """The SendError for a call without a whole answer: why, and whether mail may have gone through.

    timeout: seconds that the call had.
    """
    if isinstance(error, NEVER_SENT):
        reply = Reply(451, "4.4.1", f"cannot reach {host}: {one_line(str(error), REASON_LIMIT)}")
        return SendError(reply, Scope.ACCOUNT)
    why = f"the connection to {host} broke: {one_line(str(error), REASON_LIMIT)}"
    if isinstance(error, httpx.TimeoutException):
        why = f"no answer from {host} within {timeout:g} s (SMTP2CF_API_TIMEOUT)"
    return SendError(Reply(451, "4.3.0", why), Scope.ACCOUNT, unanswered=True)


def _matches(row: Row, http: int, error: _Error) -> bool:
    if row.text is not None and row.text not in error.text.lower():
        return False
    if row.code is not None and row.code != error.code:
        return False
    return row.http is None or http in row.http


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
            text = error.get("message")
            found.append(_Error(_number_in(error.get("code")), text if isinstance(text, str) else ""))
    return found


def _number_in(code: object) -> int | None:
    """An error's code: published as a string for some HTTP statuses and as a number for others."""
    if isinstance(code, str) and _DIGITS.fullmatch(code):
        return int(code)
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def _renamed(reply: Reply, names: Mapping[str, str]) -> Reply:
    for setting, name in names.items():
        reply = reply._replace(text=reply.text.replace(setting, name))
    return reply


def _with_words(reply: Reply, error: _Error, http: int) -> Reply:
    """The reply with Cloudflare's message, on one line and shortened."""
    words = one_line(error.text, TEXT_LIMIT) or (f"error {error.code}" if error.code is not None else "")
    return reply._replace(text=f"{reply.text} [HTTP {http}{': ' if words else ''}{words}]")
