"""The error table, held against CLOUDFLARE.md: every error listed there, and whatever else may come."""

from collections.abc import Iterator

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.cloudflare.errors import MAYBE_SENT, TABLE, TEXT_LIMIT, TokenRefusedError, error_of
from smtp2cf.reply import UNPRINTABLE, Scope, SendError
from tests.support.each import each

ACCOUNT, SENDER, MESSAGE, RECIPIENT = Scope
PREFIX = "email.sending.error."

# HTTP status, the codes that come with it, message (PREFIX goes before the API's own); reply code, enhanced
# status, scope. The rows of CLOUDFLARE.md, "Errors", in their order.
PUBLISHED = [
    (400, (10001,), "invalid_request_schema", 554, "5.6.0", RECIPIENT),
    (400, (10200, 10202), "email.too_big", 552, "5.3.4", MESSAGE),
    (400, (10200, 10202), "email.invalid", 554, "5.6.0", RECIPIENT),
    (400, (10201,), "email.no_content_length", 451, "4.3.5", ACCOUNT),
    (400, (None, 10205), "email.recipient_suppressed", 550, "5.7.1", RECIPIENT),
    (400, (None,), "Recipient is on the Suppression List", 550, "5.7.1", RECIPIENT),
    (401, (10000, 10101, 10103, 2036), "Authentication error", 451, "4.3.5", ACCOUNT),
    (401, (10000, 10101, 10103, 2036), "Unauthorized", 451, "4.3.5", ACCOUNT),
    (401, (10000, 10101, 10103, 2036), "authentication.unauthorized", 451, "4.3.5", ACCOUNT),
    (401, (10000, 10101, 10103, 2036), "authentication.bad_token_type", 451, "4.3.5", ACCOUNT),
    (403, (10000, 10101, 10103, 2036), "Authentication error", 451, "4.3.5", ACCOUNT),
    (403, (10000, 10101, 10103, 2036), "Unauthorized", 451, "4.3.5", ACCOUNT),
    (403, (10000, 10101, 10103, 2036), "authentication.unauthorized", 451, "4.3.5", ACCOUNT),
    (403, (10000, 10101, 10103, 2036), "authentication.bad_token_type", 451, "4.3.5", ACCOUNT),
    (403, (10102,), "authentication.forbidden", 451, "4.3.5", ACCOUNT),
    (403, (10105,), "authentication.not_entitled", 451, "4.3.5", ACCOUNT),
    (403, (10203, 10204), "email.sending_disabled", 451, "4.3.5", SENDER),
    (403, (10203, 10204), "email.sender_not_configured", 451, "4.3.5", SENDER),
    (404, (10000, 10001, 7003), "not_found", 451, "4.3.5", ACCOUNT),
    (404, (10000, 10001, 7003), "Unable to authenticate request", 451, "4.3.5", ACCOUNT),
    (404, (10000, 10001, 7003), "Could not route to /client/v4/accounts/x, perhaps", 451, "4.3.5", ACCOUNT),
    (429, (10004,), "throttled", 451, "4.7.1", ACCOUNT),
    (500, (10002,), "internal_server", 451, "4.3.0", SENDER),
    (500, (10003,), "not_implemented", 451, "4.3.5", ACCOUNT),
    (503, (10100,), "authentication.upstream", 451, "4.3.0", ACCOUNT),
]
AMBIGUOUS_CODES = {10200, 10202, 10205}
"""Codes that say nothing by themselves: published both ways round, or guessed."""


def text_of(words: str) -> str:
    """The API's own words have a prefix; the gateway's are sentences."""
    return words if words[0].isupper() else PREFIX + words


def spelled() -> Iterator[tuple[int, object, str, int, str, Scope]]:
    """Each row with each of its codes, as a number and as the string that some answers have."""
    for http, codes, words, *meaning in PUBLISHED:
        for code in codes:
            for spelling in (code,) if code is None else (code, str(code)):
                yield http, spelling, text_of(words), *meaning


def body_of(*errors: object, **changes: object) -> bytes:
    """An answer as the API gives it, with these errors."""
    return orjson.dumps({"success": False, "errors": list(errors), "messages": [], "result": None} | changes)


