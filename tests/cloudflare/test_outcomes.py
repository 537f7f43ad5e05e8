"""Whose outcome an entry in Cloudflare's lists is, however it spells the address."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.cloudflare.outcomes import LISTS, Sent, read_sent
from smtp2cf.envelope import sent_form
from smtp2cf.reply import ACCEPTED, BOUNCED, DELIVERED, SUPPRESSED
from tests.support.each import each

BOB, CAROL, DAVE = "bob@xn--bcher-kva.example", "carol@example.com", "dave@example.com"

SPELLINGS_OF_BOB: list[object] = [
    BOB,
    "bob@XN--BCHER-KVA.EXAMPLE",
    "bob@xn--bcher-kva.example.",
    "bob@bücher.example",
    "bob@BÜCHER.example",
    "bob@bu\u0308cher.example",
    "bob@bücher。example",
    "BOB@Bücher.Example",
    '"bob"@bücher.example',
    r'"b\ob"@bücher.example',
    "<bob@bücher.example>",
    " < bob@bücher.example > ",
    "\tbob@bücher.example\r\n",
    "Bob B. <bob@bücher.example>",
    '"B, Bob" <"bob"@xn--bcher-kva.example>',
    {"email": "bob@bücher.example"},
    {"address": "<bob@bücher.example>", "name": "Bob"},
    {"email": None, "recipient": BOB, "reason": "unknown user"},
    {"to": f" {BOB} "},
]


@each("entry", SPELLINGS_OF_BOB)
@each(("name", "reply"), LISTS)
def test_every_spelling_of_a_recipient_is_that_recipient(name: str, reply: object, entry: object) -> None:
    assert read_sent({name: [entry]}, [BOB, CAROL]) == ({BOB: reply, CAROL: ACCEPTED}, "", ())
    assert read_sent({name: entry}, [BOB, CAROL]).outcomes[BOB] is reply, "without a list around it"


def test_the_letter_case_of_a_local_part_is_the_last_resort() -> None:
    lists = {"delivered": ["bob@X"], "permanent_bounces": ["BOB@x"]}
    assert read_sent(lists, ["BOB@x", "bob@x", "Bob@x"]).outcomes == {
        "BOB@x": BOUNCED,
        "bob@x": DELIVERED,
        "Bob@x": BOUNCED,
    }


@each("listed_as_delivered", [BOB, "bob@bücher.example"])
@each("entry", [*SPELLINGS_OF_BOB[1:], "BOB@xn--bcher-kva.example"])
@each(("name", "reply"), LISTS[:2])
def test_a_failure_counts_whatever_other_spelling_is_in_a_list_of_successes(
    name: str, reply: object, entry: object, listed_as_delivered: str
) -> None:
    lists = {"delivered": [listed_as_delivered, CAROL], name: [entry]}
    assert read_sent(lists, [BOB, CAROL]) == ({BOB: reply, CAROL: DELIVERED}, "", ())


def test_a_failure_of_one_letter_case_leaves_the_success_of_another_alone() -> None:
    lists = {"delivered": ["bob@x"], "permanent_bounces": ["BOB@x"]}
    assert read_sent(lists, ["bob@x", "Bob@x"]).outcomes == {"bob@x": DELIVERED, "Bob@x": BOUNCED}


@each("listed", [True, 3, 0.5])
def test_failures_of_whatever_type_are_no_silent_success(listed: object) -> None:
    assert read_sent({"permanent_bounces": listed}, [BOB]).outcomes == {BOB: BOUNCED}
    sent = read_sent({"permanent_bounces": listed}, [BOB, CAROL])
    assert sent.unmatched == (f"permanent_bounces: {listed}",)


@each("entry", ["bob@elsewhere.example", "bob", "", None, 7, [BOB], {}, {"email": 3}, "x" * 9999])
def test_a_failure_with_one_recipient_left_over_belongs_to_that_one(entry: object) -> None:
    sent = read_sent({"permanent_bounces": [entry], "delivered": [CAROL]}, [BOB, CAROL])
    assert sent == ({BOB: BOUNCED, CAROL: DELIVERED}, "", ())
    assert read_sent({"suppressed_recipients": [entry]}, [BOB]).outcomes == {BOB: SUPPRESSED}


def test_a_failure_that_may_be_one_of_several_is_told_in_their_250() -> None:
    sent = read_sent({"permanent_bounces": ["x@y"], "delivered": [CAROL]}, [BOB, CAROL, DAVE])
    assert sent.unmatched == ("permanent_bounces: x@y",)
    assert sent.outcomes[CAROL] is DELIVERED
    assert (
        str(sent.outcomes[BOB])
        == str(sent.outcomes[DAVE])
        == ("250 2.0.0 accepted by Cloudflare, whose answer names unknown addresses (permanent_bounces: x@y)")
    )


def test_a_failure_that_nobody_is_left_for_is_reported_too() -> None:
    lists = {"permanent_bounces": ["x@y"], "delivered": [BOB, "also@y"]}
    assert read_sent(lists, [BOB]) == ({BOB: DELIVERED}, "", ("permanent_bounces: x@y",))


def test_a_success_that_matches_nobody_makes_no_failure() -> None:
    sent = read_sent({"delivered": ["x@y"]}, [BOB])
    assert sent.outcomes[BOB].success
    assert sent.unmatched == ("delivered: x@y",)


def test_an_entry_is_shown_on_one_line_and_shortened() -> None:
    (entry,) = read_sent({"queued": ["a\r\n250 OK\x1b" + "x" * 900]}, [BOB]).unmatched
    assert entry.startswith("queued: a 250 OK x")
    assert entry.isprintable()
    assert len(entry) < 120


def test_what_most_answers_say_is_read_without_looking_for_spellings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("smtp2cf.cloudflare.outcomes.address_key")
    lists: dict[str, object] = {"delivered": [BOB, CAROL], "queued": [], "permanent_bounces": []}
    assert read_sent(lists, [BOB, CAROL]).outcomes == {BOB: DELIVERED, CAROL: DELIVERED}


# ---- any recipients, in any spelling

_people = st.lists(
    st.builds(
        "{}@{}".format,
        st.sampled_from(["ann", "a.b", "a..b", "x+y"]),
        st.sampled_from(["x.org", "ü.example", "例子.广告"]),
    ),
    min_size=1,
    max_size=8,
    unique=True,
)


def _spelled(address: str, how: int) -> object:
    local, _, domain = address.partition("@")
    forms: list[object] = [
        sent_form(address).upper(),
        f'"{local}"@{domain}.',
        unicodedata.normalize("NFD", address),
        f" <{address}> ",
        {"email": sent_form(address)},
    ]
    return forms[how % len(forms)]


@given(st.data(), _people)
def test_each_recipient_gets_its_own_outcome_in_whatever_spelling(
    data: st.DataObject, people: list[str]
) -> None:
    result: dict[str, list[object]] = {name: [] for name, _ in LISTS}
    expected = {}
    for address in people:
        name, reply = data.draw(st.sampled_from(LISTS))
        result[name].append(_spelled(address, data.draw(st.integers(0, 9))))
        expected[sent_form(address)] = reply
    assert read_sent(result, list(expected)) == Sent(expected, "", ())
