"""Nobody gets a field, a part or the end of a header into a message by way of CR and LF in a value."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtp2cf.message.newlines import has_bare_newlines, normalize_newlines
from tests.message.clients import CR_CR_LF, CRLF, LF, Client, as_read

LINE_ENDS = {"CRLF": CRLF, "CR CR LF": CR_CR_LF, "LF": LF, "CRLF and CR CR LF": b""}


@pytest.mark.parametrize("line_end", LINE_ENDS.values(), ids=LINE_ENDS)
@settings(max_examples=100)
@given(chance=st.randoms(use_true_random=False))
def test_readers_find_what_the_client_meant(line_end: bytes, chance: random.Random) -> None:
    sent, meant = Client(chance, line_end).message()
    clean = normalize_newlines(sent)
    assert not has_bare_newlines(clean)
    assert as_read(clean) == meant, sent


def test_without_cleaning_they_find_more() -> None:
    """The generator makes what the property is about."""
    found = [Client(random.Random(seed), CRLF).message() for seed in range(50)]
    assert sum(as_read(sent) != meant for sent, meant in found) > 25
