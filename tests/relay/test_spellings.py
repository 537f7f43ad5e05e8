"""Recipients in several spellings: sent to once, and each spelling has its outcome."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.envelope import address_key
from smtp2cf.relay.spellings import Spellings

ONE = ["b@bücher.example", '"b"@XN--BCHER-KVA.example', "b@bu\u0308cher.example."]


@pytest.mark.parametrize(
    ("given_as", "forms", "as_sent"),
    [
        (["b@x"], ["b@x"], True),
        (["b@x", "a@x"], ["b@x", "a@x"], True),
        (["b@x", "b@x"], ["b@x"], False),
        (["b@X"], ["b@x"], False),
        (["b@X", "a@x", "b@x", "B@x"], ["b@x", "a@x", "B@x"], False),
        (ONE, ["b@xn--bcher-kva.example"], False),
        (["a..b@x", '"a..b"@x'], ["a..b@x"], False),
        (['"a..b"@x', "a..b@x"], ['"a..b"@x'], False),
        (['"a b"@x', r'"a\ b"@X'], ['"a b"@x'], False),
        ([], [], True),
    ],
)
def test_an_address_is_sent_to_once_in_its_one_form(
    given_as: list[str], forms: list[str], as_sent: bool
) -> None:
    spelled = Spellings.of(given_as)
    assert (spelled.forms, spelled.as_sent, spelled.refused) == (forms, as_sent, {})


def test_an_address_that_has_no_such_form_is_refused_and_the_others_are_sent_to() -> None:
    spelled = Spellings.of(["jörg@x", "b@x"])
    assert (spelled.forms, spelled.as_sent) == (["b@x"], False)
    assert {who: reply.status for who, reply in spelled.refused.items()} == {"jörg@x": "5.6.7"}


@given(st.lists(st.sampled_from(["a@x", "a@X", "A@x", "b@y", "jörg@x", *ONE])))
def test_nobody_is_lost_nobody_is_there_twice_and_each_spelling_is_answered(recipients: list[str]) -> None:
    spelled = Spellings.of(recipients)
    keys = [address_key(form) for form in spelled.forms]
    assert len(set(keys)) == len(keys)
    found = spelled.as_given({form: form for form in spelled.forms}) | spelled.refused
    assert set(found) == set(recipients)
    assert all(address_key(who) == address_key(form) for who, form in found.items() if form in spelled.forms)
