"""Input: however octets arrive, they are the same lines, and it never holds more than it has to."""

from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.smtpd.input import LONGEST_LINE, Input

PIECES = st.lists(st.text("a\r\n ", max_size=20).map(str.encode), max_size=20)


def _lines(found: Input) -> list[bytes]:
    return list(iter(found.line, None))


@given(PIECES)
def test_lines_are_the_same_however_they_arrive(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    found, lines = Input(), []
    for piece in pieces:
        if piece:
            found.add(piece)
        lines += _lines(found)
    expected = whole.split(b"\n")
    assert lines == [line + b"\n" for line in expected[:-1]]
    assert found.peek(1000) == expected[-1]
    assert len(found) == len(expected[-1])
    assert bool(found.octets) == bool(expected[-1])


@given(PIECES, st.integers(0, 50), st.integers(0, 3))
def test_what_is_taken_is_what_follows_the_lines(pieces: list[bytes], most: int, lines: int) -> None:
    whole, found = b"".join(pieces), Input()
    found.add(whole)
    taken = b"".join(filter(None, (found.line() for _ in range(lines))))
    assert found.take(most) == whole[len(taken) :][:most]
    assert found.take() == whole[len(taken) :][most:]
    assert not found.octets


def test_a_line_that_is_too_long_is_not_kept() -> None:
    found = Input()
    for _ in range(100):
        found.add(b"x" * 1000)
        assert found.line() is None
        found.shorten()
        assert len(found) <= LONGEST_LINE
    assert found.overlong
    found.add(b"\nNOOP\r\n")
    assert found.line() == b"x\n"
    found.overlong = False
    assert found.line() == b"NOOP\r\n"
