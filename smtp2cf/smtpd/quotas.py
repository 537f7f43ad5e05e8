"""Quotas: how much one client address, and one user, may send. Plain counting, no I/O, no timers.

The limits apply to any 60 seconds, not to minutes of the clock. A count is kept for each second of the last
minute, and a second counts until it is over a minute old. So a key takes at most 61 pairs of numbers, however
high its limit is, and nobody gets more than the limit.

What is refused is not counted: a client is not kept out for trying again. Keys that have
been idle for a minute are forgotten as new ones come.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from smtp2cf.reply import Reply

WINDOW = 60
"""Seconds that the limits are about."""
MAX_KEYS = 100_000
"""Addresses or users counted at once; past that the one that was heard longest ago is forgotten."""
_HELD = WINDOW + 1


class Quota(NamedTuple):
    """What one key may have: sessions at once, messages and recipients a minute; 0 for any number."""

    sessions: int = 0
    messages: int = 0
    recipients: int = 0


class Quotas:
    """Holds clients, by address, and users, by name, to what they may have.

    client, user: what one of them may have. clock: seconds. A client or a user that is "" (a unix
    socket, nobody who authenticated) has no limit of its own.
    """

    def __init__(self, client: Quota, user: Quota, clock: Callable[[], float] = time.monotonic) -> None:
        self.active = any((*client, *user))
        self.client_sessions = client.sessions
        self._clients = _Side("SMTP2CF_CLIENT", client)
        self._users = _Side("SMTP2CF_USER", user)
        self._clock = clock

    def enter(self, *, client: str = "", user: str = "") -> Reply | None:
        """A session of this client begins, or turns out to be this user's; the 421 if it is one too many.

        Without a refusal, `leave` has to be called with the same names when the session ends.
        """
        refusal = self._clients.full(client) or self._users.full(user)
        if refusal is None:
            self._clients.enter(client)
            self._users.enter(user)
        return refusal

    def leave(self, *, client: str = "", user: str = "") -> None:
        """A session that was let in has ended."""
        self._clients.leave(client)
        self._users.leave(user)

    def message(self, client: str, user: str) -> Reply | None:
        """At MAIL: count a message, or the 450 if it is one too many."""
        return self._count(self._clients.messages, client, self._users.messages, user)

    def recipient(self, client: str, user: str) -> Reply | None:
        """At RCPT: count a recipient, or the 450 if it is one too many."""
        return self._count(self._clients.recipients, client, self._users.recipients, user)

    def _count(self, clients: "_Rate", client: str, users: "_Rate", user: str) -> Reply | None:
        now = self._clock()
        refusal = clients.refusal(client, now) or users.refusal(user, now)
        if refusal is None:
            clients.count(client, now)
            users.count(user, now)
        return refusal


class _Side:
    """The sessions and the rates of all clients, or of all users."""

    def __init__(self, prefix: str, quota: Quota) -> None:
        self.messages = _Rate("messages", quota.messages, f"{prefix}_MESSAGES_PER_MINUTE")
        self.recipients = _Rate("recipients", quota.recipients, f"{prefix}_RECIPIENTS_PER_MINUTE")
        self._limit = quota.sessions
        self._setting = f"{prefix}_MAX_SESSIONS"
        self._sessions: dict[str, int] = {}

    def full(self, key: str) -> Reply | None:
        """The refusal of one more session, if it would be one too many."""
        if not self._limit or not key or self._sessions.get(key, 0) < self._limit:
            return None
        text = f"{key} has {self._limit} sessions already ({self._setting}): try again when one has ended"
        return Reply(421, "4.7.1", text)

    def enter(self, key: str) -> None:
        if self._limit and key:
            self._sessions[key] = self._sessions.get(key, 0) + 1

    def leave(self, key: str) -> None:
        left = self._sessions.get(key, 0) - 1
        if left > 0:
            self._sessions[key] = left
        else:
            self._sessions.pop(key, None)


class _Rate:
    """How many of something each key had in the last minute, and may have."""

    def __init__(self, what: str, limit: int, setting: str) -> None:
        self._what = what
        self._limit = limit
        self._setting = setting
        # By key: the sum, then a second and its count for each second that had any, oldest first.
        # The keys are in the order in which they were last counted.
        self._seen: dict[str, list[int]] = {}

    def refusal(self, key: str, now: float) -> Reply | None:
        """The refusal of one more, if it would be one too many now."""
        seen = self._seen.get(key) if self._limit else None
        if seen is None or seen[0] < self._limit:
            return None
        _drop_old(seen, now)
        if seen[0] < self._limit:
            return None
        wait = math.ceil(seen[1] + _HELD - now)
        text = f"more than {self._limit} {self._what} a minute from {key} ({self._setting})"
        return Reply(450, "4.7.1", f"{text}: try again in {wait} s")

    def count(self, key: str, now: float) -> None:
        """Count one."""
        if not self._limit or not key:
            return
        second = int(now)
        seen = self._seen.pop(key, None)
        if seen is None:
            self._forget_idle(now)
            seen = [0]
        else:
            _drop_old(seen, now)
        self._seen[key] = seen
        seen[0] += 1
        if len(seen) > 1 and seen[-2] == second:
            seen[-1] += 1
        else:
            seen += (second, 1)

    def _forget_idle(self, now: float) -> None:
        """Drop up to two keys for the one that comes: so many at a time that no call takes long."""
        for _ in range(2):
            oldest = next(iter(self._seen), None)
            if oldest is None:
                return
            _drop_old(self._seen[oldest], now)
            if self._seen[oldest][0] == 0 or len(self._seen) >= MAX_KEYS:
                del self._seen[oldest]


def _drop_old(seen: list[int], now: float) -> None:
    """Forget the seconds that were over a minute ago."""
    while len(seen) > 1 and seen[1] + _HELD <= now:
        seen[0] -= seen[2]
        del seen[1:3]
