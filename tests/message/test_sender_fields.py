"""Other addresses in From and Sender: everything else reads as before."""

from collections.abc import Sequence
from email._parseaddr import AddressList
from email.header import decode_header, make_header
from email.policy import default
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.envelope import domain_of, is_public
from smtp2cf.message.encoded_words_encode import encoded_words
from smtp2cf.message.sender_fields import LINE_LIMIT, rewrite_senders
from tests.message.reading import read
from tests.support.each import each

NEW = "noreply@example.com"
FINE = ("anna@example.com", "ben@example.com")


def becomes(address: str) -> str | None:
    return None if address in FINE else NEW


def gets_replies(address: str) -> str:
    return address if is_public(domain_of(address)) else ""


def rewritten(header: str) -> tuple[str, tuple[str, ...]]:
    """The header of a message with only From and Sender in it, and the names of what changed."""
    found = rewrite_senders(f"{header}\r\n\r\nFrom: root@web07\r\n".encode(), becomes, gets_replies)
    text = found.message.decode()
    assert text.endswith("\r\n\r\nFrom: root@web07\r\n")
    return text.removesuffix("\r\n\r\nFrom: root@web07\r\n"), found.changed


REPLIES = "\r\nReply-To: a@x.org,\r\n anna@example.com"

TABLE = [
    # The address is there alone: it becomes the name.
    ("From: root@web07", f'From: "root@web07" <{NEW}>'),
    ("From: <root@web07>", f'From: "root@web07" <{NEW}>'),
    ('From: "" <root@web07>', f'From: "root@web07" <{NEW}>'),
    ("From: root", f'From: "root" <{NEW}>'),
    ("From: <root>", f'From: "root" <{NEW}>'),
    ("From: Root <root>", f"From: Root <{NEW}>"),
    ('From: "Smith, John" <john>, anna@example.com', f'From: "Smith, John" <{NEW}>, anna@example.com'),
    ("From: root (Cron Daemon)", f"From: {NEW} (Cron Daemon)"),
    ("From: Smith, John <john>", f"From: Smith, John <{NEW}>"),
    ('From: "a \\"b"@web07', f'From: "\\"a \\\\\\"b\\"@web07" <{NEW}>'),
    ("From: root@[127.0.0.1]", f'From: "root@[127.0.0.1]" <{NEW}>'),
    ("From:root@web07", f'From:"root@web07" <{NEW}>'),
    # Names of any kind stay.
    ("From: Cron Daemon <root@web07>", f"From: Cron Daemon <{NEW}>"),
    ('From: "Smith, John" <john@web07>', f'From: "Smith, John" <{NEW}>'),
    ("From: Smith, John <john@web07>", f"From: Smith, John <{NEW}>"),
    ("From: root@web07 (Cron Daemon)", f"From: {NEW} (Cron Daemon)"),
    ("From: <root@web07> (Cron (on web07))", f"From: <{NEW}> (Cron (on web07))"),
    ("From: (Cron) root@web07", f"From: (Cron) {NEW}"),
    ("From: =?utf-8?q?J=C3=BCrgen?= <j@web07>", f"From: =?utf-8?q?J=C3=BCrgen?= <{NEW}>"),
    ("From: Jürgen <j@web07>", f"From: Jürgen <{NEW}>"),
    ("From: Cron\r\n Daemon\r\n\t<root@web07>", f"From: Cron\r\n Daemon\r\n\t<{NEW}>"),
    ("From: root@web07 <root@web07>", f'From: "root@web07" <{NEW}>'),
    ("From: Cron <@a,@b:root@web07>", f"From: Cron <{NEW}>"),
    ("From: Cron < root@web07 >", f"From: Cron <{NEW}>"),
    # Several, and groups.
    ("From: anna@example.com, root@web07", f'From: anna@example.com, "root@web07" <{NEW}>'),
    ("From: Us: A <root@web07>, ben@example.com;", f"From: Us: A <{NEW}>, ben@example.com;"),
    ("From: Us:;", "From: Us:;"),
    ("From: A <a@web07>\r\nSender: b@web07", f'From: A <{NEW}>\r\nSender: "b@web07" <{NEW}>'),
    ("Sender: b@web07\r\nfrom: anna@example.com", f'Sender: "b@web07" <{NEW}>\r\nfrom: anna@example.com'),
    # Replies go where they would have gone.
    ("From: A <a@x.org>", f"From: A <{NEW}>\r\nReply-To: a@x.org"),
    ("From: A <a@x.org>\r\nReply-To: b@x.org", f"From: A <{NEW}>\r\nReply-To: b@x.org"),
    (
        "From: a@x.org, anna@example.com, c@web07\r\nTo: x",
        f'From: "a@x.org" <{NEW}>, anna@example.com, "c@web07" <{NEW}>{REPLIES}\r\nTo: x',
    ),
    ("From: anna@example.com, c@web07", f'From: anna@example.com, "c@web07" <{NEW}>'),
    ("Sender: b@x.org", f'Sender: "b@x.org" <{NEW}>'),
]


