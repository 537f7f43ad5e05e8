"""DSNs on their way: who gets one, from whom, and why there can be no loop."""

from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from smtp2cf.access.counts import Counts
from smtp2cf.access.limit import Named, parse_reports
from smtp2cf.access.quotas import DsnQuota
from smtp2cf.envelope import Envelope
from smtp2cf.journal import quotas
from smtp2cf.relay import BouncePolicy, RetryPolicy, bounces
from smtp2cf.relay.bounces import dsns_for, reports_for
from smtp2cf.reply import DELIVERED, Reply
from tests.relay.world import AWAY, Api, Call, by_name, delivered, failure, world
from tests.spool.conftest import Backend
from tests.support.each import each
from tests.support.news import heard

BOUNCED = Reply(550, "5.1.1", "no such mailbox")
POLICY = BouncePolicy(hostname="bridge.example.com")


def status_of(call: Call) -> dict[str, str]:
    """The delivery-status fields of the first recipient."""
    report, status, *_ = call.parsed().get_payload()
    assert "text/plain" in report.get_content_type()
    _, recipient, *_ = status.get_payload()
    return dict(recipient.items())


async def test_expired_mail_is_reported_to_its_sender(backend: Backend, api: Api) -> None:
    async def away_for_mail(call: Call):
        return await (delivered if call.recipients == ["anna@example.com"] else AWAY)(call)

    api.answer = away_for_mail
    retry = RetryPolicy(minimum=0.1, maximum=0.2, expire_after=0.6)
    async with world(await backend.open(), api, retry=retry) as here:
        assert "kept" in await here.accept()
        await here.until_empty()
    report = api.calls[-1]
    assert (report.sender, report.recipients) == ("mailer-daemon@example.com", ["anna@example.com"])
    fields = status_of(report)
    assert (fields["Status"], fields["Action"]) == ("4.4.7", "failed")
    assert fields["Final-Recipient"] == "rfc822; ben@example.org"
    assert report.parsed()["Auto-Submitted"] == "auto-replied"
    assert len(api.calls) >= 3


async def test_reports_come_from_the_postmaster_where_one_is_set(sqlite: Backend, api: Api) -> None:
    api.answer = by_name
    async with world(await sqlite.open(), api, mode="queue", postmaster="post@example.net") as here:
        await here.accept("bounce@example.org")
        await here.until_empty()
    assert [call.sender for call in api.calls] == ["anna@example.com", "post@example.net"]
    assert "<post@example.net>" in api.calls[1].parsed()["From"]


async def test_reports_come_from_and_go_to_addresses_in_the_form_that_is_sent(
    sqlite: Backend, api: Api
) -> None:
    api.answer = by_name
    async with world(await sqlite.open(), api, mode="queue") as here:
        await here.accept("bounce@example.org", reverse_path='"Anna"@Bücher.example')
        await here.until_empty()
    report = api.calls[1]
    assert (report.sender, report.recipients) == (
        "mailer-daemon@xn--bcher-kva.example",
        ["Anna@xn--bcher-kva.example"],
    )
    assert "Anna@xn--bcher-kva.example" in report.parsed()["To"]


@pytest.mark.parametrize("mode", ["direct", "queue"])
async def test_who_bounced_behind_a_250_is_reported(sqlite: Backend, api: Api, mode: str) -> None:
    api.answer = by_name
    async with world(await sqlite.open(), api, mode=mode) as here:
        assert (await here.accept("bounce@example.org", "ben@example.org")).startswith("250")
        await here.until_empty()
    mail, report = api.calls
    assert mail.recipients == ["bounce@example.org", "ben@example.org"]
    assert (report.recipients, status_of(report)["Status"]) == (["anna@example.com"], "5.1.1")


async def test_a_bounce_that_the_answer_told_is_not_told_again(sqlite: Backend, api: Api) -> None:
    api.answer = by_name
    async with world(await sqlite.open(), api) as here:
        assert (await here.accept("bounce@example.org")).startswith("550 5.1.1")
        await here.until_empty()
    assert len(api.calls) == 1


async def test_a_report_that_cannot_be_kept_is_sent_at_once(sqlite: Backend, api: Api) -> None:
    from tests.relay.test_deadline import no_room

    api.answer = by_name
    async with world(await sqlite.open(), api) as here:

        async def full(*mail) -> None:
            raise no_room()

        here.spool.put = full
        assert (await here.accept("bounce@example.org", "ben@example.org")).startswith("250")
        await here.relay.drain(5)
    assert [call.recipients for call in api.calls][1:] == [["anna@example.com"]]


