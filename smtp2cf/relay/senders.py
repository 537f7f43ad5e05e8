"""Senders: the step that rewrites who a message is from, in the envelope and in From and Sender.

What becomes of an address is decided in `access/sender_rewriting.py`; a sender whose domain Cloudflare turns
out not to know is replaced by its default too (`instead_of_unknown`). Knows no spool and no Cloudflare.
"""

import re
from dataclasses import replace

from smtp2cf.access.sender_rewriting import SenderRewriting
from smtp2cf.access.senders import match_key
from smtp2cf.envelope import Envelope, domain_of, is_public, sent_form
from smtp2cf.journal import maillog
from smtp2cf.message.sender_fields import rewrite_senders
from smtp2cf.relay.rewriting import with_sender
from smtp2cf.reply import RefusedError

_IN_A_FIELD = re.compile(
    r'(?:[!#-\'*+\-/-9=?A-Z^-~.]+|"(?:[ !#-\[\]-~]|\\[ -~])+")@[0-9a-z-]+(?:\.[0-9a-z-]+)+'
)
"""Addresses that a field can hold as they are (RFC 5322 §3.4.1, but dots may be anywhere)."""


class Senders:
    """rewriting: what becomes of whom."""

    def __init__(self, rewriting: SenderRewriting) -> None:
        self._rewriting = rewriting

    @property
    def active(self) -> bool:
        """Some sender may become another."""
        return self._rewriting.active

    def allow(self, address: str) -> bool:
        """Mail may go out from this address, for all that is set for everybody."""
        return self._rewriting.is_allowed(address)

    def rewrite(self, envelope: Envelope, message: bytes) -> tuple[Envelope, bytes]:
        """A Step: the sender that goes out, and a header that says the same."""
        if not (self.active or self._rewriting.default_for(envelope.auth_user, envelope.listener)):
            return envelope, message
        sent = self._rewriting.becomes(envelope.reverse_path, envelope.auth_user, envelope.listener)
        return self._with(envelope, message, sent)

    def instead_of_unknown(self, envelope: Envelope, message: bytes) -> tuple[Envelope, bytes] | None:
        """The same from its default sender, since Cloudflare does not know the sender's domain; None if there
        is no default in another domain.
        """
        default = self.default_of_unknown(envelope)
        return self._with(envelope, message, default, domain_of(envelope.reverse_path)) if default else None

    def default_of_unknown(self, envelope: Envelope) -> str:
        """Who stands in for a sender whose domain Cloudflare does not know, "" for nobody."""
        default = self._rewriting.default_for(envelope.auth_user, envelope.listener)
        return default if default and domain_of(default) != domain_of(envelope.reverse_path) else ""

    def _with(
        self, envelope: Envelope, message: bytes, sent: str, unknown: str | None = None
    ) -> tuple[Envelope, bytes]:
        """unknown: a domain of which nobody may send."""
        before, user, listener = envelope.reverse_path, envelope.auth_user, envelope.listener
        rewriting, otherwise = self._rewriting, sent if sent != before else ""

        def instead(address: str) -> str | None:
            if sent != before and (address == before or match_key(address) == match_key(before)):
                return sent
            if rewriting.may_send(address) and (unknown is None or domain_of(address) != unknown):
                return None
            found = rewriting.becomes(address, user, listener)
            found = found if rewriting.may_send(found) and domain_of(found) != unknown else otherwise
            return found if found and found != address and rewriting.may_send(found) else None

        rewritten = rewrite_senders(message, instead, _gets_replies)
        envelope = with_sender(envelope, sent)
        if rewritten.changed:
            maillog.header_rewritten(envelope, rewritten.changed, rewritten.signatures)
        return envelope, rewritten.message


def as_sent(envelope: Envelope, sent_as: str) -> Envelope:
    """The envelope of mail that one attempt sent as somebody else; "" for nobody else."""
    if not sent_as:
        return envelope
    return replace(envelope, reverse_path=sent_as, given_reverse_path=envelope.sender_as_given)


def _gets_replies(address: str) -> str:
    """The address as it is sent, "" if nothing sent there would arrive."""
    try:
        form = sent_form(address) if "@" in address and is_public(domain_of(address)) else ""
    except RefusedError:
        return ""
    return form if _IN_A_FIELD.fullmatch(form) else ""
