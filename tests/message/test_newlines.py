"""Bare newlines are found and become CRLF; nothing else changes."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtp2cf.message.newlines import has_bare_newlines, normalize_newlines
from tests.corpus import CORPUS, is_verbatim

NEWLINES = [
    (b"", b""),
    (b"no line end", b"no line end"),
    (b"\r\n", b"\r\n"),
    (b"a\r\nb\r\n\r\n", b"a\r\nb\r\n\r\n"),
    (b"\n", b"\r\n"),
    (b"\r", b"\r\n"),
    (b"a\nb", b"a\r\nb"),
    (b"a\rb", b"a\r\nb"),
    (b"a\r", b"a\r\n"),
    (b"\n\r", b"\r\n\r\n"),
    (b"\r\r\n", b"\r\n\r\n"),
    (b"\r\n\n", b"\r\n\r\n"),
    (b"\r\n\r", b"\r\n\r\n"),
    (b"\n\n\r\r", b"\r\n\r\n\r\n\r\n"),
    (b"\r between \n", b"\r\n between \r\n"),
    (b"\x85\x0b\x0c\x1c\x00\xe2\x80\xa8", b"\x85\x0b\x0c\x1c\x00\xe2\x80\xa8"),
]
any_newlines = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b"\xe9", b"\0"])).map(b"".join)


@pytest.mark.parametrize(("message", "normalized"), NEWLINES)
def test_each_bare_newline_becomes_a_crlf(message: bytes, normalized: bytes) -> None:
    assert has_bare_newlines(message) == (message != normalized)
    assert normalize_newlines(message) == normalized


@settings(deadline=None)
@given(any_newlines | st.binary())
def test_bare_is_what_has_no_other_half(message: bytes) -> None:
    assert has_bare_newlines(message) == bool(re.search(rb"\r(?!\n)|(?<!\r)\n", message))
    assert normalize_newlines(message) == re.sub(rb"\r(?!\n)|(?<!\r)\n", b"\r\n", message)
    assert not has_bare_newlines(normalize_newlines(message))


VERBATIM = {name: message for name, message in CORPUS if is_verbatim(message)}


@pytest.mark.parametrize("message", VERBATIM.values(), ids=VERBATIM)
def test_a_message_with_crlf_is_the_same_object(message: bytes) -> None:
    assert normalize_newlines(message) is message
