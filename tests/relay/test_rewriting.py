"""Addresses that change between the client and Cloudflare: both are kept, and the client's are answered."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from smtp2cf.cloudflare import Sent
from smtp2cf.envelope import Envelope, Outcomes, Verdict
from smtp2cf.message import dsn
from smtp2cf.relay import BouncePolicy, MessagePolicy, Relay
from smtp2cf.relay.as_given import as_given
from smtp2cf.relay.bounces import dsns_for
from smtp2cf.relay.rewriting import Rewriting, recipients_step, with_recipients, with_sender
from smtp2cf.reply import BOUNCED, DELIVERED, Reply
from tests.relay.test_deadline import Gate
from tests.relay.test_lost_reply import vanish
from tests.relay.world import MESSAGE, Api, by_name, world
from tests.spool.conftest import Backend
from tests.support.each import each

LATER = Reply(451, "4.7.1", "later")
OUTCOMES = {"a@x": DELIVERED, "b@x": DELIVERED, "bounce@x": BOUNCED, "later@x": LATER}


def envelope(*recipients: str, sender: str = "root@web07", **fields: Any) -> Envelope:
    return Envelope(reverse_path=sender, forward_paths=recipients, **fields)


def to(instead: dict[str, Sequence[str]]) -> Rewriting:
    """Rewrites recipients, and the sender."""
    return Rewriting(lambda one, message: (with_recipients(one, instead), message), as_default)


def as_default(one: Envelope, message: bytes) -> tuple[Envelope, bytes]:
    return with_sender(one, "noreply@example.com"), message + b"rewritten\r\n"


# ---- the envelope


def test_the_client_s_sender_is_kept_however_often_it_is_rewritten() -> None:
    once = with_sender(envelope("a@x"), "ops@example.com")
    assert (once.reverse_path, once.given_reverse_path) == ("ops@example.com", "root@web07")
    assert with_sender(once, "noreply@example.com").given_reverse_path == "root@web07"
    assert with_sender(once, "root@web07") == envelope(
        "a@x", received_at=once.received_at, queue_id=once.queue_id
    )
    assert with_sender(once, "ops@example.com") is once


EXPANSIONS = [
    # The client's recipients; what they become; for whom each of those is.
    (["root"], {"root": ["ops@x"]}, {"ops@x": ["root"]}),
    (["root"], {"root": ["ops@x", "on@x"]}, {"ops@x": ["root"], "on@x": ["root"]}),
    (["root", "www"], {"root": ["ops@x"], "www": ["ops@x"]}, {"ops@x": ["root", "www"]}),
    (["root", "ops@x"], {"root": ["ops@x"]}, {"ops@x": ["root", "ops@x"]}),
    (["ops@x", "a@x"], {"root": ["ops@x"]}, {"ops@x": ["ops@x"], "a@x": ["a@x"]}),
    (["a@x", "a@x"], {"a@x": ["b@x"]}, {"b@x": ["a@x"]}),
]


@each(("recipients", "instead", "for_whom"), EXPANSIONS)
def test_recipients_become_several_and_several_one(
    recipients: list[str], instead: dict[str, list[str]], for_whom: dict[str, list[str]]
) -> None:
    found = with_recipients(envelope(*recipients), instead)
    assert {path: [*found.given_for(path)] for path in found.forward_paths} == for_whom
    assert set(found.recipients_as_given) == set(recipients)


def test_a_second_rewriting_remembers_the_first_names() -> None:
    found = with_recipients(envelope("root", "a@x"), {"root": ["ops@x", "on@x"]})
    found = with_recipients(found, dict.fromkeys(found.forward_paths, ("staging@x",)))
    assert found.given_forward_paths == {"staging@x": ("root", "a@x")}
    assert found.orcpt == {"staging@x": "rfc822;root"}


NOTIFIED = [
    # NOTIFY of two recipients that become one; what that one is asked for.
    ("NEVER", "NEVER", "NEVER"),
    ("NEVER", "", "FAILURE"),
    ("NEVER", "SUCCESS", "SUCCESS"),
    ("SUCCESS", "", "SUCCESS,FAILURE"),
    ("SUCCESS,FAILURE", "DELAY", "SUCCESS,FAILURE,DELAY"),
    ("", "", None),
]


@each(("one", "other", "both"), NOTIFIED)
def test_who_stands_for_two_is_reported_as_either_was_asked_for(
    one: str, other: str, both: str | None
) -> None:
    notify = {who: asked for who, asked in (("a", one), ("b", other)) if asked}
    found = with_recipients(envelope("a", "b", notify=notify), {"a": ["c@x"], "b": ["c@x"]})
    assert found.notify.get("c@x") == both


@each(
    ("given", "field"),
    [("root@web07", "rfc822; root@web07"), ("a+b=c@x", "rfc822; a+b=c@x"), ("jürgen@x", "utf-8; jürgen@x")],
)
def test_a_dsn_names_whom_the_client_named_as_the_original_recipient(given: str, field: str) -> None:
    about = with_sender(with_recipients(envelope(given), {given: ["ops@x"]}), "noreply@example.com")
    report = dsn.Report("ops@x", dsn.Event.FAILED, BOUNCED)
    text = dsn.build(about, MESSAGE, [report], hostname="b", sender="post@x", now=0).decode()
    assert f"Original-Recipient: {field}\r\nFinal-Recipient: rfc822; ops@x\r\n" in text
    assert f"<ops@x> (for <{given}>)" in text
    assert "sent as <noreply@example.com> instead of <root@web07>" in " ".join(text.split())
    assert "X-Smtp2cf-Sender: rfc822; root@web07" in text


# ---- the answers


@given(st.dictionaries(st.sampled_from("rst"), st.sets(st.sampled_from([*OUTCOMES]), min_size=1), min_size=1))
def test_a_recipient_that_became_several_counts_as_the_worst_of_them(instead: dict[str, set[str]]) -> None:
    rewritten = with_recipients(envelope(*instead), {who: sorted(those) for who, those in instead.items()})
    outcomes: Outcomes = {path: OUTCOMES[path] for path in rewritten.forward_paths}
    found = as_given(rewritten, Verdict(DELIVERED, outcomes), outcomes).outcomes
    assert found.keys() == instead.keys()
    for who, those in instead.items():
        assert found[who].code == max(OUTCOMES[path].code for path in those)


@pytest.mark.parametrize("per_recipient", [False, True])
async def test_the_answer_is_about_the_client_s_recipients_and_names_both(per_recipient: bool) -> None:
    sent: list[tuple[str, list[str], bytes]] = []

    async def send_raw(sender: str, recipients: Sequence[str], *, message: bytes, **_: Any) -> Sent:
        sent.append((sender, [*recipients], message))
        return Sent({who: OUTCOMES[who] for who in recipients}, "<1@cf>")

    relay = Relay(send_raw, MessagePolicy(), rewriting=to({"root": ["a@x", "bounce@x"], "www": ["b@x"]}))
    mail = envelope("root", "www", "b@x", per_recipient=per_recipient)
    with capture_logs() as lines:
        verdict = await relay.accept(mail, MESSAGE)
    assert sent == [("noreply@example.com", ["a@x", "bounce@x", "b@x"], MESSAGE + b"rewritten\r\n")]
    assert {who: reply.code for who, reply in verdict.outcomes.items()} == {
        "root": 550,
        "www": 250,
        "b@x": 250,
    }
    assert verdict.reply.code == 250
    became = "sent as <noreply@example.com> instead of <root@web07>"
    assert verdict.reply.text.endswith(f"({became}, to <a@x>, <bounce@x>, <b@x> instead of <root>, <www>)")
    assert verdict.outcomes["www"].text.endswith(f"({became}, to <b@x> instead of <www>)")
    assert verdict.outcomes["b@x"].text.endswith(f"({became})")
    attempts = [line for line in lines if line["event"] == "mail.attempt"]
    assert [(line["from"], line["orig_from"]) for line in attempts] == [
        ("noreply@example.com", "root@web07")
    ] * 2
    assert [(line["to"], line["orig_to"]) for line in attempts] == [
        (["a@x", "b@x"], ["root", "www", "b@x"]),
        (["bounce@x"], ["root"]),
    ]


async def test_a_repeated_message_is_recognised_by_what_the_client_sent(sqlite: Backend, api: Api) -> None:
    """Also after the maps have changed; and everybody it named has an answer."""
    gate = Gate(api)
    async with world(await sqlite.open(), api) as here:
        here.relay.rewriting.steps = to({"ben@example.org": ["a@example.net", "b@example.net"]}).steps
        await vanish(here, gate, "close", parameters="")
        here.relay.rewriting.steps = ()
        assert "instead of <ben@example.org>" in await here.accept()
        assert len(api.calls) == 1


@pytest.mark.parametrize("mode", ["direct", "queue"])
async def test_what_waits_in_the_spool_keeps_both(sqlite: Backend, api: Api, mode: str) -> None:
    """What bounces later is reported to the client's sender, by the client's names."""
    api.answer = by_name
    async with world(await sqlite.open(), api, mode=mode) as here:
        here.relay.rewriting.steps = to({"ben@example.org": ["bounce@example.net", "b@example.net"]}).steps
        reply = await here.accept(reverse_path="anna@example.com")
        assert reply.startswith("250")
        assert "sent as <noreply@example.com> instead of <anna@example.com>" in reply
        await here.until_empty()
    mail, report = api.calls
    assert (mail.sender, mail.recipients) == ("noreply@example.com", ["bounce@example.net", "b@example.net"])
    assert report.recipients == ["anna@example.com"]
    assert b"Original-Recipient: rfc822; ben@example.org" in report.message


# ---- staging


def test_redirected_mail_goes_to_one_place_once_and_says_who_it_was_for() -> None:
    """Everybody whom the client named, and nobody whom the map made of them."""
    step = recipients_step({"root": ["ops@x"]}.get, ["staging@x"])  # type: ignore[arg-type]
    found, message = step(envelope("root", "a@x", "b@x", "a@x", notify={"a@x": "NEVER"}), MESSAGE)
    assert found.forward_paths == ("staging@x",)
    assert found.recipients_as_given == ("root", "a@x", "b@x")
    assert message == b"X-Original-To: root,\r\n a@x,\r\n b@x\r\n" + MESSAGE


def test_without_anything_to_change_nothing_is() -> None:
    mail = envelope("a@x")
    found, message = recipients_step(lambda address: (address,))(mail, MESSAGE)
    assert found is mail
    assert message is MESSAGE


def test_reports_to_senders_are_redirected_too() -> None:
    policy = BouncePolicy(hostname="b", redirect=("staging@x", "test@x"))
    (report,) = dsns_for(envelope("a@x", sender="anna@example.com"), MESSAGE, {"a@x": BOUNCED}, policy)
    assert report.envelope.forward_paths == ("staging@x", "test@x")
    assert report.envelope.notify == {"staging@x": "NEVER", "test@x": "NEVER"}


# ---- the DSN's reader

POLICY = BouncePolicy(hostname="b")
WITH_POSTMASTER = replace(POLICY, postmaster="post@example.com")
TOLD = [
    # The client's sender; whom a DSN goes to; the same without a postmaster.
    ("anna@brand.example", "anna@brand.example", "anna@brand.example"),
    ("root@web07", "post@example.com", "noreply@example.com"),
    ("root", "post@example.com", "noreply@example.com"),
    ("root@[127.0.0.1]", "post@example.com", "noreply@example.com"),
    ("mailer-daemon@web07", None, None),
    ("post@example.com", None, "post@example.com"),
]


@each(("sender", "told", "without"), TOLD)
def test_a_dsn_goes_to_the_client_s_sender_if_it_can_be_reached(
    sender: str, told: str | None, without: str | None
) -> None:
    about = with_sender(envelope("b@x", sender=sender), "noreply@example.com")
    for policy, expected in ((WITH_POSTMASTER, told), (POLICY, without)):
        found = dsns_for(about, MESSAGE, {"b@x": BOUNCED}, policy)
        assert [mail.envelope.forward_paths for mail in found] == ([(expected,)] if expected else [])


def test_a_postmaster_who_is_also_the_default_sender_does_not_stop_dsns() -> None:
    about = with_sender(envelope("b@x", sender="root@web07"), "post@example.com")
    assert [
        mail.envelope.forward_paths for mail in dsns_for(about, MESSAGE, {"b@x": BOUNCED}, WITH_POSTMASTER)
    ] == [("post@example.com",)]