async def test_no_250_for_mail_that_has_to_wait_and_cannot_be_kept(sqlite: Backend, api: Api) -> None:
    from tests.relay.test_deadline import no_room

    async def half(call: Call):
        if len(call.recipients) > 1:
            return await failure(400, 10001, "email.sending.error.invalid_request_schema")(call)
        return await (AWAY if call.recipients == ["later@example.org"] else delivered)(call)

    api.answer = half
    async with world(await sqlite.open(), api) as here:

        async def full(*mail) -> None:
            raise no_room()

        here.spool.put = full
        assert (await here.accept("ben@example.org", "later@example.org")).startswith("452 4.3.1")


async def test_notify_is_heeded(sqlite: Backend, api: Api) -> None:
    api.answer = by_name
    async with world(await sqlite.open(), api, mode="queue") as here:
        await here.accept("bounce@example.org", notify={"bounce@example.org": "NEVER"})
        await here.accept("ben@example.org", notify={"ben@example.org": "SUCCESS,FAILURE"})
        await here.until_empty()
    (report,) = [call for call in api.calls if call.recipients == ["anna@example.com"]]
    assert status_of(report)["Action"] == "delivered"


async def test_success_is_reported_in_direct_mode_too(sqlite: Backend, api: Api) -> None:
    async with world(await sqlite.open(), api) as here:
        await here.accept(notify={"ben@example.org": "SUCCESS"})
        await here.until_empty()
    assert status_of(api.calls[1])["Action"] == "delivered"


@pytest.mark.parametrize("postmaster", ["", "post@example.com"])
async def test_a_report_that_bounces_ends_there(sqlite: Backend, api: Api, postmaster: str) -> None:
    """Everything bounces: the mail, and the report about it. Two calls, and no third."""

    async def all_bounce(call: Call):
        return await failure(400, 1, "email.sending.error.other")(call)

    api.answer = all_bounce
    async with world(await sqlite.open(), api, mode="queue", postmaster=postmaster) as here:
        await here.accept()
        await here.until_empty()
    assert len(api.calls) == 2


async def test_a_report_that_expires_ends_there(sqlite: Backend, api: Api) -> None:
    api.answer = AWAY
    retry = RetryPolicy(minimum=0.05, maximum=0.1, expire_after=0.3)
    async with world(await sqlite.open(), api, retry=retry, reports_expire_after=0.3) as here:
        await here.accept()
        await here.until_empty()
    assert {call.recipients[0] for call in api.calls} == {"ben@example.org", "anna@example.com"}


@pytest.mark.parametrize(
    "sender",
    [
        "",  # RFC 5321's mark of a report
        "mailer-daemon@example.com",  # where ours come from: one that found its way back in
        "mailer-daemon@EXAMPLE.com",
    ],
)
def test_nothing_is_reported_to_whoever_reports(sender: str) -> None:
    envelope = Envelope(reverse_path=sender, forward_paths=("ben@example.org",))
    for reply in (BOUNCED, Reply(250, "2.0.0", "delivered"), Reply(451, "4.4.1", "away")):
        assert dsns_for(envelope, b"", {"ben@example.org": reply}, POLICY) == []


def test_a_report_is_itself_beyond_reporting() -> None:
    """So a chain of reports has length one: what dsns_for makes, dsns_for has nothing to say about."""
    envelope = Envelope(reverse_path="anna@example.com", forward_paths=("ben@example.org",))
    (dsn,) = dsns_for(envelope, b"Subject: x\r\n\r\n", {"ben@example.org": BOUNCED}, POLICY)
    assert dsn.is_dsn
    assert dsn.envelope.reverse_path == ""
    assert dsn.envelope.dsn_for == envelope.queue_id
    assert dsn.expires_in == POLICY.expire_after
    outcomes = {"anna@example.com": BOUNCED}
    assert dsns_for(dsn.envelope, dsn.message, outcomes, POLICY) == []
    as_sent = Envelope(reverse_path=POLICY.sender_of("anna@example.com"), forward_paths=("anna@example.com",))
    assert dsns_for(as_sent, dsn.message, outcomes, POLICY) == []


