"""Names in From get quotes where they need them, and every reader finds the same mailboxes as before."""

from email import message_from_string
from email._parseaddr import AddressList
from email.header import decode_header, make_header
from email.policy import compat32

from hypothesis import given, settings
from hypothesis import strategies as st

from smtp2cf.message.display_names import LINE_LIMIT, quote_display_names
from smtp2cf.message.encoded_words_encode import encoded_words
from smtp2cf.message.originators import originators
from tests.support.each import each

QUOTED = [
    ("Smith, John <j@x.org>", ' "Smith, John" <j@x.org>'),
    (" Smith, John <j@x.org>, Doe, Jane <d@x.org>", ' "Smith, John" <j@x.org>, "Doe, Jane" <d@x.org>'),
    (" a@x.org, Smith, John <j@x.org>, b@x.org", ' a@x.org, "Smith, John" <j@x.org>, b@x.org'),
    (" Smith,\r\n John\r\n\t<j@x.org>\r\n", ' "Smith, John" <j@x.org>\r\n'),
    (" John (Sales, EU) Smith <j@x.org>", ' "John (Sales, EU) Smith" <j@x.org>'),
    (' "John" (work) <j@x.org>', ' "John (work)" <j@x.org>'),
    (" John <j@x.org> (work)", ' "John (work)" <j@x.org>'),
    (" <j@x.org> (John)", ' "John" <j@x.org>'),
    (" (John) <j@x.org>", ' "John" <j@x.org>'),
    (" root@web1.x.org (Cron Daemon)", ' "Cron Daemon" <root@web1.x.org>'),
    (' j@x.org (J\\) "Q" S)', ' "J) \\"Q\\" S" <j@x.org>'),
    (" j@x.org (Jo (Jack) S)", ' "Jo (Jack) S" <j@x.org>'),
    (" J @ W <j@x.org>", ' "J @ W" <j@x.org>'),
    (" j@x.org <j@x.org>", ' "j@x.org" <j@x.org>'),
    (" Re: J <j@x.org>", ' "Re: J" <j@x.org>'),
    (" J; S <j@x.org>", ' "J; S" <j@x.org>'),
    (" [web] J <j@x.org>", ' "[web] J" <j@x.org>'),
    (" A\\B :) <j@x.org>", ' "A\\\\B :)" <j@x.org>'),
    (' "J \\"Q\\"", Inc. <j@x.org>', ' "J \\"Q\\", Inc." <j@x.org>'),
    (" Jürgen (Köln) <j@x.org>", ' "Jürgen (Köln)" <j@x.org>'),
    (" =?utf-8?q?J=C3=BC?= (EU) <j@x.org>", " =?utf-8?b?SsO8IChFVSk=?= <j@x.org>"),
    (" =?utf-8?q?S?=,\r\n =?utf-8?q?J=C3=BC?= <j@x>\r\n", " =?utf-8?b?UywgSsO8?= <j@x>\r\n"),
    (" j@x.org (=?utf-8?q?J=C3=BC?=)", " =?utf-8?b?SsO8?= <j@x.org>"),
]


@each(("value", "quoted"), QUOTED)
def test_a_name_gets_quotes_where_it_needs_them(value: str, quoted: str) -> None:
    assert quote_display_names(value) == quoted


@each(("unquoted", "quoted"), QUOTED)
def test_a_name_that_has_its_quotes_stays_as_it_is(unquoted: str, quoted: str) -> None:
    assert quote_display_names(quoted) == quoted


LEFT = [
    "",
    " ",
    " John",
    " j@x.org",
    " <j@x.org>",
    " John Q. Public <j@x.org>",
    " O'Hara & Söhne <j@x.org>\r\n",
    ' "Smith, John (EU)" <j@x.org>',
    ' "Smith,\r\n John" <j@x.org>',
    ' John "Smith, Jr." X\r\n <j@x.org>\r\n',
    " =?utf-8?q?Smith=2C_J?= <j@x.org>",
    ' "a, b"@x.org',
    ' <"a, (b)"@x.org>',
    " A <a@x.org>, , B <b@x.org>,",
    # Groups stay what they are.
    " Team: A <a@x.org>, b@x.org;",
    " Undisclosed:;",
    " A <a@x.org>, T: B, C <b@x.org>;",
    " T:;, B <b@x.org>",
    # What is one mailbox for some readers and two for others.
    " J @ W, Inc. <j@x.org>",
    ' "a b"@x.org, John <j@x.org>',
    " Smith, j@x.org",
    " Smith, John",
    " j@x.org, John",
    # What is not closed, and what has no form.
    ' "Smith, John <j@x.org>',
    " Smith, John <j@x.org",
    " John (Sales <j@x.org>",
    " Smith, John> <j@x.org>",
    " Smith, John <j@x.org> <k@x.org>",
    " Smith, John <j@x.org> Jr.",
    " j(o)@x.org",
    " Smith, John <>",
    " J @ [W] <j@x.org>",
    " Smith, John <@y.org:j@x.org>",
    f" {'Smith, ' * 200}John <j@x.org>",
]


