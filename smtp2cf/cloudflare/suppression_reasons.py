"""Why a recipient is suppressed, and until when: what a reply about it says, if the token may look it up.

The client waits for its reply, so a look-up has little time, and what it found is remembered. It never goes
before mail: while calls wait for their turn, or none may go out, nothing is looked up.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import structlog

from smtp2cf.cloudflare.errors import TokenRefusedError
from smtp2cf.cloudflare.pacing import Pacer
from smtp2cf.cloudflare.suppressions import Suppression, Suppressions
from smtp2cf.envelope import address_key, domain_of
from smtp2cf.reply import SUPPRESSED, Reply, SendError

PATIENCE = 1.5
"""Seconds that a reply may wait for what is looked up."""
LOOK_UPS = 5
"""Recipients of one call that are looked up."""
AT_ONCE = 4
"""Messages whose recipients are looked up at once: each takes one of the calls that mail may need."""
REMEMBERED = 1000
"""Recipients that are remembered, each for one sender's domain."""
GOOD_FOR = 600.0
"""Seconds for which what was found is good: an operator may remove an entry."""
AFTER_FAILURE = 60.0
WITHOUT_PERMISSION = 3600.0
"""Seconds without look-ups after one that failed (of a recipient that is not listed yet), or that the token
may not make."""

_IN_WORDS = {
    "manual": "added by hand",
    "complaint": "after a complaint",
    "hard_bounce": "after a hard bounce",
    "soft_bounce": "after a soft bounce",
    "policy": "by Cloudflare's policy",
}
_NEVER = datetime.max.replace(tzinfo=UTC)

log = structlog.stdlib.get_logger("smtp2cf.cloudflare")


class SuppressionReasons:
    """Looks up entries of the list. pacer: what else goes on. clock: seconds."""

    def __init__(
        self, suppressions: Suppressions, pacer: Pacer, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._suppressions = suppressions
        self._pacer = pacer
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], tuple[Reply, float]] = OrderedDict()
        self._not_before = float("-inf")
        self._tokens = 0
        self._under_way = 0

    async def replies(self, recipients: Sequence[str], sender: str) -> dict[str, Reply]:
        """The reply for each recipient of whom something is known.

        recipients: who are suppressed. sender: the reverse path of the mail. Takes PATIENCE seconds at most,
        and raises nothing: it only explains an answer, which must not be lost.
        """
        domain = domain_of(sender)
        found = {recipient: self._recall(recipient, domain) for recipient in recipients}
        unknown = [recipient for recipient, reply in found.items() if reply is None][:LOOK_UPS]
        if unknown and self._may_look():
            self._under_way += 1
            tokens = self._tokens
            try:
                async with asyncio.timeout(PATIENCE):
                    for recipient in unknown:
                        found[recipient] = await self._look_up(recipient, domain)
            except TokenRefusedError:
                if tokens == self._tokens:  # else it says nothing of the token in use
                    self._not_before = self._clock() + WITHOUT_PERMISSION
            except (SendError, TimeoutError):
                self._not_before = self._clock() + AFTER_FAILURE
            except Exception:
                log.exception("suppressions.error")
                self._not_before = self._clock() + AFTER_FAILURE
            finally:
                self._under_way -= 1
        return {recipient: reply for recipient, reply in found.items() if reply not in (None, SUPPRESSED)}

    def token_changed(self) -> None:
        """Another token may be allowed to look."""
        self._tokens += 1
        self._not_before = float("-inf")

    def _may_look(self) -> bool:
        may = self._clock() >= self._not_before and self._under_way < AT_ONCE
        return may and not self._pacer.waiting and not self._pacer.blocked_for

    def _recall(self, recipient: str, domain: str) -> Reply | None:
        reply, until = self._known.get((address_key(recipient), domain), (None, 0.0))
        return reply if self._clock() < until else None

    async def _look_up(self, recipient: str, domain: str) -> Reply:
        entries = await self._suppressions.find(recipient)
        reply = _reply([each for each in entries if each.domain in ("", domain) and not each.expired])
        good_for = AFTER_FAILURE if reply is SUPPRESSED else GOOD_FOR
        self._known[address_key(recipient), domain] = reply, self._clock() + good_for
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return reply


def _reply(entries: Sequence[Suppression]) -> Reply:
    """Says of the entry that lasts longest why, until when, and for whose mail."""
    if not entries:
        return SUPPRESSED  # what was just added may not be listed yet
    entry = max(entries, key=lambda each: each.expires_at or _NEVER)
    why = _IN_WORDS.get(entry.reason, entry.reason)
    until = f"until {entry.expires_at:%Y-%m-%d %H:%M} UTC" if entry.expires_at else "for good"
    whose = f", for mail from {entry.domain}" if entry.domain else ""
    return SUPPRESSED._replace(text=f"{SUPPRESSED.text} {why}, {until}{whose}")