@each(("http", "code", "text", "reply_code", "status", "scope"), list(spelled()))
def test_every_published_error_has_its_row(
    http: int, code: object, text: str, reply_code: int, status: str, scope: Scope
) -> None:
    error = error_of(http, body_of({"code": code, "message": text}), None)
    assert (error.reply.code, error.reply.status, error.scope) == (reply_code, status, scope)
    assert text in error.reply.text
    assert f"HTTP {http}" in error.reply.text
    assert not error.unanswered, "the API itself says that nothing was sent"


@each(("http", "codes", "words", "reply_code", "status", "scope"), PUBLISHED)
def test_the_text_alone_is_enough(
    http: int, codes: object, words: str, reply_code: int, status: str, scope: Scope
) -> None:
    for message in (text_of(words), text_of(words).upper()):
        error = error_of(http, body_of({"message": message}), None)
        assert (error.reply.code, error.reply.status, error.scope) == (reply_code, status, scope)


BY_CODE = [row for row in spelled() if row[1] is not None and int(str(row[1])) not in AMBIGUOUS_CODES]


@each(("http", "code", "text", "reply_code", "status", "scope"), BY_CODE)
def test_the_code_alone_is_enough_with_the_status_it_is_known_for(
    http: int, code: object, text: str, reply_code: int, status: str, scope: Scope
) -> None:
    error = error_of(http, body_of({"code": code}), None)
    assert (error.reply.code, error.reply.status, error.scope) == (reply_code, status, scope)
    assert str(code) in error.reply.text


@each("code", sorted({int(str(row[1])) for row in BY_CODE}))
@each("http", [400, 401, 403, 404, 409, 418, 422, 429, 500, 502, 503])
def test_with_any_other_status_a_code_says_nothing(http: int, code: int) -> None:
    """The gateway in front has numbers of its own, and some are the same."""
    known = {row[0] for row in BY_CODE if row[1] in (code, str(code))} | ALSO_KNOWN.get(code, set())
    if http not in known:
        found = error_of(http, body_of({"code": code}), None)
        unknown = error_of(http, body_of({"code": 99999}), None)
        assert (found.reply[:2], found.scope) == (unknown.reply[:2], unknown.scope)


ALSO_KNOWN = {7003: {400}}
"""An account id of the wrong form, see below."""


@each("http", [400, 401, 403, 404])
@each("code", [None, 1000, 7003, "10000", 10000, "10001", 10001, 10101, 10103, 2036, 99999])
@each(
    "text",
    [
        "Unable to authenticate request",
        "Authentication error",
        "Unauthorized",
        "Unauthorized to access requested resource",
        "Invalid API Token",
        "Invalid access token",
        "Invalid request headers",
        "Invalid format for Authorization header",
        "Could not route to /client/v4/accounts/x, perhaps your object identifier is invalid?",
        "Invalid account identifier",
        "Account not found",
        "email.sending.error.not_found",
        "email.sending.error.authentication.unauthorized",
        "email.sending.error.authentication.brand_new",
    ],
)
def test_a_wrong_token_or_account_id_never_bounces(http: int, code: object, text: str) -> None:
    error = error_of(http, body_of({"code": code, "message": text}), None)
    assert (error.reply.code, error.reply.status, error.scope) == (451, "4.3.5", ACCOUNT)
    assert "SMTP2CF_ACCOUNT_ID" in error.reply.text or "SMTP2CF_API_TOKEN" in error.reply.text


@each("code", [None, 10001, 10205, "10205", 99999])
@each("words", ["recipient_not_authorized", "recipient_account_disabled", "unauthorized", "token_in_address"])
def test_unknown_words_about_the_mail_are_about_nobody_else(code: object, words: str) -> None:
    error = error_of(400, body_of({"code": code, "message": f"{PREFIX}email.{words}"}), None)
    assert (error.reply.code, error.scope) == (554, RECIPIENT)
    assert type(error) is SendError


@pytest.mark.parametrize("code", [10001, 10002, 10004, 10101, 10203])
def test_the_text_decides_before_the_code(code: int) -> None:
    error = error_of(400, body_of({"code": code, "message": "email.sending.error.email.too_big"}), None)
    assert error.reply.status == "5.3.4"


