"""A DSN goes to who wants it, and tells people and programs what became of the mail (RFC 3464)."""

import re
from email import message_from_bytes, message_from_string
from email.policy import default
from email.utils import parsedate_to_datetime

import pytest

from smtp2cf.message.causes import cause_of
from smtp2cf.message.dsn import Event, Report, build, wanted
from smtp2cf.message.dsn_fields import DIAGNOSTIC_LIMIT
from smtp2cf.reply import BOUNCED, SUPPRESSED, Reply
from tests.message.dsn_reading import (
    MESSAGE,
    NO_SUCH_USER,
    NOW,
    OK,
    RECEIVED,
    UNREACHABLE,
    assert_sound,
    blocks,
    dsn,
    envelope,
    failed,
    opaque_parts,
    read,
    text,
)
from tests.message.reading import POLICIES
from tests.support.each import each

# Who wants one

NOTIFY = [
    # notify, wanted
    (None, {Event.FAILED, Event.EXPIRED}),
    ("NEVER", set()),
    ("FAILURE", {Event.FAILED, Event.EXPIRED}),
    ("DELAY", {Event.DELAYED}),
    ("SUCCESS", {Event.DELIVERED, Event.RELAYED}),
    ("SUCCESS,FAILURE", {Event.DELIVERED, Event.RELAYED, Event.FAILED, Event.EXPIRED}),
    ("success,delay", {Event.DELIVERED, Event.RELAYED, Event.DELAYED}),
    ("SUCCESS,FAILURE,DELAY", set(Event)),
]


@each("event", Event)
@each(("notify", "events"), NOTIFY)
def test_notify_decides_who_is_told(notify: str | None, events: set[Event], event: Event) -> None:
    about = envelope(notify={"bert@example.net": notify} if notify else {})
    assert wanted(about, "bert@example.net", event) == (event in events)


def test_notify_is_each_recipients_own() -> None:
    about = envelope(notify={"bert@example.net": "NEVER"})
    assert not wanted(about, "bert@example.net", Event.FAILED)
    assert wanted(about, "cleo@example.net", Event.FAILED)


@each("event", Event)
def test_the_null_sender_is_never_told(event: Event) -> None:
    about = envelope("", notify={"bert@example.net": "SUCCESS,FAILURE,DELAY"})
    assert not wanted(about, "bert@example.net", event)


def test_there_is_no_dsn_for_nobody_and_none_about_nobody() -> None:
    with pytest.raises(ValueError, match="a sender to go to"):
        dsn(about=envelope(""))
    with pytest.raises(ValueError, match="a recipient to report on"):
        build(envelope(), MESSAGE, [], hostname="h", sender="s@example.com", now=NOW)


# The header


def test_the_header_of_a_bounce() -> None:
    parsed = read(dsn())
    assert parsed["From"].addresses[0].display_name == "Mail Delivery System"
    assert parsed["From"].addresses[0].addr_spec == "mailer-daemon@example.com"
    assert parsed["To"] == "anna@example.org"
    assert parsed["Subject"] == "Undelivered Mail Returned to Sender"
    assert parsed["Date"].datetime.timestamp() == NOW
    assert re.fullmatch(r"<[^<>@]+@relay\.example\.com>", parsed["Message-ID"])
    assert parsed["In-Reply-To"] == parsed["References"] == "<1.2@example.org>"
    assert parsed["Auto-Submitted"] == "auto-replied"
    assert parsed["MIME-Version"] == "1.0"
    assert parsed.get_content_type() == "multipart/report"
    assert parsed["Content-Type"].params["report-type"] == "delivery-status"
    assert [part.get_content_type() for part in parsed.iter_parts()] == [
        "text/plain",
        "message/delivery-status",
        "text/rfc822-headers",
    ]


SUBJECTS = [
    ([Event.FAILED], "Undelivered Mail Returned to Sender"),
    ([Event.EXPIRED], "Undelivered Mail Returned to Sender"),
    ([Event.DELIVERED, Event.DELAYED, Event.FAILED], "Undelivered Mail Returned to Sender"),
    ([Event.DELIVERED, Event.DELAYED], "Delayed Mail (still being retried)"),
    ([Event.DELIVERED], "Successful Mail Delivery Report"),
    ([Event.RELAYED], "Successful Mail Delivery Report"),
]


