"""The header is found where readers see it, its fields are counted and dropped without touching the rest."""

from email import policy
from email.parser import BytesParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.message.header import (
    drop_headers,
    fields_end,
    fields_named,
    message_id,
    parse_header,
    received_count,
    split_header,
)
from tests.corpus import CORPUS, more_messages
from tests.support.each import each

SPLITS = [
    (b"", b""),
    (b"", b"\r\nbody\r\n"),
    (b"", b"\r\n\r\nSubject: in the body\r\n"),
    (b"", b"Hello Bert,\r\nSubject: no\r\n\r\nbody"),
    (b"", "Größe: 5\r\n\r\nbody".encode()),
    (b"Subject: x\r\n", b"\r\nbody"),
    (b"Subject: x\r\n", b"\r\n\r\n\r\n"),
    (b"Subject: x\r\n", b""),
    (b"Subject: x", b""),
    (b"Subject: x\r\n folded\r\n\t\r\nTo: y\r\n", b"\r\nbody\r\n\r\n"),
    (b"Subject : x\r\n", b"\r\n"),
    (b"Subject: x\r\nno field\r\nTo: y\r\n", b"\r\nbody"),
    (b"From anna Mon Nov 2 10:00:00 2026\r\nSubject: x\r\n", b"\r\nbody"),
    (b" continued\r\nSubject: x\r\n", b"\r\nbody"),
    (b"Subject: x\n", b"\nbody\r\n\r\n"),
    (b"Subject: x\r\n", b"\nbody\r\n\r\n"),
]


@each(("header", "rest"), SPLITS)
def test_the_header_ends_at_the_first_empty_line(header: bytes, rest: bytes) -> None:
    assert split_header(header + rest) == (header, rest)


@given(st.binary() | st.text(alphabet="a: \t\r\nF").map(str.encode))
def test_header_and_rest_are_the_message(message: bytes) -> None:
    assert b"".join(split_header(message)) == message


PARSED = [
    (b"Subject: x\r\nTO : y\r\n z\r\n\r\nbody", [("subject", b" x\r\n"), ("to", b" y\r\n z\r\n")], b"body"),
    (b"\r\nbody", [], b"body"),
    (b"body", [], b"body"),
    (b"", [], b""),
    (b"Subject: x", [("subject", b" x")], b""),
    (b"Subject: x\r\nno field\r\n\r\nbody", [("subject", b" x\r\n")], b"no field\r\n\r\nbody"),
    (b"From a\r\n:\r\nA:b\r\n\r\n", [("", b"From a\r\n"), ("", b":\r\n"), ("a", b"b\r\n")], b""),
    (b" x\r\nA: b\r\n\r\n", [("", b" x\r\n"), ("a", b" b\r\n")], b""),
    (b"A: b\r\n  \r\n\r\n", [("a", b" b\r\n  \r\n")], b""),
    (b"A:\nB: c\n\nd", [("a", b"\n"), ("b", b" c\n")], b"d"),
]


@each(("message", "fields", "body"), PARSED)
def test_fields_end_where_readers_see_the_body_begin(
    message: bytes, fields: list[tuple[str, bytes]], body: bytes
) -> None:
    around = b"A: 1\r\n" + message + b"\r\nB: 2\r\n\r\n"
    header = parse_header(around, 6, 6 + len(message), most=100)
    assert [(field.name, around[field.value : field.end]) for field in header.fields] == fields
    assert around[header.body : 6 + len(message)] == body


def test_no_more_fields_are_parsed_than_asked_for() -> None:
    message = b"A: 1\r\n" * 5 + b"\r\n"
    assert len(parse_header(message, 0, len(message), most=3).fields) == 3


LINES = st.sampled_from(
    [
        "From: a",
        "FROM\t:b",
        "from",
        "From anna",
        ">From x",
        " From: c",
        "Sender:d",
        "x: From: e",
        ":",
        "",
        "é: f",
    ]
)


@given(st.lists(LINES, max_size=8), st.sampled_from(["\r\n", "\n"]))
def test_fields_of_some_names_are_those_that_are_parsed(lines: list[str], line_end: str) -> None:
    message = line_end.join(lines).encode()
    parsed = parse_header(message, 0, len(message), most=100)
    assert fields_end(message) == parsed.end
    assert fields_named(message, ("sender", "from")) == [
        field for field in parsed.fields if field.name in ("from", "sender")
    ]


