"""Whatever a reader may take for the author of a message is found, or the message is called unclear."""

import contextlib
import email
import email.policy
import time
from email._parseaddr import AddressList
from email.header import decode_header, make_header

from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtp2cf.message.originators import MAX_OCTETS, originators
from tests.corpus import CORPUS
from tests.support.each import each

PLAIN = b"Subject: x\r\nFrom: %b\r\nTo: c@example.net\r\n\r\nFrom: body@example.com\r\n"

CLEAR = [
    (b"anna@example.com", ["anna@example.com"]),
    (b"<anna@example.com>", ["anna@example.com"]),
    (b"Anna <anna@example.com>", ["anna@example.com"]),
    (b'"Anna, A." <anna@example.com>', ["anna@example.com"]),
    (b"Anna Q. O'Hara [web] <anna@example.com>", ["anna@example.com"]),
    (b"anna@example.com (Anna (from (the)) web\\) shop)", ["anna@example.com"]),
    (b"(Anna) <anna@example.com> (Anna)", ["anna@example.com"]),
    (b"Anna\r\n\t<anna@example.com>", ["anna@example.com"]),
    (b"anna@example.com, bert@example.org", ["anna@example.com", "bert@example.org"]),
    (b"Anna <a@b>,\r\n Bert <b@c>,c@d", ["a@b", "b@c", "c@d"]),
    (b"A <a@b>, B <a@b>", ["a@b"]),
    (b'"anna b"@example.com', ['"anna b"@example.com']),
    (b'Anna <"anna b"@example.com>', ['"anna b"@example.com']),
    ("Anna Müller <müller@münchen.example>".encode(), ["müller@münchen.example"]),
    (b"=?utf-8?q?M=C3=BCller?= <a@b>", ["a@b"]),
    (b'"=?utf-8?b?TcO8bGxlcg==?=" <a@b>', ["a@b"]),
    (b"=?utf-8?b?TcO8?= =?utf-8?b?bGxlcg==?= <a@b>", ["a@b"]),
    (b"=?utf-8?b?TcM=?= =?utf-8?b?vGxsZXI=?= <a@b>", ["a@b"]),
    (b"=?iso-8859-1*de?Q?M=FCller?= <a@b>", ["a@b"]),
    (b"=?ISO-2022-JP?B?GyRCRnxLXBsoQg==?= <a@b>", ["a@b"]),
    (b"=?gb2312?B?xNy6ww==?= <a@b>", ["a@b"]),
]
"""What everybody reads alike: the addresses of the mailboxes."""

SHOWN = [
    (b'"ceo@bank.example" <a@b>', "ceo@bank.example"),
    (b"\"'ceo@bank.example'\" <a@b>", "ceo@bank.example"),
    (b'"The boss, ceo@bank.example." <a@b>', "ceo@bank.example"),
    (b'"ceo\\@bank.example" <a@b>', "ceo@bank.example"),
    (b"ceo@bank.example <a@b>", "ceo@bank.example"),
    (b"ceo@bank.example<a@b>", "ceo@bank.example"),
    (b"a@b (ceo@bank.example)", "ceo@bank.example"),
    (b"a@b (x (<ceo@bank.example>))", "ceo@bank.example"),
    (b"(ceo@bank.example) a@b", "ceo@bank.example"),
    (b"=?utf-8?q?ceo=40bank.example?= <a@b>", "ceo@bank.example"),
    (b"=?utf-8?q?ceo=40bank.example?=<a@b>", "ceo@bank.example"),
    (b"=?US-ASCII?B?Y2VvQGJhbmsuZXhhbXBsZQ==?= <a@b>", "ceo@bank.example"),
    (b'"=?utf-8?q?ceo=40bank.example?=" <a@b>', "ceo@bank.example"),
    (b"a@b (=?utf-8?q?ceo=40bank.example?=)", "ceo@bank.example"),
    (b"=?utf-8?q?ceo?= =?utf-8?q?=40bank.example?= <a@b>", "ceo@bank.example"),
    (b"=?utf-8?q?ceo?= =?us-ascii?q?=40bank.example?= <a@b>", "ceo@bank.example"),
    (b"=?utf-8?q?ceo=40?=\r\n =?utf-8?q?bank.example?= <a@b>", "ceo@bank.example"),
    ("ceo\uff20bank.example <a@b>".encode(), "ceo@bank.example"),
    (b"=?utf-8?q?ceo=EF=BC=A0bank.example?= <a@b>", "ceo@bank.example"),
    (b'"x ceo @ bank.example" <a@b>', "@"),
]
"""What a reader shows beside the address, decoded or not."""

