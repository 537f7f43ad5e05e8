"""What is told of a message: how it ended, once for each answer, with all recipients."""

import pytest

from smtp2cf.envelope import Envelope
from smtp2cf.journal import event_log, maillog, news
from smtp2cf.reply import BOUNCED, DELIVERED, QUEUED, SUPPRESSED, Reply
from tests.support.each import each
from tests.support.news import heard

DEFERRED = Reply(451, "4.4.1", "no connection")
REFUSED = "550 5.1.1 the recipient's server refused it permanently (permanent bounce)"


def mail(*recipients: str, sender: str = "a@example.com") -> Envelope:
    return Envelope(reverse_path=sender, forward_paths=recipients or ("b@example.net",))


@each(
    ("reply", "kind"),
    [
        (DELIVERED, "mail.delivered"),
        (BOUNCED, "mail.bounced"),
        (SUPPRESSED, "mail.bounced"),
        (QUEUED, None),
        (DEFERRED, None),
    ],
)
def test_an_attempt_that_is_the_end_of_it_is_told(reply: Reply, kind: str | None) -> None:
    with heard() as told:
        maillog.attempted(mail(), {"b@example.net": reply}, {}, original_id="<1@h>", size=10, account="shop")
    assert [one.kind for one in told] == ([kind] if kind else [])
    for one in told:
        assert one.facts["reply"] == str(reply)
        assert one.facts["account"] == "shop"
        assert one.facts["original_message_id"] == "<1@h>"


@each(
    ("status", "reply", "kind"),
    [
        ("delivered", DELIVERED, "mail.delivered"),
        ("bounced", BOUNCED, "mail.bounced"),
        ("failed", BOUNCED, "mail.bounced"),
        ("rejected", BOUNCED, "mail.bounced"),
        ("complained", DELIVERED, "mail.complained"),
        ("deferred", DEFERRED, None),
        ("anything else", DELIVERED, None),
    ],
)
def test_an_event_that_is_the_end_of_it_is_told(status: str, reply: Reply, kind: str | None) -> None:
    with heard() as told:
        event_log.told(status, "b@example.net", reply, "cf-1", envelope=mail(), original_id="<1@h>")
    assert [one.kind for one in told] == ([kind] if kind else [])
    for one in told:
        assert one.facts["to"] == ["b@example.net"]
        assert (one.facts["message_id"], one.facts["original_message_id"]) == ("cf-1", "<1@h>")


def test_all_recipients_are_facts_and_a_few_are_named() -> None:
    recipients = [f"{number}@example.net" for number in range(100)]
    with heard() as told:
        outcomes = dict.fromkeys(recipients, BOUNCED)
        maillog.attempted(mail(*recipients), outcomes, {}, original_id="", size=10)
    (one,) = told
    assert one.facts["to"] == recipients
    named = "<0@example.net>, <1@example.net>, <2@example.net> and 97 more"
    assert one.text == f"mail from <a@example.com> could not be delivered to {named}: {REFUSED}"


def test_mail_that_is_given_up_held_or_untold_is_told_of() -> None:
    given_up = Reply(451, "4.4.7", "given up")
    with heard() as told:
        maillog.expired(mail(), {"b@example.net": given_up}, size=10, attempts=9)
        maillog.held(mail(), "{x}")
        maillog.reported(mail(sender=""), dsns=[], undeliverable=True)
    assert [(one.kind, one.text) for one in told] == [
        (
            "mail.expired",
            "mail from <a@example.com> was given up, and did not reach <b@example.net>: 451 4.4.7 given up",
        ),
        (
            "mail.held",
            "mail from <a@example.com> to <b@example.net> is held, because the bridge failed on it: {x}",
        ),
        (
            "mail.dsn_undeliverable",
            "mail from <> could not be delivered to <b@example.net>, and there is nobody to tell",
        ),
    ]
    assert all(one.facts["queue_id"] for one in told)


def test_a_report_is_told_of_by_what_it_is_about() -> None:
    report = Envelope(reverse_path="", forward_paths=("a@example.com",), dsn_for="Q1")
    with heard() as told:
        maillog.reported(report, dsns=[], undeliverable=True)
    assert told[0].text == (
        "the report about Q1 could not be delivered to <a@example.com>, and there is nobody to tell"
    )
    assert told[0].facts["dsn_for"] == "Q1"


def test_nothing_is_built_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maillog.mail_news, "attempted", None)
    maillog.attempted(mail(), {"b@example.net": DELIVERED}, {}, original_id="", size=10)
    with heard():
        news.told_to(lambda _: None, kinds=("mail.held",))
        maillog.attempted(mail(), {"b@example.net": DELIVERED}, {}, original_id="", size=10)
