"""A DSN brings the original back as it was, as RET asks, and nothing from outside becomes a line of it."""

import re
import timeit
from email import message_from_bytes
from email.policy import compat32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtp2cf.message.dsn import FULL_LIMIT, NAMED_LIMIT, Event, Report, build
from smtp2cf.message.header import split_header
from smtp2cf.message.newlines import normalize_newlines
from smtp2cf.reply import Reply
from tests.corpus import CORPUS, more_messages
from tests.message.dsn_reading import (
    HEADER,
    MESSAGE,
    NOW,
    OK,
    UNREACHABLE,
    assert_sound,
    blocks,
    dsn,
    envelope,
    failed,
    opaque_parts,
    returned,
    text,
)
from tests.message.reading import POLICIES
from tests.support.each import each

# The original

UTF8_HEADER = "Subject: Grüße\r\n".encode()
LATIN1_HEADER = "Subject: Grüße = gut \r\nTo: bert@example.net\r\n".encode("latin-1")
BODY = b"\r\nbody\r\n"
RETURNED = [
    # ret, event, message, type, bytes
    (None, Event.FAILED, MESSAGE, "text/rfc822-headers", HEADER),
    ("HDRS", Event.FAILED, MESSAGE, "text/rfc822-headers", HEADER),
    ("FULL", Event.FAILED, MESSAGE, "message/rfc822", MESSAGE),
    ("FULL", Event.EXPIRED, MESSAGE, "message/rfc822", MESSAGE),
    ("FULL", Event.DELAYED, MESSAGE, "text/rfc822-headers", HEADER),
    ("FULL", Event.DELIVERED, MESSAGE, "text/rfc822-headers", HEADER),
    ("FULL", Event.RELAYED, MESSAGE, "text/rfc822-headers", HEADER),
    ("HDRS", Event.FAILED, UTF8_HEADER + BODY, "message/global-headers", UTF8_HEADER),
    ("FULL", Event.FAILED, UTF8_HEADER + BODY, "message/global", UTF8_HEADER + BODY),
    ("FULL", Event.FAILED, HEADER + "\r\nü".encode(), "message/rfc822", HEADER + "\r\nü".encode()),
    ("HDRS", Event.FAILED, LATIN1_HEADER + BODY, "text/rfc822-headers", LATIN1_HEADER),
    ("FULL", Event.FAILED, LATIN1_HEADER + BODY, "text/rfc822-headers", LATIN1_HEADER),
    ("FULL", Event.FAILED, HEADER + b"\r\n\xfc", "text/rfc822-headers", HEADER),
    ("HDRS", Event.FAILED, b"Subject: \0\r\n\r\n", "text/rfc822-headers", b"Subject: \0\r\n"),
    ("HDRS", Event.FAILED, b"A: " + b"x" * 2000, "text/rfc822-headers", b"A: " + b"x" * 2000),
    ("FULL", Event.FAILED, b"no header", "message/rfc822", b"no header"),
    ("FULL", Event.FAILED, b"", "message/rfc822", b""),
    ("FULL", Event.FAILED, b"A: b\n\nbare\rnewlines", "message/rfc822", b"A: b\r\n\r\nbare\r\nnewlines"),
    ("HDRS", Event.FAILED, b"A: b\n c\n\nbare", "text/rfc822-headers", b"A: b\r\n c\r\n"),
]


@each(("ret", "event", "message", "content_type", "content"), RETURNED)
def test_ret_decides_what_comes_back(
    ret: str | None, event: Event, message: bytes, content_type: str, content: bytes
) -> None:
    report = dsn(Report("b@example.net", event, UNREACHABLE), about=envelope(ret=ret), message=message)
    assert_sound(report)
    assert returned(report) == (content_type, content)


def test_one_failure_is_enough_for_the_full_message() -> None:
    reports = [Report("a@example.net", Event.DELIVERED, OK), failed()]
    assert returned(dsn(*reports, about=envelope(ret="FULL")))[0] == "message/rfc822"


@pytest.mark.parametrize("message", [b"", b"Hello Bert,\r\n\r\nbody", b"\r\nbody"])
def test_a_message_without_a_header_has_none_to_return(message: bytes) -> None:
    report = dsn(message=message)
    assert_sound(report)
    assert len(opaque_parts(report)) == 2
    assert "There is no header to attach." in text(report)


NOTES = [
    (MESSAGE, "Your message is attached."),
    (
        MESSAGE + b"x" * FULL_LIMIT,
        "header of your message is attached. Your message is not: it is too large.",
    ),
    (
        MESSAGE + b"\xff",
        "header of your message is attached. Your message is not: it is in no known charset.",
    ),
]


@each(("message", "note"), NOTES)
def test_the_text_says_what_is_attached(message: bytes, note: str) -> None:
    assert note in text(dsn(about=envelope(ret="FULL"), message=message))


