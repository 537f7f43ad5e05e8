"""Queues that events are published to, with the calls that pull and acknowledge them.

As Cloudflare Queues does it: what is pulled is leased, not gone; a lease that is neither acknowledged nor
handed back in time ends by itself, and the message is pulled again, with one attempt more. The bodies are
JSON, in base64.

Knows nothing of what an event says.
"""

import base64
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from smtp2cf.sandbox import api
from smtp2cf.sandbox.api import KIB, ApiError, malformed

BODY_LIMIT = 256 * KIB
BATCH_LIMIT = 100
"""Messages of one pull."""
SHORTEST_LEASE, LONGEST_LEASE = 30_000, 43_200_000
"""Milliseconds."""
KEPT = 100_000
"""Messages of one queue; the oldest make room."""
ALL_DOMAINS = "*"
"""What a queue is subscribed to that gets the events of every domain."""


@dataclass(slots=True)
class QueuedEvent:
    """One message of a queue. visible_at: by the queue's clock. lease: "" while nobody has it."""

    id: str
    body: bytes
    timestamp_ms: int
    visible_at: float
    attempts: int = 0
    lease: str = ""


@dataclass(slots=True)
class EventQueue:
    """One queue. name: people's. pull: it has a consumer that pulls. encoded: its bodies are in base64."""

    id: str
    name: str
    clock: Callable[[], float]
    pull: bool = False
    encoded: bool = True
    events: list[QueuedEvent] = field(default_factory=list)

    def put(self, body: bytes, delay: float = 0.0) -> None:
        """Add a message that can be pulled after `delay` seconds."""
        at = int((time.time() + delay) * 1000)
        self.events.append(QueuedEvent(secrets.token_hex(16), body, at, self.clock() + delay))
        del self.events[:-KEPT]

    def lease(self, most: int, seconds: float) -> list[QueuedEvent]:
        """Lease those that can be pulled now, oldest first."""
        now = self.clock()
        leased = [event for event in self.events if event.visible_at <= now][:most]
        for event in leased:
            event.attempts += 1
            event.lease = secrets.token_hex(16)
            event.visible_at = now + seconds
        return leased

    def acknowledge(self, leases: set[str]) -> int:
        """Remove those with these leases; how many."""
        left = [event for event in self.events if not self._is_leased(event, leases)]
        count = len(self.events) - len(left)
        self.events = left
        return count

    def hand_back(self, delays: dict[str, float]) -> int:
        """Let those with these leases be pulled again after their delay in seconds; how many."""
        handed_back = [event for event in self.events if self._is_leased(event, delays.keys())]
        for event in handed_back:
            event.visible_at = self.clock() + delays[event.lease]
            event.lease = ""
        return len(handed_back)

    def _is_leased(self, event: QueuedEvent, leases: Any) -> bool:
        return event.lease in leases and event.visible_at > self.clock()


