"""Sender domains: which ones have sent, and which Cloudflare does not send for now.

Cloudflare refuses a domain that was never set up in the same words as one that was set up minutes ago, or was
disabled (`sender_not_configured`, `sending_disabled`). A domain that has sent before is set up, so its mail
waits for somebody to mend that; mail from any other is refused at once, with the setting to look at. Either
is remembered, and so is an `internal_server` that persists for one domain: it costs no call for each message,
and one domain's trouble never delays another's mail.

Each account is set up by itself, so a domain may be in trouble with one and not with another. Which domains
have sent is a note in the spool, or in memory without one. Knows no SMTP session and no HTTP.
"""

import asyncio
import random
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import idna
import orjson
import structlog

from smtp2cf.envelope import domain_of
from smtp2cf.journal import maillog, news, tasks
from smtp2cf.relay.accounts import Accounts
from smtp2cf.relay.bounces import MAILER_DAEMON, BouncePolicy
from smtp2cf.relay.waiting import make_due
from smtp2cf.reply import Reply, Scope, SendError, few_in_words, first_few, rough_duration
from smtp2cf.spool import Filter, Period, Spool, SpoolItem, Status

NOTE = "sender.domains"
"""The name of the note: a list of domains as JSON, in the order in which they first sent."""
DOMAINS_LIMIT = 10_000
"""Domains that are remembered, of either kind; the oldest are forgotten."""
NEVER_SET_UP = 900.0
"""Seconds for which a domain that never sent is taken as not set up: new ones work after 5 to 15 minutes."""
FIRST_PAUSE, LONGEST_PAUSE = 60.0, 900.0
"""Seconds without calls for a domain that has sent; doubling for as long as Cloudflare refuses it."""
ERRORS_IN_A_ROW = 3
"""Internal errors of Cloudflare's about one domain that begin a pause: a single one may be the message's."""
PROBE = 10.0
"""Seconds for which others of a domain wait while one call finds out whether it may send again."""
WORK_RATE = 50.0
"""Waiting messages of one domain that are taken up each second, where all are refused without a call or all
may go: others' mail is not to wait behind them."""
LOG_INTERVAL = 3600.0
"""Seconds between two log lines about one domain."""
READ_AGAIN = 5.0
"""Seconds until the note is read again if the spool is away."""
NAMED_LIMIT = 5
"""Domains that the status page names."""

NOT_CONFIGURED = "4.3.5"
"""Enhanced status of errors about how the domain is set up; any other may pass by itself."""
ADVICE = (
    "Set it up for Email Sending in Cloudflare's dashboard, or send from a domain that is"
    " (SMTP2CF_ALLOWED_SENDER_DOMAINS says which may send)"
)

NOBODY_KNOWN = (
    "no domain has sent mail yet, so reports (DSNs) have no sender that is known to work: set "
    "SMTP2CF_POSTMASTER to an address in a domain that is set up at Cloudflare"
)
"""What an operator is told where nobody is known whom DSNs could come from."""

T = TypeVar("T")
K = TypeVar("K")
Sending = tuple[str, str]
"""A domain and the account it sends through, "" where there is only one."""

log = structlog.stdlib.get_logger("smtp2cf.relay")


@dataclass(slots=True)
class Trouble:
    """What Cloudflare last said of a domain.

    reply: what its mail is answered; permanent if the domain never sent. until: no calls before, in
    time.monotonic() seconds. pause: seconds that took so far, 0 for none yet. errors: in a row. probed_until:
    a call finds out meanwhile. spread: its waiting mail was put off. since: when it began. sent_as: who
    stands in for its senders while it is permanent, "" for nobody.
    """

    reply: Reply
    until: float = 0.0
    pause: float = 0.0
    errors: int = 0
    probed_until: float = 0.0
    spread: bool = False
    since: float = 0.0
    sent_as: dict[str, None] = field(default_factory=dict)

    @property
    def not_configured(self) -> bool:
        """By the domain's settings at Cloudflare."""
        return self.reply.permanent or self.reply.status == NOT_CONFIGURED

    def in_words(self) -> str:
        """What becomes of its mail."""
        if self.reply.transient:
            return "waits"
        others = few_in_words([f"<{address}>" for address in self.sent_as if address], NAMED_LIMIT)
        if "" in self.sent_as or not others:
            return "is refused" + (f" where {others} does not stand in" if others else "")
        return f"is sent as {others} instead"


