"""A call of the webhook: an event, signed, in one POST request.

Standard Webhooks: the receiver verifies `webhook-signature` over `webhook-id`, `webhook-timestamp` and the
body, so that nobody else can send it events, and old ones can't be sent again. Redirects are not followed,
and of the answer only the status and Retry-After count. Knows nothing of what waits and when to try again.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import httpx
from standardwebhooks import Webhook as Signer

from smtp2cf import __version__
from smtp2cf.cloudflare.limit_fields import retry_after_of
from smtp2cf.cloudflare.transport import Answer, Transport
from smtp2cf.spool import Posting

CALL_TIMEOUT = 15.0
"""Seconds of one call (the specification: 15 to 30)."""

_ABOUT_THE_EVENT = (400, 413, 415, 422)
"""Statuses by which a receiver refuses this event, and not all of them."""
_GONE = 410


class Result(NamedTuple):
    """What came of a call. reason: why it failed, "" if the receiver has the event. retry_after: seconds the
    receiver asked for. about_event: another event may well be taken. gone: the receiver wants no more."""

    reason: str = ""
    retry_after: float = 0.0
    about_event: bool = False
    gone: bool = False


class WebhookCall:
    """The way to one receiver. secrets: each as whsec_ and base64; every event is signed with all of them.
    timeout: seconds of a call, None for CALL_TIMEOUT.

    Raises ValueError for an invalid proxy in the environment.
    """

    def __init__(self, url: str, secrets: Sequence[str], timeout: float | None = None) -> None:
        parsed = httpx.URL(url)
        self._transport = Transport(parsed, CALL_TIMEOUT if timeout is None else timeout)
        self._target = parsed.raw_path
        self._host = parsed.netloc
        self.host = parsed.netloc.decode("ascii")
        """Where it goes, for people: not all of the URL, which may hold a secret."""
        self.use_secrets(secrets)

    def use_secrets(self, secrets: Sequence[str]) -> None:
        """Sign with these from now on."""
        self._signers = [Signer(secret) for secret in secrets]

    async def post(self, posting: Posting) -> Result:
        """Tell the receiver. What a cancelled call has told it, it may know."""
        try:
            answer = await self._transport.exchange(
                "POST", self._target, self._fields(posting), posting.body.encode()
            )
        except httpx.TransportError as error:
            return Result(str(error) or type(error).__name__)
        return result_of(answer)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    def _fields(self, posting: Posting) -> bytes:
        now = datetime.now(UTC)
        signed = " ".join(signer.sign(posting.id, now, posting.body) for signer in self._signers)
        return (
            b"Host: %b\r\nUser-Agent: smtp2cf/%b\r\nContent-Type: application/json\r\n"
            b"webhook-id: %b\r\nwebhook-timestamp: %d\r\nwebhook-signature: %b\r\n"
        ) % (
            self._host,
            __version__.encode(),
            posting.id.encode(),
            int(now.timestamp()),
            signed.encode(),
        )


def result_of(answer: Answer) -> Result:
    """What an answer means: any 2xx that the receiver has the event."""
    status = answer.status
    if 200 <= status < 300:
        return Result()
    if 300 <= status < 400:
        return Result(f"it answers {status}, a redirect: set SMTP2CF_WEBHOOK_URL to where that leads")
    wait = retry_after_of(answer.headers.get("Retry-After", ""), date=answer.headers.get("Date", ""))
    return Result(f"it answers {status}", wait or 0.0, status in _ABOUT_THE_EVENT, status == _GONE)
