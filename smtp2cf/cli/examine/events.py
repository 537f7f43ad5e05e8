"""Events: whether the queue of events, its consumer and the subscriptions are there."""

from collections.abc import AsyncIterator, Collection

from smtp2cf.cli.examine.finding import Finding, error, ok, warning
from smtp2cf.cloudflare import event_setup
from smtp2cf.cloudflare.api import Api
from smtp2cf.reply import SendError, few_in_words

SHOWN = 5
"""Domains that a line names."""


async def events(api: Api, domains: Collection[str], queue_id: str) -> AsyncIterator[Finding]:
    """What is there of the set-up. domains: those that send, none for all that the token sees."""
    try:
        state = await event_setup.look(api, domains, queue_id=queue_id)
    except SendError as unknown:
        yield warning("events", unknown.reply.text)
        return
    if not state.pulled:
        yield error("events", f"the queue {state.name} has no pull consumer: run 'smtp2cf setup events'")
    if missing := [domain.name for domain in state.unsubscribed]:
        names = few_in_words(missing, SHOWN)
        yield error("events", f"no queue gets the events of {names}: run 'smtp2cf setup events'")
    for domain, elsewhere in state.elsewhere.items():
        yield error("events", f"the events of {domain} go to another queue, {elsewhere}")
    if state.complete:
        yield ok("events", f"the queue {state.name} gets those of {len(state.domains)} domains")
