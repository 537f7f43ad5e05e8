"""Replies: their class, and what they can be on the wire whatever their text holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.reply import (
    ACCEPTED,
    BOUNCED,
    DELIVERED,
    QUEUED,
    SUPPRESSED,
    UNPRINTABLE,
    WIRE_LINE_LIMIT,
    Reply,
    Scope,
    SendError,
    few_in_words,
    first_few,
    one_line,
    printable,
    rough_duration,
)
from tests.support.each import each


@each(
    ("code", "success", "transient", "permanent"),
    [
        (200, True, False, False),
        (250, True, False, False),
        (299, True, False, False),
        (354, False, False, False),
        (400, False, True, False),
        (451, False, True, False),
        (500, False, False, True),
        (554, False, False, True),
    ],
)
def test_a_reply_is_of_one_class(code: int, success: bool, transient: bool, permanent: bool) -> None:
    reply = Reply(code, f"{code // 100}.0.0", "text")
    assert (reply.success, reply.transient, reply.permanent) == (success, transient, permanent)


@pytest.mark.parametrize("reply", [DELIVERED, QUEUED, ACCEPTED, BOUNCED, SUPPRESSED])
def test_the_named_replies_have_an_enhanced_code_of_their_class_and_fit_a_line(reply: Reply) -> None:
    assert reply.status.startswith(f"{reply.code // 100}.")
    assert reply.wire().count(b"\r\n") == 1


def test_a_reply_is_written_with_its_codes() -> None:
    reply = Reply(250, "2.0.0", "0123456789ABC delivered")
    assert str(reply) == "250 2.0.0 0123456789ABC delivered"
    assert reply.wire() == b"250 2.0.0 0123456789ABC delivered\r\n"


def test_a_long_text_becomes_several_lines_cut_at_spaces() -> None:
    words = " ".join(f"word{number}" for number in range(300))
    lines = Reply(550, "5.1.1", words).wire().split(b"\r\n")
    assert lines.pop() == b""
    assert len(lines) > 1
    assert all(line.startswith(b"550-5.1.1 ") for line in lines[:-1])
    assert lines[-1].startswith(b"550 5.1.1 ")
    assert all(len(line) + 2 <= WIRE_LINE_LIMIT for line in lines)
    assert b" ".join(line[10:] for line in lines).decode() == words


def test_a_text_that_just_fits_is_one_line() -> None:
    room = WIRE_LINE_LIMIT - len("250 2.0.0 \r\n")
    assert Reply(250, "2.0.0", "x" * room).wire().count(b"\r\n") == 1
    assert Reply(250, "2.0.0", "x" * (room + 1)).wire().count(b"\r\n") == 2


def test_outside_ascii_is_for_those_who_asked_for_it() -> None:
    reply = Reply(550, "5.1.1", "<jörg@münchen.example> 東京")
    assert reply.wire(utf8=True) == "550 5.1.1 <jörg@münchen.example> 東京\r\n".encode()
    assert reply.wire() == b"550 5.1.1 <j\\xf6rg@m\\xfcnchen.example> \\u6771\\u4eac\r\n"


def test_a_line_is_not_cut_inside_a_character() -> None:
    lines = Reply(550, "5.1.1", "☕" * 1000).wire(utf8=True).split(b"\r\n")[:-1]
    assert "".join(line[10:].decode() for line in lines) == "☕" * 1000


@each("utf8", [False, True])
@each(
    "text",
    [
        "x\r\n250 OK",
        "x\n250 OK",
        "x\r250",
        "\x00\x07\x1b[2J\x7f",
        "\x85\x9b31m",
        "\u2028\u2029",
        "\u202e",
        "\ud800",
        "\ufeff",
    ],
)
def test_no_text_can_start_a_line_or_write_on_a_terminal(text: str, utf8: bool) -> None:
    wire = Reply(550, "5.1.1", f"a{text}b").wire(utf8=utf8)
    assert wire.count(b"\r\n") == wire.count(b"\r") == wire.count(b"\n") == 1
    assert wire.startswith(b"550 5.1.1 a")
    assert not UNPRINTABLE.search(wire[:-2].decode())


@given(code=st.integers(200, 599), text=st.text(st.characters(exclude_categories=())), utf8=st.booleans())
def test_whatever_the_text_the_wire_is_lines_of_one_reply(code: int, text: str, utf8: bool) -> None:
    status = f"{code // 100}.7.1"
    lines = Reply(code, status, text * 20).wire(utf8=utf8).split(b"\r\n")
    assert lines.pop() == b""
    for number, line in enumerate(lines):
        mark = b" " if number == len(lines) - 1 else b"-"
        assert line.startswith(b"%d%b%b " % (code, mark, status.encode()))
        assert len(line) + 2 <= WIRE_LINE_LIMIT
        assert not {0, 10, 13} & set(line)
        assert not UNPRINTABLE.search(line.decode("utf-8" if utf8 else "ascii"))


@given(st.text(st.characters(exclude_categories=())), st.integers(1, 50))
def test_one_line_is_one_line_and_short(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit
    assert not UNPRINTABLE.search(line)
    assert line == line.strip()
    assert "  " not in line


def test_one_line_keeps_the_words() -> None:
    assert one_line(" a\r\n\tb  c\x00d ", 100) == "a b c d"
    assert one_line("x" * 10_000_000, 5) == "xxxxx"


def test_an_error_tells_its_reply_and_no_more() -> None:
    reply = Reply(451, "4.7.1", "later")
    error = SendError(reply, Scope.ACCOUNT, 30.0)
    assert str(error) == "451 4.7.1 later"
    assert (error.reply, error.scope, error.retry_after, error.unanswered) == (
        reply,
        Scope.ACCOUNT,
        30.0,
        False,
    )
    assert SendError(reply, Scope.ACCOUNT, unanswered=True).unanswered


@pytest.mark.parametrize(
    ("items", "limit", "listed", "text"),
    [
        ([], 2, [], ""),
        (["a"], 2, ["a"], "a"),
        (["a", "b"], 2, ["a", "b"], "a, b"),
        (["a", "b", "c"], 2, ["a", "b", "and 1 more"], "a, b and 1 more"),
        (["a", "b", "c"], 1, ["a", "and 2 more"], "a and 2 more"),
    ],
)
def test_a_few_are_named_and_the_rest_counted(
    items: list[str], limit: int, listed: list[str], text: str
) -> None:
    assert first_few(items, limit) == listed
    assert few_in_words(items, limit) == text


@each(
    ("seconds", "words"),
    [
        (0, "0 seconds"),
        (0.9, "1 second"),
        (61, "61 seconds"),
        (120, "2 minutes"),
        (5400, "90 minutes"),
        (86400, "24 hours"),
        (5.2 * 86400, "5 days"),
    ],
)
def test_a_duration_is_rough_and_in_words(seconds: float, words: str) -> None:
    assert rough_duration(seconds) == words


@given(st.text(st.characters()))
def test_printable_text_keeps_its_length_and_can_be_encoded(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    assert not UNPRINTABLE.search(shown)
    shown.encode()
