"""Addresses as people write them, and what a submission makes of them."""

# ruff: noqa: E501 - a row is a line

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.sendmail.addresses import is_domain, is_local, is_text, parse_addresses, parse_argument
from smtp2cf.sendmail.header import phrase, qualify, rfc5322_date
from smtp2cf.sendmail.settings import Settings
from smtp2cf.smtpd.path import PathError, parse_path
from tests.support.each import each

SETTINGS = {"SMTP2CF_SENDMAIL_DOMAIN": "example.com", "SMTP2CF_SENDMAIL_CONF": "/nonexistent"}

LISTS = [
    ("a@x", ["a@x"]),
    ("a@x, b@y", ["a@x", "b@y"]),
    ("Anna <a@x>, \"B, C\" <b@y>", ["a@x", "b@y"]),
    ("a@x (a comment, with (nested) parts)", ["a@x"]),
    ("(before) a@x", ["a@x"]),
    ("a(in)@(the)x(middle)", ["a@x"]),
    ("friends: a@x, b@y;, c@z", ["a@x", "b@y", "c@z"]),
    ("undisclosed-recipients:;", []),
    ("a@x; b@y", ["a@x", "b@y"]),
    ("=?utf-8?Q?J=C3=B6rg?= <a@x>", ["a@x"]),
    ("=?utf-8?Q?Meier,_Anna?= <a@x>", ["a@x"]),
    ("<@relay.one,@two:a@x>", ["a@x"]),
    ('"a b"@x', ['"a b"@x']),
    ('"a\\"b@c"@x', ['"a\\"b@c"@x']),
    ("a . b @ x . y", ["a.b@x.y"]),
    ("a@[IPv6:::1], b@[127.0.0.1]", ["a@[IPv6:::1]", "b@[127.0.0.1]"]),
    ("Anna\n <a@x>,\n\tb@y", ["a@x", "b@y"]),
    ("jorg@bücher.example", ["jorg@bücher.example"]),
    ("jörg@bücher.example", [None]),
    ("a..b@x", ["a..b@x"]),
    ("-dash@x", ["-dash@x"]),
    (",, a@x ,,", ["a@x"]),
    ("", []),
    ("Anna <a@x> trailing", ["a@x"]),
    ("<>", [""]),
    ("root", ["root"]),
    ("root (Cron Daemon)", ["root"]),
    ("Root <root>", ["root"]),
    ("a@x b@y", ["a@x", "b@y"]),
    ("a@x\tb@y  c@z", ["a@x", "b@y", "c@z"]),
    ("a@x\n b@y", ["a@x", "b@y"]),
    ("a@x b@y, c@z d@u", ["a@x", "b@y", "c@z", "d@u"]),
    ("root b@y", ["root", "b@y"]),
    ("a@x (Anna) b@y (Bob)", ["a@x", "b@y"]),
    ('"a b"@x "c d"@y', ['"a b"@x', '"c d"@y']),
    ("a @ x b @ y", ["a@x", "b@y"]),
    ("a . b @ x . y c@z", ["a.b@x.y", "c@z"]),
    ("a@x. b@y.", ["a@x", "b@y"]),
    ("a@[127.0.0.1] b@[IPv6:::1]", ["a@[127.0.0.1]", "b@[IPv6:::1]"]),
    ("<a@x> <b@y>", ["a@x", "b@y"]),
    ("Anna <a@x> Bob <b@y> c@z", ["a@x", "b@y", "c@z"]),
    ("a@x <b@y>", ["b@y"]),
    ("friends: a@x b@y;", ["a@x", "b@y"]),
    ("a@x @y b@z", ["a@x", None, "b@z"]),
    ("a@x.", ["a@x"]),
]  # fmt: skip

NO_ADDRESSES = ["John Doe", "a@", "@x", "a@b@c", "<a@x", '"open@x', "<a b@x>", "<a@x b@y>", "a@x..y", "a@-x", "a@x-", 'a@"x y"', "a@[zz]",
                '"a"."b"@x', '"a\x00"@x', "a\u200b@x", "a@x\u2028", "a@x>y", "a@[1> AUTH=<]", "a\\b@x", "a@x\x00", "a\x00@x",
                "a@x\x1b[2J", ".", "a@.", "<a:b@x>", "a@x" + "y" * 400, "a)b@x", "\udcff@x", "a@[x"]  # fmt: skip


@each(("text", "addresses"), LISTS)
def test_addresses_of_a_list(text: str, addresses: list[str]) -> None:
    assert [mailbox.address for mailbox in parse_addresses(text)] == addresses