# What the API answers to a token or an account id of the wrong form, whatever is called.
@pytest.mark.parametrize(
    ("http", "code", "text", "setting"),
    [
        (400, 6003, "Invalid request headers", "SMTP2CF_API_TOKEN"),
        (403, 9109, "Invalid access token", "SMTP2CF_API_TOKEN"),
        (400, 10000, "Authentication error", "SMTP2CF_API_TOKEN"),
        (400, 7003, "Could not route to /client/v4/accounts/x, perhaps ...", "SMTP2CF_ACCOUNT_ID"),
        (404, 7003, "Could not route to /client/v4/accounts/x, perhaps ...", "SMTP2CF_ACCOUNT_ID"),
    ],
)
def test_a_malformed_token_or_account_bounces_nothing(http: int, code: int, text: str, setting: str) -> None:
    error = error_of(http, body_of({"code": code, "message": text}), None)
    assert (error.reply.code, error.reply.status, error.scope) == (451, "4.3.5", ACCOUNT)
    assert setting in error.reply.text


@each(
    ("http", "reply_code", "status", "scope"),
    [
        (400, 554, "5.5.0", RECIPIENT),
        (401, 451, "4.3.5", ACCOUNT),
        (403, 451, "4.3.5", ACCOUNT),
        (404, 451, "4.3.5", ACCOUNT),
        (408, 451, "4.3.0", ACCOUNT),
        (409, 554, "5.5.0", RECIPIENT),
        (413, 552, "5.3.4", MESSAGE),
        (422, 554, "5.5.0", RECIPIENT),
        (429, 451, "4.7.1", ACCOUNT),
        (500, 451, "4.3.0", ACCOUNT),
        (501, 451, "4.3.5", ACCOUNT),
        (502, 451, "4.3.0", ACCOUNT),
        (503, 451, "4.3.0", ACCOUNT),
        (504, 451, "4.3.0", ACCOUNT),
    ],
)
def test_an_unknown_error_of_the_api_goes_by_the_http_status(
    http: int, reply_code: int, status: str, scope: Scope
) -> None:
    error = error_of(http, body_of({"code": 99999, "message": "email.sending.error.brand_new"}), None)
    assert (error.reply.code, error.reply.status, error.scope) == (reply_code, status, scope)
    assert "brand_new" in error.reply.text


NOT_THE_API = {
    "html": b"<!DOCTYPE html><html><title>error</title><body>cloudflare</body></html>",
    "empty": b"",
    "truncated": b'{"success": false, "errors": [{"code": 10001, "mess',
    "no envelope": b'{"detail": "no"}',
    "a list": b"[]",
    "null": b"null",
    "a string": b'"email.sending.error.email.invalid"',
    "no errors": b'{"success": false, "errors": [], "result": null}',
    "errors null": b'{"success": false, "errors": null, "result": null}',
    "errors a string": b'{"success": false, "errors": "email.sending.error.email.too_big"}',
    "errors an object": b'{"success": false, "errors": {"code": 10001}}',
    "errors of strange types": b'{"success": false, "errors": [null, 1, "x", [], [[]], 1.5, true]}',
    "nested lists": b"[" * 10_000 + b"]" * 10_000,
    "nested objects": b'{"errors":' * 10_000 + b"1" + b"}" * 10_000,
    "not UTF-8": b'{"errors": [{"message": "\xff\xfe"}]}',
    "a surrogate": b'{"errors": [{"message": "\\ud800"}]}',
    "binary": bytes(range(256)),
}


@each("http", [400, 401, 402, 403, 404, 405, 407, 414, 418, 421, 431, 451, 494])
@each("body", NOT_THE_API.values())
def test_a_refusal_that_is_not_the_apis_bounces_nothing(http: int, body: bytes) -> None:
    error = error_of(http, body, None)
    assert (error.reply.code, error.scope) == (451, ACCOUNT)
    assert not error.unanswered


@each("body", NOT_THE_API.values())
def test_413_means_too_big_whoever_says_so(body: bytes) -> None:
    error = error_of(413, body, None)
    assert (error.reply.code, error.reply.status, error.scope) == (552, "5.3.4", MESSAGE)


@each("http", [*range(500, 512), *range(520, 528), 530, 599])
@each("body", NOT_THE_API.values())
def test_an_error_of_the_edge_is_transient(http: int, body: bytes) -> None:
    error = error_of(http, body, None)
    assert error.reply.code == 451
    assert error.reply.status == ("4.3.5" if http == 501 else "4.3.0")
    assert error.scope is ACCOUNT


