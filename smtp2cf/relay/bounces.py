"""Bounces: which DSNs an attempt's outcomes call for, as mail to put into the spool (RFC 3461 §6).

No DSN goes to a null sender, none is about a DSN (not even one of ours that comes back in), and none is sent
against NOTIFY, so there can be no loop. Knows no spool beyond the shape of its mail, and sends nothing.
"""

import time
from dataclasses import dataclass

from smtp2cf.envelope import Envelope, Outcomes, address_key, domain_of, is_public, sent_form
from smtp2cf.message import dsn
from smtp2cf.reply import DELIVERED, RefusedError, Reply
from smtp2cf.spool import NewMail

MAILER_DAEMON = "mailer-daemon"


@dataclass(frozen=True, slots=True, kw_only=True)
class BouncePolicy:
    """Who DSNs come from. hostname: the Reporting-MTA. postmaster: their sender, "" for mailer-daemon@ the
    domain of the address they go to. expire_after: seconds until a DSN itself is given up. redirect: who gets
    all of them instead, () for nobody."""

    hostname: str
    postmaster: str = ""
    expire_after: float = 432_000.0
    redirect: tuple[str, ...] = ()

    def sender_of(self, recipient: str) -> str:
        """The address a DSN to `recipient` comes from, since Cloudflare takes no null sender; another one if
        an attempt finds that this one's domain may not send."""
        return self.postmaster or f"{MAILER_DAEMON}@{domain_of(recipient)}"

    def whom_to_tell(self, envelope: Envelope) -> str:
        """The address that DSNs about an envelope go to: the client's own if mail gets there, else the
        postmaster's, and without one the one it was sent as."""
        given = envelope.given_reverse_path
        if given is None or is_public(domain_of(given)):
            return envelope.sender_as_given
        return self.postmaster or envelope.reverse_path

    def sends_from(self, address: str) -> bool:
        """DSNs come from this address, so mail from it is one of ours that came back in."""
        key = address_key(address)
        return key.startswith(f"{MAILER_DAEMON}@") or key == address_key(self.postmaster)


def dsns_for(envelope: Envelope, message: bytes, outcomes: Outcomes, policy: BouncePolicy) -> list[NewMail]:
    """DSNs about recipients for whom nothing will change: at most one of failures and one of successes.

    outcomes: of those recipients only; those with a transient reply were given up.
    """
    sender = envelope.sender_as_given
    if not sender or not outcomes or policy.sends_from(sender):
        return []
    failures: list[dsn.Report] = []
    successes: list[dsn.Report] = []
    for recipient, reply in outcomes.items():
        event = _event(reply)
        if dsn.wanted(envelope, recipient, event):
            report = dsn.Report(recipient, event, reply)
            (successes if reply.success else failures).append(report)
    return [_mail(envelope, message, reports, policy) for reports in (failures, successes) if reports]


def _event(reply: Reply) -> dsn.Event:
    if reply.success:
        return dsn.Event.DELIVERED if reply == DELIVERED else dsn.Event.RELAYED
    return dsn.Event.FAILED if reply.permanent else dsn.Event.EXPIRED


def _mail(envelope: Envelope, message: bytes, reports: list[dsn.Report], policy: BouncePolicy) -> NewMail:
    now = time.time()
    told = policy.whom_to_tell(envelope)
    try:
        recipient = sent_form(told)
    except RefusedError:  # mail that an older bridge took in: nobody can be told
        recipient = told
    content = dsn.build(
        envelope,
        message,
        reports,
        to=recipient,
        hostname=policy.hostname,
        sender=policy.sender_of(told),
        now=now,
    )
    return automatic_mail(content, policy.redirect or (recipient,), policy, about=envelope)


def automatic_mail(
    content: bytes, to: tuple[str, ...], policy: BouncePolicy, *, about: Envelope | None = None
) -> NewMail:
    """Mail of our own, which nobody is told of whatever becomes of it. about: the mail that a DSN reports."""
    new = Envelope(
        reverse_path="",
        forward_paths=to,
        notify=dict.fromkeys(to, "NEVER"),
        body="7BIT" if content.isascii() else "8BITMIME",
        smtputf8=not content.isascii(),
        auth_user=about.auth_user if about is not None else "",  # by which its account may be chosen
        dsn_for=about.queue_id if about is not None else "",
    )
    return NewMail(envelope=new, message=content, expires_in=policy.expire_after, is_dsn=True)