MESSAGE_IDS = [
    (b"", ""),
    (b"Message-ID: <1@x>\r\n\r\n", "<1@x>"),
    (b"Subject: x\r\nMESSAGE-id\t :<1@x>\r\n", "<1@x>"),
    (b"Message-ID:\r\n  <1@x>\r\n\t\r\nTo: y\r\n\r\n", "<1@x>"),
    (b"message-id: <1@x>", "<1@x>"),
    (b"Message-ID: <1@x>\r\nMessage-ID: <2@x>\r\n\r\n", "<1@x>"),
    (b"Message-ID:\r\n\r\n", ""),
    (b"Subject: x\r\n\r\nMessage-ID: <in.the@body>\r\n", ""),
    (b"\r\nMessage-ID: <in.the@body>\r\n", ""),
    (b"Resent-Message-ID: <1@x>\r\nX: message-id: <2@x>\r\n Message-ID: <3@x>\r\n\r\n", ""),
    (b"Message-ID-Old: <1@x>\r\nMessage-ID\r\nMessage-ID: <2@x>\r\n\r\n", "<2@x>"),
    (b"A: 1\nMessage-ID: <1@x>\n\nMessage-ID: <2@x>\n", "<1@x>"),
    (b"Message-ID: no  brackets (a comment)\r\n\r\n", "no brackets (a comment)"),
    ("Message-ID: <größe@x>\r\n\r\n".encode(), "<größe@x>"),
    (b"Message-ID: <\xff\x1b[2J\x00\x7f1@x>\r\n\r\n", "<\ufffd [2J 1@x>"),
    ("Message-ID: <\u202e1@x>\r\n\r\n".encode(), "< 1@x>"),
    (b"Message-ID: " + b"x" * 100_000 + b"\r\n\r\n", "x" * 998),
]


@each(("message", "found"), MESSAGE_IDS)
def test_the_message_id_is_read_on_one_line_as_it_is(message: bytes, found: str) -> None:
    assert message_id(message) == found


NAMES = st.sampled_from(["Message-ID", "message-id", "X-Message-ID", "Subject", "MESSAGE-ID"])
VALUES = st.text("<>@a.1 \t(:", max_size=20)


@given(st.lists(st.tuples(NAMES, VALUES, VALUES)), VALUES)
def test_the_message_id_is_the_one_that_a_reader_finds(fields: list[tuple[str, str, str]], body: str) -> None:
    header = "".join(f"{name}: {value}\r\n {more}\r\n" for name, value, more in fields)
    message = f"A: 1\r\n{header}\r\nMessage-ID: {body}".encode()
    read = BytesParser(policy=policy.compat32).parsebytes(message)["Message-ID"]
    assert message_id(message) == " ".join((read or "").split())


RECEIVED = [
    (b"", 0),
    (b"Received: a\r\nRECEIVED: b\r\n\treceived: folded\r\nreceived:c\r\n\r\n", 3),
    (b"Subject: x\r\n\r\nReceived: in the body\r\n", 0),
    (b"\r\nReceived: in the body\r\n", 0),
    (b"Hello,\r\nReceived: in the body\r\n", 0),
    (b"X-Received: a\r\nReceived-SPF: pass\r\nSubject: Received: x\r\n\r\n", 0),
    (b"Received: a\r\nno field\r\nReceived: b\r\n\r\n", 2),
    (b"Received: a\nReceived: b\n\nReceived: c\n", 2),
    (b"From a\r\n" + b"Received: a\r\n" * 101, 101),
]


@each(("message", "count"), RECEIVED)
def test_received_fields_are_counted_in_the_header_only(message: bytes, count: int) -> None:
    assert received_count(message) == count


DROPPED = [
    (b"Bcc: a\r\n", b""),
    (
        b"Subject: x\r\nBCC: a,\r\n b,\r\n\tc\r\nTo: d\r\n\r\nBcc: body\r\n",
        b"Subject: x\r\nTo: d\r\n\r\nBcc: body\r\n",
    ),
    (b"Bcc : a\r\nBcc:\r\nX-Bcc: b\r\n\r\n", b"X-Bcc: b\r\n\r\n"),
    (b"Return-Path: <a@b>\r\nTo: c", b"To: c"),
    (b"To: c\r\nBcc: a", b"To: c\r\n"),
    (b"To: c\r\nno field\r\nBcc: a\r\n\r\nbody", b"To: c\r\nno field\r\n\r\nbody"),
    (b"Bcc: \xff\r\n \xfe\r\nTo: \xfd\r\n\r\n\xfc\0", b"To: \xfd\r\n\r\n\xfc\0"),
    (b"From a\r\nBcc: b\r\n\r\n", b"From a\r\n\r\n"),
    (b"A: 1\nBcc: b\n c\nB: 2\n\nBcc: d", b"A: 1\nB: 2\n\nBcc: d"),
]


@each(("message", "left"), DROPPED)
def test_named_fields_are_dropped_with_their_folds_and_nothing_else(message: bytes, left: bytes) -> None:
    assert drop_headers(message, frozenset({"bcc", "return-path"})) == left


@pytest.mark.parametrize("message", [b"Hello,\r\nBcc: no header\r\n\r\n", b"\r\nBcc: body\r\n"])
def test_a_message_without_a_header_has_nothing_to_drop(message: bytes) -> None:
    assert drop_headers(message, frozenset({"bcc"})) is message


EVERYTHING = dict((*CORPUS, *more_messages()))


@each("message", EVERYTHING.values())
def test_dropping_what_is_not_there_gives_the_same_object(message: bytes) -> None:
    assert drop_headers(message, frozenset({"x-not-there"})) is message