@each(("events", "subject"), SUBJECTS)
def test_the_subject_tells_the_worst(events: list[Event], subject: str) -> None:
    reports = [Report(f"{event.value}@example.net", event, UNREACHABLE) for event in events]
    assert read(dsn(*reports))["Subject"] == subject


def test_every_dsn_has_an_id_and_a_boundary_of_its_own() -> None:
    first, second = read(dsn()), read(dsn())
    assert first["Message-ID"] != second["Message-ID"]
    assert first.get_boundary() != second.get_boundary()


UNUSABLE_IDS = [
    b"",
    b"Message-ID:\r\n",
    b"Message-ID: no brackets@example.org\r\n",
    b"Message-ID: <no at sign>\r\n",
    b"Message-ID: <a@b> <c@d>\r\n",
    "Message-ID: <ü@example.org>\r\n".encode(),
    b"Message-ID: <" + b"x" * 900 + b"@example.org>\r\n",
]


@each("field", UNUSABLE_IDS)
def test_a_message_id_that_is_none_is_not_referred_to(field: bytes) -> None:
    parsed = read(dsn(message=b"Subject: x\r\n" + field + b"\r\nMessage-ID: <in@the.body>\r\n"))
    assert parsed["In-Reply-To"] is None
    assert parsed["References"] is None


def test_a_folded_message_id_is_referred_to() -> None:
    assert read(dsn(message=b"message-id :\r\n\t<a@b>\r\n\r\n"))["In-Reply-To"] == "<a@b>"


ADDRESSES = [
    ("anna@example.org", "anna", "example.org"),
    ("a..b@example.org", "a..b", "example.org"),
    ('"anna b"@example.org', "anna b", "example.org"),
    ('"a\\"b,"@example.org', 'a"b,', "example.org"),
    ("anna@[192.0.2.1]", "anna", "[192.0.2.1]"),
    ("jürgen@müller.example", "jürgen", "müller.example"),
    ("a,b@example.org", "a,b", "example.org"),
    ("a b@example.org", "a b", "example.org"),
    ("anna@example.org>,eve", "anna", "example.org??eve"),
]


@each(("reverse_path", "local", "domain"), ADDRESSES)
def test_the_dsn_goes_to_the_reverse_path(reverse_path: str, local: str, domain: str) -> None:
    # Parsed as text: raw UTF-8 in a header of bytes is something that `email` does not decode.
    parsed = message_from_string(dsn(about=envelope(reverse_path)).decode(), policy=default)
    (address,) = parsed["To"].addresses
    assert (address.username, address.domain) == (local, domain)


# The text for people


def test_the_text_says_who_why_what_to_do_and_where_to_look() -> None:
    said = text(dsn(failed(reply=Reply(550, "5.1.1", "no such user hiër"))))
    assert "relay.example.com" in said
    assert '"Grüße again"' in said
    assert "could not be delivered to <bert@example.net>" in said
    assert "There is no such mailbox. Check the address" in said
    assert "The answer was: 550 5.1.1 no such user hiër" in said
    assert "The header of your message is attached." in said


def test_codes_and_ids_are_below_for_the_postmaster() -> None:
    about = envelope()
    reply = Reply(550, "5.1.1", "refused [HTTP 400: email.sending.error 10203]")
    people, for_the_postmaster, below = text(dsn(failed(reply=reply), about=about)).partition(
        "For the postmaster: "
    )
    assert for_the_postmaster
    assert f"the queue id is {about.queue_id}. The answer was: 550 5.1.1 refused [HTTP 400" in below
    for code in (about.queue_id, "550", "5.1.1", "HTTP", "10203"):
        assert code not in people


def test_each_answer_says_whom_it_is_about() -> None:
    others = [failed(f"{name}@example.net", UNREACHABLE) for name in "cd"]
    below = text(dsn(failed(), *others)).partition("For the postmaster: ")[2]
    assert "The answer for <bert@example.net> was: 550 5.1.1 no such user" in below
    assert "The answer for <c@example.net> and 1 more was: 451 4.4.1 connection refused" in below


