"""A new message from its envelope to its verdict, without a spool: what is refused, what is made fit, who
stands in for nobody, and what the client and the log are told."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from email import message_from_bytes
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from smtp2cf.cloudflare import Sent
from smtp2cf.envelope import Envelope, Verdict
from smtp2cf.relay import MessagePolicy, Relay, attempt
from smtp2cf.relay import calls as attempt_calls
from smtp2cf.relay.checks import MAX_RECEIVED
from smtp2cf.reply import BOUNCED, DELIVERED, QUEUED, SUPPRESSED, Reply, Scope, SendError

MESSAGE = b"From: a@example.com\r\nTo: b@example.net\r\nSubject: hello\r\n\r\nhello\r\n"
NO_ANSWER = Reply(451, "4.3.0", "no answer from api within 60 s")
THROTTLED = Reply(451, "4.7.1", "later")

Lines = list[Any]
Fate = Callable[[Sequence[str]], Sent]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What is logged in the test."""
    with capture_logs() as captured:
        yield captured


def delivered(recipients: Sequence[str]) -> Sent:
    return Sent(dict.fromkeys(recipients, DELIVERED), "<1@cf>")


def refusing(reply: Reply, scope: Scope = Scope.ACCOUNT, **changes: Any) -> Fate:
    def refuse(_: Sequence[str]) -> Sent:
        raise SendError(reply, scope, **changes)

    return refuse


class Api:
    """send_raw, and what it was called with."""

    def __init__(self, fate: Fate = delivered) -> None:
        self.fate = fate
        self.calls: list[tuple[str, list[str], bytes, float]] = []

    async def __call__(self, sender: str, recipients: Sequence[str], message: bytes, deadline: float) -> Sent:
        self.calls.append((sender, list(recipients), message, deadline))
        return self.fate(recipients)


def envelope(*recipients: str, sender: str = "a@example.com", **changes: Any) -> Envelope:
    return Envelope(reverse_path=sender, forward_paths=recipients or ("b@example.net",), **changes)


async def accept(api: Api, message: bytes = MESSAGE, mail: Envelope | None = None, **policy: Any) -> Verdict:
    return await Relay(api, MessagePolicy(**policy)).accept(mail or envelope(), message)


# ---- what goes out


async def test_a_message_goes_out_as_it_came_under_its_envelope() -> None:
    api = Api()
    mail = envelope("b@example.net", "c@example.org")
    verdict = await accept(api, mail=mail)
    ((sender, recipients, message, _),) = api.calls
    assert (sender, recipients) == ("a@example.com", ["b@example.net", "c@example.org"])
    assert message is MESSAGE, "not even copied"
    assert verdict.reply == Reply(250, "2.0.0", f"{mail.queue_id} delivered, message-id <1@cf>")
    assert verdict.outcomes == {"b@example.net": DELIVERED, "c@example.org": DELIVERED}


async def test_a_call_may_wait_for_as_long_as_its_client_does() -> None:
    api = Api()
    started = time.monotonic()
    await accept(api, reply_timeout=12.0)
    assert 12.0 <= api.calls[0][3] - started <= 12.0 + time.monotonic() - started


async def test_a_recipient_named_twice_gets_it_once_and_has_an_outcome_for_each_spelling() -> None:
    api = Api()
    verdict = await accept(api, mail=envelope("b@X.org", "b@x.org", "b@X.org", "c@x.org"))
    assert api.calls[0][1] == ["b@x.org", "c@x.org"]
    assert set(verdict.outcomes) == {"b@X.org", "b@x.org", "c@x.org"}


async def test_every_address_of_a_call_is_ascii_and_every_spelling_is_answered() -> None:
    given = ("b@bücher.example", "<script>@x", '"b"@XN--BCHER-KVA.example', "jörg@x")
    api = Api()
    verdict = await accept(api, mail=envelope(*given, sender="Anna@MÜNCHEN.example"))
    assert api.calls[0][0] == "Anna@xn--mnchen-3ya.example"
    assert api.calls[0][1] == ["b@xn--bcher-kva.example", "<script>@x"]
    assert [verdict.outcomes[who].status for who in given] == ["2.0.0", "2.0.0", "2.0.0", "5.6.7"]


