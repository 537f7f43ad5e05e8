"""What is said of quotas: a line when somebody nears one, and a counter of what was refused.

Who exceeds a quota has a line in the session's log already (session.sender_refused, …recipient_refused).
"""

import time
from collections import deque
from typing import NamedTuple

import structlog
from prometheus_client import Counter

from smtp2cf.journal import news

REFUSED = Counter("smtp2cf_quota_refused_total", "Messages and recipients above a quota", ["setting"])

LINES = 30
"""Lines of those who near a limit in INTERVAL: anybody can be many senders."""
INTERVAL = 60.0
"""Seconds."""
SHOWN = 10
"""Of them that the status page shows."""
OVER = 1000
"""Those beyond a limit who are remembered, so that they are named once."""

log = structlog.stdlib.get_logger("smtp2cf.quotas")


class _Near(NamedTuple):
    text: str
    until: float


class Said:
    """The lines of this INTERVAL, and those who were named last."""

    def __init__(self) -> None:
        self.since = 0.0
        self.lines = self.left_out = 0
        self.near: deque[_Near] = deque(maxlen=SHOWN)
        self.over: dict[str, float] = {}


said = Said()


def refused(setting: str) -> None:
    """A message or a recipient was one too many."""
    REFUSED.labels(setting).inc()


def scarce(*, setting: str, limit: str, seconds: float, who: str, used: int) -> None:
    """Somebody has used most of a limit. Said once for each of them and each window of so many seconds."""
    now = time.monotonic()
    said.near.appendleft(_Near(f"{who}, {limit} ({setting})", now + seconds))
    if now - said.since > INTERVAL:
        said.since, said.lines = now, 0
    if said.lines >= LINES:
        said.left_out += 1
        return
    said.lines += 1
    more = {"left_out": said.left_out} if said.left_out else {}
    said.left_out = 0
    log.warning("quota.scarce", who=who, used=used, limit=limit, setting=setting, **more)
    text = f"{who} has used {used} of {limit} ({setting})"
    news.tell("quota.scarce", text, who=who, used=used, limit=limit, setting=setting)


def over(who: str, seconds: float) -> bool:
    """Somebody goes beyond a limit. True: that is new, in a window of so many seconds."""
    now = time.monotonic()
    if said.over.get(who, 0.0) > now:
        return False
    said.over.pop(who, None)
    said.over[who] = now + seconds
    if len(said.over) > OVER:
        del said.over[next(iter(said.over))]
    return True


def near() -> list[str]:
    """Who was named, with which limit, less than its time ago; the latest first."""
    now = time.monotonic()
    return [one.text for one in said.near if one.until > now]
