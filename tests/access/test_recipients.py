"""Recipients: who gets mail instead of whom, and to whom none may go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.access.recipients import Recipients, RecipientsAt, Table
from smtp2cf.access.senders import ANY, Senders, match_key
from tests.support.each import each

WHO = ("root", "www", "a@x.example", "b@x.example", "c@y.example", "root@web07", "d@sub.x.example")
PATTERNS = (*WHO, "x.example", "*.x.example", "root@*", "*")
TABLES = st.dictionaries(
    st.sampled_from(PATTERNS), st.lists(st.sampled_from(WHO), min_size=1, max_size=4).map(tuple)
)


def mapped(table: Table, redirect: tuple[str, ...] = ()) -> Recipients:
    found = Recipients(["web07"], redirect)
    found.use_table(table)
    return found


EXPANSIONS: list[tuple[Table, str, tuple[str, ...]]] = [
    ({}, "a@x", ("a@x",)),
    ({}, "root", ()),
    ({"root": ("ops@x",)}, "ROOT@web07", ("ops@x",)),
    ({"root": ("ops@x",)}, "root@elsewhere.example", ("root@elsewhere.example",)),
    ({"root": ("admin", "ops@x"), "admin": ("b@x", "ops@x", "B@x")}, "root", ("b@x", "ops@x")),
    ({"anna@x": ("anna@x", "archive@x")}, "anna@x", ("anna@x", "archive@x")),
    ({"*": ("a@x", "b@x")}, "anybody@y", ("a@x", "b@x")),
    ({"root": ("admin", "ops@x"), "admin": ("root",)}, "root", ("ops@x",)),
    ({"root": ("admin",), "admin": ("root",)}, "root", ()),
    ({"a@x": ("b@x",), "b@x": ("a@x",)}, "a@x", ("a@x",)),
    # Two who stand in for each other, with a copy for somebody else: neither loses mail.
    ({"a@x": ("b@x", "copy@x"), "b@x": ("a@x",)}, "a@x", ("a@x", "copy@x")),
    ({"a@x": ("b@x", "copy@x"), "b@x": ("a@x",)}, "b@x", ("b@x", "copy@x")),
    ({"root": ("admin", "ops@x"), "admin": ("root@web07",)}, "root@web07", ("ops@x",)),
    # An address whose local part is empty, in quotes, is an address all the same.
    ({"*": ("a@x",)}, '""@y', ("a@x",)),
    ({"y.example": ("a@x",)}, '""@Y.example', ("a@x",)),
]


@each(("table", "recipient", "who"), EXPANSIONS)
def test_who_gets_the_mail(table: Table, recipient: str, who: tuple[str, ...]) -> None:
    assert mapped(table).expand(recipient) == who


@given(TABLES, st.sampled_from(WHO))
def test_nobody_gets_it_twice_and_who_gets_it_is_the_end_of_the_way(table: Table, recipient: str) -> None:
    found = mapped(table)
    who = found.expand(recipient)
    assert len({*map(match_key, who)}) == len(who)
    assert all("@" in one for one in who)
    assert who or "@" not in recipient, "an address is never without anybody"
    assert found.expand(recipient) == who
    if who != (recipient,):
        assert {end for one in who for end in found.expand(one)} == {*who}


@pytest.mark.parametrize(
    ("recipient", "setting"),
    [
        ("a@x.example", ""),
        ("root", ""),
        ("b@y.example", "SMTP2CF_ALLOWED_RECIPIENTS allows x.example"),
        ("boss@x.example", "SMTP2CF_DENIED_RECIPIENTS contains boss@x.example"),
        ("www", "<boss@x.example>, is not allowed: SMTP2CF_DENIED_RECIPIENTS contains boss@x.example"),
        ("team", "which becomes <c@y.example>, is not allowed: SMTP2CF_ALLOWED_RECIPIENTS"),
    ],
)
def test_who_would_get_it_decides(recipient: str, setting: str) -> None:
    found = mapped(
        {"root": ("a@x.example",), "www": ("boss@x.example",), "team": ("a@x.example", "c@y.example")}
    )
    found.use_allowed(["x.example"])
    found.use_denied(["boss@x.example"])
    refusal = found.refusal(recipient)
    assert (refusal is None) == (not setting)
    if refusal is not None:
        assert (refusal.code, refusal.status) == (550, "5.7.1")
        assert setting in refusal.text


def test_a_listener_s_list_and_the_general_one_both_count() -> None:
    general = mapped({"root": ("a@x.example",)})
    general.use_allowed(["x.example", "y.example"])
    here = RecipientsAt(general, ["x.example", "z.example"], "allowed_recipients of [[listener]] printers")
    assert here.refusal("root") is None
    for recipient in ("a@y.example", "a@z.example"):
        assert here.refusal(recipient) is not None
    assert "[[listener]] printers allows" in str(here.refusal("a@y.example"))


def test_a_name_is_taken_where_somebody_gets_its_mail() -> None:
    assert mapped({"root": ("a@x",)}).takes_name("Root")
    assert not mapped({"root": ("www",)}).takes_name("root")
    assert mapped({}, ("staging@x",)).takes_name("anybody")


def test_a_user_s_own_list_counts_as_well() -> None:
    found = mapped({"root": ("a@y.example",)})
    found.use_allowed(["x.example", "y.example"])
    found.recipients_of = {"shop": Senders.parse(["x.example", "z.example"]), "news": ANY}.__getitem__
    here = RecipientsAt(found, ["x.example", "y.example", "z.example"], "here")
    for one in (found, here):
        assert one.refusal("a@x.example", "shop") is None
        assert "user shop in SMTP2CF_USERS_FILE allows x.example" in str(one.refusal("root", "shop"))
        assert "SMTP2CF_ALLOWED_RECIPIENTS" in str(one.refusal("a@z.example", "shop"))
        assert one.refusal("root", "news") is None
        assert one.refusal("root") is None


def test_another_map_counts_at_once_also_for_who_was_asked_about() -> None:
    recipients = Recipients()
    recipients.use_table({"root": ("a@x.example",)})
    expand = recipients.expand  # as a step of the relay keeps it
    assert expand("root") == ("a@x.example",)
    recipients.use_table({"root": ("b@x.example",)})
    assert expand("root") == ("b@x.example",)


def test_no_spelling_of_a_local_part_gets_round_a_denied_domain() -> None:
    found = Recipients(["web07"])
    found.use_denied(["x.example"])
    spellings = ("a", '"a"', '"a b"', '" "', '""', '"\\a"', '"@"')
    assert [who for who in spellings if found.refusal(f"{who}@x.example") is None] == []
