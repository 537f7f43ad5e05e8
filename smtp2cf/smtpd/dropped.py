"""Dropped mail: what sendmail(1) kept becomes the transactions that SMTP would have made of it.

It is judged by MAIL's and RCPT's own rules (transaction.py), so the drop directory accepts exactly what SMTP
accepts. Knows no files and no relay.
"""

import dataclasses
from collections.abc import Coroutine, Sequence

from smtp2cf.envelope import Envelope, Judged, Outcomes
from smtp2cf.reply import Reply
from smtp2cf.smtpd import replies
from smtp2cf.smtpd.parameters import RCPT_RULES, parse_parameters
from smtp2cf.smtpd.path import PathError, parse_path
from smtp2cf.smtpd.rules import Judgement, Policy, Quotas
from smtp2cf.smtpd.transaction import Transaction

ALONE = replies.syntax("an address, and nothing after it")


def judge(
    policy: Policy, mail: tuple[str, str], recipients: Sequence[tuple[str, str]], received_at: float
) -> Judged:
    """The transactions to hand over, and who is refused for good.

    mail, recipients: an address without its <>, and the parameters as MAIL and RCPT take them. A list longer
    than one transaction takes is several, as over SMTP. If MAIL is refused, everybody is. received_at:
    seconds since the epoch.
    """
    sender, parameters = mail
    begun, refusal = _begin(policy, sender, parameters)
    if refusal is not None:
        plain, no_address = _begin(policy, sender, "")
        refused = {who: refusal for who, _ in recipients}
        told = _complete(plain if no_address is None else Transaction(), received_at, tuple(refused))
        return Judged([], {}, refused, told)
    taken, given, refused = [begun], {}, {}
    for who, more in recipients:
        if len(taken[-1].rcpt_tos) >= policy.max_recipients:
            taken.append(_begin(policy, sender, parameters)[0])
        refusal = _alone(who) or taken[-1].rcpt(
            f"TO:<{who}> {more}".rstrip(),
            limit=policy.max_recipients,
            postmaster=policy.postmaster,
            recipients=policy.recipients,
        )
        if refusal is None:
            given[who] = taken[-1].rcpt_tos[-1]
        else:
            refused[who] = refusal
    envelopes = [_complete(one, received_at) for one in taken if one.rcpt_tos]
    told = _complete(begun, received_at, tuple(refused))
    asked = {
        who: parse_parameters(more, RCPT_RULES)[0] for who, more in recipients if who in refused and more
    }
    notify = {who: parameters["NOTIFY"] for who, parameters in asked.items() if "NOTIFY" in parameters}
    return Judged(envelopes, given, refused, dataclasses.replace(told, notify=notify))


async def over_quota(quotas: Quotas, envelope: Envelope) -> Outcomes:
    """Count such mail as MAIL and RCPT would; returns the recipients who are too many now."""
    sender = envelope.sender_as_given
    refusal = await _known(quotas.message(envelope.client, envelope.auth_user, sender))
    if refusal is not None:
        return dict.fromkeys(envelope.forward_paths, refusal)
    over: Outcomes = {}
    for path in envelope.forward_paths:
        refusal = await _known(quotas.recipient(envelope.client, envelope.auth_user, sender))
        if refusal is not None:
            over[path] = refusal
    return over


async def _known(judgement: Judgement) -> Reply | None:
    return await judgement if isinstance(judgement, Coroutine) else judgement


def _begin(policy: Policy, sender: str, parameters: str) -> tuple[Transaction, Reply | None]:
    transaction = Transaction()
    refusal = _alone(sender) or transaction.mail(
        f"FROM:<{sender}> {parameters}",
        size_limit=policy.max_message_size,
        takes_name=policy.takes_sender,
    )
    return transaction, refusal


def _alone(address: str) -> Reply | None:
    """The reply where parameters of its own stand behind it; whether it is an address is not asked here."""
    try:
        return ALONE if parse_path(f"<{address}>")[1] else None
    except PathError:
        return None


def _complete(
    transaction: Transaction, received_at: float, forward_paths: tuple[str, ...] | None = None
) -> Envelope:
    """The envelope. Nobody waits for one answer to all: each recipient has its own."""
    envelope = transaction.complete(client="", helo="", user="", lmtp=True)
    paths = envelope.forward_paths if forward_paths is None else forward_paths
    return dataclasses.replace(envelope, received_at=received_at, forward_paths=paths)
