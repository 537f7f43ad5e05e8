"""Log limit: lines that any stranger can cause are a few each, and then a number.

A flood of connections, of handshakes that fail or of refused commands must not become a flood of log
lines. What is logged because of a message, or of a mistake of ours, does not come through here.
"""

import asyncio

import structlog

BURST = 10
"""Lines of one event and client that are written before the others are only counted."""
INTERVAL = 60.0
"""Seconds until what was counted is said, and lines are written again."""
KEYS = 1000
"""Pairs of event and client that are told apart at once; clients above that share a count."""

log = structlog.stdlib.get_logger("smtp2cf.smtpd")


class LimitedLog:
    """The limited log lines of one server."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}

    def info(self, event: str, *, client: str, **fields: object) -> None:
        """Log an ordinary event."""
        if self._is_due(event, client):
            log.info(event, client=client, **fields)

    def warning(self, event: str, *, client: str, **fields: object) -> None:
        """Log something that an operator may want to act on."""
        if self._is_due(event, client):
            log.warning(event, client=client, **fields)

    def _is_due(self, event: str, client: str) -> bool:
        key = (event, client)
        if key not in self._counts:
            if len(self._counts) >= KEYS:
                key = (event, "others")
            if key not in self._counts:
                asyncio.get_running_loop().call_later(INTERVAL, self._sum_up, key)
        self._counts[key] = count = self._counts.get(key, 0) + 1
        return count <= BURST

    def _sum_up(self, key: tuple[str, str]) -> None:
        left_out = self._counts.pop(key) - BURST
        if left_out > 0:
            event, client = key
            log.warning("session.left_out", of=event, client=client, lines=left_out, seconds=INTERVAL)
