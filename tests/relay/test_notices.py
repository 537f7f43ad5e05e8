"""Mail to the operator: once an hour about each kind of thing, for all bridges, and never about itself."""

import asyncio
import email
import re
from collections.abc import Callable, Mapping, Sequence
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.envelope import Envelope
from smtp2cf.journal import event_log, maillog, news
from smtp2cf.journal.news import News
from smtp2cf.message.notice import TOPICS
from smtp2cf.relay import BouncePolicy
from smtp2cf.relay.notices import AGAIN, INTERVAL, Notices
from smtp2cf.reply import BOUNCED, DELIVERED
from smtp2cf.spool import NewMail, SpoolUnavailable
from tests.spool.conftest import Backend
from tests.support.each import each

ROOT = Path(__file__).parents[2]
OPERATOR = "you@example.com"
POLICY = BouncePolicy(hostname="relay.example.com")
REFUSED = "api.token_refused"


class Spool:
    """What notices ask of a spool. now: its clock. away: it can't be reached."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.texts: dict[str, str] = {}
        self.mail: list[NewMail] = []
        self.away = False

    async def recount(self, names: Sequence[str], change: Callable[[Mapping[str, str], float], Any]) -> Any:
        self._reach()
        changed, result = change({name: self.texts.get(name, "") for name in names}, self.now)
        self.texts |= {name: text for name, (text, _) in changed.items()}
        return result

    async def put(self, *mail: NewMail) -> None:
        self._reach()
        self.mail += mail

    def _reach(self) -> None:
        if self.away:
            raise SpoolUnavailable("away")


@pytest.fixture
def spool() -> Spool:
    return Spool()


def bridge(spool: Spool, policy: BouncePolicy = POLICY) -> Notices:
    return Notices(spool, OPERATOR, policy)  # type: ignore[arg-type]


def happens(notices: Notices, kind: str = REFUSED, text: str = "mail waits", **facts: object) -> None:
    notices.hear(News(kind, 1_795_737_600.0, text, facts))


def text_of(mail: NewMail) -> str:
    return " ".join(parsed(mail).get_payload().split())


def parsed(mail: NewMail) -> Message:
    return email.message_from_bytes(mail.message)


async def test_the_first_is_told_at_once_and_what_comes_in_an_hour_with_the_next(spool: Spool) -> None:
    notices = bridge(spool)
    happens(notices, text="the first")
    assert await notices.settle() == float("inf")
    assert "the first" in text_of(spool.mail[0])
    for number in range(41):
        happens(notices, text=f"number {number}")
        spool.now += 1
        assert await notices.settle() == INTERVAL - number - 1
    assert len(spool.mail) == 1
    spool.now += INTERVAL
    await notices.settle()
    assert len(spool.mail) == 2
    told = text_of(spool.mail[1])
    assert "the first" not in told
    assert "number 0" in told
    assert "number 19" in told
    assert "number 20" not in told
    assert "And 21 more since" in told
    spool.now += 10 * INTERVAL
    await notices.settle()
    assert len(spool.mail) == 2, "nothing has happened since"


async def test_each_kind_has_an_hour_of_its_own(spool: Spool) -> None:
    notices = bridge(spool)
    for kind in TOPICS:
        happens(notices, kind)
        happens(notices, kind)
    happens(notices, "mail.delivered")
    await notices.settle()
    assert len(spool.mail) == len(TOPICS)


async def test_bridges_on_one_spool_and_the_next_one_send_one_mail_together(spool: Spool) -> None:
    one, other = bridge(spool), bridge(spool)
    happens(one, text="seen by one")
    happens(other, text="seen by the other")
    await one.settle()
    await other.settle()
    assert ["seen by one" in text_of(mail) for mail in spool.mail] == [True]
    after_a_restart = bridge(spool)
    assert await after_a_restart.settle() == INTERVAL
    spool.now += INTERVAL
    assert await after_a_restart.settle() == float("inf")
    assert "Once since" in text_of(spool.mail[1])
    happens(other, text="an hour later")
    await other.settle()
    assert len(spool.mail) == 2
    spool.now += INTERVAL
    await other.settle()
    assert "an hour later" in text_of(spool.mail[2])
    assert "seen by the other" not in text_of(spool.mail[2]), "another bridge's mail counted it"


async def test_two_bridges_on_a_real_spool_send_one_mail(backend: Backend) -> None:
    real = await backend.open()
    one, other = (Notices(real, OPERATOR, POLICY) for _ in range(2))
    happens(one)
    happens(other)
    happens(other)
    waits = await asyncio.gather(one.settle(), other.settle())
    (item,) = [item async for item in real.items()]
    assert (item.is_dsn, item.envelope.forward_paths) == (True, (OPERATOR,))
    (wait,) = [wait for wait in waits if wait != float("inf")]
    assert INTERVAL - 60 < wait <= INTERVAL
    texts, _ = await real.counts()
    assert set(texts) == {f"operator/{REFUSED}"}


async def test_nothing_is_forgotten_while_the_spool_is_away(spool: Spool) -> None:
    notices = bridge(spool)
    spool.away = True
    happens(notices, text="the first")
    assert await notices.settle() == AGAIN
    happens(notices, text="the second")
    assert await notices.settle() == AGAIN
    spool.away = False
    await notices.settle()
    assert ["the first" in text_of(mail) and "the second" in text_of(mail) for mail in spool.mail] == [True]


async def test_a_clock_that_was_set_back_delays_nothing_for_longer_than_an_hour(spool: Spool) -> None:
    notices = bridge(spool)
    happens(notices)
    await notices.settle()
    spool.now -= 100 * INTERVAL
    happens(notices)
    assert await notices.settle() == INTERVAL
    spool.now += INTERVAL
    await notices.settle()
    assert len(spool.mail) == 2


async def test_it_is_mail_that_nobody_answers_and_nobody_is_told_of(spool: Spool) -> None:
    notices = bridge(spool)
    happens(notices, "mail.held", text="mail from <a@example.com> is held: \u00fc\r\nBcc: x@y", queue_id="Q1")
    await notices.settle()
    (mail,) = spool.mail
    assert (mail.is_dsn, mail.envelope.reverse_path) == (True, "")
    assert mail.envelope.forward_paths == (OPERATOR,)
    message = parsed(mail)
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Subject"] == "relay.example.com: mail is held because the bridge failed on it"
    assert (message["To"], message["Bcc"]) == (OPERATOR, None)
    assert "mailer-daemon@example.com" in message["From"]
    assert "(queue id Q1)" in text_of(mail)
    assert "SMTP2CF_OPERATOR" in text_of(mail)


async def test_where_all_mail_is_redirected_notices_are_too(spool: Spool) -> None:
    notices = bridge(spool, BouncePolicy(hostname="h", redirect=("staging@example.com",)))
    happens(notices)
    await notices.settle()
    assert spool.mail[0].envelope.forward_paths == ("staging@example.com",)


NOT_OWN: list[Mapping[str, object]] = [
    {"from": "", "to": ["anna@example.com"]},
    {"from": "", "to": [OPERATOR, "anna@example.com"]},
    {"from": "anna@example.com", "to": [OPERATOR]},
]
OWN: list[Mapping[str, object]] = [
    {"from": "", "to": [OPERATOR]},
    {"from": "", "to": ["You@EXAMPLE.com"]},
    {"to": [OPERATOR]},
    {"from": "mailer-daemon@example.org", "to": ["anna@example.com"]},
]


@each(("facts", "is_own"), [*((facts, False) for facts in NOT_OWN), *((facts, True) for facts in OWN)])
def test_what_becomes_of_a_notice_is_told_by_none(facts: Mapping[str, object], is_own: bool) -> None:
    spool = Spool()

    async def hear() -> None:
        notices = bridge(spool)
        happens(notices, "mail.dsn_undeliverable", **facts)
        await notices.settle()

    asyncio.run(hear())
    assert not spool.mail if is_own else spool.mail


FAILURES: Sequence[Callable[[Envelope], None]] = (
    lambda envelope: maillog.attempted(
        envelope, dict.fromkeys(envelope.forward_paths, BOUNCED), {}, original_id="", size=1
    ),
    lambda envelope: maillog.expired(
        envelope, dict.fromkeys(envelope.forward_paths, BOUNCED), size=1, attempts=1
    ),
    lambda envelope: maillog.held(envelope, "ValueError"),
    lambda envelope: maillog.reported(envelope, dsns=[], undeliverable=True),
    lambda envelope: event_log.told("bounced", OPERATOR, BOUNCED, "id", envelope=envelope),
    lambda envelope: event_log.told("complained", OPERATOR, DELIVERED, "id", envelope=envelope),
    lambda _: event_log.told("complained", OPERATOR, DELIVERED, "id"),
)
"""All that can become of mail of ours, besides its success."""


@given(first=st.sampled_from(sorted(TOPICS)), fates=st.lists(st.sampled_from(FAILURES), max_size=20))
def test_no_sequence_of_failures_makes_a_loop(
    first: str, fates: Sequence[Callable[[Envelope], None]]
) -> None:
    """One thing happens, and then only notices go out, hour by hour, and whatever may fail of them does."""

    async def run() -> None:
        spool = Spool()
        notices = bridge(spool)
        news.told_to(notices.hear)
        happens(notices, first)
        await notices.settle()
        for fate in fates:
            for mail in list(spool.mail):
                fate(mail.envelope)
            spool.now += INTERVAL
            await notices.settle()
        assert len(spool.mail) == 1

    try:
        asyncio.run(run())
    finally:
        news.told_to()


def test_the_page_lists_what_the_operator_is_told_of() -> None:
    page = (ROOT / "docs" / "notices.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+?`) \|", page, re.MULTILINE)
    assert {kind for row in rows for kind in re.findall(r"[a-z_]+\.[a-z_]+", row)} == TOPICS.keys()