UNCLEAR = [
    b"",
    b"Anna",
    b"<>",
    b"a@b,",
    b",a@b",
    b"a@b c@d",
    b"a@b <c@d> <e@f>",
    b"<a@b> Anna",
    b"<a@b> c@d",
    b"Anna a@b",
    b"a@b; c@d",
    b"a@b .evil.example <a@b>",
    b"group: a@b;",
    b"undisclosed:;",
    b"<@route.example:a@b>",
    b"a@b.c (unclosed",
    b'"unclosed <a@b>',
    b"a@b (c)) <d@e>",
    b"a@(comment)b",
    b"a(comment)@b",
    b"a@b(comment).evil.example",
    b"a @b",
    b"a@ b",
    b"< a@b >",
    b"<a@b",
    b"a@b>",
    b"a@b@c",
    b"<a@b@c>",
    b'"a@x"@b',
    b'<"a@x"@b>',
    b'"a@x"@b <c@d>',
    "a\uff20x@b".encode(),
    b"a@[192.0.2.1]",
    b"a\\@b@c",
    b"=?utf-8?q?a=40b?=",
    b"=?utf-8?q?ceo=40x?=@b",
    b"<=?utf-8?q?ceo=40x?=@b>",
    b"=?no-such?q?ceo?= <a@b>",
    b"=?utf-7?q?ceo+AEA-x?= <a@b>",
    b"=?utf-16?b?AGEAQA==?= <a@b>",
    b"=?utf-8?b?Y2V=vQHg=?= <a@b>",
    b"=?utf-8?b?Y2VvQHg?= <a@b>",
    b"=?utf-8?q?ceo=40x y?= <a@b>",
    b"=?utf-8?q?ceo=40x <a@b>",
    b"=?utf-8?q?=FF?= <a@b>",
    b"=?utf-8?q?a=0Ab?= <a@b>",
    b"=?utf-8?q?a=E2=80=A8b?= <a@b>",
    b"a\0@b",
    b"a@b\0.evil.example",
    b"a@b\x0bc",
    b"Anna\x00 <a@b>",
    "a@\u200bb".encode(),
    "a@b\u2028".encode(),
    b"a@b\r\n \r\n c",
    b"\xff <a@b>",
    b"a@b" + b" " * MAX_OCTETS,
]
"""What readers may not agree on."""


@each(("value", "found"), CLEAR)
def test_the_addresses_of_plain_mailboxes_are_found(value: bytes, found: list[str]) -> None:
    assert originators(PLAIN % value) == found


@each(("value", "shown"), SHOWN)
def test_what_looks_like_an_address_is_found_too(value: bytes, shown: str) -> None:
    found = originators(PLAIN % value)
    assert found is not None
    assert set(found) == {"a@b", shown}


@each("value", UNCLEAR)
def test_what_readers_may_not_agree_on_is_unclear(value: bytes) -> None:
    assert originators(PLAIN % value) is None
    assert originators(PLAIN % (b"a@b, " + value)) is None
    assert originators((PLAIN % b"a@b").replace(b"To:", b"Sender:").replace(b"c@example.net", value)) is None


