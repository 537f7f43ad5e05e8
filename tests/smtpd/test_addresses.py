"""MAIL FROM and RCPT TO: which addresses are taken, how they are kept, which are none (RFC 5321 §4.1.2)."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.reply import Reply
from smtp2cf.smtpd import MailProtocol, Policy, judge
from smtp2cf.smtpd.path import PathError, parse_forward_path, parse_path
from tests.smtpd.conftest import Start
from tests.support.each import each

ADDRESSES = [
    ("<anna@example.com>", "anna@example.com"),
    (" <anna@example.com>", "anna@example.com"),
    ("< anna@example.com >", "anna@example.com"),
    ("anna@example.com", "anna@example.com"),
    ("  anna@example.com", "anna@example.com"),
    ("<Anna@Example.COM>", "Anna@Example.COM"),
    ("<anna@example.com.>", "anna@example.com"),
    ("<root@localhost>", "root@localhost"),
    ("<anna+tag=x@mail-1.example.com>", "anna+tag=x@mail-1.example.com"),
    ("<SRS0=ab=cd=example.org=anna@example.com>", "SRS0=ab=cd=example.org=anna@example.com"),
    ("<!#$%&'*/?^`{|}~@example.com>", "!#$%&'*/?^`{|}~@example.com"),
    ("<prvs=1234/anna@example.com>", "prvs=1234/anna@example.com"),
    ("<a..b@docomo.example>", "a..b@docomo.example"),
    ("<.a.@docomo.example>", ".a.@docomo.example"),
    ("<a@under_score.example>", "a@under_score.example"),
    ("<@relay.example:anna@example.com>", "anna@example.com"),
    ("<@a.example,@b.example:anna@example.com>", "anna@example.com"),
    ('<"anna b"@example.com>', '"anna b"@example.com'),
    ('<"a@b"@example.com>', '"a@b"@example.com'),
    ('<"a>b"@example.com>', '"a>b"@example.com'),
    (r'<"a\"b\\c"@example.com>', r'"a\"b\\c"@example.com'),
    ('"anna b"@example.com', '"anna b"@example.com'),
    ('<""@example.com>', '""@example.com'),
    ("<anna@[192.0.2.1]>", "anna@[192.0.2.1]"),
    ("<anna@[IPv6:2001:db8::1]>", "anna@[IPv6:2001:db8::1]"),
    ("<anna@[ipv6:::ffff:192.0.2.1]>", "anna@[ipv6:::ffff:192.0.2.1]"),
    ("<anna@bücher.example>", "anna@bücher.example"),
    ("<anna@例子.广告>", "anna@例子.广告"),
    ('<"anna b"@bücher.example.>', '"anna b"@bücher.example'),
    ("anna@bücher.example", "anna@bücher.example"),
    ("<<anna@example.com>>", "anna@example.com"),
    ("<<<anna@example.com>>>", "anna@example.com"),
    ("< <anna@example.com> >", "anna@example.com"),
    ("<Scanner <anna@example.com>>", "anna@example.com"),
    ("<Anna B <anna@example.com>>", "anna@example.com"),
    ("<Anna B <<anna@example.com> > >", "anna@example.com"),
    ('<"Anna B." <anna@example.com>>', "anna@example.com"),
    ("<Jörg <joerg@bücher.example>>", "joerg@bücher.example"),
    ("Anna B <anna@example.com>", "anna@example.com"),
    ('"Anna B" <anna@example.com>', "anna@example.com"),
    ('<Anna <"a b"@example.com>>', '"a b"@example.com'),
    ("<" + "a" * 64 + "@" + "b" * 63 + ".example>", "a" * 64 + "@" + "b" * 63 + ".example"),
]

MISSING, NO_DOMAIN, NOT_ONE, NOT_UTF8, NOT_IDN, TOO_LONG = (
    (501, "an address is missing"),
    (553, "the address has no domain"),
    (553, "not an address"),
    (553, "not UTF-8"),
    (553, "not a valid internationalized domain name"),
    (501, "more than 320 characters"),
)
NO_ADDRESSES = [
    ("", MISSING),
    ("   ", MISSING),
    ("<anna>", NO_DOMAIN),
    ("anna", NO_DOMAIN),
    ("<Postmaster>", NO_DOMAIN),
    ('<"anna b">', NO_DOMAIN),
    ("<anna@>", NOT_ONE),
    ("<@example.com>", NOT_ONE),
    ("<@relay.example:>", NOT_ONE),
    ("<anna@@example.com>", NOT_ONE),
    ("<anna@b@example.com>", NOT_ONE),
    ("<anna b@example.com>", NOT_ONE),
    ("<anna@exam ple.com>", NOT_ONE),
    ("<anna@.example.com>", NOT_ONE),
    ("<anna@example..com>", NOT_ONE),
    ("<anna@-example.com>", NOT_ONE),
    ("<anna@example-.com>", NOT_ONE),
    ("<anna@example.com-->", NOT_ONE),
    ("<anna@exa$mple.com>", NOT_ONE),
    ("<anna@[192.0.2.1>", NOT_ONE),
    ("<anna@[]>", NOT_ONE),
    ("<anna@[a b]>", NOT_ONE),
    ("<anna@example.com", NOT_ONE),
    ("anna@example.com>", NOT_ONE),
    ("<<anna@example.com>", NOT_ONE),
    ("<anna@example.com>>", NOT_ONE),
    ("<Anna <anna@example.com>", NOT_ONE),
    ("Anna <anna@example.com>>", NOT_ONE),
    ("<Anna anna@example.com>", NOT_ONE),
    ("<<anna@example.com><bert@example.net>>", NOT_ONE),
    ("<<anna@example.com> <bert@example.net>>", NOT_ONE),
    ("<anna@example.com <bert@example.net>>", NOT_ONE),
    ("anna@example.com <bert@example.net>", NOT_ONE),
    ("<<anna@example.com>,<bert@example.net>>", NOT_ONE),
    ("<anna@example.com,bert@example.net>", NOT_ONE),
    ("<<anna@example.com,bert@example.net>>", NOT_ONE),
    ("<B, Anna <anna@example.com>>", NOT_ONE),
    ("<Anna\x00 <anna@example.com>>", NOT_ONE),
    ("<<anna@example.com>>SIZE=1", NOT_ONE),
    ("<Anna <anna b@example.com>>", NOT_ONE),
    ("<Anna <anna>>", NO_DOMAIN),
    ("<<anna>>", NO_DOMAIN),
    ("<anna@example.com>,<bert@example.net>", NOT_ONE),
    ("anna@example.com,bert@example.net", NOT_ONE),
    ("<anna@example.com>SIZE=1", NOT_ONE),
    ("<>x", NOT_ONE),
    ('<"anna@example.com>', NOT_ONE),
    ('<"anna"b@example.com>', NOT_ONE),
    ("<an(comment)na@example.com>", NOT_ONE),
    ("<an\tna@example.com>", NOT_ONE),
    ("<an\x00na@example.com>", NOT_ONE),
    ('<"an\rna"@example.com>', NOT_ONE),
    ("<an\x85na@example.com>", NOT_ONE),
    ("<anna@exam\x85ple.com>", NOT_ONE),
    ("<anna@exam\u2028ple.com>", NOT_ONE),
    ("<an\u202ena@example.com>", NOT_ONE),
    ("<an\u3000na@example.com>", NOT_ONE),
    ("<j\udcf6rg@example.com>", NOT_UTF8),
    ("<anna@👋.example>", NOT_IDN),
    ("<anna@" + "ü" * 63 + ".example>", NOT_IDN),
    ("<anna@" + "ü.a." * 60 + "example>", NOT_IDN),
    ("<" + "a" * 309 + "@example.com>", TOO_LONG),
]
NOT_ASCII = [
    "<jörg@example.com>",
    '<"jörg b"@bücher.example>',
    "<👋@example.com>",
    "jo\u0308rg@example.com",
    "<用户@例子.广告>",
]


@each(("text", "address"), ADDRESSES)
def test_addresses(text: str, address: str) -> None:
    assert parse_path(text) == (address, "")
    assert parse_path(text + "  SIZE=10 BODY=7BIT ") == (address, "SIZE=10 BODY=7BIT")


@each(("text", "wrong"), NO_ADDRESSES)
def test_what_is_no_address(text: str, wrong: tuple[int, str]) -> None:
    with pytest.raises(PathError) as refused:
        parse_path(text)
    reply: Reply = refused.value.reply
    assert (reply.code, reply.status) == (wrong[0], "5.1.3")
    assert wrong[1] in reply.text


@each("text", NOT_ASCII)
def test_a_local_part_that_cloudflare_does_not_take_is_refused(text: str) -> None:
    with pytest.raises(PathError) as refused:
        parse_path(text)
    assert (refused.value.reply.code, refused.value.reply.status) == (553, "5.6.7")
    assert "only ASCII characters before the @" in refused.value.reply.text


@pytest.mark.parametrize("text", ["<>", " <>", "< >", "<<>>", "<Nobody <>>"])
def test_the_null_path(text: str) -> None:
    assert parse_path(text) == ("", "")


@each(
    "text",
    [
        "<a@" + "b." * 1000 + "!>",
        "<a@" + "b-" * 1000 + "!>",
        "<" + "@a," * 700 + "!>",
        '<"' + "\\a" * 1000 + ">",
        "<" + "ü" * 1000 + "@" + "ü" * 1000 + "!>",
        "<" * 2000,
        "@" * 2000,
        '"' * 2000,
        "<" * 1000 + "a" + ">" * 999,
        "<a " * 700 + "> " * 600 + "!",
        " " * 2000 + "<",
    ],
)
def test_no_nonsense_takes_long_to_refuse(text: str) -> None:
    # A pattern that backtracks would need minutes for these; the run's time limit is the measure.
    for _ in range(20):
        with pytest.raises(PathError):
            parse_path(text)


_atoms = st.text(string.ascii_letters + string.digits + "._+-=", min_size=1, max_size=20)
_labels = st.from_regex(r"[0-9a-z]([0-9a-z-]{0,8}[0-9a-z])?", fullmatch=True)


@given(_atoms, st.lists(_labels, min_size=1, max_size=4).map(".".join))
def test_ways_of_writing_an_address_mean_the_same(local: str, domain: str) -> None:
    address = f"{local}@{domain}"
    for written in (f"<{address}>", f" <{address}>", address, f"< {address}>", f"<@relay.example:{address}>"):
        assert parse_path(written) == (address, "")


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        address, rest = parse_path(text)
    except PathError:
        return
    assert address == "" or "@" in address
    assert not {"\r", "\n", "\0"} & set(address)
    assert rest == rest.strip()


async def test_utf8_addresses_with_and_without_smtputf8(start: Start) -> None:
    service = await start()
    for parameter in (" SMTPUTF8", ""):
        client = await service.greeted()
        assert await client.ask(f"MAIL FROM:<joerg@bücher.example>{parameter}") == "250 2.1.0 sender OK"
        assert await client.ask("RCPT TO:<user@例子.广告>") == "250 2.1.5 recipient OK"
        assert (await client.ask("RCPT TO:<用户@例子.广告>")).startswith("553 5.6.7")
        assert (await client.ask("DATA")).startswith("354")
        assert (await client.ask(".")).startswith("250")
    (with_it, _), (without, _) = service.taken
    assert with_it.reverse_path == without.reverse_path == "joerg@bücher.example"
    assert with_it.forward_paths == without.forward_paths == ("user@例子.广告",)
    assert (with_it.smtputf8, without.smtputf8) == (True, False)


async def test_only_a_client_with_smtputf8_is_answered_in_utf8(start: Start) -> None:
    client = await (await start()).greeted()
    assert await client.ask("MAIL FROM:<jörg>") == r"553 5.1.3 <j\xf6rg>: the address has no domain"
    await client.ask("MAIL FROM:<anna@example.com> SMTPUTF8")
    assert await client.ask("RCPT TO:<jörg>") == "553 5.1.3 <jörg>: the address has no domain"


async def test_refused_addresses_leave_the_transaction_alone(start: Start) -> None:
    service = await start()
    await service.play("""
        S: 220
        C: HELO a
        S: 250
        C: MAIL FROM:<anna>
        S: 553 5.1.3
        C: MAIL FROM:
        S: 501 5.1.3
        C: MAIL FROM:<>
        S: 250 2.1.0
        C: RCPT TO:<>
        S: 553 5.1.3
        C: RCPT TO:<j\\xf6rg@example.com>
        S: 553 5.1.3 the address is not UTF-8
        C: RCPT TO:<bert@example.net>
        S: 250 2.1.5
        C: RCPT TO:<bert>
        S: 553 5.1.3
        C: DATA
        S: 354
        C: .
        S: 250
    """)
    assert service.envelope.reverse_path == ""
    assert service.envelope.forward_paths == ("bert@example.net",)


# ---- the postmaster (RFC 5321 §4.5.1)

POSTMASTERS = [
    "<Postmaster>",
    "<postmaster>",
    "<POSTMASTER>",
    " < pOsTmAsTeR >",
    "Postmaster",
    '<"Postmaster">',
    "<<Postmaster>>",
    "<The Postmaster <postmaster>>",
]
NOT_POSTMASTERS = [
    "<postmasters>",
    "<post master>",
    "<the.postmaster>",
    "postmaster>",
    "<<postmaster>",
    "<anna>",
]


@each("text", POSTMASTERS)
def test_the_postmaster_needs_no_domain(text: str) -> None:
    assert parse_forward_path(text, "ops@example.com") == ("ops@example.com", "")
    assert parse_forward_path(f"{text} NOTIFY=NEVER", "ops@example.com") == (
        "ops@example.com",
        "NOTIFY=NEVER",
    )
    with pytest.raises(PathError, match="SMTP2CF_POSTMASTER is not set") as refused:
        parse_forward_path(text, "")
    assert (refused.value.reply.code, refused.value.reply.status) == (550, "5.1.1")


@each("text", NOT_POSTMASTERS)
def test_nobody_else_does_without_one(text: str) -> None:
    with pytest.raises(PathError) as refused:
        parse_forward_path(text, "ops@example.com")
    assert refused.value.reply.code == 553


def test_a_postmaster_with_a_domain_is_who_it_says() -> None:
    assert parse_forward_path("<Postmaster@example.net>", "ops@example.com") == ("Postmaster@example.net", "")


@given(st.text('<>@,a "postmaster', max_size=30))
def test_both_kinds_of_path_agree_on_what_is_an_address(text: str) -> None:
    try:
        expected = parse_path(text)
    except PathError:
        expected = None
    try:
        found = parse_forward_path(text, "ops@example.com")
    except PathError:
        assert expected is None
    else:
        assert found == expected or found[0] == "ops@example.com"


@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
async def test_mail_to_the_postmaster_goes_to_the_address_of_the_setting(
    start: Start, protocol: MailProtocol
) -> None:
    service = await start(protocol=protocol, postmaster="ops@example.com")
    client = await service.greeted()
    await client.play("""
        C: VRFY Postmaster
        S: 252 2.1.5
        C: MAIL FROM:<anna@example.com>
        S: 250 2.1.0
        C: RCPT TO:<Postmaster> NOTIFY=NEVER
        S: 250 2.1.5
        C: RCPT TO:<Scanner <bert@example.net>>
        S: 250 2.1.5
        C: DATA
        S: 354
        C: .
        S: 250
    """)
    assert service.envelope.forward_paths == ("ops@example.com", "bert@example.net")
    assert service.envelope.notify == {"ops@example.com": "NEVER"}


async def test_without_the_setting_the_postmaster_is_refused_and_the_setting_named(start: Start) -> None:
    client = await (await start()).greeted()
    await client.play("""
        C: VRFY <postmaster>
        S: 550 5.1.1 there is no address for the postmaster here: SMTP2CF_POSTMASTER is not set
        C: MAIL FROM:<The Scanner <anna@example.com>>
        S: 250 2.1.0
        C: RCPT TO:<Postmaster>
        S: 550 5.1.1 there is no address for the postmaster here: SMTP2CF_POSTMASTER is not set
        C: RCPT TO:<bert@example.net>
        S: 250 2.1.5
    """)


@pytest.mark.parametrize(
    "path", ["<anna@example.com,bert@example.net>", "<<a@example.com>, <b@example.net>>"]
)
async def test_two_addresses_in_one_path_are_none(start: Start, path: str) -> None:
    client = await (await start()).greeted()
    assert (await client.ask(f"MAIL FROM:{path}")).startswith("553 5.1.3")
    await client.ask("MAIL FROM:<>")
    assert (await client.ask(f"RCPT TO:{path}")).startswith("553 5.1.3")


@pytest.mark.parametrize(
    ("setting", "given"), [("ops@example.com", {"Postmaster": "ops@example.com"}), ("", {})]
)
def test_the_postmaster_of_dropped_mail_is_the_same(setting: str, given: dict[str, str]) -> None:
    policy = Policy(
        hostname="bridge.example",
        allow_networks=(),
        max_message_size=1000,
        max_recipients=10,
        session_timeout=1.0,
        postmaster=setting,
    )
    judged = judge(policy, ("anna@example.com", ""), [("Postmaster", "")], 0.0)
    assert judged.given == given
    assert [str(reply)[:9] for reply in judged.refused.values()] == ([] if setting else ["550 5.1.1"])