@pytest.mark.parametrize("http", [500, 502, 504, 520, 524])
def test_a_gateways_error_may_hide_that_the_mail_was_sent(http: int) -> None:
    assert error_of(http, NOT_THE_API["html"], None).unanswered


@pytest.mark.parametrize("http", [503, 521, 522, 523, 525, 526, 530])
def test_an_edge_that_did_not_reach_the_api_sent_nothing(http: int) -> None:
    assert not error_of(http, NOT_THE_API["html"], None).unanswered


@each("body", NOT_THE_API.values())
def test_a_success_that_is_none_is_transient_and_may_have_sent_the_mail(body: bytes) -> None:
    error = error_of(200, body, None)
    assert (error.reply.code, error.reply.status, error.scope) == (451, "4.3.0", ACCOUNT)
    assert error.unanswered
    assert "SMTP2CF_API_BASE_URL" in error.reply.text


@pytest.mark.parametrize("http", [301, 302, 303, 304, 307, 308])
def test_a_redirect_is_transient_and_sent_nothing(http: int) -> None:
    error = error_of(http, NOT_THE_API["html"], None)
    assert (error.reply.code, error.reply.status, error.scope) == (451, "4.3.0", ACCOUNT)
    assert not error.unanswered
    assert "SMTP2CF_API_BASE_URL" in error.reply.text


def test_success_false_with_http_200_goes_by_its_error() -> None:
    too_big = body_of({"code": 10200, "message": "email.sending.error.email.too_big"})
    assert error_of(200, too_big, None).reply.status == "5.3.4"
    unknown = error_of(200, body_of({"code": 1, "message": "what?"}), None)
    assert (unknown.reply.code, unknown.reply.status, unknown.scope) == (451, "4.3.0", ACCOUNT)
    assert not unknown.unanswered, "it says that it did not"


def test_the_first_row_that_any_of_several_errors_fits_decides() -> None:
    errors = [
        {"code": 10001, "message": "email.sending.error.invalid_request_schema"},
        {"code": 10200, "message": "email.sending.error.email.too_big"},
    ]
    for order in (errors, errors[::-1]):
        error = error_of(400, body_of(*order), None)
        assert error.reply.status == "5.3.4"
        assert "too_big" in error.reply.text


@each(
    ("code", "message"),
    [
        ("x10001", 10001),
        ("", ""),
        ("-1", ""),
        ("9" * 5000, ""),
        ("\u0661", None),
        (None, None),
        ([], {}),
        (1.5, True),
        (True, 0),
        ({"a": 1}, [1]),
    ],
)
def test_code_and_message_of_strange_types_are_not_looked_at(code: object, message: object) -> None:
    error = error_of(503, body_of({"code": code, "message": message}), None)
    assert (error.reply.code, error.reply.status) == (451, "4.3.0")


def test_a_hundred_thousand_errors_cost_no_more_than_a_few() -> None:
    flood = body_of(*[{"code": 1}] * 100_000, {"message": "email.sending.error.email.too_big"})
    assert error_of(400, flood, None).reply.status == "5.5.0"


# The cause, and the setting to look at where there is one.
@each(
    ("http", "text", "words"),
    [
        (401, "authentication.unauthorized", ["token", "SMTP2CF_API_TOKEN"]),
        (401, "authentication.bad_token_type", ["token", "SMTP2CF_API_TOKEN"]),
        (403, "authentication.forbidden", ["permission", "Email Sending: Edit", "SMTP2CF_API_TOKEN"]),
        (403, "authentication.not_entitled", ["plan", "SMTP2CF_ACCOUNT_ID"]),
        (403, "email.sending_disabled", ["sender's domain", "not set up", "just added", "disabled"]),
        (403, "sender_not_configured", ["sender's domain", "not set up", "just added", "disabled"]),
        (403, "Authentication error", ["token", "permission", "SMTP2CF_API_TOKEN"]),
        (404, "Unable to authenticate request", ["account", "SMTP2CF_ACCOUNT_ID"]),
        (404, "not_found", ["account", "SMTP2CF_ACCOUNT_ID", "SMTP2CF_API_BASE_URL"]),
        (429, "throttled", ["rate limit"]),
        (500, "internal_server", ["internal error"]),
        (500, "not_implemented", ["SMTP2CF_API_BASE_URL"]),
        (400, "email.too_big", ["too big"]),
        (400, "email.invalid", ["invalid"]),
        (400, "email.no_content_length", ["Content-Length", "proxy"]),
        (400, "email.recipient_suppressed", ["suppressed"]),
        (400, "invalid_request_schema", ["malformed"]),
    ],
)
def test_the_reply_names_the_cause_and_the_setting(http: int, text: str, words: list[str]) -> None:
    error = error_of(http, body_of({"message": text_of(text)}), None)
    for word in words:
        assert word in error.reply.text


