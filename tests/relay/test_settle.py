"""The one answer for all outcomes: the table of settle's docstring, and what the reply tells a person.

What else follows from an attempt: who is deferred, who is given up, and of whom a DSN tells.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.envelope import Envelope
from smtp2cf.relay.attempt import Attempt
from smtp2cf.relay.settle import NAMED_LIMIT, Situation, answer_to, joint_reply, own_replies, settle
from smtp2cf.reply import ACCEPTED, BOUNCED, DELIVERED, QUEUED, SUPPRESSED, WIRE_LINE_LIMIT, Reply

THROTTLED = Reply(451, "4.7.1", "Cloudflare's rate limit is reached, try again later")
NO_TOKEN = Reply(451, "4.3.5", "Cloudflare refuses the API token: check SMTP2CF_API_TOKEN")
TOO_BIG = Reply(552, "5.3.4", "the message is too big for Cloudflare")

ID = "0123456789ABC"

# Outcomes; the answer's code and enhanced status without a spool, with what is transient kept, and each
# of these with SMTP2CF_PARTIAL_BOUNCE=reject.
KEPT = (250, "2.0.0")
TABLE = {
    "all success": ([DELIVERED, QUEUED, ACCEPTED], KEPT, KEPT, KEPT, KEPT),
    "all permanent": ([BOUNCED, SUPPRESSED], (550, "5.1.1"), None, (550, "5.1.1"), None),
    "all permanent, one kind": ([TOO_BIG, TOO_BIG], (552, "5.3.4"), None, (552, "5.3.4"), None),
    "all transient": ([THROTTLED, NO_TOKEN], (451, "4.7.1"), KEPT, (451, "4.7.1"), KEPT),
    "some success, some permanent": ([DELIVERED, BOUNCED], KEPT, None, (550, "5.1.1"), None),
    "some success, some transient": ([DELIVERED, THROTTLED], KEPT, KEPT, KEPT, KEPT),
    "some of each": ([DELIVERED, BOUNCED, THROTTLED], KEPT, KEPT, (550, "5.1.1"), (550, "5.1.1")),
    "transient and permanent": ([BOUNCED, THROTTLED], (451, "4.7.1"), KEPT, (451, "4.7.1"), (550, "5.1.1")),
}


def outcomes_of(replies: list[Reply]) -> dict[str, Reply]:
    return {f"r{number}@example.net": reply for number, reply in enumerate(replies)}


def cells() -> Iterator[Any]:
    """Each cell of the table that can be: what is not transient is never kept."""
    columns = [(False, "accept"), (True, "accept"), (False, "reject"), (True, "reject")]
    for name, (replies, *answers) in TABLE.items():
        for (kept, partial_bounce), answer in zip(columns, answers, strict=True):
            if answer is not None:
                spool = "kept" if kept else "no spool"
                yield pytest.param(
                    replies, kept, partial_bounce, answer, id=f"{name}, {spool}, {partial_bounce}"
                )


@pytest.mark.parametrize(("replies", "kept", "partial_bounce", "answer"), list(cells()))
def test_the_table(
    replies: list[Reply], kept: bool, partial_bounce: Literal["accept", "reject"], answer: tuple[int, str]
) -> None:
    outcomes = outcomes_of(replies)
    ids = dict.fromkeys(outcomes, "<1@cf>")
    reply = joint_reply(outcomes, ID, ids, kept=kept, partial_bounce=partial_bounce)
    assert (reply.code, reply.status) == answer
    assert reply.text.startswith(f"{ID} ")


def test_a_success_names_the_queue_id_and_cloudflares_message_id() -> None:
    assert joint_reply({"a@x": DELIVERED}, ID, {"a@x": "<1@cf>"}) == Reply(
        250, "2.0.0", f"{ID} delivered, message-id <1@cf>"
    )
    assert joint_reply({"a@x": DELIVERED}, ID).text == f"{ID} delivered"


def test_a_success_of_several_kinds_names_each_once() -> None:
    reply = joint_reply(outcomes_of([DELIVERED, QUEUED, DELIVERED, ACCEPTED]), ID)
    assert reply.text == f"{ID} delivered, queued by Cloudflare, accepted by Cloudflare"


def test_of_many_message_ids_a_few_are_named() -> None:
    recipients = [f"r{n}@x" for n in range(40)]
    ids = {who: f"<{n // 2}@cf>" for n, who in enumerate(recipients)}
    reply = joint_reply(dict.fromkeys(recipients, DELIVERED), ID, ids)
    assert reply.text == f"{ID} delivered, message-id <0@cf> <1@cf> <2@cf>"


def test_a_mixed_answer_names_the_ids_of_those_who_got_it_and_of_nobody_else() -> None:
    outcomes = {"a@x": BOUNCED, "b@x": DELIVERED, "c@x": SUPPRESSED}
    reply = joint_reply(outcomes, ID, {"a@x": "<1@cf>", "b@x": "<2@cf>"})
    assert "message-id <2@cf>;" in reply.text
    assert "<1@cf>" not in reply.text


def test_a_partial_success_names_who_did_not_get_it_and_why() -> None:
    outcomes = {"a@x": DELIVERED, "b@x": BOUNCED, "c@x": SUPPRESSED, "d@x": THROTTLED}
    reply = joint_reply(outcomes, ID, dict.fromkeys(outcomes, "<1@cf>"))
    assert reply.text.startswith(f"{ID} 1 of 4 recipients delivered, message-id <1@cf>; not sent to ")
    for who, why in {"b@x": BOUNCED, "c@x": SUPPRESSED, "d@x": THROTTLED}.items():
        assert f"<{who}> ({why})" in reply.text
    assert "a@x" not in reply.text


def test_what_is_kept_is_not_called_lost() -> None:
    reply = joint_reply({"a@x": DELIVERED, "b@x": BOUNCED, "c@x": THROTTLED}, ID, kept=True)
    assert f"not sent to <b@x> ({BOUNCED})" in reply.text
    assert f"kept for another attempt to <c@x> ({THROTTLED})" in reply.text
    assert reply.text.count("<c@x>") == 1
    reply = joint_reply({"c@x": THROTTLED}, ID, kept=True)
    assert reply.text == f"{ID} kept for another attempt to <c@x> ({THROTTLED})"


def test_where_all_failed_alike_the_reply_is_theirs() -> None:
    assert joint_reply({"a@x": SUPPRESSED, "b@x": SUPPRESSED}, ID) == SUPPRESSED._replace(
        text=f"{ID} {SUPPRESSED.text}"
    )
    assert joint_reply({"a@x": NO_TOKEN}, ID) == NO_TOKEN._replace(text=f"{ID} {NO_TOKEN.text}")


def test_where_they_failed_differently_each_is_named() -> None:
    reply = joint_reply({"a@x": BOUNCED, "b@x": SUPPRESSED}, ID)
    assert reply.text == f"{ID} <a@x> ({BOUNCED}), <b@x> ({SUPPRESSED})"


def test_a_rejected_partial_bounce_names_who_bounced_who_got_it_and_the_setting() -> None:
    outcomes = {"a@x": DELIVERED, "b@x": BOUNCED, "c@x": QUEUED}
    reply = joint_reply(outcomes, ID, partial_bounce="reject")
    assert (reply.code, reply.status) == (550, "5.1.1")
    assert f"<b@x> ({BOUNCED})" in reply.text
    assert "; sent to 2 (" in reply.text
    assert "SMTP2CF_PARTIAL_BOUNCE=reject" in reply.text


def test_a_rejected_partial_bounce_names_those_who_were_deferred_too() -> None:
    outcomes = {"a@x": DELIVERED, "b@x": BOUNCED, "c@x": THROTTLED}
    lost = joint_reply(outcomes, ID, partial_bounce="reject")
    assert f"sent to 1; not sent to <c@x> ({THROTTLED})" in lost.text
    waits = joint_reply(outcomes, ID, partial_bounce="reject", kept=True)
    assert f"sent to 1; kept for another attempt to <c@x> ({THROTTLED})" in waits.text


def test_recipients_with_the_same_fate_share_its_words_and_many_are_counted() -> None:
    outcomes = {"first@x": DELIVERED} | {f"r{n}@x": BOUNCED for n in range(NAMED_LIMIT + 5)}
    reply = joint_reply(outcomes, ID)
    assert reply.text.count(BOUNCED.text) == 1
    assert f"<r{NAMED_LIMIT - 1}@x>" in reply.text
    assert f"<r{NAMED_LIMIT}@x>" not in reply.text
    assert "and 5 more" in reply.text


# ---- one answer for each


@pytest.mark.parametrize("kept", [False, True], ids=["no spool", "kept"])
def test_each_recipient_has_the_answer_that_is_its_own(kept: bool) -> None:
    outcomes = {"a@x": DELIVERED, "b@x": BOUNCED, "c@x": THROTTLED, "d@x": QUEUED}
    own = own_replies(outcomes, ID, {"a@x": "<1@cf>", "b@x": "<1@cf>", "d@x": "<2@cf>"}, kept=kept)
    assert own == {
        "a@x": Reply(250, "2.0.0", f"{ID} delivered, message-id <1@cf>"),
        "b@x": BOUNCED._replace(text=f"{ID} {BOUNCED.text}"),
        "c@x": Reply(250, "2.0.0", f"{ID} kept for another attempt ({THROTTLED})")
        if kept
        else THROTTLED._replace(text=f"{ID} {THROTTLED.text}"),
        "d@x": Reply(250, "2.0.0", f"{ID} queued by Cloudflare, message-id <2@cf>"),
    }


replies = st.sampled_from([DELIVERED, QUEUED, ACCEPTED, BOUNCED, SUPPRESSED, TOO_BIG, THROTTLED, NO_TOKEN])
addresses = st.text(min_size=1, max_size=80).map(lambda local: f"{local}@example.net")


@given(
    outcomes=st.dictionaries(addresses, replies, min_size=1, max_size=30),
    kept=st.booleans(),
    partial_bounce=st.sampled_from(["accept", "reject"]),
)
def test_the_answer_never_loses_mail_and_always_fits_the_wire(
    outcomes: dict[str, Reply], kept: bool, partial_bounce: Literal["accept", "reject"]
) -> None:
    kept = kept and any(reply.transient for reply in outcomes.values())
    reply = joint_reply(outcomes, ID, kept=kept, partial_bounce=partial_bounce)
    if any(out.success for out in outcomes.values()) or kept:
        # A 4xx would have the client send it to all of them again.
        assert not reply.transient
    else:
        assert not reply.success, "nobody got it, and nobody will"
    if partial_bounce == "accept" and any(out.transient for out in outcomes.values()):
        assert not reply.permanent, "who is transient would be given up"
    lines = reply.wire().split(b"\r\n")
    assert lines.pop() == b""
    assert all(len(line) + 2 <= WIRE_LINE_LIMIT for line in lines)


# ---- the plan

ALL = "sent gone late"  # each of the three kinds

# Outcomes; situation; one reply each; who is deferred; whom a DSN tells of. NOTIFY=SUCCESS,FAILURE for all.
WAITS, TOLD = Situation(spool=True, client_waits=True), Situation(spool=True, client_waits=False)
BARE = Situation(spool=False, client_waits=True)
REJECT = Situation(spool=True, client_waits=True, partial_bounce="reject")
BARE_REJECT = Situation(spool=False, client_waits=True, partial_bounce="reject")
OVER = Situation(spool=True, client_waits=False, expired_after=432_000.0)
DSN = Situation(spool=True, client_waits=False, is_dsn=True)
DSN_OVER = Situation(spool=True, client_waits=False, is_dsn=True, expired_after=432_000.0)
PLANS = [
    # a client that takes one answer for all, with a spool
    ("sent", WAITS, False, "", "sent"),
    ("gone", WAITS, False, "", ""),
    ("late", WAITS, False, "late", ""),
    ("sent gone", WAITS, False, "", "sent gone"),
    ("sent late", WAITS, False, "late", "sent"),
    ("gone late", WAITS, False, "late", "gone"),
    (ALL, WAITS, False, "late", "sent gone"),
    # and without one
    ("late", BARE, False, "", ""),
    ("gone late", BARE, False, "", ""),
    ("sent late", BARE, False, "", "sent late"),
    (ALL, BARE, False, "", ALL),
    # and with SMTP2CF_PARTIAL_BOUNCE=reject: the 5xx names who bounced
    ("sent gone", REJECT, False, "", ""),
    (ALL, REJECT, False, "late", "sent"),
    ("sent late", REJECT, False, "late", "sent"),
    (ALL, BARE_REJECT, False, "", ""),
    # a client that takes one answer for each
    (ALL, WAITS, True, "late", "sent"),
    (ALL, BARE, True, "", "sent"),
    (ALL, REJECT, True, "late", "sent"),
    ("gone", WAITS, True, "", ""),
    # nobody waits
    (ALL, TOLD, False, "late", "sent gone"),
    (ALL, TOLD, True, "late", "sent gone"),
    ("gone", TOLD, False, "", "gone"),
    (ALL, OVER, False, "", ALL),
    ("late", OVER, False, "", "late"),
    # a DSN
    (ALL, DSN, False, "late", ""),
    (ALL, DSN_OVER, False, "", ""),
]
REPLIES = {"sent": DELIVERED, "gone": BOUNCED, "late": THROTTLED}


def of(names: str) -> dict[str, Reply]:
    return {name: REPLIES[name] for name in names.split()}


def mail_to(
    outcomes: dict[str, Reply], *, per_recipient: bool = False, notify: str = "SUCCESS,FAILURE"
) -> Envelope:
    return Envelope(
        reverse_path="a@example.com",
        forward_paths=tuple(outcomes),
        per_recipient=per_recipient,
        notify=dict.fromkeys(outcomes, notify) if notify else {},
    )


@pytest.mark.parametrize(("names", "situation", "per_recipient", "deferred", "told"), PLANS)
def test_the_plan(names: str, situation: Situation, per_recipient: bool, deferred: str, told: str) -> None:
    outcomes = of(names)
    plan = settle(mail_to(outcomes, per_recipient=per_recipient), {}, Attempt(outcomes), situation)
    assert plan.deferred == of(deferred)
    assert set(plan.told) == set(told.split())
    assert set(plan.outcomes) == set(outcomes)
    if situation.expired_after is not None:
        assert plan.expired.keys() == {"late"}
        assert plan.outcomes["late"] == plan.expired["late"]
        assert str(plan.expired["late"]).startswith(
            "451 4.4.7 given up after 5 days; the last answer was: 451 4.7.1"
        )
    assert plan.undeliverable is (situation.is_dsn and "gone" in outcomes)


def test_what_was_known_before_is_in_the_plan_and_told_of_no_second_time() -> None:
    earlier = {"sent": DELIVERED, "gone": BOUNCED, "late": NO_TOKEN, "later": NO_TOKEN}
    plan = settle(mail_to(earlier), earlier, Attempt({"late": SUPPRESSED, "later": THROTTLED}), TOLD)
    assert plan.outcomes == {"sent": DELIVERED, "gone": BOUNCED, "late": SUPPRESSED, "later": THROTTLED}
    assert plan.deferred == {"later": THROTTLED}
    assert plan.told == {"late": SUPPRESSED}


def test_mail_that_is_given_up_without_an_answer_says_so() -> None:
    mail = mail_to({"sent": DELIVERED, "never": THROTTLED})
    plan = settle(mail, {"sent": DELIVERED}, Attempt(), OVER)
    assert str(plan.told["never"]) == "451 4.4.7 given up after 5 days; no attempt was answered"
    assert plan.told.keys() == {"never"}


def test_nobody_can_be_told_of_mail_that_has_no_sender_and_no_client() -> None:
    outcomes = of("sent gone")
    mail = replace(mail_to(outcomes), reverse_path="")
    assert settle(mail, {}, Attempt(outcomes), TOLD).undeliverable
    assert not settle(mail, {}, Attempt(outcomes), WAITS).undeliverable
    assert not settle(mail, {}, Attempt(of("sent")), TOLD).undeliverable


def test_of_who_got_it_nobody_is_told_who_did_not_ask() -> None:
    outcomes = of("sent gone")
    assert settle(mail_to(outcomes, notify=""), {}, Attempt(outcomes), WAITS).told == of("gone")


@given(
    outcomes=st.dictionaries(addresses, replies, min_size=1, max_size=30),
    situation=st.builds(
        Situation,
        spool=st.booleans(),
        client_waits=st.just(True),
        partial_bounce=st.sampled_from(["accept", "reject"]),
    ),
    per_recipient=st.booleans(),
)
def test_nobody_is_lost_between_the_answer_the_spool_and_the_dsn(
    outcomes: dict[str, Reply], situation: Situation, per_recipient: bool
) -> None:
    """Whoever did not get it is named by a 4xx or 5xx, or is kept, or the sender is told by a DSN."""
    mail = mail_to(outcomes, per_recipient=per_recipient)
    plan = settle(mail, {}, Attempt(outcomes), situation)
    verdict = answer_to(mail, Attempt(outcomes), situation.partial_bounce, kept=bool(plan.deferred))
    for who, outcome in outcomes.items():
        if outcome.success:
            continue
        on_the_wire = verdict.outcomes[who] if per_recipient else verdict.reply
        assert not on_the_wire.success or who in plan.deferred or who in plan.told
        if per_recipient and not on_the_wire.success:
            assert who not in plan.told, "told twice"
    assert not plan.deferred.keys() & plan.told.keys()