@each(("header", "expected"), TABLE)
def test_addresses_change_and_nothing_else(header: str, expected: str) -> None:
    assert rewritten(header)[0] == expected


LEFT = [
    "From: anna@example.com",
    "From: Anna <anna@example.com>",
    "Sender: ben@example.com",
    "To: root@web07",
    "Resent-From: root@web07",
    "Reply-To: root@web07",
    'From: "not closed <root@web07>',
    "From: root@web07 (not closed",
    "From: <root@web07",
    "From: A <a@web07> <b@web07>",
    "From: two words",
    "From: two, words",
    "From: Smith (John), John <anna@example.com>",
    "From: =?utf-8?q?root?=",
    "From: ",
    "X: y\r\nno field\r\nFrom: root@web07",
]


@each("header", LEFT)
def test_what_may_stay_or_can_t_be_read_for_certain_stays(header: str) -> None:
    message = f"{header}\r\n\r\nhello\r\n".encode()
    found = rewrite_senders(message, becomes, gets_replies)
    assert found.message is message
    assert found.changed == ()


def test_it_says_what_changed_and_whose_signature_that_breaks() -> None:
    signed = "DKIM-Signature: v=1; a=rsa-sha256;\r\n d=web.x.org; s=one; b=abc=\r\nDKIM-Signature: nonsense"
    message = f"{signed}\r\nFrom: a@x.org\r\nSender: b@web07\r\n\r\n".encode()
    found = rewrite_senders(message, becomes, gets_replies)
    assert found.changed == ("From", "Reply-To", "Sender")
    assert found.signatures == ("web.x.org", "?")


@each("length", [LINE_LIMIT - 40, LINE_LIMIT - 22, LINE_LIMIT - 8, LINE_LIMIT + 50])
def test_no_line_becomes_longer_than_a_line_may_be(length: int) -> None:
    name = "x" * (length - len("From:  <a@web07>"))
    header, changed = rewritten(f"From: {name} <a@web07>")
    assert all(len(line) <= LINE_LIMIT for line in header.split("\r\n")) or not changed
    assert f"<{NEW}>" in header or length > LINE_LIMIT


# ---- as Python's email reads it


class Box(NamedTuple):
    """A mailbox: as it is written, and as it reads."""

    written: str
    name: str
    address: str


words = st.text(st.sampled_from("abcXYZ019äß&'"), min_size=1, max_size=8)
addresses = st.sampled_from([*FINE, "root@web07", "a.b@x.org", "c+d@localhost", "x@sub.example.com"])


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    address = draw(addresses)
    name = " ".join(draw(st.lists(words, min_size=1, max_size=3)))
    space = draw(st.sampled_from([" ", "\r\n ", "\r\n\t "]))
    match draw(st.sampled_from(["bare", "angle", "words", "quoted", "encoded", "comment", "behind"])):
        case "bare":
            return Box(address, "", address)
        case "angle":
            return Box(f"<{address}>", "", address)
        case "words":
            return Box(f"{name.replace(' ', space)}{space}<{address}>", name, address)
        case "quoted":
            return Box(f'"{name}, (Inc.); <x@y>:"{space}<{address}>', f"{name}, (Inc.); <x@y>:", address)
        case "encoded":
            said = f"Ü, {name}"
            return Box(f"{space.join(encoded_words(said))}{space}<{address}>", said, address)
        case "comment":
            return Box(f"{address}{space}({name})", name, address)
        case _:
            return Box(f"{name} <{address}>{space}(at (home))", name, address)


def mailboxes(header: str) -> list[tuple[str, str]]:
    """Names and addresses as `email` reads them: a comment is a name where there is no other."""
    found = AddressList(header.removeprefix("From:").replace("\r\n", "")).addresslist
    return [(str(make_header(decode_header(name))), address) for name, address in found]


@given(st.lists(boxes(), min_size=1, max_size=4), st.sampled_from([",", ", ", ",\r\n "]), st.booleans())
def test_every_mailbox_reads_as_before_but_for_its_address(
    those: Sequence[Box], comma: str, in_group: bool
) -> None:
    listed = comma.join(box.written for box in those)
    header = f"From: Group: {listed};" if in_group else f"From: {listed}"
    intended = [(box.name, box.address) for box in those]
    assert mailboxes(header) == intended
    after = rewritten(header)[0].partition("\r\nReply-To:")[0]
    assert mailboxes(after) == [
        (name, address) if becomes(address) is None else (name or address, NEW) for name, address in intended
    ]


@given(
    st.lists(
        boxes().filter(lambda box: box.written.isascii() and "(" not in box.written), min_size=1, max_size=3
    )
)
def test_its_newer_parser_reads_the_same(those: Sequence[Box]) -> None:
    header = rewritten(f"From: {', '.join(box.written for box in those)}")[0]
    found = read(f"{header}\r\n\r\n".encode(), default)["From"].addresses
    assert [one.addr_spec for one in found] == [becomes(box.address) or box.address for box in those]
