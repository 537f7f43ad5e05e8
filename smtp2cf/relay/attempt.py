"""Attempt: one attempt to send a message to recipients that have no final outcome yet.

Who it is sent as, in which spelling each recipient, through which account, and in which version comes first;
what is learned for the next attempt last. In between are the calls (`calls`). Knows no spool.
"""

import functools
import time
from collections.abc import Sequence
from typing import TypedDict

from smtp2cf.cloudflare import MAX_RECIPIENTS_PER_CALL, Sent
from smtp2cf.envelope import SENT_AS_IS, Envelope, sent_form
from smtp2cf.message import dsn
from smtp2cf.relay.accounts import Accounts, Outlet, SendRaw, no_account
from smtp2cf.relay.bounces import BouncePolicy
from smtp2cf.relay.calls import Attempt, Calls
from smtp2cf.relay.lease import Lease
from smtp2cf.relay.repairs import Repairs, Version, Versions, repair_all, version_of
from smtp2cf.relay.sender_domains import SenderDomains
from smtp2cf.relay.senders import Senders
from smtp2cf.relay.spellings import Spellings
from smtp2cf.relay.suppressed import LookUp, explain
from smtp2cf.reply import RefusedError, Reply, SendError

__all__ = ["Attempt", "Attempts"]


_Mail = tuple[Envelope, bytes]


class _How(TypedDict):
    """How an attempt is made; see `Attempts.make`."""

    patience: float
    taken: bool
    lease: Lease | None


def _form_of(address: str) -> tuple[str, Reply | None]:
    """The form in which an address is sent, and the reply where there is none."""
    try:
        return sent_form(address), None
    except RefusedError as error:
        return address, error.reply


