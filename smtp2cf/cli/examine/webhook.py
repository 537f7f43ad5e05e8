"""Webhook: where events would go. It is not called: only an event shows whether the receiver takes one."""

from collections.abc import Iterator

import httpx

from smtp2cf.cli.examine.finding import Finding, ok
from smtp2cf.settings.fields import Settings
from smtp2cf.settings.values import kinds_in


def webhook(settings: Settings) -> Iterator[Finding]:
    """Which events go where; without all of the URL, which may hold a secret."""
    if settings.webhook_url and settings.webhook_secret.get_secret_value():
        host = httpx.URL(settings.webhook_url).netloc.decode("ascii")
        kinds = len(kinds_in(settings.webhook_events))
        yield ok(
            "webhook", f"{kinds} kinds of events go to {host} (SMTP2CF_WEBHOOK_EVENTS); it was not called"
        )
