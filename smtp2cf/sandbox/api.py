"""Cloudflare's API conventions: the envelope around every answer, the errors, and JSON bodies.

Follows https://developers.cloudflare.com/email-service/ and, where that is silent, the SDK's types
`ResponseInfo` and `ErrorData`. Errors marked [guess] are known to exist, their code or text is not.

Knows nothing of mail or of the sandbox's state.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson
from aiohttp import web

KIB = 1024
MIB = 1024 * KIB

JsonObject = dict[str, Any]

NO_PAGES: Mapping[str, object] = {"count": 0, "per_page": 0, "total_count": 0, "cursor": "", "page": 0}
"""The result_info of answers that are no list."""


class Refusal(NamedTuple):
    """One row of Cloudflare's error table: HTTP status, code, and the message as it is sent."""

    status: int
    code: int
    message: str


def _sending_error(status: int, code: int, name: str) -> Refusal:
    return Refusal(status, code, f"email.sending.error.{name}")


INVALID_REQUEST_SCHEMA = _sending_error(400, 10001, "invalid_request_schema")
TOO_BIG = _sending_error(400, 10200, "email.too_big")
NO_CONTENT_LENGTH = _sending_error(400, 10201, "email.no_content_length")
INVALID_EMAIL = _sending_error(400, 10202, "email.invalid")
RECIPIENT_SUPPRESSED = _sending_error(400, 10205, "email.recipient_suppressed")  # [guess]
SCOPE_IMMUTABLE = _sending_error(400, 10301, "suppression.scope_immutable")  # [guess]
SUPPRESSIONS_FULL = _sending_error(400, 10302, "suppression.limit_reached")  # [guess]
UNAUTHORIZED = _sending_error(401, 10101, "authentication.unauthorized")
BAD_TOKEN_TYPE = _sending_error(401, 10103, "authentication.bad_token_type")
INVALID_API_TOKEN = Refusal(401, 1000, "Invalid API Token")
LACKS_PERMISSION = Refusal(403, 10000, "Authentication error")
SENDING_DISABLED = _sending_error(403, 10203, "email.sending_disabled")
SENDER_NOT_CONFIGURED = _sending_error(403, 10204, "email.sender_not_configured")
READ_ONLY = _sending_error(403, 10303, "suppression.read_only")  # [guess]
NOT_FOUND = _sending_error(404, 10000, "not_found")
NO_ROUTE = Refusal(404, 7003, "Could not route to this path, perhaps your object identifier is invalid?")
THROTTLED = _sending_error(429, 10004, "throttled")
INTERNAL_SERVER = _sending_error(500, 10002, "internal_server")


class ApiError(Exception):
    """A call refused.

    pointer: what in the request was wrong, as a JSON pointer (RFC 6901). detail: a sentence for a
    person, sent in the envelope's `messages`. retry_after: whole seconds.
    """

    def __init__(
        self, refusal: Refusal, detail: str = "", *, pointer: str = "", retry_after: int | None = None
    ) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.detail = detail
        self.pointer = pointer
        self.retry_after = retry_after

    def response(self, *, string_codes: bool = False) -> web.Response:
        """The refusal in Cloudflare's envelope.

        string_codes: with HTTP 400 and 403, the code is a string, as its type says; numbers have been seen.
        """
        as_string = string_codes and self.refusal.status in (400, 403)
        code = str(self.refusal.code) if as_string else self.refusal.code
        error: JsonObject = {"code": code, "message": self.refusal.message}
        if self.pointer:
            error["source"] = {"pointer": self.pointer}
        messages = [{"code": self.refusal.code, "message": self.detail}] if self.detail else []
        response = _envelope(self.refusal.status, None, NO_PAGES, errors=[error], messages=messages)
        if self.retry_after is not None:
            response.headers["Retry-After"] = str(self.retry_after)
        return response


def malformed(pointer: str, detail: str) -> ApiError:
    """A request that is not of the published form."""
    return ApiError(INVALID_REQUEST_SCHEMA, f"{pointer}: {detail}", pointer=pointer)


def success(
    result: object,
    result_info: Mapping[str, object] = NO_PAGES,
    messages: Sequence[Mapping[str, object]] = (),
) -> web.Response:
    """An answer of HTTP 200 in Cloudflare's envelope."""
    return _envelope(200, result, result_info, errors=[], messages=messages)


def _envelope(
    status: int,
    result: object,
    result_info: Mapping[str, object],
    *,
    errors: Sequence[Mapping[str, object]],
    messages: Sequence[Mapping[str, object]],
) -> web.Response:
    body = {
        "success": not errors,
        "errors": errors,
        "messages": messages,
        "result": result,
        "result_info": result_info,
    }
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")


async def read_body(request: web.Request, limit: int) -> bytearray:
    """The request's body, at most `limit` octets of it.

    aiohttp's own `request.read()` would keep a second copy for as long as the request lives.
    Raises ApiError: too_big as soon as the body is known to be longer.
    """
    if (request.content_length or 0) > limit:
        raise ApiError(TOO_BIG, f"a body of {request.content_length} bytes; the limit is {limit}")
    body = bytearray()
    try:
        while block := await request.content.readany():
            body += block
            if len(body) > limit:
                raise ApiError(TOO_BIG, f"the body is longer than {limit} bytes")
    except (web.RequestPayloadError, ConnectionResetError) as error:  # the second is answered to nobody
        raise malformed("", f"the body could not be read: {error}") from error
    return body


def parse_object(request: web.Request, body: bytearray, keys: frozenset[str]) -> JsonObject:
    """The JSON object in a body, which must hold no other key than these; raises ApiError.

    Empties `body`: from here on the text is in the object.
    """
    if request.content_type != "application/json":
        raise malformed("", "Content-Type is not application/json")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise malformed("", f"invalid JSON: {error}") from error
    body.clear()
    if not isinstance(document, dict):
        raise malformed("", "not a JSON object")
    for key in document.keys() - keys:
        raise malformed(f"/{key}", "unknown key")
    return document
