"""Client: send_raw, Cloudflare's call that takes mail (httpx, on our own transport: see `transport`).

`POST /accounts/{account_id}/email/sending/send_raw`, and the token check. One call at a time for up
to 50 recipients: the relay splits a message's recipients into calls, `errors` knows what an answer means,
and `pacing` when a call may go out. Knows no session and no spool.

The transport is called directly, below httpx.AsyncClient, whose redirects, cookies and auth aren't needed
here and would cost as much as the rest of the call. All other calls go through `api`.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import httpx
import orjson

from smtp2cf import __version__
from smtp2cf.cloudflare.api import Api
from smtp2cf.cloudflare.budget import Budget
from smtp2cf.cloudflare.errors import AS_IN_THE_ENVIRONMENT, TokenRefusedError, error_of, no_answer
from smtp2cf.cloudflare.health import ApiHealth, State, Unwatched
from smtp2cf.cloudflare.limit_fields import retry_after_of
from smtp2cf.cloudflare.outcomes import Sent, read_sent
from smtp2cf.cloudflare.pacing import Pacer, Turn
from smtp2cf.cloudflare.transport import Answer, NotBegun, Transport
from smtp2cf.reply import SendError, one_line

MAX_RECIPIENTS_PER_CALL = 50
"""Recipients that send_raw accepts (Cloudflare's limits page)."""

KNOWN_WAIT = 1.0
"""Seconds that a call may be blocked for while a client waits whose mail could be kept."""


class TokenState(NamedTuple):
    """What Cloudflare says of the API token. reason: why it is refused."""

    accepted: bool
    reason: str


class Lease(Protocol):
    """The right to send a message, which may be lost while the call waits: the relay's Lease."""

    @property
    def kept(self) -> bool:
        """It is in the spool, so that it can wait; if not, a client waits for what becomes of it."""

    def holds(self) -> bool:
        """Whether it may be sent, as far as is known without asking."""

    async def confirm(self) -> None:
        """Make sure that it may be sent; raises SendError if not."""


class Client:
    """Calls Cloudflare's API for one account.

    base_url: up to and without `/accounts`. timeout: seconds of one call. concurrency: calls in
    flight at most. health: whether calls get through, watched by somebody; without it every call is made.
    budget: how many calls may be made, None for any number. names: see `error_of`.
    transport: another way to the API, for tests. Raises ValueError where the base URL is
    none, or the environment names a proxy that can't be used.
    """

    def __init__(
        self,
        *,
        base_url: str,
        account_id: str,
        token: str,
        timeout: float,
        concurrency: int,
        health: ApiHealth | None = None,
        budget: Budget | None = None,
        names: Mapping[str, str] = AS_IN_THE_ENVIRONMENT,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.pacer = Pacer(concurrency, budget=budget)
        self.health = health or Unwatched()
        try:
            base = httpx.URL(base_url.rstrip("/"))
        except httpx.InvalidURL as error:
            raise ValueError(f"SMTP2CF_API_BASE_URL={base_url}: {error}") from None
        self._host = base.host
        self._names = names
        self._account_url = f"{base}/accounts/{account_id}"
        self._send_raw = _target(f"{self._account_url}/email/sending/send_raw")
        self._timeout = timeout
        self._netloc = base.netloc
        self._transport = transport or Transport(base, timeout)
        self.api = Api(
            base_url=base,
            account_id=account_id,
            token=token,
            timeout=timeout,
            transport=self._transport,
            pacer=self.pacer,
            names=names,
        )
        self._base = base
        self._account_id = account_id
        self.use_token(token)
        self._exchange = (
            self._transport.exchange
            if isinstance(self._transport, Transport)
            else functools.partial(_exchange_through, self._transport, base)
        )

    def __repr__(self) -> str:
        return f"<Client {self._account_url}>"

    def use_token(self, token: str) -> None:
        """Call with this token from now on. A call under way is repeated if the previous one is refused."""
        self._fields = (
            b"Host: %b\r\nUser-Agent: smtp2cf/%b\r\nAuthorization: Bearer %b\r\n"
            b"Accept: application/json\r\nContent-Type: application/json\r\n"
        ) % (self._netloc, __version__.encode(), token.encode())
        self.api.use_token(token)
        self.health.token_replaced()

    def api_with(self, token: str, names: Mapping[str, str] = AS_IN_THE_ENVIRONMENT) -> Api:
        """The same API with another token, which has a rate of its own. names: see `error_of`."""
        return Api(
            base_url=self._base,
            account_id=self._account_id,
            token=token,
            timeout=self._timeout,
            transport=self._transport,
            pacer=Pacer(1),
            names={**self._names, **names},
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def send(
        self,
        reverse_path: str,
        recipients: Sequence[str],
        message: bytes,
        deadline: float,
        lease: Lease | None = None,
    ) -> Sent:
        """Hand a message to send_raw for at most 50 recipients.

        reverse_path, recipients: ASCII. message: UTF-8. deadline: until when it may wait for its turn, by
        time.monotonic(); a throttled call is repeated until then, unless the mail can be kept instead.
        lease: confirmed right before each call. Raises SendError.
        """
        while True:
            if self.health.state is not State.UP:
                self.health.require()
            kept = lease is not None and lease.kept
            if (turn := self.pacer.admit_now(waited=kept)) is None:
                known_wait = math.inf if lease is None or kept else KNOWN_WAIT
                turn = await self.pacer.admit(deadline, waited=kept, known_wait=known_wait)
            fields, began = self._fields, self.health.now()
            try:
                if self.health.state is not State.UP:
                    self.health.begin()
                # Made only now, so that a message that waits for its turn is in memory once and not twice.
                body = orjson.dumps(
                    {"from": reverse_path, "recipients": list(recipients), "mime_message": message.decode()}
                )
                if lease is None:
                    answer = await self._exchange("POST", self._send_raw, fields, body)
                else:
                    answer = await self._exchange_under(lease, fields, body)
                result = self._read(answer, recipients, turn)
            except httpx.HTTPError as failure:
                error = no_answer(failure, self._host, self._timeout)
                self.health.ended(began, error)
                raise error from failure
            finally:
                self.pacer.done(turn)
            if isinstance(result, Sent):
                self.health.ended(began, None)
                return result
            if isinstance(result, TokenRefusedError) and fields is not self._fields:
                continue  # there is another token now
            self.health.ended(began, result)
            may_wait = _is_throttled(answer, result) and time.monotonic() + self.pacer.blocked_for <= deadline
            if not may_wait or (lease is not None and not lease.kept):
                raise result  # what can be kept is kept at once, rather than have its client wait

    def _read(self, answer: Answer, recipients: Sequence[str], turn: Turn) -> Sent | SendError:
        """What an answer means, and for the pacer, too."""
        result = sent_in(answer, recipients) or _error_in(answer, self._names)
        if isinstance(result, SendError) and _is_throttled(answer, result):
            self.pacer.block(turn, result.retry_after)
        elif answer.status < 500:
            header = answer.headers.get
            self.pacer.observe(turn, header("Ratelimit", ""), header("Ratelimit-Policy", ""))
        return result

    async def _exchange_under(self, lease: Lease, fields: bytes, body: bytes) -> Answer:
        """One HTTP exchange that begins only while the lease is certain."""
        while True:
            await lease.confirm()
            with contextlib.suppress(NotBegun):  # it took too long to connect, or the process was stopped
                return await self._exchange("POST", self._send_raw, fields, body, lease.holds)

    async def verify_token(self, *, probe: bool = False) -> TokenState:
        """Ask whether the token is valid, as an account's and then as a user's.

        probe: without regard to the account's limits. Raises SendError if no answer says so either way.
        """
        fields = self._fields
        for path in (f"{self.api.account}/tokens/verify", "/user/tokens/verify"):
            answer = await self.api.ask("GET", path, probe=probe)
            if fields is not self._fields:  # there is another token now
                return await self.verify_token(probe=probe)
            status = answer.result.get("status") if isinstance(answer.result, dict) else None
            if isinstance(status, str):
                reason = "" if status == "active" else f"Cloudflare says the token is {one_line(status, 40)}"
                return TokenState(status == "active", reason)
        error = answer.error or error_of(answer.status, b"", None, self._names)
        if not isinstance(error, TokenRefusedError):
            raise error
        return TokenState(False, error.reply.text)


async def _exchange_through(
    transport: httpx.AsyncBaseTransport,
    base: httpx.URL,
    method: str,
    target: bytes,
    fields: bytes,
    body: bytes,
    may_begin: Callable[[], bool] | None = None,
) -> Answer:
    """An exchange through any other of httpx's transports."""
    if may_begin is not None and not may_begin():
        raise NotBegun
    headers = dict(line.split(b": ", 1) for line in fields.splitlines())
    request = httpx.Request(method, base.copy_with(raw_path=target), headers=headers, content=body)
    response = await transport.handle_async_request(request)
    return Answer(response.status_code, response.headers, await response.aread())


def _target(url: str) -> bytes:
    """The target of a request line: path and query. Raises httpx.InvalidURL."""
    return httpx.URL(url).raw_path


def _error_in(answer: Answer, names: Mapping[str, str]) -> SendError:
    """The error that an unsuccessful answer means."""
    header = answer.headers.get
    retry_after = retry_after_of(header("Retry-After", ""), header("Ratelimit", ""), header("Date", ""))
    return error_of(answer.status, answer.body, retry_after, names)


def _is_throttled(answer: Answer, error: SendError) -> bool:
    """The call may be repeated as soon as the account's limits allow it."""
    return answer.status >= 300 and error.reply.status == "4.7.1"


def sent_in(answer: Answer, recipients: Sequence[str]) -> Sent | None:
    """The outcomes of a success; None where the answer is anything else. A success need not have lists."""
    if not 200 <= answer.status < 300:
        return None
    try:
        body: Any = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(body, dict) or body.get("success") is not True or "result" not in body:
        return None
    result = {} if body["result"] is None else body["result"]
    if not isinstance(result, dict):
        return None
    return read_sent(result, recipients)
