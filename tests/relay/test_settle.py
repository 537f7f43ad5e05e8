"""The one answer for all outcomes: the table of settle's docstring, and what the reply tells a person."""

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtp2cf.relay.settle import NAMED_LIMIT, joint_reply, own_replies
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


@settings(deadline=None)
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
