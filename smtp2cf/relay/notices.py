"""Notices: mail to the operator about what happens that nobody else is told of, through our own spool.

At most one mail an hour about each kind of thing, for all bridges on the spool: what happens meanwhile is
counted, and the next mail says how often it was. The counts are the spool's, so they survive a restart; what
happened last, in words, is known only to the bridge that heard it.

There can be no loop: nothing that becomes of a notice, or of other mail without a sender to the operator, is
told by another one. A notice is sent as a DSN is: nobody is told if it fails, and while Cloudflare is away it
waits like any other mail. Knows no HTTP.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import orjson
import structlog

from smtp2cf.access.senders import match_key
from smtp2cf.journal import maillog
from smtp2cf.journal.news import News
from smtp2cf.journal.steps import Kind
from smtp2cf.message import notice
from smtp2cf.message.notice import TOPICS, Happened
from smtp2cf.relay.bounces import BouncePolicy, automatic_mail
from smtp2cf.reply import SendError
from smtp2cf.spool import NewMail, Spool

INTERVAL = 3600.0
"""Seconds between two mails of one kind."""
GATHER = 1.0
"""Seconds for which more of what happens is waited for, so that it is one mail."""
AGAIN = 5.0
"""Seconds until the spool is asked again, if it is away."""
SHOWN = 20
"""Of what happened, so many are told in words."""
LASTS = 8 * 86400.0
"""Seconds for which the spool remembers a kind."""

Kept = tuple[str, float]

log = structlog.stdlib.get_logger("smtp2cf.relay")


def name_of(kind: str) -> str:
    """What the count of a kind is called in the spool."""
    return f"operator/{kind}"


class Told(NamedTuple):
    """What the spool knows of one kind. sent: when there was a mail, by the spool's clock, 0 for never. more:
    how often it has happened since."""

    sent: float = 0.0
    more: int = 0

    @classmethod
    def read(cls, text: str, now: float) -> "Told":
        """What `text` wrote; nothing, if it can't be read. A clock that was set back delays no mail."""
        with contextlib.suppress(ValueError, TypeError):
            sent, more = orjson.loads(text)
            return cls(min(float(sent), now), int(more))
        return cls()

    def text(self) -> str:
        """For the spool."""
        return orjson.dumps(list(self)).decode()


class Due(NamedTuple):
    """A mail that is to go out. times: how often it has happened. over: seconds since the one before, 0 for
    none."""

    times: int
    over: float


class Decision(NamedTuple):
    """due: the mails to send, by kind. sent: when there was a mail of each kind, with these. wait: seconds
    until the next is due."""

    due: dict[str, Due]
    sent: dict[str, float]
    wait: float


def decide(
    heard: Mapping[str, int], texts: Mapping[str, str], now: float
) -> tuple[Mapping[str, Kept], Decision]:
    """Which mails are due. heard: how often each kind was heard of. texts: what the spool has, by name."""
    changed: dict[str, Kept] = {}
    decision = Decision({}, {}, math.inf)
    for kind in TOPICS:
        told, new = Told.read(texts[name_of(kind)], now), heard.get(kind, 0)
        count, wait = told.more + new, told.sent + INTERVAL - now if told.sent else 0.0
        if count and wait <= 0:
            decision.due[kind] = Due(count, now - told.sent if told.sent else 0.0)
            told = Told(now)
        elif count:
            told = Told(told.sent, count)
            decision = decision._replace(wait=min(decision.wait, wait))
        decision.sent[kind] = told.sent
        if kind in decision.due or new:
            changed[name_of(kind)] = told.text(), LASTS
    return changed, decision


@dataclass(slots=True)
class _Heard:
    """What this bridge has heard of one kind. new: how often, not counted in the spool yet. shown: in words,
    since the mail that was sent at `sent`; None before the spool was asked."""

    new: int = 0
    sent: float | None = None
    shown: list[Happened] = field(default_factory=list)


class _Unsent(NamedTuple):
    kind: str
    times: int
    mail: NewMail


class Notices:
    """One bridge's. operator: the address they go to. policy: whom they come from."""

    def __init__(self, spool: Spool, operator: str, policy: BouncePolicy) -> None:
        self._spool = spool
        self._policy = policy
        self._to = policy.redirect or (operator,)
        self._heard = {kind: _Heard() for kind in TOPICS}
        self._unsent: list[_Unsent] = []
        self._woken = asyncio.Event()

    def hear(self, news: News) -> None:
        """Something has happened: a news.Listener."""
        heard = self._heard.get(news.kind)
        if heard is None or self._is_own(news):
            return
        heard.new += 1
        if len(heard.shown) < SHOWN:
            heard.shown.append(Happened(news.at, _in_words(news)))
        self._woken.set()

    def _is_own(self, news: News) -> bool:
        """It is about a notice of ours, as far as that can be known: on its way out, or come back in."""
        sender, to = news.facts.get("from"), news.facts.get("to")
        if not isinstance(to, Collection):
            return False
        if isinstance(sender, str) and sender:
            return self._policy.sends_from(sender)
        own = {match_key(address) for address in self._to}
        return all(match_key(address) in own for address in to)

    async def run(self) -> None:
        """Send what is due, until cancelled: at first what a bridge before this one has left."""
        while True:
            wait = await self.settle()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if wait == math.inf else wait):
                    await self._woken.wait()
                    await asyncio.sleep(GATHER)

    async def settle(self) -> float:
        """Count what was heard, and put the mails that are due into the spool; returns seconds until it is to
        be done again."""
        self._woken.clear()
        new = {kind: heard.new for kind, heard in self._heard.items() if heard.new}
        try:
            decision = await self._spool.recount([*map(name_of, TOPICS)], partial(decide, new))
            self._unsent += [self._mail(kind, due) for kind, due in decision.due.items()]
            self._counted(new, decision)
            await self._put()
        except SendError:
            return AGAIN
        return decision.wait

    def _counted(self, new: Mapping[str, int], decision: Decision) -> None:
        """Forget what is counted now, and in words what a mail has told, another bridge's perhaps."""
        for kind, heard in self._heard.items():
            counted = new.get(kind, 0)
            heard.new -= counted
            by_us = kind in decision.due
            if by_us or heard.sent not in (None, decision.sent[kind]):
                untold = heard.new + (0 if by_us else counted)
                heard.shown = heard.shown[-untold:] if untold else []
            heard.sent = decision.sent[kind]

    def _mail(self, kind: str, due: Due) -> _Unsent:
        now, shown = time.time(), self._heard[kind].shown[: due.times]
        content = notice.build(
            kind,
            shown,
            more=due.times - len(shown),
            since=min([now - due.over, *(one.at for one in shown)]),
            to=self._to,
            sender=self._policy.sender_of(self._to[0]),
            hostname=self._policy.hostname,
            now=now,
        )
        return _Unsent(kind, due.times, automatic_mail(content, self._to, self._policy))

    async def _put(self) -> None:
        """Keep the mails that are to go out. Raises SendError."""
        while self._unsent:
            kind, times, mail = self._unsent[0]
            await self._spool.put(mail)
            del self._unsent[0]
            queue_id = mail.envelope.queue_id
            log.info("mail.notice", queue_id=queue_id, to=list(self._to), about=kind, count=times)
            maillog.record(mail.envelope, Kind.KEPT, detail=f"a notice of {kind}", message=mail.message)


def _in_words(news: News) -> str:
    queue_id = news.facts.get("queue_id")
    return f"{news.text} (queue id {queue_id})" if queue_id else news.text
