"""Client: the calls to Cloudflare's API (httpx, over aiohttp's transport: see `transport`).

`POST /accounts/{account_id}/email/sending/send_raw` and the token check. One call at a time for up
to 50 recipients: cutting a message's recipients into calls is the relay's work, the table in
`errors` says what an answer means, `pacing` when a call may go out. Knows no session, no spool.

The transport is called directly, below httpx.AsyncClient: no redirects, cookies or auth are wanted
here, and they cost as much as the rest of the call.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp
import httpx
import orjson

from smtp2cf import __version__
from smtp2cf.cloudflare.errors import error_of
from smtp2cf.cloudflare.pacing import Pacer, retry_after_of
from smtp2cf.cloudflare.transport import Transport
from smtp2cf.envelope import Outcomes, address_key
from smtp2cf.reply import Reply, Scope, SendError

MAX_RECIPIENTS_PER_CALL = 50
"""Recipients send_raw takes (Cloudflare's limits page)."""

DELIVERED = Reply(250, "2.0.0", "delivered")
QUEUED = Reply(250, "2.0.0", "queued by Cloudflare")
ACCEPTED = Reply(250, "2.0.0", "accepted by Cloudflare")
BOUNCED = Reply(550, "5.1.1", "the recipient's server refused it for good (permanent bounce)")
SUPPRESSED = Reply(550, "5.7.1", "the recipient is on Cloudflare's suppression list (suppressed)")

LISTS: tuple[tuple[str, Reply], ...] = (
    ("permanent_bounces", BOUNCED),
    ("suppressed_recipients", SUPPRESSED),
    ("queued", QUEUED),
    ("delivered", DELIVERED),
)
"""The lists of an answer and what each means; the first that names an address decides."""


class Sent(NamedTuple):
    """A call that Cloudflare took: each recipient's outcome, and its message id, "" where none."""

    outcomes: Outcomes
    message_id: str


class TokenState(NamedTuple):
    """What is known of the API token: None before any answer, and why it is refused."""

    accepted: bool | None
    reason: str


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: httpx.Headers
    body: bytes

    def header(self, name: bytes) -> str:
        """A header's value, "" where it is absent; `name` in lower case."""
        # httpx.Headers guesses at the encoding of all of them first, which takes several times as long.
        for key, value in self.headers.raw:
            if key.lower() == name:
                return value.decode("latin-1")
        return ""


class Client:
    """Calls Cloudflare's API for one account.

    base_url: up to and without `/accounts`. timeout: seconds of one call. concurrency: calls in
    flight at most. transport: another way to the API, for tests.
    """

    def __init__(
        self,
        *,
        base_url: str,
        account_id: str,
        token: str,
        timeout: float,
        concurrency: int,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.pacer = Pacer(concurrency)
        self.token_state = TokenState(None, "")
        self._base = httpx.URL(base_url.rstrip("/"))
        self._account_url = f"{base_url.rstrip('/')}/accounts/{account_id}"
        self._send_url = httpx.URL(f"{self._account_url}/email/sending/send_raw")
        self._timeout = timeout
        self._transport = transport or Transport(self._base, timeout, concurrency)
        self._headers = [
            (b"Host", self._base.netloc),
            (b"User-Agent", f"smtp2cf/{__version__}".encode()),
            (b"Authorization", f"Bearer {token}".encode()),
            (b"Accept", b"application/json"),
        ]

    def __repr__(self) -> str:
        return f"<Client {self._account_url}>"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def send(
        self, reverse_path: str, recipients: Sequence[str], message: bytes, deadline: float
    ) -> Sent:
        """Hand a message to send_raw for at most 50 recipients.

        message: UTF-8. deadline: time.monotonic() seconds until which it may wait for its turn; a
        call that was throttled is repeated by then. Raises SendError.
        """
        body = orjson.dumps(
            {"from": reverse_path, "recipients": list(recipients), "mime_message": message.decode()}
        )
        while True:
            await self.pacer.admit(deadline)
            try:
                answer = await self._call("POST", self._send_url, body)
                sent = self._sent(answer, recipients)
            except SendError as error:
                if error.reply.status != "4.7.1":
                    raise
                self.pacer.block(error.retry_after)
                if time.monotonic() + self.pacer.blocked_for > deadline:
                    raise
            else:
                self.token_state = TokenState(True, "")
                return sent
            finally:
                self.pacer.done()

    async def verify_token(self) -> TokenState:
        """Ask whether the token is good, as an account's and then as a user's.

        Raises SendError when there is no answer to tell from.
        """
        for url in (f"{self._account_url}/tokens/verify", f"{self._base}/user/tokens/verify"):
            answer = await self._call("GET", httpx.URL(url), b"")
            if answer.status == 200:
                status = _result_of(answer.body).get("status")
                reason = "" if status == "active" else f"Cloudflare says the token is {status}"
                self.token_state = TokenState(status == "active", reason)
                return self.token_state
        error = error_of(answer.status, answer.body, retry_after_of(answer.header(b"retry-after")))
        if answer.status not in (400, 401, 403):
            raise error
        self.token_state = TokenState(False, error.reply.text)
        return self.token_state

    def _sent(self, answer: _Answer, recipients: Sequence[str]) -> Sent:
        """What an answer to send_raw says; raises SendError where it is no success."""
        self.pacer.observe(answer.header(b"ratelimit"), answer.header(b"ratelimit-policy"))
        sent = _read_sent(answer, recipients)
        if sent is not None:
            return sent
        error = error_of(answer.status, answer.body, retry_after_of(answer.header(b"retry-after")))
        if answer.status in (401, 403) and error.reply.status == "4.3.5":
            self.token_state = TokenState(False, error.reply.text)
        raise error

    async def _call(self, method: str, url: httpx.URL, body: bytes) -> _Answer:
        """One HTTP exchange; raises SendError when there is no whole answer."""
        headers = self._headers
        if body:
            headers = [
                *headers,
                (b"Content-Type", b"application/json"),
                (b"Content-Length", b"%d" % len(body)),
            ]
        # With a stream of its own a request skips what httpx guesses about its content.
        request = httpx.Request(method, url, headers=headers, stream=httpx.ByteStream(body))
        request.read()
        try:
            response = await self._transport.handle_async_request(request)
            stream = response.stream
            content = b"".join(stream) if isinstance(stream, httpx.ByteStream) else await response.aread()
        except (httpx.HTTPError, aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _no_answer(error, self._base.host, self._timeout) from error
        return _Answer(response.status_code, response.headers, content)


def _no_answer(error: Exception, host: str, timeout: float) -> SendError:
    """What a call without an answer means: whether the mail may have gone through nevertheless."""
    cause = error.__cause__ or error
    never_sent = isinstance(
        cause, aiohttp.ClientConnectorError | aiohttp.ClientHttpProxyError | aiohttp.ConnectionTimeoutError
    ) or isinstance(error, httpx.ConnectError)
    if never_sent:
        reply = Reply(451, "4.4.1", f"cannot reach {host}: {cause}")
    elif isinstance(cause, TimeoutError):
        reply = Reply(451, "4.3.0", f"no answer from {host} within {timeout:g} s (SMTP2CF_API_TIMEOUT)")
    else:
        reply = Reply(451, "4.3.0", f"the connection to {host} broke: {cause or type(cause).__name__}")
    return SendError(reply, Scope.ACCOUNT, unanswered=not never_sent)


def _read_sent(answer: _Answer, recipients: Sequence[str]) -> Sent | None:
    """The outcomes of a success; None where the answer is anything else.

    A recipient in no list was accepted: that is what Cloudflare does with some, and a failure here
    would send their mail again.
    """
    if answer.status != 200:
        return None
    try:
        body: Any = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(body, dict) or body.get("success") is not True:
        return None
    result = body.get("result")
    if not isinstance(result, dict):
        return None
    message_id = result.get("message_id")
    named = {
        key: reply
        for name, reply in reversed(LISTS)
        for address in _strings(result.get(name))
        for key in (address, address_key(address), address.casefold())
    }
    outcomes = {
        recipient: named.get(recipient)
        or named.get(address_key(recipient))
        or named.get(recipient.casefold(), ACCEPTED)
        for recipient in recipients
    }
    return Sent(outcomes, message_id.strip() if isinstance(message_id, str) else "")


def _strings(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _result_of(body: bytes) -> dict[str, Any]:
    try:
        answer: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    result = answer.get("result") if isinstance(answer, dict) else None
    return result if isinstance(result, dict) else {}
