"""Bare newlines are found and made whole: CRLF in bodies, spaces in headers; nothing else changes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.message.newlines import MAX_HEADERS, has_bare_newlines, normalize_newlines
from tests.corpus import CORPUS, is_verbatim
from tests.support.each import each

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
    (b"\r\r\n", b"\r\n"),
    (b"a\r\r\r\r\nb", b"a\r\nb"),
    (b"\r\n\n", b"\r\n\r\n"),
    (b"\r\n\r", b"\r\n\r\n"),
    (b"\n\n\r\r", b"\r\n\r\n\r\n\r\n"),
    (b"\r between \n", b"\r\n between \r\n"),
    (b"\x85\x0b\x0c\x1c\x00\xe2\x80\xa8", b"\x85\x0b\x0c\x1c\x00\xe2\x80\xa8"),
]
any_newlines = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b"\xe9", b"\0"])).map(b"".join)


@each(("text", "normalized"), NEWLINES)
@each("header", [b"", b"\r\n", b"Subject: x\r\nTo: y\r\n\r\n"])
def test_in_a_body_each_newline_becomes_one_crlf(header: bytes, text: bytes, normalized: bytes) -> None:
    assert has_bare_newlines(header + text) == (text != normalized)
    assert normalize_newlines(header + text) == header + normalized


@given(any_newlines | st.binary())
def test_bare_is_what_has_no_other_half(message: bytes) -> None:
    assert has_bare_newlines(message) == bool(re.search(rb"\r(?!\n)|(?<!\r)\n", message))
    assert not has_bare_newlines(normalize_newlines(message))
    assert normalize_newlines(normalize_newlines(message)) == normalize_newlines(message)


FIELDS = {
    "a bare CR is a space": (
        b"Subject: a\rBcc: v@x\r\nTo: y\r\n\r\n",
        b"Subject: a Bcc: v@x\r\nTo: y\r\n\r\n",
    ),
    "so is a bare LF among CRLF": (
        b"To: y\r\nSubject: a\nBcc: v@x\n\nb\r\n\r\n",
        b"To: y\r\nSubject: a Bcc: v@x  b\r\n\r\n",
    ),
    "in the first field, too": (
        b"Subject: a\n\nb\r\nTo: y\r\n\r\n",
        b"Subject: a  b\r\nTo: y\r\n\r\n",
    ),
    "LF CR are two": (b"Subject: a\n\rBcc: v\r\nTo: y\r\n\r\n", b"Subject: a  Bcc: v\r\nTo: y\r\n\r\n"),
    "CR CR LF is one line end": (
        b"From: a@x\r\r\nSubject: y\r\r\n\r\r\nbody\r\r\n",
        b"From: a@x\r\nSubject: y\r\n\r\nbody\r\n",
    ),
    "and so are more CRs": (b"From: a\r\r\r\nTo: y\r\r\r\r\n\r\r\r\n\r", b"From: a\r\nTo: y\r\n\r\n\r\n"),
    "a line of CR and blanks ends nothing": (
        b"From: a\r\n\r \r\n \r\r\nTo: y\r\n\n\t\r\nX: z\r\n\n\r\n\r\n",
        b"From: a\r\nTo: y\r\nX: z\r\n\r\n",
    ),
    "a CR at a line's start is a fold": (b"From: a\r\n\rTo: y\r\n\r\n", b"From: a\r\n To: y\r\n\r\n"),
    "a CR before everything": (b"\r\rFrom: a\r\nTo: y\r\n\r\n", b"  From: a\r\nTo: y\r\n\r\n"),
    "behind what is no field": (b"A: b\r\nno field\rBcc: v\r\n\r\n", b"A: b\r\nno field Bcc: v\r\n\r\n"),
    "before the first field": (b"no field\rBcc: v\r\nTo: y\r\n\r\n", b"no field Bcc: v\r\nTo: y\r\n\r\n"),
    "the header's end is missing": (b"From: a\r\nTo: y\rBcc: v\r", b"From: a\r\nTo: y Bcc: v "),
}


@each(("sent", "clean"), FIELDS.values())
def test_in_a_header(sent: bytes, clean: bytes) -> None:
    assert normalize_newlines(sent) == clean


LF_CLIENTS = {
    "LF alone": (b"From: a\nTo: b\n c\n\nhi\n\nho\n", b"From: a\r\nTo: b\r\n c\r\n\r\nhi\r\n\r\nho\r\n"),
    "the last line's CRLF is SMTP's": (b"From: a\nTo: b\n\nhi\r\n", b"From: a\r\nTo: b\r\n\r\nhi\r\n"),
    "as curl ends it": (b"From: a\nTo: b\n\nhi\n\r\n", b"From: a\r\nTo: b\r\n\r\nhi\r\n\r\n"),
    "no body": (b"From: a\nTo: b\r\n", b"From: a\r\nTo: b\r\n"),
    "a bare CR is none of theirs": (
        b"From: a\rBcc: v\nTo: b\n\nhi\rho\n",
        b"From: a Bcc: v\r\nTo: b\r\n\r\nhi\r\nho\r\n",
    ),
    "CRLF in the body": (
        b"From: a\nTo: b\n\nhi\r\nho\r\n\r\nhu\r\n",
        b"From: a\r\nTo: b\r\n\r\nhi\r\nho\r\n\r\nhu\r\n",
    ),
    "an empty line behind the first CRLF": (
        b"From: a\nTo: b\n\nhi,\r\n\r\nho\r\n",
        b"From: a\r\nTo: b\r\n\r\nhi,\r\n\r\nho\r\n",
    ),
    "CRLF for the empty line": (
        b"From: a\nTo: b\n\r\nhi,\r\nho\r\n",
        b"From: a\r\nTo: b\r\n\r\nhi,\r\nho\r\n",
    ),
    "the parts with LF": (
        (
            b"From: a\r\nContent-Type: multipart/mixed;\r\n boundary=b\r\n\r\n"
            b"--b\nX: y\nZ: 1\n\nhi\r\n\r\n--b--\n"
        ),
        (
            b"From: a\r\nContent-Type: multipart/mixed;\r\n boundary=b\r\n\r\n"
            b"--b\r\nX: y\r\nZ: 1\r\n\r\nhi\r\n\r\n--b--\r\n"
        ),
    ),
    "a part with LF between delimiters with CRLF": (
        b"From: a\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nX: y\nZ: 1\n\nhi\n\r\n--b--\r\n",
        (
            b"From: a\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
            b"--b\r\nX: y\r\nZ: 1\r\n\r\nhi\r\n\r\n--b--\r\n"
        ),
    ),
    "an attached message with LF": (
        b"From: a\r\nContent-Type: message/rfc822\r\n\r\nFrom: b\nTo: c\n\nhi\n\r\n",
        b"From: a\r\nContent-Type: message/rfc822\r\n\r\nFrom: b\r\nTo: c\r\n\r\nhi\r\n\r\n",
    ),
}


@each(("sent", "clean"), LF_CLIENTS.values())
def test_clients_that_end_lines_with_lf_keep_their_fields(sent: bytes, clean: bytes) -> None:
    assert normalize_newlines(sent) == clean


MULTIPART = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
PARTS = {
    "a delimiter from a CR": (b"--b\r\n\r\nx\r--b\r\ny\r\n--b--\r\n", b"--b\r\n\r\nx --b\r\ny\r\n--b--\r\n"),
    "a delimiter to a CR": (b"--b\r\n\r\nx\r\n--b\r\ry\r\n--b--\r\n", b"--b\r\n\r\nx\r\n--b  y\r\n--b--\r\n"),
    "between two CRs": (b"--b\r\n\r\nx\r--b--\ry\r\n--b--\r\n", b"--b\r\n\r\nx --b--\r\ny\r\n--b--\r\n"),
    "behind the last one": (b"--b\r\n\r\nx\r\n--b--\r\ny\r--b\r\n", b"--b\r\n\r\nx\r\n--b--\r\ny --b\r\n"),
    "another line with dashes": (b"--b\r\n\r\nx\r--bb\r\n--b--\r\n", b"--b\r\n\r\nx\r\n--bb\r\n--b--\r\n"),
    "CR CR LF": (b"--b\r\r\nA: x\r\r\n\r\r\ny\r\r\n--b-- \r\r\n", b"--b\r\nA: x\r\n\r\ny\r\n--b-- \r\n"),
    "in a part's header": (
        b"--b\r\nA: x\rB: y\nC: z\n\n--b\nD: e\r\nE: f\r\n\r\ny\r\n--b--\r\n",
        b"--b\r\nA: x B: y C: z  --b D: e\r\nE: f\r\n\r\ny\r\n--b--\r\n",
    ),
    "in a message within": (
        b"--b\r\nContent-Type: message/rfc822\r\n\r\nA: x\rB: y\nC: z\r\nD: e\r\n\r\nx\ry\r\n--b--\r\n",
        b"--b\r\nContent-Type: message/rfc822\r\n\r\nA: x B: y C: z\r\nD: e\r\n\r\nx\r\ny\r\n--b--\r\n",
    ),
    "in one without an empty line before its first part": (
        (
            b"--b\r\nContent-Type: multipart/x; boundary=c\r\n--c\r\nContent-Type: message/rfc822\r\n\r\n"
            b"A: x\rB: y\r\nD: e\r\n\r\n--c--\r\n--b--\r\n"
        ),
        (
            b"--b\r\nContent-Type: multipart/x; boundary=c\r\n--c\r\nContent-Type: message/rfc822\r\n\r\n"
            b"A: x B: y\r\nD: e\r\n\r\n--c--\r\n--b--\r\n"
        ),
    ),
    "in a digest": (
        (
            b"--b\r\nContent-Type: multipart/digest; boundary=c\r\n\r\n--c\r\n\r\nA: x\rB: y\r\nD: e\r\n\r\n"
            b"x\ry\r\n--c--\r\n--b--\r\n"
        ),
        (
            b"--b\r\nContent-Type: multipart/digest; boundary=c\r\n\r\n--c\r\n\r\nA: x B: y\r\nD: e\r\n\r\n"
            b"x\r\ny\r\n--c--\r\n--b--\r\n"
        ),
    ),
    "in a delivery status": (
        (
            b"--b\r\nContent-Type: message/delivery-status\r\n\r\n"
            b"A: x\r\r\n\r\r\nB: y\rC: z\r\n\nD: e\r\n--b--\r\n"
        ),
        b"--b\r\nContent-Type: message/delivery-status\r\n\r\nA: x\r\n\r\nB: y C: z\r\n D: e\r\n--b--\r\n",
    ),
    "in headers alone": (
        b"--b\r\nContent-Type: text/rfc822-headers\r\n\r\nA: x\rB: y\r\nC: z\r\n\r\n--b--\r\n",
        b"--b\r\nContent-Type: text/rfc822-headers\r\n\r\nA: x B: y\r\nC: z\r\n\r\n--b--\r\n",
    ),
    "a type that a CR declares": (
        b"--b\r\nX: a\rContent-Type: multipart/x; boundary=c\r\nY: z\r\n\r\nx\r\n--c\r\nx\ry: z\r\n--b--\r\n",
        (
            b"--b\r\nX: a Content-Type: multipart/x; boundary=c\r\nY: z\r\n\r\n"
            b"x\r\n--c\r\nx\r\ny: z\r\n--b--\r\n"
        ),
    ),
}


@each(("sent", "clean"), PARTS.values())
def test_no_part_and_no_field_of_one_appears(sent: bytes, clean: bytes) -> None:
    assert normalize_newlines(MULTIPART + sent) == MULTIPART + clean


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"], ids=["CRLF", "LF"])
def test_behind_so_many_headers_all_is_taken_for_one(line_end: bytes) -> None:
    part = b"--b\r\n\r\nx\ry\r\n--b\r\nA: x\rB: y\r\n\r\n".replace(b"\r\n", line_end)
    message = MULTIPART.replace(b"\r\n", line_end) + part * MAX_HEADERS
    clean = normalize_newlines(message)
    assert clean.count(b"x\r\ny") == MAX_HEADERS // 2
    assert clean.count(b"x y") == MAX_HEADERS - MAX_HEADERS // 2
    assert clean.count(b"A: x B: y") == MAX_HEADERS
    assert not has_bare_newlines(clean)


VERBATIM = {name: message for name, message in CORPUS if is_verbatim(message)}


@each("message", VERBATIM.values())
def test_a_message_with_crlf_is_the_same_object(message: bytes) -> None:
    assert normalize_newlines(message) is message
