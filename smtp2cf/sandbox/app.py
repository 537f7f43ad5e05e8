"""The sandbox's server: its routes, who may call them and how often, and the pages for people.

The API is below /client/v4. Every call first counts against the rate limit, then needs the token, then an
account that exists.

Knows nothing of where it listens or who calls.
"""

import re
import secrets
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Literal

import orjson
from aiohttp import web

from smtp2cf.listen.endpoint import BACKLOG
from smtp2cf.sandbox import api, fates, invalid, send_raw
from smtp2cf.sandbox.api import MIB, ApiError
from smtp2cf.sandbox.event_queues import ALL_DOMAINS, EventQueues
from smtp2cf.sandbox.fates import fate_of
from smtp2cf.sandbox.limits import Limiter, RateLimit
from smtp2cf.sandbox.messages import AcceptedMessage, Mailbox
from smtp2cf.sandbox.pages import Pages
from smtp2cf.sandbox.quota import Quota
from smtp2cf.sandbox.senders import Senders
from smtp2cf.sandbox.subdomains import Subdomains
from smtp2cf.sandbox.suppression_calls import SuppressionCalls
from smtp2cf.sandbox.suppressions import Suppressions
from smtp2cf.sandbox.zones import Zones
from smtp2cf.web.cross_origin import Hosts, add_headers, guard

CALLS_KEPT = 10_000
STOP_GRACE = 0.05
"""Seconds that calls in progress get at the stop; slower ones are never answered."""

_API = "/client/v4"
_ACCOUNT = _API + "/accounts/{account_id}"
_SENDING = _ACCOUNT + "/email/sending"
_SUPPRESSIONS = _SENDING + "/suppressions"
_ZONE = _API + "/zones/{zone_id}"
_SUBDOMAINS = _ZONE + "/email/sending/subdomains"
_ACCOUNT_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
TokenStatus = Literal["active", "disabled", "expired"]
Permission = Literal["send", "limits", "suppressions", "zones", "dns", "queues", "subscriptions"]


@dataclass(slots=True)
class Call:
    """One call of send_raw that arrived.

    at: time.monotonic() at arrival. status: the HTTP status it was answered with, 0 until then.
    recipients: () if the request was refused unread. answered_at: time.monotonic() of the answer.
    """

    at: float
    status: int = 0
    recipients: tuple[str, ...] = ()
    answered_at: float | None = None


