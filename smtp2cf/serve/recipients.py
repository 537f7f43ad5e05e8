"""Recipients: who gets mail instead of whom in this process, wherever the mail comes in."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from smtp2cf.access.senders import Senders
from smtp2cf.relay.rewriting import Step, recipients_step
from smtp2cf.settings import listening, recipients
from smtp2cf.settings.fields import Settings
from smtp2cf.settings.listening import Way
from smtp2cf.smtpd import Policy


class RecipientsInUse:
    """What the settings say about recipients.

    may_change: the settings may be read again, and say something later. steps: what becomes of accepted mail.
    file: that of recipients, None for none.
    """

    def __init__(self, settings: Settings, *, may_change: bool) -> None:
        self._general = recipients.recipients(settings)
        self.file = recipients.recipients_file(settings, self._general)
        self._used = may_change or recipients.say_something(settings)
        step = recipients_step(self._general.expand, settings.redirect_all_to)
        self.steps: tuple[Step, ...] = (step,) if self._used else ()

    def policy(self, general: Policy) -> Policy:
        """The policy of mail that comes in no particular way."""
        return dataclasses.replace(general, recipients=self._general if self._used else None)

    def policy_at(self, general: Policy, way: Way) -> Policy:
        """The policy of one way in."""
        found = recipients.recipients_at(way, self._general, used=self._used)
        return dataclasses.replace(listening.policy_at(way, general), recipients=found)

    def use_users(self, recipients_of: Callable[[str], Senders] | None) -> None:
        """Ask of each user to whom mail may go."""
        self._general.recipients_of = recipients_of

    def uses(self) -> Mapping[str, Callable[[Any], None]]:
        """What takes a setting's new value, by setting."""
        return {
            "recipients": self._general.use_table,
            "allowed_recipients": self._general.use_allowed,
            "denied_recipients": self._general.use_denied,
        }
