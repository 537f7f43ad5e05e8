"""Events: what one bridge hears of its mail after Cloudflare's answer, where the settings name a queue."""

from collections.abc import Callable, Coroutine, Iterator

from smtp2cf.relay import BouncePolicy
from smtp2cf.relay.events import BACK_AFTER, LaterOutcomes
from smtp2cf.relay.lost_answers import LostAnswers
from smtp2cf.serve.accounts import AccountsInUse
from smtp2cf.settings.fields import Settings
from smtp2cf.spool import Following
from smtp2cf.spool.following import FollowingSpool


class EventsInUse:
    """bounce: who is told of late bounces. following: who is followed until events tell more. lost: calls
    whose answers events may still show.

    The latter two are None if no account has a queue, or there is no spool.
    """

    def __init__(
        self, settings: Settings, store: FollowingSpool | None, accounts: AccountsInUse, bounce: BouncePolicy
    ) -> None:
        self.bounce = bounce
        self._queues = accounts.event_queues if store is not None else {}
        self._back_after = max(BACK_AFTER, settings.api_timeout)
        self.following: Following | None = None
        self.lost: LostAnswers | None = None
        if store is not None and self._queues:
            self.following = store.following
            if settings.unanswered_wait:
                self.lost = LostAnswers(store, store.following, settings.unanswered_wait, self._queues)

    def watches(self) -> Iterator[tuple[str, Callable[[], Coroutine[None, None, None]]]]:
        """What runs for as long as the bridge does, by name."""
        if self.following is None:
            return
        for account, queue in self._queues.items():
            later = LaterOutcomes(
                queue, self.following, self.bounce, self.lost, account=account, back_after=self._back_after
            )
            yield "serve.pull_events", later.run