FIELDS = [
    (b"From: a@b\r\nFrom: c@d\r\n", ["a@b", "c@d"]),
    (b"FROM:a@b\r\nfrom:\r\n c@d\r\n", ["a@b", "c@d"]),
    (b"From: a@b\r\nSender: c@d\r\n", ["a@b", "c@d"]),
    (b"Sender: c@d\r\nFrom: a@b\r\n", ["c@d", "a@b"]),
    (b"From: a@b\r\nX-From: c@d\r\nReply-To: e@f\r\nFrom-X: g@h\r\nSubject: i@j\r\n", ["a@b"]),
    (b"Subject: x\r\n From: c@d\r\nFrom: a@b\r\n", ["a@b"]),
    (b"Subject : x\r\nFrom: a@b\r\n", ["a@b"]),
    (b"", None),
    (b"Sender: a@b\r\n", None),
    (b"Subject: x\r\n", None),
    (b"From : a@b\r\n", None),
    (b"From: a@b\r\nFrom\t: c@d\r\n", None),
    (b"From: a@b\r\nSender : a@b\r\n", None),
    (b"no field\r\nFrom: a@b\r\n", None),
    (b"From: a@b\r\nno field\r\nFrom: c@d\r\n", None),
    (b"From anna Mon Nov 2\r\nFrom: a@b\r\n", None),
    (b" From: c@d\r\nFrom: a@b\r\n", None),
    (b"From: a@b\r\nSubject: x\r\n \r\nFrom: c@d\r\n", None),
    (b"From: a@b\r\n\t\r\n", None),
    (b"From\0: c@d\r\nFrom: a@b\r\n", None),
    (b"From: a@b\r\nSubject: x\0\r\n", None),
    (b"From: a@b\r\nSubject: x\x0bFrom: c@d\r\n", None),
    (b"From: a@b\r\nSubject: x\x1eFrom: c@d\r\n", None),
    (b"From: a@b\r\nSubject: x\rFrom: c@d\r\n", None),
    ("From: a@b\r\nSubject: x\u2028From: c@d\r\n".encode(), None),
    ("From: a@b\r\nSubject: x\x85From: c@d\r\n".encode(), None),
    ("From: a@b\r\nFrom\xa0: c@d\r\n".encode(), None),
    (b"\r\nFrom: a@b\r\n", None),
    (b":\r\nFrom: a@b\r\n", None),
    (b"X: y\r\n" * 10_001 + b"From: a@b\r\n", None),
]


@each(("header", "found"), FIELDS)
def test_every_from_and_sender_counts_and_no_line_hides_one(header: bytes, found: list[str] | None) -> None:
    assert originators(header + b"\r\nFrom: body@example.com\r\n") == found


@each("message", [value for _, value in CORPUS])
def test_any_message_can_be_read(message: bytes) -> None:
    originators(message)


@each("piece", [b"(", b'"', b"a@", b"=?utf-8?q?", b"=?a?q?", b"\\", b"<a@", b"a@b,", b"a."])
def test_a_long_field_takes_no_time(piece: bytes) -> None:
    value = piece * (MAX_OCTETS // len(piece) - 10)
    started = time.process_time()
    originators(PLAIN % value)
    assert time.process_time() - started < 2


PIECES = st.lists(
    st.sampled_from(
        [" ", ",", "<", ">", "(", ")", '"', "\\", ":", ";", "@", ".", "a", "b.c", "a@b.c", "<x@y.z>", '"q"',
         "=?utf-8?q?m=40n?=", "=?utf-8?b?bUBu?=", "\r\n ", "\t", "ü", "[", "'"]
    ),
    max_size=12,
).map("".join)  # fmt: skip


@settings(max_examples=300)
@given(PIECES)
@example('"a@b.c" <x@y.z>')
@example("a@b.c, =?utf-8?q?m=40n?= <x@y.z>")
@example("a=?utf-8?q?m=40n?=<x@y.z>")
def test_whatever_pythons_parsers_find_is_found(value: str) -> None:
    message = PLAIN % value.encode()
    found = originators(message)
    if found is None:
        return
    found = [_bare(address) for address in found]
    unfolded = value.replace("\r\n", "")
    seen = [address for _, address in AddressList(unfolded).addresslist]
    with contextlib.suppress(AttributeError, IndexError, TypeError):  # its own mistakes
        parsed = email.message_from_string(message.decode(), policy=email.policy.default)["From"]
        seen += [address.addr_spec for address in parsed.addresses]
    with contextlib.suppress(UnicodeDecodeError):  # it takes raw text beside an encoded word for ASCII
        decoded = str(make_header(decode_header(unfolded)))
        seen += [word for word in decoded.replace('"', "").split() if "@" in word]
    for address in seen:
        address = _bare(address)
        if address.count("@") == 1 and not address.endswith("@") and not set(address) & set('<>(),:;"\\'):
            assert address in found, (value, found)


def _bare(address: str) -> str:
    return address.replace('"', "").strip("<>(),'[].").lower()
