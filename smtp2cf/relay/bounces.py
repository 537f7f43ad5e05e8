"""Bounces: which DSNs an attempt's outcomes call for, as mail to put into the spool (RFC 3461 §6).

No DSN goes to a null sender, none is about a DSN (not even one of ours that comes back in), and none is sent
against NOTIFY, so there can be no loop. The operator may get a copy of each that is about a failure. Knows no
spool beyond the shape of its mail, and sends nothing.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from smtp2cf.access.charge import Refused
from smtp2cf.access.senders import match_key
from smtp2cf.envelope import Envelope, Outcomes, address_key, domain_of, is_public, sent_form
from smtp2cf.journal import maillog
from smtp2cf.message import dsn
from smtp2cf.reply import DELIVERED, RefusedError, Reply
from smtp2cf.spool import NewMail

MAILER_DAEMON = "mailer-daemon"


OverQuota = Callable[[str], Awaitable[Refused | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BouncePolicy:
    """Who DSNs come from. hostname: the Reporting-MTA. postmaster: their sender, "" for mailer-daemon@ the
    domain of the address they go to. expire_after: seconds until a DSN itself is given up. redirect: who gets
    all of them instead, () for nobody. copies_to: who gets a copy of those about failures, "" for nobody.
    over_quota: counts one to an address, and says which limit it would exceed, None if none."""

    hostname: str
    postmaster: str = ""
    expire_after: float = 432_000.0
    redirect: tuple[str, ...] = ()
    copies_to: str = ""
    over_quota: OverQuota | None = None

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


async def reports_for(
    envelope: Envelope, message: bytes, outcomes: Outcomes, policy: BouncePolicy
) -> list[NewMail]:
    """The DSNs that go out: `dsns_for`, without what is too much for its address."""
    dsns = dsns_for(envelope, message, outcomes, policy)
    return [mail for mail in dsns if not await _is_over(policy, envelope, mail)]


async def _is_over(policy: BouncePolicy, about: Envelope, mail: NewMail) -> bool:
    address = mail.envelope.forward_paths[0]
    refused = await policy.over_quota(address) if policy.over_quota is not None else None
    if refused is None:
        return False
    limit = refused.charge.named.limit
    maillog.dsn_over_quota(about, address, str(limit), limit.seconds)
    return True


def dsns_for(envelope: Envelope, message: bytes, outcomes: Outcomes, policy: BouncePolicy) -> list[NewMail]:
    """DSNs about recipients for whom nothing will change: at most one of failures and one of successes, and
    the operator's copy.

    outcomes: of those recipients only; those with a transient reply were given up.
    """
    sender = envelope.sender_as_given
    if not sender or not outcomes or policy.sends_from(sender):
        return []
    reports = [dsn.Report(recipient, _event(reply), reply) for recipient, reply in outcomes.items()]
    wanted = [report for report in reports if dsn.wanted(envelope, report.recipient, report.event)]
    failures = [report for report in wanted if not report.reply.success]
    successes = [report for report in wanted if report.reply.success]
    told = policy.whom_to_tell(envelope)
    mails = [_mail(envelope, message, some, policy, told) for some in (failures, successes) if some]
    copied = [report for report in reports if not report.reply.success]
    if copied and envelope.reverse_path and _gets_copy(policy, copied, told if failures else ""):
        mails.append(_mail(envelope, message, copied, policy, policy.copies_to, copy=True))
    return mails


def _gets_copy(policy: BouncePolicy, failures: list[dsn.Report], told: str) -> bool:
    """The operator would get a copy, and has neither got the DSN itself nor just failed to get mail."""
    if not policy.copies_to or policy.redirect:
        return False
    operator = match_key(policy.copies_to)
    if told and match_key(told) == operator:
        return False
    return any(match_key(report.recipient) != operator for report in failures)


def _event(reply: Reply) -> dsn.Event:
    if reply.success:
        return dsn.Event.DELIVERED if reply == DELIVERED else dsn.Event.RELAYED
    return dsn.Event.FAILED if reply.permanent else dsn.Event.EXPIRED


def _mail(
    envelope: Envelope,
    message: bytes,
    reports: list[dsn.Report],
    policy: BouncePolicy,
    told: str,
    *,
    copy: bool = False,
) -> NewMail:
    now = time.time()
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
        copy=copy,
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