class Attempts:
    """The way out: makes attempts, for new mail and for what waits.

    out: one account's send_raw, or accounts, of which each attempt chooses one. null_sender_address: who
    stands in for `<>`, which Cloudflare does not take; "" for nobody. bounce: says who a DSN comes from.
    domains: which senders' domains may send. repair: whether a message that Cloudflare calls invalid is tried
    repaired. look_up: says why a recipient is suppressed, where there is one account. senders: who stands in
    for a sender whose domain Cloudflare does not know.
    """

    def __init__(
        self,
        out: SendRaw | Accounts,
        null_sender_address: str,
        bounce: BouncePolicy,
        domains: SenderDomains | None = None,
        *,
        repair: bool = False,
        look_up: LookUp | None = None,
        senders: Senders | None = None,
    ) -> None:
        self._accounts = out if isinstance(out, Accounts) else Accounts.of_one(out, look_up=look_up)
        self._only = self._accounts.only
        self._domains = domains or SenderDomains()
        self._null_sender_address = null_sender_address
        self._bounce = bounce
        self._repair = repair
        self._repairs = Repairs()
        self._senders = senders

    async def make(
        self,
        envelope: Envelope,
        recipients: Sequence[str],
        message: bytes,
        *,
        patience: float,
        taken: bool = False,
        is_dsn: bool = False,
        lease: Lease | None = None,
    ) -> Attempt:
        """One attempt to send to `recipients`, with an outcome for each spelling they were given in.

        patience: seconds it may wait for its turn. taken: others got the message. lease: on a spool's mail.
        """
        sender = envelope.reverse_path or self._null_sender_address
        sender = await self._sender_of_dsn(envelope) if is_dsn else sender
        outlet = self._only or self._accounts.for_(envelope.auth_user, sender, is_dsn=is_dsn)
        if outlet is None:
            return _without_account(recipients, sender, lease)
        sender, refusal = (sender, None) if SENT_AS_IS.fullmatch(sender) else _form_of(sender)
        if refusal is not None:
            return Attempt(outcomes=dict.fromkeys(recipients, refusal))
        message = dsn.from_sender(message, sender) if is_dsn else message
        forms, spelled = recipients, None
        if len(recipients) > 1 or not SENT_AS_IS.fullmatch(recipients[0]):
            spelled = Spellings.of(recipients)
            if not (forms := spelled.forms):
                return Attempt(outcomes=spelled.refused)
        domain = sender.rpartition("@")[2]
        troubled = (domain, outlet.name) in self._domains.troubles
        known = self._known_refusal(envelope, domain, outlet, lease, keep=is_dsn) if troubled else None
        leased = {} if lease is None else {"lease": lease}
        send = functools.partial(outlet.send_raw, sender, deadline=time.monotonic() + patience, **leased)
        version = Version(functools.partial(send, message=message))
        if sender in self._repairs.by_sender:
            version = version_of(send, self._repairs.at_once(sender, message))
        first = forms[:MAX_RECIPIENTS_PER_CALL]  # goes alone: it finds out once what is wrong for all
        try:
            result: Sent | Exception = known or await version.send(first)
        except Exception as error:  # noqa: BLE001 - see `Calls.go_on`
            result = error
        repair_it = functools.partial(repair_all, send, message, version.changed) if self._repair else None
        attempt = await Calls(Versions(version, repair_it), forms, vouched=taken).go_on(first, result)
        await self._learn(envelope, sender, outlet, version, attempt, keep=is_dsn, called=known is None)
        await self._explain(attempt, sender, outlet, spelled, lease)
        if self._senders is None or is_dsn or not attempt.never_set_up:
            return attempt
        how = _How(patience=patience, taken=taken, lease=lease)
        return await self._from_another((envelope, message), recipients, attempt, how)

    def _instead(self, envelope: Envelope, *, keep: bool) -> str:
        """Who stands in for the sender if Cloudflare does not know the domain, "" for nobody."""
        return "" if self._senders is None or keep else self._senders.default_of_unknown(envelope)

    async def _from_another(
        self, mail: "_Mail", recipients: Sequence[str], refused: Attempt, how: "_How"
    ) -> Attempt:
        """The attempt from whoever stands in for a sender whose domain was never set up, if anybody does."""
        other = self._senders.instead_of_unknown(*mail) if self._senders is not None else None
        if other is None:
            return refused
        attempt = await self.make(other[0], recipients, other[1], **how)
        attempt.sent_as = attempt.sent_as or other[0].reverse_path
        return attempt

    def refusal(self, envelope: Envelope) -> Reply | None:
        """The reply to new mail that no account sends; None where one does."""
        sender = envelope.reverse_path or self._null_sender_address
        outlet = self._only or self._accounts.for_(envelope.auth_user, sender)
        return no_account(sender) if outlet is None else None

    async def outlet_of(self, envelope: Envelope, *, is_dsn: bool = False) -> Outlet | None:
        """The account that an attempt made now would choose, None for none."""
        sender = envelope.reverse_path or self._null_sender_address
        if is_dsn:
            sender = await self._sender_of_dsn(envelope)
        return self._only or self._accounts.for_(envelope.auth_user, sender, is_dsn=is_dsn)

    async def sender_of(self, envelope: Envelope, *, is_dsn: bool = False) -> str:
        """Who an attempt made now would send it as."""
        sender = await self._sender_of_dsn(envelope) if is_dsn else envelope.reverse_path
        return _form_of(sender or self._null_sender_address)[0]

    async def _sender_of_dsn(self, envelope: Envelope) -> str:
        recipient, user = envelope.forward_paths[0], envelope.auth_user
        return await self._domains.sender_of_dsn(self._bounce, recipient, user)

    def _known_refusal(
        self, envelope: Envelope, domain: str, outlet: Outlet, lease: Lease | None, *, keep: bool
    ) -> SendError | None:
        """See SenderDomains.refusal. Such an attempt counts, although it needs no call."""
        waits = lease is not None and lease.kept
        instead = self._instead(envelope, keep=keep)
        refusal = self._domains.refusal(domain, outlet.name, keep=keep, waits=waits, instead=instead)
        if refusal is not None and lease is not None:
            lease.called = True
        return refusal

    async def _explain(
        self, attempt: Attempt, sender: str, outlet: Outlet, spelled: Spellings | None, lease: Lease | None
    ) -> None:
        """Say in the attempt what is known beyond the answers to the calls, for every spelling."""
        attempt.account, attempt.sender = outlet.name, sender
        attempt.called_at = lease.called_at if lease is not None else 0.0
        if outlet.look_up is not None:
            await explain(attempt.outcomes, sender, outlet.look_up)
        if spelled is not None and not spelled.as_sent:
            attempt.outcomes = spelled.refused | spelled.as_given(attempt.outcomes)
            attempt.message_ids = spelled.as_given(attempt.message_ids)
            attempt.unanswered = list(spelled.as_given(dict.fromkeys(attempt.unanswered)))
            attempt.together = [list(spelled.as_given(dict.fromkeys(part))) for part in attempt.together]

    async def _learn(
        self,
        envelope: Envelope,
        sender: str,
        outlet: Outlet,
        version: Version,
        attempt: Attempt,
        *,
        keep: bool,
        called: bool,
    ) -> None:
        """Remember what an attempt says of its sender and the domain, and say what a refusal means.

        version: which was tried first. keep: see SenderDomains.refusal. called: a call was made.
        """
        if not called:
            return
        if attempt.repaired and attempt.repaired != version.changed:
            self._repairs.remember(sender, attempt.repaired)
        domains, refused, domain = self._domains, attempt.sender_refusal, sender.rpartition("@")[2]
        if ((domain, outlet.name) in domains.troubles or domain not in domains.noted) and any(
            reply.success for reply in attempt.outcomes.values()
        ):
            domains.has_sent(domain, outlet.name)
        if refused is not None:
            instead = self._instead(envelope, keep=keep)
            error = await domains.refused(domain, refused, outlet.name, keep=keep, instead=instead)
            attempt.sender_refusal = error.reply
            attempt.retry_after = max(attempt.retry_after or 0.0, error.retry_after or 0.0) or None
            attempt.outcomes = {
                who: error.reply if reply == refused else reply for who, reply in attempt.outcomes.items()
            }


def _without_account(recipients: Sequence[str], sender: str, lease: Lease | None) -> Attempt:
    """The attempt for mail that no account sends. What we have kept waits for the settings to be mended."""
    reply = no_account(sender)
    if lease is not None and lease.kept:
        lease.called = True  # it counts, although it needs no call
        reply = reply._replace(code=451, status="4.3.5")
    return Attempt(outcomes=dict.fromkeys(recipients, reply))
