"""Failed logins: how many each client has had, and the consequences. No I/O.

An address is slowed down by each failure, then refused for a while, then disconnected if it keeps trying.
Only the exact address counts, so guessing from one address locks nobody else out. Clients try the same
password with one mechanism after the other, so the same failure within seconds counts once. A success resets
the count. Clients on a unix socket have no address: they are slowed down, but never refused.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from smtp2cf.reply import Reply

DELAYS = (0.25, 4.0)
"""Seconds before a failure is answered: for the first one, doubling, up to the maximum."""
REFUSED_AFTER = 8
"""Failures in a row after which an address is refused."""
REFUSED_FOR = 300.0
"""Seconds it is refused after its last failure."""
KNOCKS = 5
"""Tries in that time that get 454; further ones get 421, and the session closes."""
FORGOTTEN_AFTER = 3600.0
"""Seconds after the last failure at which an address is forgotten. Until then, one more failure of an address
that was refused gets it refused again."""
SAME_WITHIN = 10.0
"""Seconds within which the same user and password from an address count as one failure. smtplib and Symfony's
mailer try all mechanisms that way; the delays in between are ours."""
AT_ONCE = 16
"""Logins of one address that are verified at once, so that it doesn't fill the whole queue."""
ADDRESSES = 10_000
"""Addresses that are remembered; those with the oldest last failure are dropped first."""


@dataclass(slots=True)
class _Address:
    """What is known about one address."""

    failures: int = 0
    under_way: int = 0
    last: float = 0.0
    knocks: int = 0
    tried: dict[bytes, float] = field(default_factory=dict)


class Failures:
    """The failures of every address. clock: seconds, time.monotonic but for tests.

    Ask `refusal` first, then `begin` a verification, `end` it, and report that it `succeeded` or `failed`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._addresses: OrderedDict[str, _Address] = OrderedDict()

    def __len__(self) -> int:
        return len(self._addresses)

    def refusal(self, client: str) -> Reply | None:
        """The answer to an address that may not try now; None for others."""
        known = self._known(client)
        if known is None or known.failures < REFUSED_AFTER:
            return None
        left = known.last + REFUSED_FOR - self._clock()
        if left <= 0:
            return None
        known.knocks += 1
        text = f"too many failed logins from {client}: try again in {max(1, round(left))} s"
        return Reply(421 if known.knocks > KNOCKS else 454, "4.7.0", text)

    def begin(self, client: str) -> Reply | None:
        """Count a verification that begins; returns the answer if this address has too many already.

        An address that has failed may have only as many at once as it has tries left, so that guessing in
        parallel doesn't help.
        """
        if not client:
            return None
        known = self._known(client)
        if known is None:
            known = self._addresses[client] = _Address(last=self._clock())
            self._bound()
        room = AT_ONCE if not known.failures else max(1, REFUSED_AFTER - known.failures)
        if known.under_way >= room:
            return Reply(454, "4.7.0", f"too many logins at once from {client}: try again")
        known.under_way += 1
        return None

    def end(self, client: str) -> None:
        """A verification has ended, with any result."""
        known = self._addresses.get(client)
        if known is not None and known.under_way:
            known.under_way -= 1
            if not known.under_way and not known.failures:
                del self._addresses[client]

    def succeeded(self, client: str) -> None:
        """A login succeeded: forget the earlier failures."""
        known = self._addresses.get(client)
        if known is not None:
            known.failures = known.knocks = 0
            known.tried = {}
            if not known.under_way:
                del self._addresses[client]

    def failed(self, client: str, tried: bytes = b"") -> float:
        """A login failed; returns the seconds to wait before the answer.

        tried: a digest of the user and the password; b"" if there is nothing to recognise.
        """
        if not client:
            return DELAYS[1] / 2
        known = self._known(client)
        if known is None:
            known = self._addresses[client] = _Address()
        now = self._clock()
        known.tried = {other: at for other, at in known.tried.items() if now - at <= SAME_WITHIN}
        if tried not in known.tried:
            known.failures += 1
            known.last = now
            if tried and len(known.tried) < REFUSED_AFTER:
                known.tried[tried] = now
        known.knocks = 0
        self._addresses.move_to_end(client)
        self._bound()
        return min(DELAYS[1], DELAYS[0] * 2.0 ** min(known.failures - 1, 30))

    def _known(self, client: str) -> _Address | None:
        if not self._addresses:
            return None
        known = self._addresses.get(client)
        if known is not None and known.failures and self._clock() - known.last > FORGOTTEN_AFTER:
            known.failures = known.knocks = 0
            if not known.under_way:
                del self._addresses[client]
                return None
        return known

    def _bound(self) -> None:
        while len(self._addresses) > ADDRESSES:
            self._addresses.popitem(last=False)
