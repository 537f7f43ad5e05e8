"""The envelope and its addresses; queue ids."""

import dataclasses
import re
import subprocess
import sys
import time
import unicodedata

import idna
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from smtp2cf.envelope import (
    SENT_AS_IS,
    Envelope,
    address_key,
    domain_of,
    is_public,
    new_queue_id,
    sent_form,
)
from smtp2cf.reply import RefusedError
from tests.support.each import each


def test_queue_ids_are_13_letters_and_digits_and_rise() -> None:
    ids = [new_queue_id() for _ in range(10_000)]
    assert all(re.fullmatch("[0-9A-Z]{13}", queue_id) for queue_id in ids)
    assert len(set(ids)) == len(ids)
    assert sorted(ids) == ids


def test_a_queue_id_tells_the_time() -> None:
    before, queue_id, after = time.time(), new_queue_id(), time.time()
    assert before - 0.1 <= int(queue_id[:10], 36) / 1e6 <= after + 0.1


def test_queue_ids_go_on_rising_when_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    first = new_queue_id()
    monkeypatch.setattr(time, "time_ns", lambda: now - 3_600 * 10**9)
    later = [new_queue_id() for _ in range(100)]
    assert sorted({first, *later}) == [first, *later]


def test_two_processes_make_different_queue_ids() -> None:
    code = "from smtp2cf.envelope import new_queue_id; print(new_queue_id())"
    ids = {subprocess.check_output([sys.executable, "-c", code], text=True)[-4:] for _ in range(3)}
    assert len(ids) > 1