CAUSES = {
    "no such address": (NO_SUCH_USER, "There is no such mailbox. Check the address for spelling mistakes"),
    "bounced": (BOUNCED, "There is no such mailbox. Check the address for spelling mistakes"),
    "suppressed": (SUPPRESSED, "has stopped sending to this address"),
    "suppressed, in Cloudflare's words": (
        SUPPRESSED._replace(text=f"{SUPPRESSED.text} [HTTP 400: email.sending.error.recipient_suppressed]"),
        "Ask your postmaster, who can remove the address from Cloudflare's suppression list.",
    ),
    "too big": (Reply(552, "5.3.4", "the message is too big for Cloudflare"), "too large. Make it smaller"),
    "too big for the mailbox": (Reply(552, "5.2.3", "x"), "larger than the mailbox allows. Make it smaller"),
    "its content": (
        Reply(554, "5.6.0", "Cloudflare rejects the message as invalid"),
        "content of the message was not accepted. Sending the same message again does not help.",
    ),
    "a rule": (Reply(550, "5.7.1", "no"), "refused by a rule or a block list. Ask your postmaster"),
    "for now": (Reply(451, "4.7.1", "throttled"), "Send the message again later."),
}


@each(("reply", "words"), CAUSES.values())
def test_people_read_the_cause_and_what_they_can_do(reply: Reply, words: str) -> None:
    assert words in text(dsn(failed(reply=reply))).partition("For the postmaster")[0]


def test_every_cause_says_what_to_do_in_plain_words() -> None:
    for detail in ("0.0", "1.1", "1.99", "2.1", "3.0", "4.0", "5.0", "6.0", "7.1", "9.9", ""):
        for code in (4, 5):
            why, advice = cause_of(Reply(100 * code + 50, f"{code}.{detail}", "x"))
            assert why.endswith(".")
            assert re.search("again|postmaster|some other way|smaller", advice)
            assert not re.search(r"\d|SMTP|status|code", why + advice)


WORDS = [
    ("5.1.10", "takes no mail"),
    ("5.2.2", "The mailbox is full"),
    ("5.3.4", "too large"),
    ("5.7.1", "refused by a rule"),
    ("5.7.26", "refused by a rule"),
    ("5.6.0", "content of the message"),
    ("5.0.0", "was not accepted"),
    ("5.9.9", "was not accepted"),
    ("nonsense", "was not accepted"),
]


@each(("status", "words"), WORDS)
def test_the_status_is_put_into_words(status: str, words: str) -> None:
    assert words in text(dsn(failed(reply=Reply(550, status, "x"))))


def test_expired_mail_says_how_long_it_was_tried() -> None:
    about = envelope()
    report = Report("bert@example.net", Event.EXPIRED, UNREACHABLE)
    said = text(build(about, MESSAGE, [report], hostname="h", sender="s@example.com", now=RECEIVED + 7200))
    assert "was tried for 2 hours and has now been given up. It did not reach <bert@example.net>" in said
    assert "could not be reached. Send the message again later" in said


def test_a_failure_that_may_pass_is_worth_another_try() -> None:
    assert "Send the message again later" in text(dsn(failed(reply=Reply(451, "4.7.1", "throttled"))))


def test_delayed_mail_says_until_when_it_is_tried_and_not_to_send_it_again() -> None:
    said = text(dsn(Report("bert@example.net", Event.DELAYED, UNREACHABLE, retry_until=NOW + 60)))
    assert "could not be delivered yet to <bert@example.net>" in said
    assert re.search(r"tried again until \w{3}, \d+ \w{3} 2026 .* There is no need to send it again", said)


@pytest.mark.parametrize(
    ("event", "words"), [(Event.DELIVERED, "was delivered to"), (Event.RELAYED, "passed on")]
)
def test_success_is_told_without_reasons_and_advice(event: Event, words: str) -> None:
    said = text(dsn(Report("bert@example.net", event, OK)))
    assert words in said
    assert "postmaster, who" not in said


def test_recipients_of_the_same_fate_are_named_together() -> None:
    said = text(dsn(failed("a@example.net"), failed("b@example.net", UNREACHABLE), failed("c@example.net")))
    assert "<a@example.net> <c@example.net>" in said
    assert said.count("no such user") == 1