# ---- copies, and how many


OPERATOR = "ops@example.com"
COPIES = BouncePolicy(hostname="bridge.example.com", copies_to=OPERATOR)
FAILED = {"ben@example.org": BOUNCED}
EXPIRED = {"ben@example.org": Reply(451, "4.4.7", "given up")}
SENT = {"ben@example.org": DELIVERED}


@each(
    ("sender", "notify", "outcomes", "to"),
    [
        ("anna@example.com", "", FAILED, ["anna@example.com", OPERATOR]),
        ("anna@example.com", "", EXPIRED, ["anna@example.com", OPERATOR]),
        ("anna@example.com", "NEVER", FAILED, [OPERATOR]),
        ("anna@example.com", "SUCCESS", SENT, ["anna@example.com"]),
        ("OPS@example.com", "", FAILED, ["OPS@example.com"]),
        ("OPS@example.com", "NEVER", FAILED, [OPERATOR]),
        ("anna@example.com", "", {OPERATOR: BOUNCED}, ["anna@example.com"]),
        ("anna@example.com", "", {OPERATOR: BOUNCED, **FAILED}, ["anna@example.com", OPERATOR]),
        ("", "", FAILED, []),
        ("mailer-daemon@example.com", "", FAILED, []),
    ],
)
def test_who_gets_a_report_and_whether_the_operator_gets_a_copy(
    sender: str, notify: str, outcomes: dict[str, Reply], to: list[str]
) -> None:
    asked = dict.fromkeys(outcomes, notify) if notify else {}
    envelope = Envelope(reverse_path=sender, forward_paths=tuple(outcomes), notify=asked)
    mails = dsns_for(envelope, b"Subject: x\r\n\r\n", outcomes, COPIES)
    assert [who for mail in mails for who in mail.envelope.forward_paths] == to
    for mail in mails:
        assert dsns_for(mail.envelope, mail.message, outcomes, COPIES) == []


def test_where_all_mail_is_redirected_there_are_no_copies() -> None:
    envelope = Envelope(reverse_path="anna@example.com", forward_paths=("ben@example.org",))
    policy = replace(COPIES, redirect=("staging@example.com",))
    assert len(dsns_for(envelope, b"", FAILED, policy)) == 1


def test_a_copy_names_the_sender() -> None:
    envelope = Envelope(reverse_path="noreply@example.com", forward_paths=("ben@example.org",), ret="FULL")
    report, copy = dsns_for(envelope, b"Subject: x\r\n\r\n", FAILED, COPIES)
    assert b"Your message" in report.message
    assert b"Your message" not in copy.message
    assert b"The message from <noreply@example.com>" in copy.message
    assert b"operator's copy (SMTP2CF_OPERATOR_GETS_BOUNCES)" in copy.message
    assert f"To: {OPERATOR}".encode() in copy.message


async def test_a_report_too_many_is_not_sent_and_told_once() -> None:
    quotas.said = quotas.Said()
    limits = [Named(one, "SMTP2CF_DSN_QUOTA") for one in parse_reports("2/1h")]
    policy = replace(COPIES, over_quota=DsnQuota(limits, Counts()).over)
    to = []
    with capture_logs() as lines, heard() as told:
        for number in range(4):
            envelope = Envelope(reverse_path=f"{number % 2}@example.com", forward_paths=("ben@example.org",))
            to += [
                mail.envelope.forward_paths[0] for mail in await reports_for(envelope, b"", FAILED, policy)
            ]
    assert to == ["0@example.com", OPERATOR, "1@example.com", OPERATOR, "0@example.com", "1@example.com"]
    over = [line for line in lines if line["event"] == "dsn.over_quota"]
    assert [(line["to"], line["limit"]) for line in over] == [([OPERATOR], "2/1h")]
    (one,) = [one for one in told if one.kind == "dsn.over_quota"]
    assert one.text == (
        "mail from <0@example.com> is not reported to <ops@example.com>: that would be more than"
        " SMTP2CF_DSN_QUOTA=2/1h"
    )


def test_no_report_goes_around_the_quota() -> None:
    """Whoever makes DSNs asks how many there may be."""
    code = Path(bounces.__file__).parents[1]
    assert [path.name for path in code.rglob("*.py") if "dsns_for" in path.read_text()] == ["bounces.py"]