@each("policy", POLICIES)
def test_email_reads_the_original_within(policy: object) -> None:
    parsed = message_from_bytes(dsn(about=envelope(ret="FULL")), policy=policy)
    original = parsed.get_payload(2).get_payload(0)
    assert original.as_bytes(policy=compat32.clone(linesep="\r\n")) == MESSAGE


def test_the_limit_is_the_largest_that_comes_back_in_full() -> None:
    filler = HEADER + b"\r\n"
    exact = filler + b"x" * (FULL_LIMIT - len(filler))
    assert returned(dsn(about=envelope(ret="FULL"), message=exact)) == ("message/rfc822", exact)
    assert returned(dsn(about=envelope(ret="FULL"), message=exact + b"x"))[0] == "text/rfc822-headers"


def test_a_large_message_makes_no_large_dsn() -> None:
    report = dsn(about=envelope(ret="FULL"), message=MESSAGE + b"5 MB of text\r\n" * 400_000)
    assert_sound(report)
    assert returned(report) == ("text/rfc822-headers", HEADER)
    assert len(report) < 5000


def test_a_large_header_is_cut_between_fields() -> None:
    fields = b"".join(b"X-%d: one\r\n two\r\n" % number for number in range(10_000))
    _, shown = returned(dsn(message=fields))
    assert fields.startswith(shown)
    assert fields[len(shown) :].startswith(b"X-")
    assert FULL_LIMIT - 30 < len(shown) <= FULL_LIMIT
    assert len(opaque_parts(dsn(message=b"X: " + b"y\r\n " * FULL_LIMIT))) == 2


@pytest.mark.parametrize("ret", ["FULL", "HDRS"])
def test_whatever_was_sent_comes_back_as_it_was(ret: str) -> None:
    for name, message in [*CORPUS, *more_messages()]:
        report = dsn(about=envelope(ret=ret), message=message)
        assert_sound(report)
        if len(opaque_parts(report)) == 2:
            assert not split_header(message)[0], name
            continue
        kind, content = returned(report)
        sent = normalize_newlines(message)
        assert (
            content == sent if kind in ("message/rfc822", "message/global") else sent.startswith(content)
        ), name


def test_a_dsn_within_a_dsn_is_read() -> None:
    inner = dsn(about=envelope(ret="FULL"))
    assert returned(dsn(about=envelope(ret="FULL"), message=inner)) == ("message/rfc822", inner)


SHOWN_SUBJECTS = [
    (b"", "(no subject,"),
    (b"Subject:\r\n", "(no subject,"),
    (b"SUBJECT: plain\r\n", '("plain",'),
    ("Subject: Grüße\r\n".encode(), '("Grüße",'),
    ("Subject: Grüße\r\n".encode("latin-1"), '("Grüße",'),
    (b"Subject: a =?utf-8?q?=C3=BC?=\r\n =?utf-8?b?w7w=?= b\r\n", '("a üü b",'),
    (b"Subject: =?no-such-charset?q?abc?=\r\n", '("abc",'),
    (b"Subject: =?utf-8?b?abc?=\r\n", '("'),
    (b"Subject: =?utf-8?q?a=0D=0AX-Evil:_yes?=\r\n", '("a X-Evil: yes",'),
    (b"Subject: \\u12 \xfc =?utf-8?q?x?=\r\n", '("\\u12 ü x",'),
    (b"Subject: =?iso-8859-1?Q?Fr\xf6sche?= =?iso-8859-1?Q?_C:\\new?=\r\n", '("Frösche C:\\new",'),
    (b"Subject: =?iso-2022-jp?b?GyRCRnxLXBsoQg==?=\r\n", '("日本",'),
    (b"Subject: " + b"long " * 1000 + b"\r\n", 'lo...",'),
]


@each(("field", "shown"), SHOWN_SUBJECTS)
def test_the_text_shows_the_subject(field: bytes, shown: str) -> None:
    report = dsn(message=b"To: b@example.net\r\n" + field + b"\r\nSubject: in the body\r\n")
    assert_sound(report)
    assert shown in text(report)


ESCAPES = [
    r"C:\users\new",
    r"\n\r\t\0",
    r"\1\g<1>\g<name>",
    r"\x41\u0041\U00000041\N{BULLET}",
    r"{0}{age}%s%(a)s",
    "a\\",
]


@each("said", ESCAPES)
@each("beside", ["", " é", " =?utf-8?q?x?="])
def test_a_backslash_in_what_is_told_is_a_backslash(said: str, beside: str) -> None:
    report = dsn(
        failed(reply=Reply(550, "5.1.1", f"no such user {said}")),
        message=f"Subject: {said}{beside}\r\n\r\n".encode(),
    )
    assert f'("{said}' in text(report)
    assert f"no such user {said}" in text(report)
    assert blocks(report)[1]["Diagnostic-Code"] == f"smtp; 550 5.1.1 no such user {said}"


# What hostile people write

