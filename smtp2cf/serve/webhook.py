"""The webhook in use: its parts, which are imported only where there is one."""

import contextlib
from collections.abc import Callable, Coroutine, Iterator, Mapping

from smtp2cf.journal.news import News
from smtp2cf.reply import SendError
from smtp2cf.settings.fields import Settings
from smtp2cf.settings.values import kinds_in
from smtp2cf.spool import Postings


class WebhookInUse:
    """One bridge's. Raises ValueError for an invalid proxy in the environment."""

    def __init__(self, settings: Settings, postings: Postings) -> None:
        from smtp2cf.relay.webhook import Webhook
        from smtp2cf.relay.webhook_call import WebhookCall

        secrets = settings.webhook_secret.get_secret_value().split()
        self._call = WebhookCall(settings.webhook_url, secrets)
        self.kinds = kinds_in(settings.webhook_events)
        """What is heeded."""
        self._webhook = Webhook(postings, self._call, self.kinds, settings.hostname)

    def hear(self, news: News) -> None:
        """Something has happened: a news.Listener."""
        self._webhook.hear(news)

    def watches(self) -> Iterator[tuple[str, Callable[[], Coroutine[None, None, None]]]]:
        """What runs for as long as the bridge does, by name."""
        yield "serve.keep_webhook_events", self._webhook.keep
        yield "serve.call_webhook", self._webhook.deliver

    def gauges(self) -> Mapping[str, tuple[str, Callable[[], float]]]:
        """For /metrics: by name, a text and what returns the value."""
        text = "Events that wait for the webhook"
        return {"smtp2cf_webhook_waiting": (text, lambda: self._webhook.waiting)}

    def use_secret(self, secret: str) -> None:
        """Sign with another secret from now on."""
        self._call.use_secrets(secret.split())

    async def settle(self) -> None:
        """Put what was heard into the spool, if that works."""
        with contextlib.suppress(SendError):
            await self._webhook.write()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._call.aclose()