def test_lines_of_the_text_fit_a_terminal() -> None:
    report = dsn(failed(reply=Reply(550, "5.1.1", "many words " * 40)))
    lines = opaque_parts(report)[0].get_payload(decode=True).decode().split("\r\n")
    assert max(map(len, lines)) <= 72


# The fields for programs


def test_the_fields_of_the_message() -> None:
    about = envelope(envid="QQ+3D314+2B159")
    fields = blocks(dsn(about=about))[0]
    assert fields["Reporting-MTA"] == "dns; relay.example.com"
    assert fields["Original-Envelope-Id"] == "QQ=314+159"
    assert fields["X-Smtp2cf-Queue-ID"] == about.queue_id
    assert parsedate_to_datetime(fields["Arrival-Date"]).timestamp() == RECEIVED


EVENTS = [
    (Event.FAILED, NO_SUCH_USER, "failed", "5.1.1", "smtp; 550 5.1.1 no such user"),
    (Event.FAILED, UNREACHABLE, "failed", "4.4.1", "smtp; 451 4.4.1 connection refused"),
    (Event.EXPIRED, UNREACHABLE, "failed", "4.4.7", "smtp; 451 4.4.1 connection refused"),
    (Event.DELAYED, UNREACHABLE, "delayed", "4.4.1", "smtp; 451 4.4.1 connection refused"),
    (Event.DELIVERED, OK, "delivered", "2.1.5", "smtp; 250 2.1.5 taken"),
    (Event.RELAYED, OK, "relayed", "2.1.5", "smtp; 250 2.1.5 taken"),
    (Event.FAILED, Reply(550, "what", "x"), "failed", "5.0.0", "smtp; 550 what x"),
]


@each(("event", "reply", "action", "status", "diagnostic"), EVENTS)
def test_the_fields_of_a_recipient(
    event: Event, reply: Reply, action: str, status: str, diagnostic: str
) -> None:
    fields = blocks(dsn(Report("bert@example.net", event, reply)))[1]
    assert fields["Final-Recipient"] == "rfc822; bert@example.net"
    assert fields["Action"] == action
    assert fields["Status"] == status
    assert fields["Diagnostic-Code"] == diagnostic
    assert parsedate_to_datetime(fields["Last-Attempt-Date"]).timestamp() == NOW
    assert fields["Original-Recipient"] is None
    assert fields["Will-Retry-Until"] is None


def test_the_times_of_the_attempts_are_told() -> None:
    report = Report("b@example.net", Event.DELAYED, UNREACHABLE, last_attempt=NOW - 9, retry_until=NOW + 60)
    fields = blocks(dsn(report))[1]
    assert parsedate_to_datetime(fields["Last-Attempt-Date"]).timestamp() == NOW - 9
    assert parsedate_to_datetime(fields["Will-Retry-Until"]).timestamp() == NOW + 60


def test_every_recipient_has_its_own_block_with_its_own_orcpt() -> None:
    about = envelope(orcpt={"b@example.net": "rfc822;info+2Bb@example.net"})
    _, first, second = blocks(dsn(failed("a@example.net"), failed("b@example.net"), about=about))
    assert (first["Final-Recipient"], first["Original-Recipient"]) == ("rfc822; a@example.net", None)
    assert second["Final-Recipient"] == "rfc822; b@example.net"
    assert second["Original-Recipient"] == "rfc822; info+b@example.net"


@each("policy", POLICIES)
def test_email_finds_the_blocks_by_itself(policy: object) -> None:
    parsed = message_from_bytes(dsn(failed("a@example.net"), failed("b@example.net")), policy=policy)
    assert [block["Action"] for block in parsed.get_payload(1).get_payload()] == [None, "failed", "failed"]


def test_a_long_diagnostic_is_shortened_and_folded() -> None:
    reply = Reply(550, "5.0.0", "words\r\n\tupon words " * 500)
    report = dsn(failed(reply=reply))
    diagnostic = blocks(report)[1]["Diagnostic-Code"]
    assert diagnostic.startswith("smtp; 550 5.0.0 words upon words words")
    assert len(diagnostic) <= DIAGNOSTIC_LIMIT + len("smtp; ")
    assert diagnostic.endswith("...")
    assert max(map(len, opaque_parts(report)[1].get_payload(decode=True).split(b"\r\n"))) <= 78