@each("value", LEFT)
def test_any_other_field_stays_as_it_is(value: str) -> None:
    assert quote_display_names(value) == value


# ---- what readers see

SPACE = st.sampled_from([" ", "  ", "\r\n ", "\r\n\t"])
ADDRESS = st.sampled_from(["a@x.org", "b.c@y.example", '"d, (e)"@x.org', "f+g@z.example"])
WORDS = st.lists(
    st.text("abJü.'-", min_size=1, max_size=4).filter(lambda w: w.strip(".")), min_size=1, max_size=3
)


@st.composite
def written_well(draw: st.DrawFn) -> str:
    """A display name that needs nothing: words, a quoted string, or encoded words."""
    words = draw(WORDS)
    match draw(st.sampled_from(["words", "quoted", "encoded"])):
        case "words":
            return draw(SPACE).join(words)
        case "quoted":
            return '"' + ", (x) ".join(words) + '\\" @;:"'
        case _:
            return draw(SPACE).join(encoded_words(", ".join(words)))


@st.composite
def mailbox(draw: st.DrawFn, names: st.SearchStrategy[str]) -> str:
    name, address = draw(names), draw(ADDRESS)
    return f"{name}{draw(SPACE)}<{address}>"


GOOD_MAILBOX = ADDRESS | mailbox(written_well())
GOOD_LIST = st.lists(GOOD_MAILBOX, min_size=1, max_size=4).map(",\r\n ".join)
GROUP = st.builds("{}: {};".format, WORDS.map(" ".join), GOOD_LIST | st.just(""))


@given(st.lists(GOOD_LIST | GROUP, min_size=1, max_size=3).map(", ".join))
def test_a_list_without_fault_stays_byte_for_byte(value: str) -> None:
    assert quote_display_names(value) == value


BAD_NAME = st.lists(
    st.sampled_from([",", "(EU)", ")", ":", "[x]", "@", "\\", "(a, (b))"]) | st.text("abJü.", min_size=1),
    min_size=1,
    max_size=5,
)


@given(st.lists(st.tuples(BAD_NAME, ADDRESS), min_size=1, max_size=3), SPACE)
def test_a_name_with_anything_in_it_is_shown_as_it_was_written(
    mailboxes: list[tuple[list[str], str]], space: str
) -> None:
    """Wherever something changes: the same words, beside the same address."""
    value = ", ".join(f"x{space}{space.join(name)} <{address}>" for name, address in mailboxes)
    quoted = quote_display_names(value)
    if quoted != value:
        shown = [("x " + " ".join(name), address) for name, address in mailboxes]
        assert read(quoted) == [(" ".join(name.split()), address) for name, address in shown]
        assert originators_of(value) in (None, originators_of(quoted))


ANYTHING = st.lists(
    st.sampled_from(
        [*'",()<>:;@[]\\ .', "a", "b@c.d", "<a@b>", "\r\n ", "=?utf-8?q?=C3=BC?=", '"x, y"', "(c)"]
    ),
    max_size=14,
).map("".join)


@settings(max_examples=400)
@given(ANYTHING)
def test_no_mailbox_appears_or_disappears(value: str) -> None:
    """But for an address that stands where a name should: it is in the name afterwards."""
    before, quoted = read(f" {value}"), quote_display_names(f" {value}")
    if quoted != f" {value}":
        after = [address for _, address in read(quoted) if address]
        left = iter(address for _, address in before)
        assert all(address in left for address in after), "in the same order"
        if '"' not in value and "@" not in value.replace("<a@b>", ""):
            assert after == [address for _, address in before if "@" in address]
        assert quote_display_names(quoted) == quoted, "once is enough"
        assert "\n" not in quoted.replace("\r\n ", "")


def test_a_field_of_any_size_takes_time_in_proportion() -> None:
    """Counted in octets read, by a limit on the whole: quadratic would take minutes."""
    for piece in ("(", "a,", '"', "<", "(a)", "=?", "\\", ":;", "a@b,", "=?a?q?", "<a@b>,"):
        value = piece * (2**17 // len(piece)) + " <j@x.org>"
        assert len(quote_display_names(value)) >= len(value) > LINE_LIMIT


def read(value: str) -> list[tuple[str, str]]:
    """Names and addresses, as Python's `email` reads them by the old policy."""
    field = message_from_string(f"From:{value}\r\n\r\n", policy=compat32)["From"].replace("\r\n", "")
    return [
        (" ".join(str(make_header(decode_header(name))).split()), address)
        for name, address in AddressList(field).addresslist
    ]


def originators_of(value: str) -> list[str] | None:
    return originators(f"From: {value.strip()}\r\n\r\n".encode())
