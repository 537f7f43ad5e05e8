"""Quotas: how much one client address, one user and one sender may send, at one way in.

A message counts when MAIL is accepted, a recipient when RCPT is, whatever becomes of the transaction. An IPv6
client is its /64, which is what one customer has at least. Senders are compared as addresses, in any letter
case, as the client gave them; the null sender is one of them, or it would be the way around the quota. A
client without an address (a unix socket) and a client that has not logged in have no quota of that kind.

Knows no session; where counts are kept is the counts' own business.
"""

import functools
import ipaddress
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

from smtp2cf.access.charge import Charge, Refused, name_of
from smtp2cf.access.counts import Counts
from smtp2cf.access.limit import Named, What, as_time, strictest
from smtp2cf.access.shared_counts import SharedCounts
from smtp2cf.envelope import address_key
from smtp2cf.journal import quotas as journal
from smtp2cf.reply import Reply, SendError

REMEMBERED = 1024
"""Who is counted for which client, user and sender: so many of them are not worked out again."""
NETWORK = 64
"""Bits of an IPv6 address that are one client."""

Judgement = Reply | Coroutine[Any, Any, Reply | None] | None
"""The reply to one too many, None if there is room; or what to await for that."""

OfUser = Callable[[str], tuple[Named, ...] | None]
"""A user's own limits; None if there are none."""


class Ruling(NamedTuple):
    """The limits for one kind of key. scope: whose counts they are: those of one listener, "" of all."""

    limits: tuple[Named, ...] = ()
    scope: str = ""


class Allowance(NamedTuple):
    """How much may be sent at one way in."""

    client: Ruling = Ruling()
    user: Ruling = Ruling()
    sender: Ruling = Ruling()


class Quotas:
    """What is asked at MAIL and RCPT. of_user: takes the place of the user's limits in the allowance."""

    def __init__(
        self, allowance: Allowance, counts: Counts | SharedCounts, of_user: OfUser | None = None
    ) -> None:
        self._allowance = allowance
        self._counts = counts
        self._of_user = of_user
        self._charges = functools.lru_cache(maxsize=REMEMBERED)(self._find_charges)

    def message(self, client: str, user: str, sender: str) -> Judgement:
        """At MAIL: count a message, or the 450 if it is one too many."""
        return self._take("messages", client, user, sender)

    def recipient(self, client: str, user: str, sender: str) -> Judgement:
        """At RCPT: count a recipient, or the 450 if it is one too many."""
        return self._take("recipients", client, user, sender)

    def _take(self, what: What, client: str, user: str, sender: str) -> Judgement:
        own = self._of_user(user) if user and self._of_user is not None else None
        charges = self._charges(what, client, user, sender, own)
        if not charges:
            return None
        if isinstance(self._counts, SharedCounts):
            return _take_shared(self._counts, charges)
        return _reply(self._counts.take(charges))

    def _find_charges(
        self, what: What, client: str, user: str, sender: str, own: tuple[Named, ...] | None
    ) -> Sequence[Charge]:
        """own: the user's own limits, None for those of all users."""
        allowance = self._allowance
        charges: list[Charge] = []
        if allowance.client.limits and client:
            charges += _charges("client", allowance.client, what, client_key(client))
        if user:
            of_user = allowance.user if own is None else ruling(*own)
            charges += _charges("user", of_user, what, user)
        if allowance.sender.limits:
            charges += _charges("sender", allowance.sender, what, sender_key(sender))
        return charges


class DsnQuota:
    """How many DSNs may go to one address, which may be forged: whoever it is has asked for none of them."""

    def __init__(self, limits: Sequence[Named], counts: Counts | SharedCounts) -> None:
        self._ruling = ruling(*limits)
        self._counts = counts

    async def over(self, address: str) -> Refused | None:
        """Count one more, or the limit that it would exceed. If nobody knows, there is room: a DSN that is
        not sent is lost."""
        charges = _charges("dsn", self._ruling, "messages", sender_key(address))
        if not isinstance(self._counts, SharedCounts):
            return self._counts.take(charges)
        try:
            return await self._counts.take(charges)
        except SendError:
            return None


async def _take_shared(counts: SharedCounts, charges: Sequence[Charge]) -> Reply | None:
    """Without the counts nobody knows: then it is the spool's own 45x."""
    try:
        return _reply(await counts.take(charges))
    except SendError as error:
        return error.reply


def _reply(refused: Refused | None) -> Reply | None:
    if refused is None:
        return None
    journal.refused(refused.charge.named.setting)
    return too_many(refused)


def ruling(*limits: Named, scope: str = "") -> Ruling:
    """The limits for one kind of key, of which the lowest count."""
    return Ruling(strictest(limits), scope)


def _charges(kind: str, held_to: Ruling, what: What, who: str) -> Sequence[Charge]:
    return [
        Charge(name_of(family_of(kind, held_to.scope, what), named.limit.seconds, who), who, named)
        for named in held_to.limits
        if named.limit.what == what
    ]


def family_of(kind: str, scope: str, what: What) -> str:
    """What a count is of: the kind of key, whose counts they are, messages or recipients."""
    return f"{kind}/{scope}/{what}"


@functools.lru_cache(maxsize=4096)
def client_key(client: str) -> str:
    """What an address is counted as: IPv4 as it is, also where it is written as IPv6; of IPv6 the network."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv4Address):
        return client
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> NETWORK << NETWORK, NETWORK)))


@functools.lru_cache(maxsize=4096)
def sender_key(sender: str) -> str:
    """What a reverse path is counted as."""
    return address_key(sender).lower() if sender else "<>"


def too_many(refused: Refused) -> Reply:
    """The reply to one too many."""
    limit, setting = refused.charge.named
    ends = until(refused.until - refused.now)
    text = f"{refused.charge.who} has sent {limit.number} {limit.what} in {as_time(limit.seconds)}"
    return Reply(450, "4.7.1", f"{text} ({setting}={limit}): try again after {ends}")


def until(wait: float) -> str:
    """When so many seconds have passed, in the local time of this host, rounded up."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(time.time() + wait + 0.999))
