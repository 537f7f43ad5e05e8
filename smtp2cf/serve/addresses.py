"""Addresses: what becomes of them in this process, and how that changes while it runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from smtp2cf.access.rules import Access
from smtp2cf.access.sender_rewriting import SenderRewriting
from smtp2cf.relay.rewriting import Rewriting
from smtp2cf.relay.senders import Senders
from smtp2cf.serve.recipients import RecipientsInUse
from smtp2cf.settings import rewriting, rooms
from smtp2cf.settings.fields import Settings
from smtp2cf.settings.fields.tables import ListenerTable
from smtp2cf.settings.listening import Way
from smtp2cf.smtpd import Policy
from smtp2cf.smtpd.path import TakesName


class AddressesInUse:
    """What is rewritten.

    may_change: the settings may be read again, so that something may be rewritten later. rewriting: for mail
    that is accepted. senders: who becomes whom. recipients: who gets
    mail instead of whom.
    """

    def __init__(self, settings: Settings, *, may_change: bool) -> None:
        self._settings = settings
        self._may_change = may_change
        self._table = rewriting.sender_rewriting(settings)
        self.senders = Senders(self._table)
        self.rewriting = Rewriting()
        self.recipients = RecipientsInUse(settings, may_change=may_change)
        self._set_steps()

    @property
    def of_senders(self) -> SenderRewriting | None:
        """Who becomes whom, None if nobody ever becomes another."""
        return self._table if self._may_change or self._settings.users_file or self.senders.active else None

    @property
    def takes_sender(self) -> TakesName | None:
        """Whether something may become of a sender without a domain, None if nothing ever does."""
        return self._table.takes_name if self.of_senders is not None else None

    def policy(self, settings: Settings) -> Policy:
        """The policy of mail that comes in no particular way."""
        return self.recipients.policy(rooms.smtp_policy(settings, self.takes_sender))

    def policy_at(self, settings: Settings, way: Way) -> Policy:
        """The policy of one way in."""
        return self.recipients.policy_at(rooms.smtp_policy(settings, self.takes_sender), way)

    def uses(self, access: Access) -> Mapping[str, Callable[[Any], None]]:
        """What takes a setting's new value, by setting."""
        return {
            "senders": self._use_senders,
            "sender_default": self._use_default,
            "allowed_sender_domains": access.use_allowed,
            **self.recipients.uses(),
        }

    def use_listeners(self, tables: Sequence[ListenerTable]) -> None:
        """Use the default senders of listeners."""
        self._table.use_default_at(rewriting.defaults_at(tables))
        self._set_steps()

    def _use_senders(self, table: Mapping[str, str]) -> None:
        self._table.use_senders(rewriting.sender_map(self._settings, table))
        self._set_steps()

    def _use_default(self, address: str) -> None:
        self._table.use_default(address)
        self._set_steps()

    def _set_steps(self) -> None:
        """Mail that nothing becomes of takes no step."""
        active = self.senders.active or self._settings.users_file is not None
        of_senders = (self.senders.rewrite,) if active else ()
        self.rewriting.steps = (*of_senders, *self.recipients.steps)