def test_what_stands_between_is_not_blamed_on_the_token() -> None:
    blocked = error_of(403, NOT_THE_API["html"], None)
    assert "token" not in blocked.reply.text
    assert "SMTP2CF_API_BASE_URL" in blocked.reply.text
    assert "HTTPS_PROXY" in error_of(407, NOT_THE_API["html"], None).reply.text


def test_only_an_error_about_the_token_says_so() -> None:
    """A sender whose domain is not set up must not make the whole bridge unready."""

    def kind_of(http: int, text: str) -> type:
        return type(error_of(http, body_of({"message": PREFIX + text}), None))

    for http, text in [
        (401, "authentication.unauthorized"),
        (401, "authentication.bad_token_type"),
        (403, "authentication.forbidden"),
        (403, "authentication.not_entitled"),
        (401, "brand_new"),
    ]:
        assert kind_of(http, text) is TokenRefusedError, text
    for http, text in [
        (403, "email.sending_disabled"),
        (403, "sender_not_configured"),
        (403, "brand_new"),
        (404, "not_found"),
        (503, "authentication.upstream"),
    ]:
        assert kind_of(http, text) is not TokenRefusedError, text


def test_retry_after_is_handed_on() -> None:
    assert error_of(429, b"", 17.0).retry_after == 17.0
    assert error_of(503, b"", None).retry_after is None


HOSTILE = [
    "x\r\n250 2.0.0 all is well",
    "x\n250 OK",
    "\x1b[2J\x1b]0;title\x07",
    "\x00\x01\x7f\x80\x85\x9b31m",
    "\u2028line\u2029paragraph",
    "\u202eevil\u2066",
    "x" * 1_000_000,
    "\r\n" * 500_000 + "x",
]


@each("text", HOSTILE)
def test_hostile_words_stay_on_one_short_line(text: str) -> None:
    reply = error_of(400, body_of({"message": text}), None).reply
    assert reply.text.isprintable()
    assert len(reply.text) <= TEXT_LIMIT + 200
    wire = reply.wire()
    lines = wire.split(b"\r\n")
    assert lines.pop() == b""
    assert all(line[:4] in (b"554 ", b"554-") and len(line) <= 510 for line in lines)
    assert all(0x20 <= octet < 0x7F for line in lines for octet in line)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
errors_like = st.lists(
    st.fixed_dictionaries({}, optional={"code": json_values, "message": json_values}) | json_values,
    max_size=4,
)


@given(
    http=st.integers(100, 599),
    body=st.binary(max_size=200)
    | json_values.map(orjson.dumps)
    | st.builds(
        lambda errors, success: orjson.dumps({"errors": errors, "success": success}), errors_like, json_values
    ),
)
def test_whatever_comes_there_is_a_row(http: int, body: bytes) -> None:
    error = error_of(http, body, None)
    assert error.reply.code >= 400
    assert error.reply.code // 100 == int(error.reply.status[0])
    assert not UNPRINTABLE.search(error.reply.text)


def test_no_row_is_in_the_shadow_of_another() -> None:
    """Each row decides for some answer: one that none reaches is a mistake in the table's order."""
    for row in TABLE:
        http = max(row.http) if row.http else 418
        error = {"code": row.code, "message": row.text or ""}
        has_words = row.text is not None or row.code is not None or row.from_api
        found = error_of(http, body_of(error) if has_words else b"", None)
        assert found.reply.text.startswith(row.reply.text), row


def test_every_status_that_may_have_sent_mail_is_transient() -> None:
    """Whoever is told 5xx does not try again, so nothing may be unknown about it."""
    for http in MAYBE_SENT:
        assert error_of(http, b"", None).reply.transient
