"""Spellings: the recipients of an attempt as they were given, and the one form in which each is sent.

Two spellings of one address are one recipient of a call; but each has an outcome, since LMTP and PRDR answer
every RCPT. Knows no call.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from smtp2cf.envelope import Outcomes, address_key, sent_form
from smtp2cf.reply import RefusedError

T = TypeVar("T")


class Spellings(NamedTuple):
    """form_of: the form in which each recipient is sent. forms: those, each once, in the order given.
    as_sent: that is also how they were given. refused: those that have no such form."""

    form_of: Mapping[str, str]
    forms: Sequence[str]
    as_sent: bool
    refused: Outcomes

    @classmethod
    def of(cls, given: Sequence[str]) -> "Spellings":
        """Read the recipients of an attempt."""
        form_of: dict[str, str] = {}
        refused: Outcomes = {}
        first: dict[str, str] = {}
        for who in given:
            try:
                form = sent_form(who)
                form_of[who] = first.setdefault(form if form[:1] != '"' else address_key(form), form)
            except RefusedError as error:  # mail that was taken in by an older bridge
                refused[who] = error.reply
        forms = list(first.values())
        return cls(form_of, forms, forms == list(given), refused)

    def as_given(self, found: Mapping[str, T]) -> dict[str, T]:
        """What was found by sent form, by every spelling that was given."""
        return {who: found[form] for who, form in self.form_of.items() if form in found}