@each("text", NO_ADDRESSES)
def test_what_is_no_address_does_not_hide_its_neighbours(text: str) -> None:
    assert [mailbox.address for mailbox in parse_addresses(f"{text}")] == [None]
    assert parse_argument(text)[0].address is None
    if '"' not in text and "[" not in text:
        assert [mailbox.address for mailbox in parse_addresses(f"x@y,{text},z@y")] == ["x@y", None, "z@y"]


@each(("field", "qualified"), [
        ("From: root (Cron Daemon)\n", "From: root@example.com (Cron Daemon)\n"),
        ("To: root, Bob <bob>,\n\tteam: a, b@x;\n", "To: root@example.com, Bob <bob@example.com>,\n\tteam: a@example.com, b@x;\n"),
        ('Cc: "J. Doe" <"j doe">\n', 'Cc: "J. Doe" <"j doe"@example.com>\n'),
        ("Bcc:\n", "Bcc:\n"),
        ("To: John Doe\n", "To: John Doe\n"),
        ("To:a\n", "To:a@example.com\n"),
        ("To: <>\n", "To: <>\n"),
        ("Reply-To: x@y (no change) \n", "Reply-To: x@y (no change) \n"),
        ("Subject: root\n", "Subject: root\n"),
        ("Resent-To: root\n", "Resent-To: root\n"),
        ("To: root b@x\tbob\n", "To: root@example.com b@x\tbob@example.com\n"),
        ("From: a@x Cron Daemon\n", "From: a@x Cron Daemon\n"),
    ])  # fmt: skip
def test_domain_is_added_where_it_is_missing(field: str, qualified: str) -> None:
    name = field.partition(":")[0].lower()
    assert qualify(name, field, Settings(SETTINGS)) == qualified


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Anna", "Anna"),
        ("A. B", '"A. B"'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("ü", "=?utf-8?B?w7w=?="),
        ("=?x?=", '"=?x?="'),
    ],
)
def test_display_name(name: str, written: str) -> None:
    assert phrase(name) == written


def test_date_is_the_same_in_every_locale() -> None:
    assert rfc5322_date(0)[:16] in ("Thu, 1 Jan 1970 ", "Wed, 31 Dec 1969")
    assert rfc5322_date(0)[-5] in "+-"


def test_a_hundred_thousand_recipients_take_no_more_than_seconds() -> None:
    text = ",\n ".join(f'"User {number}" <user{number}@example.net>' for number in range(100_000))

    found = parse_addresses(text)

    assert len(found) == 100_000
    assert found[-1].address == "user99999@example.net"


@each("text", ["a " * 100_000, "<" * 100_000, '"' * 100_001, "(" * 100_000, "=?" * 50_000, "@" * 100_000,
                                  "\\" * 100_000, ":" * 100_000, "<@," * 50_000])  # fmt: skip
def test_nonsense_takes_no_time(text: str) -> None:
    assert all(mailbox.address is None for mailbox in parse_addresses(text))


PIECES = st.sampled_from(
    ["a", "b1", ".", "..", "-", "_", "@", "[", "]", "IPv6:", "::1", "127.0.0.1", '"', "\\", " ", "<", ">", ",", ";", ":",
     "(", ")", "ü", "\u200b", "\u2028", "\xa0", "\t", "\x00", "\x1b", "\udcff", "zz", "x y", '"q"', "\u0661", "\u00ad"]
)  # fmt: skip


@given(
    st.lists(PIECES, min_size=1, max_size=5).map("".join),
    st.lists(PIECES, min_size=1, max_size=4).map("".join),
)
def test_an_address_is_what_the_bridge_takes_for_one(local: str, domain: str) -> None:
    """What is accepted while the bridge is away must not be refused by it later."""
    address = f"{local}@{domain}"
    ours = is_local(local) and is_domain(domain) and is_text(address)
    try:
        read, rest = parse_path(f"<{address}>")
        theirs = not rest and read == address
    except PathError:
        theirs = False
    if not domain.isascii():
        assert ours or not theirs  # some have no A-label, which only the bridge finds out
    elif local.strip(".") and not domain.endswith("."):  # stricter about "." as a local part, which is a typo
        assert ours == theirs


@given(st.lists(PIECES, max_size=12).map("".join))
def test_whatever_the_text_its_addresses_are_the_bridges(text: str) -> None:
    for mailbox in [*parse_addresses(text), *parse_argument(text)]:
        if mailbox.address:
            address = mailbox.address if mailbox.insert_at is None else f"{mailbox.address}@example.com"
            if address.isascii():
                assert parse_path(f"<{address}>") == (address, "")