class Sandbox:
    """A stand-in for Cloudflare's API; the API's base is /client/v4.

    token: the API token that is accepted; None accepts any. account_id: the one account there is; None
    accepts any id. rate_limit: None for no limit. delay: seconds each send_raw takes. keep, keep_bytes: how
    many messages are kept to look at, and how many bytes of them. hosts: host names that requests for pages
    may use, besides localhost and IP addresses.

    strict: messages are refused as invalid for what Cloudflare is known to refuse (see `invalid`). senders:
    the only domains that may send, () for any (see `Senders`). quota: recipients a day, None for no quota.
    silent: no answer says anything of the rate limit, nor when to come back. string_codes: the codes of
    errors are strings where their type says so. lacking: what the token may do nothing about.

    events: the id of a queue that gets every domain's events, "" for none. event_delay: seconds from an
    answer to the first event, and from one to the next. cut_off: calls of send_raw get no answer: all those
    that come (before), or those that were accepted (after).

    token, token_status, delay, strict, silent, string_codes, lacking, event_delay and cut_off may be changed
    while it runs, and so may what senders and quota hold. messages: the accepted ones, oldest first. calls:
    the last 10,000 calls of send_raw. suppressions: the suppression list, for entries that only Cloudflare
    itself can add. subdomains: what is set up for sending. event_queues: the queues, and who is subscribed.
    """

    def __init__(
        self,
        token: str | None = "sandbox-token",  # noqa: S107 - opens nothing but the sandbox
        rate_limit: RateLimit | None = None,
        delay: float = 0.0,
        keep: int = 1000,
        keep_bytes: int = 256 * MIB,
        *,
        account_id: str | None = None,
        hosts: Iterable[str] = (),
        strict: bool = False,
        senders: Iterable[str] = (),
        quota: int | None = None,
        silent: bool = False,
        string_codes: bool = False,
        lacking: Collection[Permission] = (),
        events: str = "",
        event_delay: float = 1.0,
    ) -> None:
        self.token = token
        self.token_status: TokenStatus = "active"  # noqa: S105 - its state, not the token
        self.delay = delay
        self.calls: deque[Call] = deque(maxlen=CALLS_KEPT)
        self.suppressions = Suppressions()
        self.strict = strict
        self.senders = Senders(senders)
        self.quota = Quota(quota)
        self.silent = silent
        self.string_codes = string_codes
        self.lacking = lacking
        self.event_delay = event_delay
        self.cut_off: Literal["", "before", "after"] = ""
        self.event_queues = EventQueues()
        if events:
            self.event_queues.add("events", queue_id=events, domain=ALL_DOMAINS, pull=True)
        self._account_id = account_id
        self._hosts = Hosts(hosts)
        self._limiter = Limiter(rate_limit) if rate_limit else None
        self._mailbox = Mailbox(keep, keep_bytes)
        self.subdomains = Subdomains(self.senders)
        self._token_id = secrets.token_hex(16)
        self._runner: web.AppRunner | None = None

    @property
    def messages(self) -> deque[AcceptedMessage]:
        """The messages kept, oldest first."""
        return self._mailbox.messages

    async def start(self, sockets: list[socket.socket]) -> None:
        """Serve on listening sockets, which `stop` closes."""
        runner = web.AppRunner(
            self._application(),
            access_log=None,
            auto_decompress=False,  # nobody published that the API takes compressed requests
            handle_signals=False,
            shutdown_timeout=STOP_GRACE,
        )
        await runner.setup()
        self._runner = runner
        for sock in sockets:
            await web.SockSite(runner, sock, backlog=BACKLOG).start()

    async def stop(self) -> None:
        """Close every connection and stop listening; what was accepted stays in `messages`."""
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    def _application(self) -> web.Application:
        suppressions, subdomains = SuppressionCalls(self.suppressions), self.subdomains
        one, subdomain = _SUPPRESSIONS + "/{suppression_id}", _SUBDOMAINS + "/{subdomain_id}"
        calls: list[tuple[str, str, Handler, Permission | None]] = [
            ("GET", _SUPPRESSIONS, suppressions.list, "suppressions"),
            ("POST", _SUPPRESSIONS, suppressions.create, "suppressions"),
            ("POST", _SUPPRESSIONS + "/bulk", suppressions.bulk, "suppressions"),
            ("GET", one, suppressions.get, "suppressions"),
            ("PATCH", one, suppressions.edit, "suppressions"),
            ("DELETE", one, suppressions.delete, "suppressions"),
            ("GET", _SENDING + "/limits", self._limits, "limits"),
            ("GET", _API + "/zones", Zones(self.senders).list, "zones"),
            ("GET", _SUBDOMAINS, subdomains.list, "zones"),
            ("GET", subdomain, subdomains.get, "zones"),
            ("PATCH", subdomain, subdomains.edit, "zones"),
            ("GET", subdomain + "/dns", subdomains.dns, "zones"),
            ("GET", _ZONE + "/dns_records", subdomains.dns_records, "dns"),
            *((method, _ACCOUNT + path, call, needs) for method, path, call, needs in self._event_calls()),
            ("*", _API + "/{path:.*}", _no_route, None),
        ]
        app = web.Application(middlewares=[guard(self._hosts, open_to_all=_is_api)])
        app.on_response_prepare.append(_add_headers)
        app.router.add_route("POST", _SENDING + "/send_raw", self._send_raw)
        app.router.add_route("GET", _ACCOUNT + "/tokens/verify", self._verify)
        app.router.add_route("GET", _API + "/user/tokens/verify", self._verify)
        for method, path, handler, needs in calls:
            app.router.add_route(method, path, partial(self._answer, handler, needs=needs))
        app.router.add_routes(Pages(self._mailbox).routes())
        return app

    def _event_calls(self) -> list[tuple[str, str, Handler, Permission]]:
        """The calls about events, by their paths within an account."""
        queues, queue = self.event_queues, "/queues/{queue_id}"
        subscriptions = "/event_subscriptions/subscriptions"
        return [
            ("GET", "/queues", queues.list, "queues"),
            ("POST", "/queues", queues.create, "queues"),
            ("GET", queue + "/consumers", queues.consumers, "queues"),
            ("POST", queue + "/consumers", queues.add_consumer, "queues"),
            ("POST", queue + "/messages/pull", queues.pull, "queues"),
            ("POST", queue + "/messages/ack", queues.acknowledge, "queues"),
            ("GET", subscriptions, queues.list_subscriptions, "subscriptions"),
            ("POST", subscriptions, queues.subscribe, "subscriptions"),
        ]

    async def _answer(
        self,
        handler: Handler,
        request: web.Request,
        *,
        unauthorized: api.Refusal = api.UNAUTHORIZED,
        needs: Permission | None = None,
    ) -> web.StreamResponse:
        """Handle one API call: count it, check it, answer it in Cloudflare's envelope."""
        try:
            self._admit(request, unauthorized, needs)
            response = await handler(request)
        except ApiError as error:
            response = error.response(string_codes=self.string_codes)
        if self.silent:
            response.headers.popall("Retry-After", None)
        elif self._limiter:
            response.headers.update(self._limiter.headers())
        return response

    def _admit(self, request: web.Request, unauthorized: api.Refusal, needs: Permission | None) -> None:
        if self._limiter and (wait := self._limiter.admit()):
            raise ApiError(api.THROTTLED, retry_after=wait)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme and scheme.lower() != "bearer":
            raise ApiError(api.BAD_TOKEN_TYPE, "use Authorization: Bearer and an API token")
        if not token or self.token not in (None, token):
            raise ApiError(unauthorized)
        verifying = unauthorized is api.INVALID_API_TOKEN
        if self.token_status != "active" and not verifying:  # noqa: S105 - as above
            raise ApiError(unauthorized, f"the token is {self.token_status}")
        account = request.match_info.get("account_id")
        if account is not None and not self._knows(account):
            raise ApiError(api.NOT_FOUND, "no such account")
        if needs in self.lacking:
            raise ApiError(api.LACKS_PERMISSION)

    def _knows(self, account: str) -> bool:
        return account == self._account_id if self._account_id else _ACCOUNT_ID.fullmatch(account) is not None

    async def _send_raw(self, request: web.Request) -> web.StreamResponse:
        call = Call(time.monotonic())
        self.calls.append(call)
        if self.cut_off == "before":
            return _cut(request)
        response = await self._answer(partial(self._accept, call), request, needs="send")
        call.status = response.status
        call.answered_at = time.monotonic()
        return response

    async def _accept(self, call: Call, request: web.Request) -> web.Response:
        submission = await send_raw.read_submission(request)
        call.recipients = submission.recipients
        await send_raw.pause(submission.recipients, self.delay)
        domain = send_raw.domain_of(submission.from_)
        self._judge(submission, domain)
        for recipient in filter(send_raw.has_bounced, submission.recipients):
            self.suppressions.add_bounced(recipient, domain)
        outcome = send_raw.decide(
            submission.recipients,
            listed=lambda recipient: self.suppressions.blocks(recipient, domain),
            drop_suppressed=self.subdomains.drops_suppressed(domain),
        )
        message = AcceptedMessage(
            id=str(self._mailbox.count + 1),
            received_at=time.time(),
            message_id=f"<{secrets.token_hex(12)}@{domain}>",
            **submission._asdict(),
            **outcome._asdict(),
        )
        self._mailbox.add(message)
        self.quota.count(len(message.recipients) - len(message.suppressed_recipients))
        self._publish(message, domain)
        if self.cut_off == "after" or any(fate_of(each)[0] == "unanswered" for each in message.recipients):
            return _cut(request)
        return api.success(message.outcome())

    def _publish(self, message: AcceptedMessage, domain: str) -> None:
        """Say what becomes of each recipient, to whoever is subscribed."""
        if not self.event_queues.subscriptions:
            return
        sent = fates.Sent(message.received_at, message.from_, message.message_id, message.subject)
        for recipient in message.recipients:
            suppressed = recipient in message.suppressed_recipients
            for delay, body in fates.bodies(sent, recipient, suppressed=suppressed, delay=self.event_delay):
                self.event_queues.publish(domain, orjson.dumps(body), delay)

    def _judge(self, submission: send_raw.Submission, domain: str) -> None:
        """Raise ApiError for what is refused whoever the recipients are."""
        if refusal := self.senders.refusal(domain):
            raise ApiError(refusal)
        if self.quota.used_up:
            raise ApiError(api.THROTTLED)
        if not self.strict:
            return
        if any(map(invalid.has_misplaced_dot, (submission.from_, *submission.recipients))):
            raise ApiError(api.INVALID_EMAIL, "a dot in an address is at an end, or beside another")
        if cause := invalid.cause_of(submission.mime_message, self.senders.may_send):
            raise ApiError(api.INVALID_EMAIL, cause)

    async def _limits(self, _request: web.Request) -> web.Response:
        return api.success(self.quota.answer())

    async def _verify(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(self._token, request, unauthorized=api.INVALID_API_TOKEN)

    async def _token(self, _request: web.Request) -> web.Response:
        return api.success(
            {"id": self._token_id, "status": self.token_status},
            messages=[{"code": 10000, "message": f"This API Token is valid and {self.token_status}"}],
        )


def _is_api(path: str) -> bool:
    """Whether it is the API's, which needs a token and shows no mail, so it may be called by any name."""
    return path.startswith(_API)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    if not _is_api(request.path):
        await add_headers(request, response)


def _cut(request: web.Request) -> web.Response:
    """Close the connection instead of an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=HTTPStatus.OK)


async def _no_route(_request: web.Request) -> web.StreamResponse:
    raise ApiError(api.NO_ROUTE)
