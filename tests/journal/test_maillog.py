"""One function for each mail event: the line it logs, what it counts, what the status page shows."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from smtp2cf.envelope import Envelope
from smtp2cf.journal import event_log, mail_counts, maillog
from smtp2cf.reply import ACCEPTED, BOUNCED, DELIVERED, QUEUED, SUPPRESSED, Reply

THROTTLED = Reply(451, "4.7.1", "later")

Lines = list[Any]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What is logged in the test."""
    with capture_logs() as captured:
        yield captured


class Counted:
    """How far counters rose since this was made."""

    def __init__(self) -> None:
        self._before = self._now()

    @staticmethod
    def _now() -> dict[tuple, float]:
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for metric in REGISTRY.collect()
            if metric.name.startswith("smtp2cf_")
            for sample in metric.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        key = (f"smtp2cf_{name}", *sorted(labels.items()))
        return self._now()[key] - self._before[key]


def envelope(*recipients: str, **changes: Any) -> Envelope:
    return Envelope(
        reverse_path="a@example.com", forward_paths=recipients or ("b@x",), client="192.0.2.1", **changes
    )


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (DELIVERED, "sent"),
        (ACCEPTED, "sent"),
        (QUEUED, "queued"),
        (BOUNCED, "bounced"),
        (SUPPRESSED, "suppressed"),
        (SUPPRESSED._replace(text=f"{SUPPRESSED.text} after a complaint, for good"), "suppressed"),
        (Reply(550, "5.7.1", "suppressed, says the recipient's server"), "bounced"),
        (THROTTLED, "deferred"),
        (Reply(250, "2.0.0", "queued up somewhere else"), "sent"),
    ],
)
def test_an_attempt_is_one_line_in_postfixs_words(lines: Lines, reply: Reply, status: str) -> None:
    counted = Counted()
    mail = envelope("b@x")
    maillog.attempted(mail, {"b@x": reply}, {"b@x": "<1@cf>"}, original_id="<7@x>", size=1234, attempts=2)
    (line,) = lines
    assert 0 <= line.pop("delay") < 5
    assert line == {
        "event": "mail.attempt",
        "log_level": "info",
        "queue_id": mail.queue_id,
        "from": "a@example.com",
        "to": ["b@x"],
        "status": status,
        "reply": str(reply),
        "size": 1234,
        "client": "192.0.2.1",
        "attempts": 2,
        "message_id": "<1@cf>",
        "original_message_id": "<7@x>",
    }
    assert mail_counts.status_of(reply) == status
    assert counted("delivery_delay_seconds_count") == 1
    assert counted("message_size_bytes_sum") == 1234


def test_recipients_with_the_same_answer_share_a_line(lines: Lines) -> None:
    counted = Counted()
    outcomes = {
        "a@x": DELIVERED,
        "b@x": BOUNCED,
        "c@x": DELIVERED,
        "d@x": QUEUED,
        "e@x": BOUNCED,
        "f@x": SUPPRESSED,
    }
    maillog.attempted(envelope(*outcomes), outcomes, {}, original_id="", size=1)
    assert [(line["status"], line["to"]) for line in lines] == [
        ("sent", ["a@x", "c@x"]),
        ("bounced", ["b@x", "e@x"]),
        ("queued", ["d@x"]),
        ("suppressed", ["f@x"]),
    ]
    assert not any("message_id" in line for line in lines)
    expected = {"sent": 2, "bounced": 2, "suppressed": 1, "queued": 1}
    mail_counts.attempted(outcomes, "", settled=False)
    assert {status: counted("recipient_attempts_total", status=status) for status in expected} == expected
    mail_counts.ended(outcomes, "")
    assert {status: counted("recipients_total", status=status) for status in expected} == expected


def test_a_line_is_about_one_call_and_names_its_message_id(lines: Lines) -> None:
    outcomes = dict.fromkeys("abcde", DELIVERED) | dict.fromkeys("fghi", BOUNCED) | {"j": SUPPRESSED}
    ids = dict.fromkeys("abf", "<1@cf>") | dict.fromkeys("cdg", "<2@cf>") | {"h": "<3@cf>"}
    maillog.attempted(envelope(*outcomes), outcomes, ids, original_id="<7@x>", size=1)
    assert [("".join(line["to"]), line.get("message_id")) for line in lines] == [
        ("ab", "<1@cf>"),
        ("cd", "<2@cf>"),
        ("e", None),
        ("f", "<1@cf>"),
        ("g", "<2@cf>"),
        ("h", "<3@cf>"),
        ("i", None),
        ("j", None),
    ]
    assert {line["original_message_id"] for line in lines} == {"<7@x>"}


def test_a_line_names_so_many_recipients_and_counts_the_rest(lines: Lines) -> None:
    counted = Counted()
    many = [f"r{number}@x" for number in range(maillog.NAMED_LIMIT + 7)]
    maillog.attempted(envelope(*many), dict.fromkeys(many, DELIVERED), {}, original_id="", size=1)
    maillog.refused(envelope(*many), BOUNCED)
    maillog.possible_duplicate(envelope(*many), many)
    for line in lines:
        assert line["to"] == [*many[: maillog.NAMED_LIMIT], "and 7 more"]
    assert counted("recipients_total", status="bounced") == len(many), "refused for good"


