"""Accounts: which account sends which mail, asked for each attempt: so what waits follows a changed file.

By the user who gave the mail, else by the sender's address or domain, most specific first, else the default.
Mail about mail (a DSN) goes by its sender first, since its user only was the other mail's. Knows no HTTP and
no settings.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from smtp2cf.access.senders import Senders
from smtp2cf.cloudflare import Sent
from smtp2cf.envelope import address_key
from smtp2cf.relay.suppressed import LookUp
from smtp2cf.reply import Reply, one_line

SendRaw = Callable[..., Awaitable[Sent]]
"""(reverse path, at most 50 recipients, message=, deadline= in time.monotonic() seconds) → Sent; with a
spool, lease= is passed too. Raises SendError: cloudflare's `Client.send`."""

SHOWN_LIMIT = 100
"""Characters of an address that a reply shows."""


class Pace(Protocol):
    """How much of an account may be used: cloudflare's Account."""

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn."""

    @property
    def in_flight(self) -> int:
        """Calls under way."""

    @property
    def line(self) -> int:
        """How many calls for mail from the spool may stand in line."""

    @property
    def blocked_for(self) -> float:
        """Seconds until the next call may go out; infinity if nobody knows."""


class Unlimited:
    """The pace of an account without limits."""

    waiting = 0
    in_flight = 0
    line = 1
    blocked_for = 0.0


UNLIMITED = Unlimited()


class Outlet(NamedTuple):
    """One account, as the relay uses it.

    send_raw: makes a call. name: "" where there is only one account. pace: what its limits leave for waiting
    mail. look_up: says why a recipient is suppressed.
    """

    send_raw: SendRaw
    name: str = ""
    pace: Pace = UNLIMITED
    look_up: LookUp | None = None


class Share(NamedTuple):
    """Whose mail an account sends; a user or a pattern belongs to one account only."""

    outlet: Outlet
    senders: Senders
    users: Sequence[str]


class Accounts:
    """The accounts of one bridge.

    default: for mail that no share names; None to refuse that. only: the default, where there are no others.
    """

    def __init__(self, default: Outlet | None, shares: Sequence[Share] = ()) -> None:
        self._default = default
        self.use(shares)
        self.only = default if not shares else None

    def use(self, shares: Sequence[Share]) -> None:
        """Choose by these from now on."""
        self.outlets = tuple(
            each for each in (self._default, *(share.outlet for share in shares)) if each is not None
        )
        self._by_user = {user: share.outlet for share in shares for user in share.users}
        self._by_address = {key: share.outlet for share in shares for key in share.senders.addresses}
        self._by_domain = {domain: share.outlet for share in shares for domain in share.senders.domains}
        self._by_parent = {parent: share.outlet for share in shares for parent in share.senders.parents}

    @classmethod
    def of_one(cls, send_raw: SendRaw, pace: Pace | None = None, look_up: LookUp | None = None) -> "Accounts":
        """The one account of most bridges."""
        return cls(Outlet(send_raw, pace=pace or UNLIMITED, look_up=look_up))

    def for_(self, user: str, sender: str, *, is_dsn: bool = False) -> Outlet | None:
        """The account for one message. user: who gave it, "" for nobody. sender: who it is sent as."""
        if self.only is not None:
            return self.only
        by_user = self._by_user.get(user)
        if by_user is not None and not is_dsn:
            return by_user
        return self._for_sender(sender) or by_user or self._default

    def _for_sender(self, sender: str) -> Outlet | None:
        local, _, domain = address_key(sender).rpartition("@")
        found = self._by_address.get((local.lower(), domain)) or self._by_domain.get(domain)
        while found is None and domain:
            domain = domain.partition(".")[2]
            found = self._by_parent.get(domain)
        return found


def no_account(sender: str) -> Reply:
    """The reply to mail that no account sends."""
    who = one_line(sender, SHOWN_LIMIT)
    return Reply(
        550,
        "5.7.1",
        f"no account sends for <{who}>: name its domain in the sender_domains of an [[account]], or set a"
        " default account (SMTP2CF_ACCOUNT_ID)",
    )
