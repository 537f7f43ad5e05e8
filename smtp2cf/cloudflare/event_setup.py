"""Event setup: the queue that events go to, its pull consumer, and one subscription for each sending domain.

Looks at what there is, and makes what is missing; done twice, the second time makes nothing. A token needs
Queues: Edit for it, and Zone: Read to find the domains. Changes nothing that is there.
"""

from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from typing import Any, NamedTuple

from smtp2cf.cloudflare import setup
from smtp2cf.cloudflare.api import Api
from smtp2cf.cloudflare.errors import permission
from smtp2cf.cloudflare.events import KINDS
from smtp2cf.cloudflare.setup import SendingDomain
from smtp2cf.reply import Reply, Scope, SendError, one_line

PER_PAGE = 100
PAGES_LIMIT = 50
"""Pages of one list that are read."""
TEXT_LIMIT = 200
_SOURCE = "email.sending"


class EventsState(NamedTuple):
    """What there is.

    queue_id: the queue's, "" if it is to be made. name: what it is called. pulled: it has a pull consumer.
    domains: those that send. elsewhere: for domains whose events go to another queue, its id.
    subscribed: domains whose events go to this one.
    """

    queue_id: str
    name: str
    pulled: bool
    domains: Sequence[SendingDomain]
    subscribed: Collection[str]
    elsewhere: dict[str, str]

    @property
    def unsubscribed(self) -> list[SendingDomain]:
        """Domains whose events go nowhere."""
        known = {*self.subscribed, *self.elsewhere}
        return [domain for domain in self.domains if domain.name not in known]

    @property
    def complete(self) -> bool:
        """Every domain's events can be pulled."""
        return bool(self.queue_id) and self.pulled and not self.unsubscribed and not self.elsewhere


async def look(api: Api, wanted: Collection[str], *, queue_id: str = "", name: str = "") -> EventsState:
    """What there is for these domains, or for all that the token sees if there are none.

    queue_id, or else name: which queue. Raises SendError, which names a permission that is missing.
    """
    with permission("Zone: Read"):
        domains = [domain async for domain in _sending(api, wanted)]
    with permission("Queues: Read"):
        queue = await _queue(api, queue_id, name)
        found_id = _text(queue, "queue_id") if queue is not None else ""
        if queue_id and not found_id:
            text = f"the account has no queue {queue_id} (SMTP2CF_EVENTS_QUEUE_ID)"
            raise SendError(Reply(554, "5.3.5", text), Scope.ACCOUNT)
        consumers = await _list(api, f"/queues/{found_id}/consumers") if found_id else []
        subscriptions = [*_subscriptions(await _list(api, "/event_subscriptions/subscriptions"))]
    names = {domain.name for domain in domains}
    return EventsState(
        found_id,
        _text(queue, "queue_name") if queue is not None else name,
        any(_text(consumer, "type") == "http_pull" for consumer in consumers),
        domains,
        {domain for domain, to in subscriptions if domain in names and found_id and to == found_id},
        {domain: to for domain, to in subscriptions if domain in names and to != found_id},
    )


def in_words(state: EventsState) -> Iterator[str]:
    """What there is and what is missing, a line each."""
    if not state.queue_id:
        yield f"queue {state.name}: missing"
    else:
        yield f"queue {state.name} ({state.queue_id}): there"
        yield f"its pull consumer: {'there' if state.pulled else 'missing'}"
    for domain in state.domains:
        if domain.name in state.elsewhere:
            yield f"events of {domain.name}: they go to another queue, {state.elsewhere[domain.name]}"
        else:
            there = domain.name in state.subscribed
            yield f"events of {domain.name}: {'subscribed' if there else 'not subscribed'}"


async def make(api: Api, state: EventsState) -> AsyncIterator[str]:
    """Make what is missing; yields a line for each thing made. Raises SendError, as `look` does."""
    queue_id = state.queue_id
    with permission("Queues: Edit"):
        if not queue_id:
            answer = await api.call("POST", f"{api.account}/queues", json={"queue_name": state.name})
            queue_id = _text(answer.result, "queue_id") if isinstance(answer.result, dict) else ""
            yield f"made the queue {state.name} ({queue_id})"
        if not state.pulled:
            await api.call("POST", f"{api.account}/queues/{queue_id}/consumers", json={"type": "http_pull"})
            yield f"made the pull consumer of {state.name}"
        for domain in state.unsubscribed:
            path = f"{api.account}/event_subscriptions/subscriptions"
            await api.call("POST", path, json=_subscription(domain, queue_id))
            yield f"subscribed {state.name} to the events of {domain.name}"


def _subscription(domain: SendingDomain, queue_id: str) -> dict[str, Any]:
    return {
        "name": f"smtp2cf {domain.name}",
        "enabled": True,
        "source": {"type": _SOURCE, "zone_id": domain.zone.id, "domain": domain.name},
        "destination": {"type": "queues.queue", "queue_id": queue_id},
        "events": [f"message.{kind}" for kind in sorted(KINDS)],
    }


async def _sending(api: Api, wanted: Collection[str]) -> AsyncIterator[SendingDomain]:
    """The domains that are set up for sending, each once."""
    known: set[str] = set()
    for zone in await _zones(api, wanted):
        for domain in await setup.sending_domains(api, zone):
            is_wanted = not wanted or any(_serves(domain, each) for each in wanted)
            if domain.enabled and is_wanted and domain.name not in known:
                known.add(domain.name)
                yield domain


async def _zones(api: Api, wanted: Collection[str]) -> Collection[setup.Zone]:
    if not wanted:
        return await setup.zones(api)
    found = [await setup.zone_of(api, domain) for domain in sorted(wanted)]
    return dict.fromkeys(zone for zone in found if zone is not None)


def _serves(found: SendingDomain, domain: str) -> bool:
    return found.covers(domain) or (domain.startswith("*.") and found.name.endswith(domain[1:]))


async def _queue(api: Api, queue_id: str, name: str) -> dict[str, Any] | None:
    for queue in await _list(api, "/queues"):
        if _text(queue, "queue_id") == queue_id or (not queue_id and _text(queue, "queue_name") == name):
            return queue
    return None


async def _list(api: Api, path: str) -> list[dict[str, Any]]:
    """All entries of a list of the account's."""
    found: list[dict[str, Any]] = []
    for page in range(1, PAGES_LIMIT + 1):
        answer = await api.call("GET", f"{api.account}{path}", params={"page": page, "per_page": PER_PAGE})
        entries = answer.result if isinstance(answer.result, list) else []
        found += [entry for entry in entries if isinstance(entry, dict)]
        pages = answer.info.get("total_pages") if isinstance(answer.info, dict) else None
        if not isinstance(pages, int) or page >= pages:
            return found
    return found


def _subscriptions(entries: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Each sending domain with a subscription, and the queue its events go to."""
    for entry in entries:
        source, destination = entry.get("source"), entry.get("destination")
        if not isinstance(source, dict) or not isinstance(destination, dict):
            continue
        if _text(source, "type") == _SOURCE and entry.get("enabled") is not False:
            yield _text(source, "domain").lower(), _text(destination, "queue_id")


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    return one_line(value, TEXT_LIMIT) if isinstance(value, str) else ""