async def test_mail_from_an_address_that_cannot_be_sent_is_refused_without_a_call() -> None:
    api = Api()
    verdict = await accept(api, mail=envelope(sender="jörg@example.com"))
    assert (verdict.reply.code, verdict.reply.status, api.calls) == (553, "5.6.7", [])


async def test_many_recipients_are_several_calls_with_one_answer() -> None:
    api = Api()
    mail = envelope(*(f"r{number}@example.net" for number in range(120)))
    verdict = await accept(api, mail=mail)
    assert sorted(len(call[1]) for call in api.calls) == [20, 50, 50]
    assert verdict.reply.success
    assert list(verdict.outcomes) == list(mail.forward_paths)


# ---- the null sender


async def test_the_null_sender_is_refused_where_nobody_stands_in_for_it(lines: Lines) -> None:
    api = Api()
    verdict = await accept(api, mail=envelope(sender=""))
    assert (verdict.reply.code, verdict.reply.status) == (550, "5.1.7")
    assert "SMTP2CF_NULL_SENDER_ADDRESS" in verdict.reply.text
    assert verdict.outcomes == {"b@example.net": verdict.reply}
    assert not api.calls
    assert [line["event"] for line in lines] == ["mail.refused"]


async def test_the_null_sender_has_a_stand_in_that_stands_in_for_nobody_else() -> None:
    api = Api()
    for sender in ("", "a@example.com"):
        verdict = await accept(api, mail=envelope(sender=sender), null_sender_address="bounces@example.com")
        assert verdict.reply.success
    assert [call[0] for call in api.calls] == ["bounces@example.com", "a@example.com"]


# ---- what is refused


async def test_too_many_received_fields_are_a_loop(lines: Lines) -> None:
    api = Api()
    received = b"Received: from a by b; Mon, 23 Nov 2026 07:00:00 +0000\r\n"
    assert (await accept(api, received * MAX_RECEIVED + MESSAGE)).reply.success
    verdict = await accept(api, received * (MAX_RECEIVED + 1) + MESSAGE)
    assert (verdict.reply.code, verdict.reply.status) == (554, "5.4.6")
    assert "loop" in verdict.reply.text
    assert len(api.calls) == 1
    assert lines[-1]["event"] == "mail.refused"


async def test_received_in_the_body_is_no_loop() -> None:
    assert (await accept(Api(), MESSAGE + b"Received: x\r\n" * 200)).reply.success


@pytest.mark.parametrize(
    "message", [MESSAGE + b"a\nb\r\n", MESSAGE + b"a\rb\r\n", MESSAGE.replace(b"\r\n", b"\n")]
)
async def test_bare_newlines_are_made_whole_or_refused(message: bytes) -> None:
    api = Api()
    assert (await accept(api, message)).reply.success
    sent = api.calls[0][2]
    assert sent.replace(b"\r\n", b"").count(b"\r") == sent.replace(b"\r\n", b"").count(b"\n") == 0
    assert sent.splitlines() == message.splitlines()
    verdict = await accept(api, message, bare_newline="reject")
    assert (verdict.reply.code, verdict.reply.status) == (550, "5.6.11")
    assert "SMTP2CF_BARE_NEWLINE" in verdict.reply.text
    assert len(api.calls) == 1


async def test_what_is_not_utf8_is_converted_or_refused() -> None:
    message = (
        b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=iso-8859-1\r\n"
        b"Content-Transfer-Encoding: 8bit\r\n\r\nGr\xfc\xdfe\r\n"
    )
    api = Api()
    assert (await accept(api, message)).reply.success
    sent = message_from_bytes(api.calls[0][2])
    assert sent.get_payload(decode=True).decode(sent.get_content_charset()).strip() == "Grüße"
    verdict = await accept(api, message, non_utf8="reject")
    assert (verdict.reply.code, verdict.reply.status) == (554, "5.6.3")
    assert "SMTP2CF_NON_UTF8" in verdict.reply.text
    assert len(api.calls) == 1


