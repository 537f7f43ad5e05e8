"""What becomes of a sender: [senders] first, and then a default one where it may not send. No I/O.

Who may send: a domain of SMTP2CF_ALLOWED_SENDER_DOMAINS, or without that list any that Cloudflare could know:
no bare name, and no host that only its own network knows. A user's own default takes precedence over a
listener's, and that over SMTP2CF_SENDER_DEFAULT. Knows no message and no settings.
"""

import functools
from collections.abc import Callable, Mapping

from smtp2cf.access.address_map import AddressMap
from smtp2cf.access.senders import ANY, Senders
from smtp2cf.envelope import domain_of, is_public

REMEMBERED = 4096
"""Senders whose answers are remembered: most mail is from a few."""


class SenderRewriting:
    """What is sent instead of which sender; each part may change while the bridge runs.

    senders: [senders]. default: for all who may not send, "" for none. allowed: who may. default_at: defaults
    by the name of a listener.
    """

    def __init__(
        self,
        senders: AddressMap[str] | None = None,
        default: str = "",
        allowed: Senders = ANY,
        default_at: Mapping[str, str] | None = None,
    ) -> None:
        self._senders = senders or AddressMap[str]()
        self._default = default
        self._allowed = allowed
        self._default_at = default_at or {}
        self._default_of: Callable[[str], str] | None = None
        self._forget()

    # ---- what changes

    def use_senders(self, senders: AddressMap[str]) -> None:
        """Use another table."""
        self._senders = senders
        self._forget()

    def use_default(self, default: str) -> None:
        """Use another default, "" for none."""
        self._default = default
        self._forget()

    def use_allowed(self, allowed: Senders) -> None:
        """Use another list of who may send."""
        self._allowed = allowed
        self._forget()

    def use_default_at(self, default_at: Mapping[str, str]) -> None:
        """Use other defaults of listeners."""
        self._default_at = default_at

    def use_default_of(self, default_of: Callable[[str], str]) -> None:
        """Ask this for the defaults of users, "" for none."""
        self._default_of = default_of

    def _forget(self) -> None:
        self._becomes = functools.lru_cache(maxsize=REMEMBERED)(self._look_up)
        self.may_send = functools.lru_cache(maxsize=REMEMBERED)(self._may_send)
        """Whether mail from an address, or a name without a domain, can go out."""

    # ---- what becomes of an address

    @property
    def active(self) -> bool:
        """Some sender may become another."""
        return bool(self._senders or self._default or self._default_at)

    def takes_name(self, name: str) -> bool:
        """Whether a sender without a domain may come to have one."""
        has_default = self._default or self._default_at or self._default_of
        return "@" not in name and (bool(has_default) or self._senders.find(name) is not None)

    def default_for(self, user: str, listener: str) -> str:
        """The default sender for mail of this user ("" for nobody) at this listener, "" for none."""
        own = self._default_of(user) if user and self._default_of is not None else ""
        return own or self._default_at.get(listener, "") or self._default

    def becomes(self, address: str, user: str = "", listener: str = "") -> str:
        """Who is sent instead of a sender; the same where nobody is. The null path stays."""
        return self._becomes(address, self.default_for(user, listener))

    def is_allowed(self, address: str) -> bool:
        """Whether the list of who may send has an address, or there is none."""
        return self._allowed.allow(address)

    def _look_up(self, address: str, default: str) -> str:
        if address[:1] in ("", "@"):
            return address
        found = self._senders.find(address)
        sender = address if found is None else found
        return default if default and not self.may_send(sender) else sender

    def _may_send(self, address: str) -> bool:
        if self._allowed.written:
            return self._allowed.allow(address)
        return is_public(domain_of(address))
