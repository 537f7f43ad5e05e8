"""Told: who is told of what happens in this process, besides the log."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator

from smtp2cf.journal import news
from smtp2cf.message.notice import TOPICS
from smtp2cf.relay import BouncePolicy
from smtp2cf.relay.notices import Notices
from smtp2cf.settings.fields import Settings
from smtp2cf.spool import Spool

LAST_WORDS = 1.0
"""Seconds for which the end waits until what was heard is in the spool."""


class Told:
    """Those who listen in one bridge. store: None for no spool, where nobody can be told. bounce: whom our
    own mail comes from."""

    def __init__(self, settings: Settings, store: Spool | None, bounce: BouncePolicy) -> None:
        self._notices: Notices | None = None
        if store is not None and settings.operator:
            self._notices = Notices(store, settings.operator, bounce)

    def listen(self) -> None:
        """Hear what happens, from now on."""
        if self._notices is not None:
            news.told_to(self._notices.hear, kinds=TOPICS)

    def watches(self) -> Iterator[tuple[str, Callable[[], Coroutine[None, None, None]]]]:
        """What runs for as long as the bridge does, by name."""
        if self._notices is not None:
            yield "serve.tell_operator", self._notices.run

    async def close(self) -> None:
        """Hear no more, and put what was heard into the spool, if that can be done at once."""
        news.told_to()
        if self._notices is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS):
                    await self._notices.settle()