class EventQueues:
    """The queues of the account, their consumers, and who is subscribed to which domain's events.

    clock: seconds, for leases and delays.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.queues: dict[str, EventQueue] = {}
        self.subscriptions: dict[str, dict[str, Any]] = {}
        """By id, as they were asked for."""
        self._clock = clock

    def add(self, name: str, *, queue_id: str = "", domain: str = "", pull: bool = False) -> EventQueue:
        """A new queue, subscribed to a domain's events if one is named."""
        queue = EventQueue(queue_id or secrets.token_hex(16), name, self._clock, pull)
        self.queues[queue.id] = queue
        if domain:
            self.subscriptions[secrets.token_hex(16)] = _subscription(domain, queue.id)
        return queue

    def publish(self, domain: str, body: bytes, delay: float) -> None:
        """Put an event into every queue that is subscribed to the domain."""
        for subscription in self.subscriptions.values():
            if subscription["source"]["domain"] in (domain, ALL_DOMAINS) and subscription["enabled"]:
                queue = self.queues.get(subscription["destination"]["queue_id"])
                if queue is not None:
                    queue.put(body, delay)

    # ---- the calls

    async def list(self, _request: web.Request) -> web.Response:
        """GET …/queues."""
        return _page([_shown(queue) for queue in self.queues.values()])

    async def create(self, request: web.Request) -> web.Response:
        """POST …/queues."""
        document = await _document(request, {"queue_name", "settings"})
        name = document.get("queue_name")
        if not isinstance(name, str) or not name or any(queue.name == name for queue in self.queues.values()):
            raise malformed("/queue_name", "must be a name that no queue has yet")
        return api.success(_shown(self.add(name)))

    async def consumers(self, request: web.Request) -> web.Response:
        """GET …/queues/{queue_id}/consumers."""
        queue = self._queue(request)
        return _page([{"type": "http_pull", "queue_name": queue.name}] if queue.pull else [])

    async def add_consumer(self, request: web.Request) -> web.Response:
        """POST …/queues/{queue_id}/consumers."""
        queue = self._queue(request)
        document = await _document(request, {"type", "settings", "dead_letter_queue"})
        if document.get("type") != "http_pull" or queue.pull:
            raise malformed("/type", "must be http_pull, once for a queue")
        queue.pull = True
        return api.success({"type": "http_pull", "queue_name": queue.name})

    async def pull(self, request: web.Request) -> web.Response:
        """POST …/queues/{queue_id}/messages/pull."""
        queue = self._queue(request)
        if not queue.pull:
            raise malformed("", "the queue has no consumer that pulls")
        document = await _document(request, {"batch_size", "visibility_timeout_ms", "visibility_timeout"})
        most = _number(document, "batch_size", 1, BATCH_LIMIT, default=5)
        name = "visibility_timeout" if "visibility_timeout" in document else "visibility_timeout_ms"
        lease = _number(document, name, SHORTEST_LEASE, LONGEST_LEASE, default=SHORTEST_LEASE)
        leased = queue.lease(most, lease / 1000)
        messages = [_pulled(event, encoded=queue.encoded) for event in leased]
        return api.success({"message_backlog_count": len(queue.events), "messages": messages})

    async def acknowledge(self, request: web.Request) -> web.Response:
        """POST …/queues/{queue_id}/messages/ack."""
        queue = self._queue(request)
        document = await _document(request, {"acks", "retries"})
        acks = {str(each.get("lease_id")) for each in _objects(document, "acks")}
        delays = {
            str(each.get("lease_id")): float(_number(each, "delay_seconds", 0, 43_200, default=0))
            for each in _objects(document, "retries")
        }
        return api.success(
            {"ackCount": queue.acknowledge(acks), "retryCount": queue.hand_back(delays), "warnings": []}
        )

    async def list_subscriptions(self, _request: web.Request) -> web.Response:
        """GET …/event_subscriptions/subscriptions."""
        return _page([{"id": key, **each} for key, each in self.subscriptions.items()])

    async def subscribe(self, request: web.Request) -> web.Response:
        """POST …/event_subscriptions/subscriptions."""
        document = await _document(request, {"name", "enabled", "source", "destination", "events"})
        source, destination = document.get("source"), document.get("destination")
        if not isinstance(source, dict) or source.get("type") != "email.sending" or not source.get("domain"):
            raise malformed("/source", "must be an email.sending source with a domain")
        if any(source["domain"] == each["source"]["domain"] for each in self.subscriptions.values()):
            raise malformed("/source/domain", "has a subscription already")
        if not isinstance(destination, dict) or destination.get("queue_id") not in self.queues:
            raise malformed("/destination", "must be a queue of this account")
        key = secrets.token_hex(16)
        self.subscriptions[key] = document
        return api.success({"id": key, **document})

    def _queue(self, request: web.Request) -> EventQueue:
        queue = self.queues.get(request.match_info["queue_id"])
        if queue is None:
            raise ApiError(api.NOT_FOUND, "no such queue")
        return queue


def _subscription(domain: str, queue_id: str) -> dict[str, Any]:
    return {
        "name": domain,
        "enabled": True,
        "source": {"type": "email.sending", "zone_id": "", "domain": domain},
        "destination": {"type": "queues.queue", "queue_id": queue_id},
        "events": [],
    }


def _shown(queue: EventQueue) -> dict[str, Any]:
    consumers = [{"type": "http_pull"}] if queue.pull else []
    return {"queue_id": queue.id, "queue_name": queue.name, "consumers": consumers}


def _page(items: list[dict[str, Any]]) -> web.Response:
    pages = {"page": 1, "per_page": 100, "count": len(items), "total_count": len(items), "total_pages": 1}
    return api.success(items, pages)


def _pulled(event: QueuedEvent, *, encoded: bool) -> dict[str, Any]:
    return {
        "id": event.id,
        "body": base64.b64encode(event.body).decode() if encoded else event.body.decode(),
        "timestamp_ms": event.timestamp_ms,
        "attempts": event.attempts,
        "lease_id": event.lease,
        "metadata": {"CF-Content-Type": "json" if encoded else "text"},
    }


async def _document(request: web.Request, keys: set[str]) -> dict[str, Any]:
    if not request.can_read_body:
        return {}
    return api.parse_object(request, await api.read_body(request, BODY_LIMIT), frozenset(keys))


def _objects(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = document.get(key, [])
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise malformed(f"/{key}", "must be an array of objects")
    return value


def _number(document: dict[str, Any], key: str, least: int, most: int, *, default: int) -> int:
    value = document.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise malformed(f"/{key}", f"must be a number from {least} to {most}")
    return value
