"""Bounce: which DSNs an attempt's outcomes call for, as mail to put into the spool (RFC 3461 §6).

Never for a null sender, never about a DSN, not even about one that comes back in from our own DSN
sender, never against NOTIFY: so no loop is possible. Knows no spool beyond the shape of its mail,
and sends nothing.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from smtp2cf.envelope import Envelope, Outcomes, address_key, domain_of
from smtp2cf.message import dsn
from smtp2cf.reply import DELIVERED, Reply
from smtp2cf.spool import NewMail


@dataclass(frozen=True, slots=True, kw_only=True)
class BouncePolicy:
    """Who reports. hostname: the Reporting-MTA. postmaster: the DSNs' sender, "" for mailer-daemon@
    the domain of whom they go to. expire_after: seconds a DSN itself is tried."""

    hostname: str
    postmaster: str = ""
    expire_after: float = 432_000.0

    def sender_of(self, recipient: str) -> str:
        """The address a DSN to `recipient` comes from: Cloudflare takes no null sender."""
        return self.postmaster or f"mailer-daemon@{domain_of(recipient)}"


def dsns_for(
    envelope: Envelope, message: bytes, outcomes: Outcomes, policy: BouncePolicy, *, expired: bool = False
) -> list[NewMail]:
    """DSNs about recipients whose fate is now final: at most one of failures and one of successes.

    outcomes: of those recipients only. expired: the transient ones among them were given up.
    """
    sender = envelope.reverse_path
    # What comes from where DSNs come from is one of ours that found its way back.
    if not sender or not outcomes or address_key(sender) == address_key(policy.sender_of(sender)):
        return []
    failures: list[dsn.Report] = []
    successes: list[dsn.Report] = []
    for recipient, reply in outcomes.items():
        event = _event(reply, expired=expired)
        if event is not None and dsn.wanted(envelope, recipient, event):
            report = dsn.Report(recipient, event, reply)
            (successes if reply.success else failures).append(report)
    return [_mail(envelope, message, reports, policy) for reports in (failures, successes) if reports]


def _event(reply: Reply, *, expired: bool) -> dsn.Event | None:
    if reply.success:
        return dsn.Event.DELIVERED if reply == DELIVERED else dsn.Event.RELAYED
    if reply.permanent:
        return dsn.Event.FAILED
    return dsn.Event.EXPIRED if expired else None


def _mail(envelope: Envelope, message: bytes, reports: list[dsn.Report], policy: BouncePolicy) -> NewMail:
    now = time.time()
    content = dsn.build(
        envelope,
        message,
        reports,
        hostname=policy.hostname,
        sender=policy.sender_of(envelope.reverse_path),
        now=now,
    )
    about: Mapping[str, str] = {envelope.reverse_path: "NEVER"}
    new = Envelope(
        reverse_path="",
        forward_paths=(envelope.reverse_path,),
        notify=about,
        body="7BIT" if content.isascii() else "8BITMIME",
        smtputf8=not content.isascii(),
    )
    return NewMail(envelope=new, message=content, expires_in=policy.expire_after, is_dsn=True)