class SenderDomains:
    """Asked before a call for a sender's domain, and told what came of it.

    spool: where it is kept which have sent; None for in memory. accounts: who sends for which, None where
    there is only one.
    """

    def __init__(self, spool: Spool | None = None, accounts: Accounts | None = None) -> None:
        self._spool = spool
        self._accounts = accounts if accounts is not None and accounts.only is None else None
        self._sent: dict[str, None] = {}
        self.noted: set[str] = set()
        """Domains that are known to have sent, now and after a restart."""
        self._noting: asyncio.Task[None] | None = None
        self._is_read = spool is None
        self.troubles: dict[Sending, Trouble] = {}
        """Domains that something is wrong with."""
        self._logged: dict[Sending, float] = {}

    # ---- calls

    def refusal(
        self, domain: str, account: str = "", *, keep: bool, waits: bool, instead: str = ""
    ) -> SendError | None:
        """What is known to come of a call for a domain in trouble; None if a call is to find out.

        keep: the mail is a DSN, which is never refused for its sender. waits: it is from the spool. instead:
        who stands in for its sender, if the domain was never set up; "" for nobody.
        """
        sending = domain, account
        trouble, now = self.troubles[sending], time.monotonic()
        wait = max(trouble.until, trouble.probed_until) - now
        if not trouble.pause:
            return None
        if wait > 0:
            if not keep:
                _set(trouble.sent_as, instead, None)
            self._count(sending, trouble, instead)
            if waits and not trouble.spread:
                trouble.spread = True
                later = None if trouble.reply.permanent else Period(wait, wait + trouble.pause)
                self._reschedule(sending, later)
            # Not all at the same moment: one of them finds out for the others.
            return _error_of(trouble, keep=keep, wait=wait + random.uniform(0, trouble.pause))  # noqa: S311
        if not trouble.reply.permanent:
            trouble.probed_until = now + PROBE
        return None

    def has_sent(self, domain: str, account: str = "") -> None:
        """Cloudflare has taken mail from this domain."""
        sending = domain, account
        if (trouble := self.troubles.pop(sending, None)) is not None and trouble.pause:
            self._logged.pop(sending, None)
            maillog.sender_recovered(_named(sending))
            self._reschedule(sending)
        _set(self._sent, domain, None)
        if self._spool is None:
            self.noted.add(domain)
        elif domain not in self.noted and (self._noting is None or self._noting.done()):
            self._noting = tasks.start(self._note(), "relay.note_sender")

    async def refused(
        self, domain: str, reply: Reply, account: str = "", *, keep: bool, instead: str = ""
    ) -> SendError:
        """Cloudflare refuses a call for its sender's domain. Returns what that means. keep, instead: see
        refusal."""
        sending = domain, account
        trouble = self.troubles.get(sending)
        text = reply.text.replace("the sender's domain", domain)
        if reply.status == NOT_CONFIGURED and not await self._is_known(domain):
            until = time.monotonic() + NEVER_SET_UP
            trouble = Trouble(Reply(550, "5.7.1", f"{text}. {ADVICE}"), until, NEVER_SET_UP)
        else:
            if trouble is None or trouble.reply.permanent:
                trouble = Trouble(reply, since=time.monotonic())
            trouble.reply = reply._replace(text=text)
            _pause(trouble)
        if not keep:
            _set(trouble.sent_as, instead, None)
        _set(self.troubles, sending, trouble)
        self._count(sending, trouble, instead)
        return _error_of(trouble, keep=keep, wait=trouble.until - time.monotonic())

    def _count(self, sending: Sending, trouble: Trouble, instead: str) -> None:
        """Count a failed attempt; one line per domain and hour. instead: see refusal."""
        if not trouble.pause:
            return
        domain, now = _named(sending), time.monotonic()
        last = self._logged.get(sending)
        is_news = last is None or now - last >= LOG_INTERVAL
        if is_news:
            _set(self._logged, sending, now)
        if trouble.not_configured:
            sent_as = instead if trouble.reply.permanent else ""
            maillog.sender_not_configured(domain, trouble.reply, is_news=is_news, sent_as=sent_as)
        elif is_news:
            maillog.sender_failing(domain, trouble.reply)
        if is_news and trouble.reply.transient and now - trouble.since >= LOG_INTERVAL:
            waited = f"mail from {domain} has waited for {rough_duration(now - trouble.since)}"
            kind = "sender.not_configured" if trouble.not_configured else "sender.failing"
            news.tell(kind, f"{waited}: {trouble.reply.text}", domain=domain, reply=str(trouble.reply))

    def ask_again(self) -> None:
        """Somebody may have mended what was wrong: call for every domain, and try what waits."""
        paused = [sending for sending, trouble in self.troubles.items() if trouble.pause]
        self.troubles.clear()
        self._logged.clear()
        for sending in paused:
            self._reschedule(sending)
        if paused:
            log.info("sender.asked_again", domains=first_few([*map(_named, paused)], NAMED_LIMIT))

    # ---- what waits

    def _reschedule(self, sending: Sending, within: Period | None = None) -> None:
        """Have the domain's waiting mail tried evenly within this time; without one, WORK_RATE a second.

        So it doesn't come all at once, and what others send is not behind it.
        """
        if self._spool is not None:
            tasks.start(self._reschedule_all(self._spool, sending, within), "relay.reschedule")

    async def _reschedule_all(self, spool: Spool, sending: Sending, within: Period | None) -> None:
        domain, account = sending

        async def wanted(item: SpoolItem) -> bool:
            return self._account_of(item.envelope.auth_user, item.envelope.reverse_path) == account

        try:
            for spelling in _spellings(domain):
                which = Filter(sender=f"*@{spelling}", statuses=(Status.QUEUED, Status.DEFERRED))
                period = within or Period(0.0, await spool.count(which) / WORK_RATE)
                await make_due(spool, which, period, wanted if self._accounts is not None else None)
        except SendError as error:
            log.warning("spool.unavailable", reply=str(error.reply))
            if (trouble := self.troubles.get(sending)) is not None:
                trouble.spread = False

    def _account_of(self, user: str, sender: str, *, is_dsn: bool = False) -> str | None:
        """Which account sends for somebody, None for none."""
        if self._accounts is None:
            return ""
        outlet = self._accounts.for_(user, sender, is_dsn=is_dsn)
        return outlet.name if outlet is not None else None

    # ---- what is known

    async def read(self) -> None:
        """Read which domains have sent, however long the spool is away."""
        while not self._is_read:
            await self._read_once()
            if not self._is_read:
                await asyncio.sleep(READ_AGAIN)

    def summary(self) -> str:
        """The domains that Cloudflare does not send for now, for people; "" for none."""
        named = [
            f"{_named(sending)}: mail {trouble.in_words()} ({trouble.reply.text})"
            for sending, trouble in self.troubles.items()
            if self._is_refused(sending) or (trouble.pause and trouble.reply.transient)
        ]
        return few_in_words(named, NAMED_LIMIT)

    async def that_have_sent(self) -> Sequence[str]:
        """The domains that are known to have sent, by this process or before; the first to send first."""
        await self._read_once()
        return list(self._sent)

    async def sender_of_dsn(self, policy: BouncePolicy, recipient: str, user: str = "") -> str:
        """The address that a DSN comes from now: one that may send, if any is known.

        user: who gave the mail that it is about.
        """
        usual = policy.sender_of(recipient)
        domain = domain_of(usual)
        if policy.postmaster and self._may_send(domain, user):
            return usual
        await self._read_once()
        known = [domain, *self._sent] if domain in self._sent else list(self._sent)
        may_send = next((each for each in known if self._may_send(each, user)), next(iter(known), None))
        return usual if may_send is None else f"{MAILER_DAEMON}@{may_send}"

    def _may_send(self, domain: str, user: str) -> bool:
        """As far as is known: an account sends for the domain, and Cloudflare does not refuse it now."""
        account = self._account_of(user, f"{MAILER_DAEMON}@{domain}", is_dsn=True)
        return account is not None and not self._is_refused((domain, account))

    def _is_refused(self, sending: Sending) -> bool:
        """It is known what would come of a call for this domain now."""
        trouble, now = self.troubles.get(sending), time.monotonic()
        return trouble is not None and bool(trouble.pause) and max(trouble.until, trouble.probed_until) > now

    async def _is_known(self, domain: str) -> bool:
        """Whether the domain has ever sent; if nobody can tell now, it has: its mail is not to bounce."""
        if domain in self._sent:
            return True
        try:
            return domain in await self._change([])  # another bridge on the same spool may have noted it
        except SendError:
            return True

    async def _read_once(self) -> None:
        """Read the note unless it has been; if the spool is away, what is known without it must do."""
        if not self._is_read:
            try:
                await self._change([])
            except SendError as error:
                log.warning("spool.unavailable", reply=str(error.reply))

    # ---- the note

    async def _note(self) -> None:
        tried: set[str] = set()
        try:
            # Others may send for the first time meanwhile, and never again before a restart.
            while new := self._sent.keys() - self.noted - tried:
                tried |= new
                await self._change([domain for domain in self._sent if domain in new])
        except SendError as error:  # it is noted after the domain's next message
            log.warning("spool.unavailable", reply=str(error.reply))

    async def _change(self, new: Sequence[str]) -> Collection[str]:
        """Add domains to the note. Returns all that have sent. Raises SendError."""
        if self._spool is None:
            return self._sent

        def change(text: str, _now: float) -> tuple[str, list[str]]:
            domains = list(dict.fromkeys([*domains_in(text), *new]))[-DOMAINS_LIMIT:]
            return orjson.dumps(domains).decode(), domains

        noted = await self._spool.amend(NOTE, change)
        self.noted, self._is_read = set(noted), True
        self._sent = dict.fromkeys([*noted, *self._sent][-DOMAINS_LIMIT:])
        return self._sent