NASTY = st.text(
    alphabet=st.one_of(
        st.sampled_from(list('ab@.<>"\\,;:()=?+-_ \t\r\n\0\x0b\x0c\x1c\x85\u2028\u2029\ud800é€😀')),
        st.characters(),
    ),
    max_size=60,
) | st.sampled_from(
    [
        "a@b\r\nX-Evil: yes",
        "=?utf-8?q?a=0D=0AX-Evil:_yes?=@example.org",
        '"=?utf-8?q?a=0D=0AX-Evil:_yes?="@example.org',
        "x" * 5000,
        '"' + " " * 300 + '"@example.org',
        "--=_boundary--",
        "a\n\nFinal-Recipient: rfc822; x@y",
    ]
)
NASTY_REPLY = st.builds(Reply, st.sampled_from([250, 421, 451, 550, 999]), NASTY, NASTY)
TIMES = st.none() | st.floats(0, 2e10)
NASTY_REPORTS = st.lists(
    st.builds(Report, NASTY, st.sampled_from(Event), NASTY_REPLY, TIMES, TIMES), min_size=1, max_size=3
)
NASTY_MESSAGE = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda subject, ident, body: b"Subject: %b\r\nMessage-ID: %b\r\n\r\n%b" % (subject, ident, body),
        NASTY.map(lambda value: value.encode(errors="ignore")) | st.binary(max_size=50),
        NASTY.map(lambda value: value.encode(errors="ignore")) | st.binary(max_size=50),
        st.binary(max_size=100) | st.just(b"--=_a\r\n\r\n--=_a--\r\n"),
    ),
)


@settings(max_examples=100)
@given(
    reverse_path=NASTY.filter(bool),
    envid=NASTY,
    orcpt=NASTY | NASTY.map(lambda value: "utf-8;" + value) | NASTY.map(lambda value: "rfc822;" + value),
    reports=NASTY_REPORTS,
    message=NASTY_MESSAGE,
    ret=st.sampled_from([None, "FULL", "HDRS"]),
    names=st.tuples(NASTY, NASTY),
)
def test_nothing_from_outside_becomes_a_field_or_a_part(
    reverse_path: str,
    envid: str,
    orcpt: str,
    reports: list[Report],
    message: bytes,
    ret: str | None,
    names: tuple[str, str],
) -> None:
    about = envelope(
        reverse_path, envid=envid, ret=ret, orcpt={report.recipient: orcpt for report in reports}
    )
    report = build(about, message, reports, hostname=names[0], sender=names[1], now=NOW)
    assert_sound(report)
    assert len(blocks(report)) == 1 + len(reports)


@settings(max_examples=100)
@given(message=NASTY_MESSAGE)
def test_any_message_in_utf8_comes_back_in_full(message: bytes) -> None:
    message = re.sub(rb"\r\n|\r|\n", b"\r\n", message.decode(errors="ignore").encode())
    assert returned(dsn(about=envelope(ret="FULL"), message=message))[1] == message


# How much, and how fast


def test_a_thousand_recipients_are_all_reported_and_some_named() -> None:
    reports = [Report(f"ok{number}@example.net", Event.DELIVERED, OK) for number in range(500)]
    reports += [failed(f"bad{number}@example.net") for number in range(500)]
    report = dsn(*reports)
    assert_sound(report)
    assert [block["Final-Recipient"] for block in blocks(report)[1:]] == [
        f"rfc822; {recipient}" for recipient, *_ in reports
    ]
    said = text(report)
    assert said.count("<bad") == NAMED_LIMIT
    assert "<ok" not in said
    assert "900 more recipients are in the delivery report." in said


def test_a_bounce_is_built_in_well_under_two_milliseconds() -> None:
    message = MESSAGE + b"a line of an ordinary message\r\n" * 130
    about = envelope(ret="FULL", envid="a+2Bb", orcpt={"bert@example.net": "rfc822;bert@example.net"})
    fastest = min(timeit.repeat(lambda: dsn(about=about, message=message), number=1, repeat=100))
    assert fastest < 0.002


HOSTILE_HEADERS = [
    b"Subject: " + b"=?a?q?" * 10_000 + b"\r\n",
    b"Subject: " + b"=?a?b?" * 10_000 + b"?=\r\n",
    b"Subject:" + b" \t" * 30_000 + b"x\r\n",
    (b"x" * 997 + b":\r\n") * 65,
    b"Message-ID: <" + b"a@" * 30_000 + b"\r\n",
    b"Message-ID:" + b" " * 60_000 + b"\r\n",
    b"Subject:\r\n" * 6_000,
    b"Subject: x\r\n" + b" \r\n" * 20_000,
]


@each("header", HOSTILE_HEADERS)
def test_no_header_takes_long(header: bytes) -> None:
    fastest = min(timeit.repeat(lambda: dsn(message=header + b"\r\n"), number=1, repeat=3))
    assert fastest < 0.1
