"""Address maps: which pattern counts for an address."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.access.address_map import AddressMap
from smtp2cf.settings.values import checked_pattern
from tests.support.each import each

BY_SPECIFICITY = (
    *("root@web.a.example.com", "root", "web.a.example.com", "*.a.example.com", "*.example.com"),
    *("*.com", "root@*", "*"),
)
"""Each matches root@web.a.example.com, one of our own hosts; the first that is there counts."""


@given(st.permutations(BY_SPECIFICITY), st.integers(1, len(BY_SPECIFICITY)))
def test_the_most_specific_pattern_counts_in_whatever_order_they_stand(order: list[str], many: int) -> None:
    there = order[:many]
    found = AddressMap({pattern: pattern for pattern in there}, ["web.a.example.com"])
    assert found.find("root@web.a.example.com") == min(there, key=BY_SPECIFICITY.index)


MATCHES = [
    # The pattern, what it matches, and what it doesn't.
    (
        "anna@example.com",
        ["anna@example.com", "ANNA@Example.COM", "anna@example.com."],
        ["anna", "anna@x.com"],
    ),
    ("anna@bücher.example", ["anna@xn--bcher-kva.example"], ["anna@bucher.example"]),
    (
        "example.com",
        ["x@example.com", '"a b"@example.com', '""@example.com'],
        ["x@a.example.com", "example.com", "x"],
    ),
    ("*@example.com", ["x@example.com"], ["x@a.example.com"]),
    ("*.example.com", ["x@a.example.com", "x@b.a.example.com"], ["x@example.com", "x@notexample.com"]),
    ("root", ["root", "Root", "root@web07", "root@localhost"], ["root@web08", "root@example.com", "www"]),
    ("root@*", ["root", "root@web08", "ROOT@example.com"], ["root2@web08", "www"]),
    ("first.last@*", ["first.last@x"], ["last@x"]),
    ("*", ["root", "x@example.com", "x@[127.0.0.1]", '""@x.org'], ["@", "@x.org"]),
]


@each(("pattern", "those", "others"), MATCHES)
def test_what_a_pattern_matches(pattern: str, those: list[str], others: list[str]) -> None:
    found = AddressMap({checked_pattern(pattern): "it"}, ["web07", "localhost"])
    assert [address for address in those if found.find(address) != "it"] == []
    assert [address for address in [*others, ""] if found.find(address) is not None] == []


def test_an_empty_map_says_so() -> None:
    assert not AddressMap[str]()
    assert all(AddressMap({pattern: "x"}) for pattern, _, _ in MATCHES)


@pytest.mark.parametrize("pattern", ["", "a b", "anna@", "@", "anna@*.example.com", "**", "<root>"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="invalid pattern"):
        AddressMap({pattern: "x"})