async def test_utf8_is_left_alone_by_either_setting() -> None:
    message = MESSAGE + "Grüße ☕\r\n".encode()
    for setting in ("convert", "reject"):
        api = Api()
        assert (await accept(api, message, non_utf8=setting, bare_newline="reject")).reply.success
        assert api.calls[0][2] is message


async def test_named_headers_are_dropped_and_no_others() -> None:
    api = Api()
    message = b"Bcc: c@x\r\nReturn-Path: <a@x>\r\n" + MESSAGE
    await accept(api, message)
    assert api.calls[0][2] is message
    await accept(api, message, drop_headers=frozenset({"bcc", "return-path"}))
    assert api.calls[1][2] == MESSAGE


# ---- what became of it


async def test_a_refusal_of_cloudflares_is_the_clients_answer() -> None:
    mail = envelope()
    verdict = await accept(Api(refusing(Reply(552, "5.3.4", "too big"), Scope.MESSAGE)), mail=mail)
    assert verdict.reply == Reply(552, "5.3.4", f"{mail.queue_id} too big")
    assert verdict.outcomes == {"b@example.net": Reply(552, "5.3.4", "too big")}


async def test_without_a_spool_the_client_keeps_what_can_not_go_now() -> None:
    mail = envelope()
    verdict = await accept(Api(refusing(THROTTLED)), mail=mail)
    assert verdict.reply == Reply(451, "4.7.1", f"{mail.queue_id} later")


def each_its_own(**fates: Reply) -> Fate:
    return lambda recipients: Sent({who: fates[who.partition("@")[0]] for who in recipients}, "<1@cf>")


async def test_a_partial_bounce_is_a_success_that_names_it_or_a_refusal() -> None:
    mail = envelope("ann@x", "bob@x", "cy@x")
    fate = each_its_own(ann=DELIVERED, bob=BOUNCED, cy=QUEUED)
    verdict = await accept(Api(fate), mail=mail)
    assert verdict.reply.code == 250
    assert "<bob@x> (550 5.1.1" in verdict.reply.text
    assert verdict.outcomes == {"ann@x": DELIVERED, "bob@x": BOUNCED, "cy@x": QUEUED}
    rejected = await accept(Api(fate), mail=mail, partial_bounce="reject")
    assert (rejected.reply.code, rejected.reply.status) == (550, "5.1.1")
    assert rejected.outcomes == verdict.outcomes


async def test_the_sender_of_mail_that_bounced_behind_a_250_is_told() -> None:
    api = Api(each_its_own(ann=DELIVERED, bob=BOUNCED, cy=SUPPRESSED, a=DELIVERED))
    relay = Relay(api, MessagePolicy())
    await relay.accept(envelope("ann@x", "bob@x", "cy@x"), MESSAGE)
    await relay.drain(5)
    assert len(api.calls) == 2
    sender, recipients, report, _ = api.calls[1]
    assert (sender, recipients) == ("mailer-daemon@example.com", ["a@example.com"])
    assert b"bob@x" in report
    assert b"cy@x" in report


async def test_without_a_spool_the_sender_is_told_of_who_could_not_get_it_now_too() -> None:
    """Nobody will try again: the client has its 250."""
    api = Api(each_its_own(ann=DELIVERED, bob=THROTTLED, a=DELIVERED))
    relay = Relay(api, MessagePolicy())
    verdict = await relay.accept(envelope("ann@x", "bob@x"), MESSAGE)
    await relay.drain(5)
    assert verdict.reply.code == 250
    assert f"not sent to <bob@x> ({THROTTLED})" in verdict.reply.text
    assert b"4.7.1" in api.calls[1][2]