def test_a_diagnostic_is_ascii() -> None:
    report = dsn(failed(reply=Reply(550, "5.1.1", "unbekannter Empfänger")))
    assert read(report)["Content-Type"].params["report-type"] == "delivery-status"
    assert blocks(report)[1]["Diagnostic-Code"] == "smtp; 550 5.1.1 unbekannter Empf\\xe4nger"


# RFC 6533


def test_an_international_address_makes_an_international_report() -> None:
    about = envelope("änna@example.org", orcpt={"jürgen@müller.example": "utf-8;j\\x{FC}rgen@example.net"})
    report = dsn(failed("jürgen@müller.example"), failed("bert@example.net"), about=about)
    assert_sound(report)
    parsed = read(report)
    assert parsed["Content-Type"].params["report-type"] == "global-delivery-status"
    assert parsed["Content-Transfer-Encoding"] == "8bit"
    status = opaque_parts(report)[1]
    assert status["Content-Transfer-Encoding"] == "8bit"
    assert [part.get_content_type() for part in parsed.iter_parts()][1] == "message/global-delivery-status"
    _, first, second = blocks(report)
    assert first["Final-Recipient"] == "utf-8; jürgen@müller.example"
    assert first["Original-Recipient"] == "utf-8; jürgen@example.net"
    assert second["Final-Recipient"] == "rfc822; bert@example.net"
    assert "<jürgen@müller.example>" in text(report)


def test_a_report_about_ascii_is_ascii() -> None:
    report = dsn(message=b"Subject: x\r\n\r\n")
    assert report.isascii()
    assert b"8bit" not in report


DECODED = [
    ("rfc822;a+2Bb@example.net", "rfc822; a+b@example.net"),
    ("rfc822;a+0D+0AAction:+20delivered", "rfc822; a+0D+0AAction: delivered"),
    ("rfc822;a+00+7F+FFb", "rfc822; a+00+7F+FFb"),
    ("x400;/c=de/", "x400; /c=de/"),
    ("utf-8;\\x{2B}\\x{20AC}@example.net", "utf-8; +€@example.net"),
    ("utf-8;a\\x{0A}\\x{D800}\\x{2028}\\x{110000}b", "utf-8; a\\x{0A}\\x{D800}\\x{2028}\\x{110000}b"),
    ("UTF-8;ü@example.net", "UTF-8; ü@example.net"),
    ("rfc822;\\x{FC}@example.net", "rfc822; \\x{FC}@example.net"),
    ("rfc822;a\r\nAction: delivered", "rfc822; a??Action: delivered"),
    ("rfc822;+20", None),
    ("rfc822;", None),
    ("no type", None),
    ("r\r\nAction;x", None),
    ("", None),
]


@each(("orcpt", "decoded"), DECODED)
def test_orcpt_is_decoded_but_for_what_cannot_be_shown(orcpt: str, decoded: str | None) -> None:
    report = dsn(about=envelope(orcpt={"bert@example.net": orcpt}))
    assert_sound(report)
    assert blocks(report)[1]["Original-Recipient"] == decoded


ENVIDS = [
    ("a+2Bb+3Dc", "a+b=c"),
    ("a+0D+0AX-Evil:+20yes+00", "a+0D+0AX-Evil: yes+00"),
    ("two+20+20spaces", "two  spaces"),
    ("+2B0A", "+0A"),
    ("+E2+82+AC", "+E2+82+AC"),
    ("a\r\nX-Evil: yes", "a??X-Evil: yes"),
    ("+20", None),
    (None, None),
]


@each(("envid", "decoded"), ENVIDS)
def test_envid_is_decoded_but_for_what_cannot_be_shown(envid: str | None, decoded: str | None) -> None:
    report = dsn(about=envelope(envid=envid))
    assert_sound(report)
    assert blocks(report)[0]["Original-Envelope-Id"] == decoded