LINES: dict[str, Callable[[Envelope], object]] = {
    "mail.attempt": lambda mail: maillog.attempted(mail, {"b@x": DELIVERED}, {}, original_id="", size=1),
    "mail.kept": lambda mail: maillog.kept(mail, "why", message=b""),
    "mail.refused": lambda mail: maillog.refused(mail, BOUNCED),
    "mail.expired": lambda mail: maillog.expired(mail, {"b@x": THROTTLED}, size=1, attempts=3),
    "mail.held": lambda mail: maillog.held(mail, "a fault"),
    "mail.dsn_undeliverable": lambda mail: maillog.reported(mail, dsns=(), undeliverable=True),
    "mail.answer_repeated": lambda mail: maillog.answer_repeated(mail, QUEUED),
    "mail.repaired": lambda mail: maillog.repaired(mail, ["From"]),
    "mail.rewritten": lambda mail: maillog.header_rewritten(mail, ["From"], []),
    "mail.possible_duplicate": lambda mail: maillog.possible_duplicate(mail, ["b@x"]),
    "mail.unmatched_outcome": lambda mail: maillog.unmatched(mail, ["c@x"]),
    "mail.event": lambda mail: event_log.told("delivered", "b@x", DELIVERED, "<1@cf>", envelope=mail),
}


@pytest.mark.parametrize("event", LINES)
def test_every_line_about_a_dsn_says_what_it_is_about(lines: Lines, event: str) -> None:
    """And each says from whom; mail of others has no such field."""
    for about in ("", "3C0A9F2B1Q7ZK"):
        LINES[event](envelope(dsn_for=about))
        line = lines.pop()
        assert (line["event"], line["from"], line.get("dsn_for", "")) == (event, "a@example.com", about)
        assert isinstance(line.get("to", []), list)
        assert ("dsn_for" in line) is bool(about)


def test_each_account_is_counted_by_itself_and_the_last_success_is_known() -> None:
    outcomes = {"b@x": DELIVERED, "c@x": THROTTLED}
    assert mail_counts.attempted(outcomes, "acme", settled=True)
    shown = {
        (sample.name, sample.labels.get("status")): sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.labels.get("account") == "acme"
    }
    assert shown["smtp2cf_recipients_total", "sent"] == 1
    assert ("smtp2cf_recipients_total", "deferred") not in shown
    assert shown["smtp2cf_recipient_attempts_total", "deferred"] == 1
    assert abs(shown["smtp2cf_last_success_timestamp_seconds", None] - time.time()) < 60
    assert not mail_counts.attempted({"b@x": BOUNCED}, "other", settled=True)
    assert "other" not in mail_counts.LAST_SUCCESS.last


def test_a_refused_message_is_a_warning(lines: Lines) -> None:
    maillog.refused(envelope("b@x", "c@x"), Reply(554, "5.4.6", "a mail loop"))
    (line,) = lines
    assert (line["event"], line["log_level"], line["status"]) == ("mail.refused", "warning", "bounced")
    assert (line["to"], line["reply"]) == (["b@x", "c@x"], "554 5.4.6 a mail loop")


def test_a_possible_duplicate_is_a_warning_and_counted(lines: Lines) -> None:
    counted = Counted()
    mail = envelope("b@x", "c@x")
    maillog.possible_duplicate(mail, ["c@x"])
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("mail.possible_duplicate", "warning")
    assert (line["queue_id"], line["to"]) == (mail.queue_id, ["c@x"])
    assert counted("possible_duplicates_total") == 1


def test_entries_that_match_nobody_are_a_warning_and_counted(lines: Lines) -> None:
    counted = Counted()
    mail = envelope("b@x")
    maillog.unmatched(mail, ["permanent_bounces: c@x", "permanent_bounces: d@x"])
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("mail.unmatched_outcome", "warning")
    assert (line["queue_id"], line["entries"]) == (
        mail.queue_id,
        ["permanent_bounces: c@x", "permanent_bounces: d@x"],
    )
    assert counted("unmatched_outcomes_total") == 2


@pytest.mark.parametrize(("code", "kind"), [(250, "2xx"), (451, "4xx"), (554, "5xx")])
def test_answers_are_counted_by_their_class(code: int, kind: str) -> None:
    counted = Counted()
    maillog.answered(Reply(code, f"{code // 100}.0.0", ""))
    assert counted("messages_total", answer=kind) == 1


def test_the_status_page_shows_the_latest_mail_newest_first(lines: Lines) -> None:
    for number in range(maillog.RECENT + 5):
        maillog.attempted(envelope(f"r{number}@x"), {f"r{number}@x": DELIVERED}, {}, original_id="", size=1)
    maillog.attempted(
        envelope(), dict.fromkeys(["a@x", "b@x", "c@x", "d@x", "e@x"], QUEUED), {}, original_id="", size=1
    )
    recent = maillog.recent()
    assert len(recent) == maillog.RECENT
    assert (recent[0].recipients, recent[0].status) == ("a@x, b@x, c@x and 2 more", "queued")
    assert (recent[1].recipients, recent[1].sender) == (f"r{maillog.RECENT + 4}@x", "a@example.com")
    assert recent[0].reply == str(QUEUED)