def domains_in(note: str) -> list[str]:
    """The domains in the text of the note; none if it can't be read."""
    try:
        found = orjson.loads(note)
    except orjson.JSONDecodeError:
        return []
    return [domain for domain in found if isinstance(domain, str)] if isinstance(found, list) else []


def _pause(trouble: Trouble) -> None:
    """Make no calls for a while, longer each time."""
    now = time.monotonic()
    trouble.errors += 1
    if now < trouble.until or not (trouble.not_configured or trouble.errors >= ERRORS_IN_A_ROW):
        return
    trouble.pause = min(2 * trouble.pause, LONGEST_PAUSE) if trouble.pause else FIRST_PAUSE
    trouble.until = now + trouble.pause
    trouble.spread = False


def _error_of(trouble: Trouble, *, keep: bool, wait: float) -> SendError:
    """The error for a message from a domain in trouble. wait: seconds until another attempt makes sense."""
    reply, retry_after = trouble.reply, wait if trouble.pause and trouble.reply.transient else None
    if keep:
        if reply.permanent:
            reply = Reply(451, NOT_CONFIGURED, reply.text)
        retry_after = None  # the next attempt may come from another domain
    return SendError(reply, Scope.SENDER, retry_after)


def _spellings(domain: str) -> set[str]:
    """How a domain may be written in envelopes."""
    try:
        return {domain, idna.decode(domain)}
    except idna.IDNAError:
        return {domain}


def _named(sending: Sending) -> str:
    """For people."""
    domain, account = sending
    return f"{domain} (account {account})" if account else domain


def _set(known: dict[K, T], key: K, value: T) -> None:
    """Set a value; where there are too many, the oldest is forgotten."""
    known[key] = value
    if len(known) > DOMAINS_LIMIT:
        del known[next(iter(known))]
