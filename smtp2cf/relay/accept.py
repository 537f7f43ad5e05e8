"""Accept: where new mail is taken. Whether there is a spool is asked once, here.

`WithoutSpool.accept` and `WithSpool.accept` take a message from its envelope to its verdict in a straight
line: check it, make it fit for JSON if it isn't, send it or keep it, answer. A 250 means handed to
Cloudflare, or fsynced in the spool. Knows no SMTP session and no HTTP.
"""

import time
from collections.abc import Awaitable

from smtp2cf.envelope import Accept, Answered, Envelope, Outcomes, SenderRefusal
from smtp2cf.journal import maillog
from smtp2cf.relay.accounts import Accounts, Outlet, Pace, SendRaw
from smtp2cf.relay.attempt import Attempts
from smtp2cf.relay.bounces import BouncePolicy
from smtp2cf.relay.checks import Checks, RefusalAt
from smtp2cf.relay.lost_answers import LostAnswers
from smtp2cf.relay.policy import MessagePolicy
from smtp2cf.relay.queue import Queue
from smtp2cf.relay.retry import RetryPolicy
from smtp2cf.relay.rewriting import Rewriting
from smtp2cf.relay.sender_domains import SenderDomains
from smtp2cf.relay.senders import Senders
from smtp2cf.relay.spooled import SpooledMail
from smtp2cf.relay.suppressed import LookUp
from smtp2cf.relay.with_spool import WithSpool
from smtp2cf.relay.without_spool import WithoutSpool
from smtp2cf.spool import Following, Spool, SpoolItem


class Relay:
    """Takes messages and answers what became of them.

    accept: relays one message, and gives every recipient's outcome and the answer to the client. answered: is
    told whether the client has its answer, or went away without it, and will send the message again.

    out: one account's send_raw, with its pace (what its limits leave for waiting mail) and its look_up (says
    why a recipient is suppressed); or several accounts. spool: keeps mail that can't go out now; without one
    it stays with its client. sender_refusal: who may send as whom; None if everybody may send as anybody.
    refusal_at: the same at listeners with a name. rewriting: what becomes of addresses. senders: who stands
    in for a sender whose domain Cloudflare does not know. following: keeps those of whom events will tell,
    None if no events are heard. lost: calls whose answers events may still show, None if nobody waits for
    that. queue: sends the mail in the spool; None without one.
    """

    def __init__(
        self,
        out: SendRaw | Accounts,
        policy: MessagePolicy,
        *,
        spool: Spool | None = None,
        retry: RetryPolicy | None = None,
        bounce: BouncePolicy | None = None,
        pace: Pace | None = None,
        sender_refusal: SenderRefusal | None = None,
        refusal_at: RefusalAt | None = None,
        look_up: LookUp | None = None,
        rewriting: Rewriting | None = None,
        following: Following | None = None,
        lost: LostAnswers | None = None,
        senders: Senders | None = None,
    ) -> None:
        bounce = bounce or BouncePolicy(hostname="localhost")
        self.rewriting = rewriting or Rewriting()
        accounts = out if isinstance(out, Accounts) else Accounts.of_one(out, pace, look_up)
        checks = Checks(policy, sender_refusal, refusal_at, senders.allow if senders is not None else None)
        self.sender_domains = SenderDomains(spool, accounts)
        attempts = Attempts(
            accounts,
            policy.null_sender_address,
            bounce,
            self.sender_domains,
            repair=policy.on_invalid == "repair",
            senders=senders,
        )
        self.queue: Queue | None = None
        if spool is None:
            self._way: WithSpool | WithoutSpool = WithoutSpool(
                checks, self.rewriting, attempts, policy, bounce
            )
        else:
            mail = SpooledMail(spool, retry or RetryPolicy(), bounce, following, lost)
            self.queue = _queue(mail, attempts, accounts)
            self._way = WithSpool(checks, self.rewriting, attempts, policy, bounce, mail)
        self.accept: Accept = self._way.accept
        self.answered: Answered = self._way.answered

    async def bounce(self, envelope: Envelope, message: bytes, outcomes: Outcomes) -> None:
        """Send a DSN about recipients who were refused or given up, when no client waits for an answer.

        Raises SendError if the DSN can neither be kept nor, without a spool, be sent now.
        """
        envelope = self.rewriting.of_sender(envelope)
        dsns = await self._way.tell(envelope, message, outcomes)
        maillog.reported(envelope, dsns=dsns)

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - what is under way outlives it
        """Let what is under way end within `timeout` seconds; the rest stays in the spool."""
        started = time.monotonic()
        await self._way.drain(timeout)
        if self.queue is not None:
            await self.queue.drain(max(0.0, timeout - (time.monotonic() - started)))


def _queue(mail: SpooledMail, attempts: Attempts, accounts: Accounts) -> Queue:
    def outlet_of(item: SpoolItem) -> Awaitable[Outlet | None]:
        return attempts.outlet_of(item.envelope, is_dsn=item.is_dsn)

    def sender_of(item: SpoolItem) -> Awaitable[str]:
        return attempts.sender_of(item.envelope, is_dsn=item.is_dsn)

    return Queue(mail, attempts.make, accounts=accounts, outlet_of=outlet_of, sender_of=sender_of)
