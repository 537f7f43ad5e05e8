"""Told: who is told of what happens in this process, besides the log."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator, Mapping

from smtp2cf.journal import news
from smtp2cf.message.notice import TOPICS
from smtp2cf.relay import BouncePolicy
from smtp2cf.relay.notices import Notices
from smtp2cf.serve.webhook import WebhookInUse
from smtp2cf.settings.fields import Settings
from smtp2cf.spool import FollowingSpool

LAST_WORDS = 1.0
"""Seconds for which the end waits until what was heard is in the spool."""


class Told:
    """Those who listen in one bridge. store: None for no spool, where nobody can be told. bounce: whom our
    own mail comes from."""

    def __init__(self, settings: Settings, store: FollowingSpool | None, bounce: BouncePolicy) -> None:
        self._notices: Notices | None = None
        if store is not None and settings.operator:
            self._notices = Notices(store, settings.operator, bounce)
        self._webhook: WebhookInUse | None = None
        if store is not None and settings.webhook_url:
            self._webhook = WebhookInUse(settings, store.postings)

    def listen(self) -> None:
        """Hear what happens, from now on."""
        heard = []
        kinds: set[str] = set()
        if self._notices is not None:
            heard.append(self._notices.hear)
            kinds.update(TOPICS)
        if self._webhook is not None:
            heard.append(self._webhook.hear)
            kinds.update(self._webhook.kinds)
        news.told_to(*heard, kinds=kinds)

    def watches(self) -> Iterator[tuple[str, Callable[[], Coroutine[None, None, None]]]]:
        """What runs for as long as the bridge does, by name."""
        if self._notices is not None:
            yield "serve.tell_operator", self._notices.run
        if self._webhook is not None:
            yield from self._webhook.watches()

    def gauges(self) -> Mapping[str, tuple[str, Callable[[], float]]]:
        """For /metrics: by name, a text and what returns the value."""
        return self._webhook.gauges() if self._webhook is not None else {}

    def use_webhook_secret(self, secret: str) -> None:
        """Sign with another secret from now on."""
        if self._webhook is not None:
            self._webhook.use_secret(secret)

    async def close(self) -> None:
        """Hear no more, and put what was heard into the spool, if that can be done at once."""
        news.told_to()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS):
                if self._notices is not None:
                    await self._notices.settle()
                if self._webhook is not None:
                    await self._webhook.settle()
        if self._webhook is not None:
            await self._webhook.aclose()