def test_an_envelope_does_not_change() -> None:
    one = Envelope(reverse_path="a@x", forward_paths=("b@x",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.reverse_path = "c@x"
    assert (one.notify, one.orcpt, one.client, one.auth_user, one.per_recipient) == ({}, {}, "", "", False)
    assert one.queue_id != Envelope(reverse_path="a@x", forward_paths=("b@x",)).queue_id


@pytest.mark.parametrize(
    ("address", "key", "domain"),
    [
        ("Anna@Example.COM", "Anna@example.com", "example.com"),
        ('"a@b"@X.org', "a@b@x.org", "x.org"),
        ("jörg@MÜNCHEN.example", "jörg@münchen.example", "xn--mnchen-3ya.example"),
        ("a@👋.EXAMPLE.", "a@👋.example", "👋.example"),
        ("postmaster", "postmaster", ""),
        ("", "", ""),
        ("@", "@", ""),
    ],
)
def test_what_makes_two_spellings_the_same_address(address: str, key: str, domain: str) -> None:
    assert address_key(address) == key
    assert domain_of(address) == domain


A_LABEL = "xn--bcher-kva.example"
SENT_FORMS = [
    ("anna@example.com", "anna@example.com"),
    ("Anna@Example.COM.", "Anna@example.com"),
    ("anna@bücher.example", f"anna@{A_LABEL}"),
    ("anna@BU\u0308CHER.Example.", f"anna@{A_LABEL}"),
    ("anna@bücher。example", f"anna@{A_LABEL}"),
    (f"anna@{A_LABEL.upper()}", f"anna@{A_LABEL}"),
    ("anna@\uff25xample\uff0ecom", "anna@example.com"),
    ("anna@faß.example", "anna@xn--fa-hia.example"),
    ("anna@mail_1.ü.example", "anna@mail_1.xn--tda.example"),
    ('"anna"@example.com', "anna@example.com"),
    (r'"an\na.b"@example.com', "anna.b@example.com"),
    ('"anna b"@example.com', '"anna b"@example.com'),
    (r'"anna\ b"@example.com', '"anna b"@example.com'),
    (r'"a\"b\\c"@example.com', r'"a\"b\\c"@example.com'),
    ('"a..b"@example.com', '"a..b"@example.com'),
    ("a..b@docomo.example", "a..b@docomo.example"),
    ('""@example.com', '""@example.com'),
    ('an"na"@example.com', 'an"na"@example.com'),
    ("anna@[IPv6:2001:DB8::1]", "anna@[ipv6:2001:db8::1]"),
    ("", ""),
]


@each(("address", "form"), SENT_FORMS)
def test_an_address_is_sent_in_one_form(address: str, form: str) -> None:
    assert sent_form(address) == form
    assert sent_form(form) == form
    assert address_key(address) == address_key(form)


@each(
    ("address", "status"),
    [
        ("jörg@example.com", "5.6.7"),
        ('"jörg b"@bücher.example', "5.6.7"),
        ("anna@👋.example", "5.1.3"),
        ("anna@ü..example", "5.1.3"),
        ("anna@ü-.example", "5.1.3"),
        ("anna@ü.a b", "5.1.3"),
        ("anna@" + "ü" * 64 + ".example", "5.1.3"),
        ("anna@" + "ü.a." * 60 + "example", "5.1.3"),
    ],
)
def test_an_address_without_such_a_form_is_refused(address: str, status: str) -> None:
    with pytest.raises(RefusedError) as refused:
        sent_form(address)
    assert (refused.value.reply.code, refused.value.reply.status) == (553, status)


_words = st.text("abcXYZ019", min_size=1, max_size=6)
_labels = st.text("abcXYZ019äöüßéñ例子नम", min_size=1, max_size=8)


@given(
    st.data(),
    st.lists(_words, min_size=1, max_size=3).map(".".join),
    st.lists(_labels, min_size=1, max_size=3),
)
def test_every_spelling_of_an_address_is_sent_in_the_same_form(
    data: st.DataObject, local: str, labels: list[str]
) -> None:
    try:
        form = sent_form(f"{local}@{'.'.join(labels)}")
    except RefusedError:
        assume(False)
    assert form.isascii()
    for spelling in data.draw(spellings_of(local, ".".join(labels))):
        assert sent_form(spelling) == address_key(spelling) == form


def spellings_of(local: str, domain: str) -> st.SearchStrategy[list[str]]:
    """Ways to write the same address."""
    a_labels = sent_form(f"a@{domain}")[2:]
    domains = [domain, domain.lower(), unicodedata.normalize("NFD", domain), a_labels, a_labels.upper()]
    locals_ = [local, f'"{local}"', f'"\\{local}"', '"' + "".join(f"\\{letter}" for letter in local) + '"']
    return st.lists(
        st.builds("{}@{}{}".format, *map(st.sampled_from, (locals_, domains, ["", "."]))), min_size=1
    )


@given(st.text(max_size=40))
def test_any_text_has_a_form_that_is_ascii_or_none(text: str) -> None:
    address_key(text)
    domain_of(text)
    try:
        form = sent_form(text)
    except RefusedError:
        return
    assert form.isascii()
    assert sent_form(form) == form


@given(st.from_regex(SENT_AS_IS, fullmatch=True))
def test_what_is_seen_to_be_sent_as_it_is_is_its_own_form(address: str) -> None:
    assert sent_form(address) == address


@each(("address", "form"), SENT_FORMS)
def test_no_other_spelling_is_seen_to_be_sent_as_it_is(address: str, form: str) -> None:
    assert address == form or not SENT_AS_IS.fullmatch(address)
    assert not SENT_AS_IS.fullmatch(f"{address}.")


def test_a_queue_id_counts_through_all_pairs_of_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    numbers = [int(new_queue_id()[:10], 36) for _ in range(36 * 36)]
    assert numbers == list(range(numbers[0], numbers[0] + 36 * 36))


def test_a_thousand_recipients_in_one_domain_cost_one_look_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    def counted(domain: str, **options: bool) -> str:
        looks.append(domain)
        return remap(domain, **options)

    remap = idna.uts46_remap
    monkeypatch.setattr(idna, "uts46_remap", counted)
    for number in range(1000):
        assert sent_form(f"n{number}@tausend-bücher.example") == f"n{number}@xn--tausend-bcher-4ob.example"
    assert looks == ["tausend-bücher.example"]


PUBLIC = ("example.com", "web07.example.com", "xn--bcher-kva.example", "brand.test", "arpa.com", "[9.9.9.9]")
NOT_PUBLIC = (
    *("", "localhost", "3f2a1b", "web07", "web07.local", "nas.lan", "a.b.internal", "localhost.localdomain"),
    *("pi.home.arpa", "10.0.0.7", "[127.0.0.1]", "[10.0.0.7]", "[ipv6:::1]", "[ipv6:fd00::1]", "[nonsense]"),
)


@each(("domain", "public"), [*((each_, True) for each_ in PUBLIC), *((each_, False) for each_ in NOT_PUBLIC)])
def test_a_domain_is_public_if_mail_to_it_can_come_from_anywhere(domain: str, public: bool) -> None:
    assert is_public(domain_of(f"root@{domain}")) is public
