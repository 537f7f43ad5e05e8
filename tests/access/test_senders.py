"""Who may send as whom: the patterns, and what the two rules together refuse."""

import pytest

from smtp2cf.access.senders import ANY, SenderRules, Senders

ALLOWED = [
    ("anna@example.com", "anna@example.com", True),
    ("anna@example.com", "Anna@EXAMPLE.com", True),
    ("anna@example.com", '"anna"@example.com', True),
    ("anna@example.com", '"an\\na"@example.com', True),
    ("anna@example.com", "anna@example.com.", True),
    ("anna@example.com", "bert@example.com", False),
    ("anna@example.com", "anna@example.org", False),
    ("anna@example.com", "anna@sub.example.com", False),
    ("anna@example.com", "", False),
    ("example.com", "anyone@example.com", True),
    ("Example.COM.", "anyone@example.com", True),
    ("*@example.com", "anyone@example.com", True),
    ("*@example.com", '"a b@x"@example.com', True),
    ("example.com", "anyone@sub.example.com", False),
    ("example.com", "anyone@notexample.com", False),
    ("example.com", "anyone@example.com.evil.example", False),
    ("example.com", "example.com", False),
    ("example.com", "@example.com", False),
    ("example.com", "@", False),
    ("*.example.com", "anyone@sub.example.com", True),
    ("*@*.example.com", "anyone@a.b.example.com", True),
    ("*.example.com", "anyone@example.com", False),
    ("*.example.com", "anyone@.example.com", False),
    ("*.example.com", "anyone@notexample.com", False),
    ("*.com", "anyone@example.com", True),
    ("münchen.example", "a@MÜNCHEN.example", True),
    ("mu\u0308nchen.example", "a@münchen.example", True),
    ("strasse.example", "a@straße.example", False),
    ("xn--mnchen-3ya.example", "a@münchen.example", True),
    ("*.münchen.example", "a@mail.XN--MNCHEN-3YA.example.", True),
    ("anna@münchen.example", '"anna"@xn--mnchen-3ya.example', True),
    ("नमस्ते.example", "a@नमस्ते.example", True),
]


@pytest.mark.parametrize(("pattern", "address", "allowed"), ALLOWED)
def test_a_pattern_allows_what_it_says_and_nothing_beside(pattern: str, address: str, allowed: bool) -> None:
    assert Senders.parse([pattern]).allow(address) is allowed
    assert Senders.parse(["other.example", pattern]).allow(address) is allowed


@pytest.mark.parametrize(
    "pattern",
    ["", "*", "@", "anna@", "@example.com", "a@b@c", "a*@example.com", "anna@*.example.com", "*.", "*.*.com",
     "exa mple.com", "<anna@example.com>", ".example.com", "example..com"],
)  # fmt: skip
def test_what_is_no_pattern_is_named(pattern: str) -> None:
    with pytest.raises(ValueError) as error:
        Senders.parse(["example.com", pattern])
    assert str(error.value).startswith(f"invalid sender {pattern!r}: ")


def test_no_patterns_allow_everything() -> None:
    assert ANY.allow("whoever@wherever.example")
    assert ANY.allow("@")


USERS = {"anna": Senders.parse(["anna@example.com", "*@example.org"]), "root": ANY}
OF_ANNA = "SMTP2CF_USERS_FILE allows anna@example.com, *@example.org"
OF_ALL = "SMTP2CF_ALLOWED_SENDER_DOMAINS allows example.com, example.org"
RULES = [
    ("anna", "anna@example.com", ""),
    ("anna", "", ""),
    ("anna", "x@example.org", ""),
    ("anna", "bert@example.com", f"user anna may not send as <bert@example.com>: {OF_ANNA}"),
    ("root", "x@example.com", ""),
    ("root", "x@example.net", f"sending as <x@example.net> is not allowed: {OF_ALL}"),
    ("", "x@example.com", ""),
    ("", "x@example.net", f"sending as <x@example.net> is not allowed: {OF_ALL}"),
    ("", "", ""),
    ("gone", "x@example.com", "user gone is no longer in SMTP2CF_USERS_FILE"),
    ("gone", "", "user gone is no longer in SMTP2CF_USERS_FILE"),
]


@pytest.mark.parametrize(("user", "address", "text"), RULES)
def test_both_rules_hold_and_a_refusal_names_who_and_what(user: str, address: str, text: str) -> None:
    refusal = SenderRules(Senders.parse(["example.com", "example.org"]), USERS.get).refusal(user, address)
    assert refusal == ((550, "5.7.1", text) if text else None)


def test_a_user_where_there_are_no_users_is_refused() -> None:
    assert SenderRules().refusal("anna", "anna@example.com") is not None
    assert SenderRules().refusal("", "anna@example.com") is None


def test_a_refusal_shows_nothing_of_any_length() -> None:
    rules = SenderRules(Senders.parse(f"d{number}.example" for number in range(1000)), USERS.get)
    refusal = rules.refusal("", "x" * 10_000 + "@example.com\r\n250 OK")
    assert refusal is not None
    assert len(refusal.text) < 400
    assert "\n" not in refusal.text
    assert refusal.text.endswith("and 995 more")