@pytest.mark.parametrize("partial_bounce", ["accept", "reject"])
async def test_who_takes_an_answer_for_each_is_told_everything_and_nobody_else_anything(
    partial_bounce: str,
) -> None:
    """Each recipient's own answer says it all, so no DSN has to, whatever PARTIAL_BOUNCE says."""
    api = Api(each_its_own(ann=DELIVERED, bob=BOUNCED, cy=THROTTLED, a=DELIVERED))
    relay = Relay(api, MessagePolicy(partial_bounce=partial_bounce))
    mail = envelope("ann@x", "bob@x", "cy@x", "bob@x", per_recipient=True)
    verdict = await relay.accept(mail, MESSAGE)
    await relay.drain(5)
    assert [str(verdict.outcomes[who]) for who in mail.forward_paths] == [
        f"250 2.0.0 {mail.queue_id} delivered, message-id <1@cf>",
        f"550 5.1.1 {mail.queue_id} {BOUNCED.text}",
        f"451 4.7.1 {mail.queue_id} later",
        f"550 5.1.1 {mail.queue_id} {BOUNCED.text}",
    ]
    assert verdict.reply.code == 250, "PRDR's last answer: somebody has got it"
    assert len(api.calls) == 1


async def test_a_refused_message_is_refused_for_each() -> None:
    mail = envelope("ann@x", "bob@x", sender="", per_recipient=True)
    verdict = await accept(Api(), mail=mail)
    assert verdict.outcomes == dict.fromkeys(mail.forward_paths, verdict.reply)
    assert verdict.reply.code == 550


async def test_success_is_reported_to_who_asked_though_each_was_answered() -> None:
    api = Api(each_its_own(ann=DELIVERED, bob=BOUNCED, a=DELIVERED))
    relay = Relay(api, MessagePolicy())
    notify = dict.fromkeys(("ann@x", "bob@x"), "SUCCESS,FAILURE")
    await relay.accept(envelope("ann@x", "bob@x", per_recipient=True, notify=notify), MESSAGE)
    await relay.drain(5)
    _, (_, recipients, report, _) = api.calls
    assert recipients == ["a@example.com"]
    assert b"ann@x" in report
    assert b"bob@x" not in report


async def test_a_call_without_an_answer_is_logged_as_a_possible_duplicate_of_its_recipients(
    lines: Lines,
) -> None:
    recipients = [f"r{number}@example.net" for number in range(60)]

    def fate(part: Sequence[str]) -> Sent:
        if len(part) == 10:
            raise SendError(NO_ANSWER, Scope.ACCOUNT, unanswered=True)
        return delivered(part)

    mail = envelope(*recipients)
    await accept(Api(fate), mail=mail)
    (line,) = [line for line in lines if line["event"] == "mail.possible_duplicate"]
    assert (line["queue_id"], line["to"]) == (mail.queue_id, recipients[50:])


async def test_an_answer_that_says_nothing_was_sent_is_no_possible_duplicate(lines: Lines) -> None:
    await accept(Api(refusing(THROTTLED)))
    await accept(Api())
    assert not [line for line in lines if line["event"] == "mail.possible_duplicate"]


async def test_the_log_tells_each_attempt_and_nothing_of_the_content(lines: Lines) -> None:
    mail = envelope(client="192.0.2.1")
    await accept(Api(), MESSAGE + b"a secret\r\n", mail=mail)
    (line,) = lines
    assert (line["event"], line["queue_id"], line["status"]) == ("mail.attempt", mail.queue_id, "sent")
    assert "hello" not in str(line)
    assert "secret" not in str(line)


async def test_only_who_was_in_a_call_that_was_taken_is_logged_and_answered_with_its_id(lines: Lines) -> None:
    def fate(part: Sequence[str]) -> Sent:
        if len(part) > 1 and "listed@x" in part:
            raise SendError(SUPPRESSED, Scope.RECIPIENT)
        outcomes = {who: BOUNCED if who in ("gone@x", "listed@x") else DELIVERED for who in part}
        return Sent(outcomes, f"<{'+'.join(part)}>")

    verdict = await accept(Api(fate), mail=envelope("listed@x", "gone@x", "b@x", "c@x"))
    attempts = {
        line["reply"][:9]: line
        for line in lines
        if line["event"] == "mail.attempt" and "@x" in str(line["to"])
    }
    assert attempts["250 2.0.0"]["message_id"] == "<b@x+c@x>"
    assert attempts["550 5.1.1"]["to"] == ["listed@x", "gone@x"]
    assert "message_id" not in attempts["550 5.1.1"]
    assert "message-id <b@x+c@x>;" in verdict.reply.text


@given(st.lists(st.sampled_from(["got", "gone", "listed"]), min_size=1, max_size=12), st.integers(1, 4))
def test_a_line_has_the_id_of_the_call_that_its_recipients_were_in_and_no_other(
    fates: list[str], size: int
) -> None:
    """Calls of `size` recipients at most, some of whom have the whole call refused."""
    calls: dict[str, Sequence[str]] = {}

    def fate(part: Sequence[str]) -> Sent:
        if any(who.startswith("listed") for who in part):
            raise SendError(BOUNCED, Scope.RECIPIENT)
        message_id = f"<{len(calls)}@cf>"
        calls[message_id] = part
        return Sent({who: BOUNCED if who.startswith("gone") else DELIVERED for who in part}, message_id)

    mail = envelope(*(f"{fate}{number}@x" for number, fate in enumerate(fates)))
    message = b"Message-Id: <7@example.com>\r\n" + MESSAGE
    with (
        mock.patch.object(attempt, "MAX_RECIPIENTS_PER_CALL", size),
        mock.patch.object(attempt_calls, "MAX_RECIPIENTS_PER_CALL", size),
        capture_logs() as captured,
    ):
        verdict = asyncio.run(accept(Api(fate), message, mail=mail))
    told: list[str] = []
    for line in captured:
        if line["event"] == "mail.attempt" and line["queue_id"] == mail.queue_id:
            recipients = line["to"]
            told += recipients
            message_id = line.get("message_id", "")
            assert set(recipients) <= set(calls[message_id] if message_id else mail.forward_paths)
            assert message_id or not line["reply"].startswith("2")
            assert line["original_message_id"] == "<7@example.com>"
    assert sorted(told) == sorted(mail.forward_paths)
    for message_id, recipients in calls.items():
        if message_id in verdict.reply.text:
            assert any(who.startswith("got") for who in recipients)


async def test_each_spelling_of_a_recipient_is_logged_with_the_id_of_its_call(lines: Lines) -> None:
    await accept(Api(), mail=envelope("b@x", "b@X", "c@x"))
    (line,) = lines
    assert (line["to"], line["message_id"]) == (["b@x", "b@X", "c@x"], "<1@cf>")


@pytest.mark.parametrize(
    ("fate", "kind"), [(delivered, "2xx"), (refusing(THROTTLED), "4xx"), (refusing(BOUNCED), "5xx")]
)
async def test_each_answer_is_counted(fate: Fate, kind: str) -> None:
    def count() -> float:
        return REGISTRY.get_sample_value("smtp2cf_messages_total", {"answer": kind}) or 0.0

    before = count()
    await accept(Api(fate))
    assert count() == before + 1


async def test_messages_do_not_wait_for_one_another() -> None:
    release = asyncio.Event()

    async def send_raw(_: str, recipients: Sequence[str], **__: Any) -> Sent:
        if recipients[0].startswith("slow"):
            await release.wait()
        return delivered(recipients)

    relay = Relay(send_raw, MessagePolicy())
    slow = asyncio.create_task(relay.accept(envelope("slow@x"), MESSAGE))
    assert (await relay.accept(envelope("quick@x"), MESSAGE)).reply.success
    assert not slow.done()
    release.set()
    assert (await slow).reply.success
