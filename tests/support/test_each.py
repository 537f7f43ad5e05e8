"""Every row of a table is tried, and each that fails is named."""

import pytest

from tests.support.each import each


def test_every_row_is_tried_and_those_that_fail_are_named() -> None:
    tried = []

    @each(("number", "word"), [(1, "one"), (2, "two"), (3, "three")])
    def test(number: int, word: str) -> None:
        tried.append((number, word))
        assert number == 2

    with pytest.raises(ExceptionGroup, match="2 of 3 rows fail") as raised:
        test()
    assert tried == [(1, "one"), (2, "two"), (3, "three")]
    assert [error.__notes__ for error in raised.value.exceptions] == [
        ["with number=1, word='one'"],
        ["with number=3, word='three'"],
    ]


def test_tables_can_be_crossed() -> None:
    tried = []

    @each("first", "ab")
    @each("second", [1, 2])
    def test(first: str, second: int) -> None:
        tried.append((first, second))

    test()
    assert tried == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


@pytest.mark.parametrize("fixture", ["given"])
@each("number", [1])
def test_fixtures_and_parameters_are_handed_on(fixture: str, number: int) -> None:
    assert (fixture, number) == ("given", 1)


def test_an_empty_table_or_a_wrong_name_is_refused() -> None:
    with pytest.raises(AssertionError, match="without rows"):
        each("number", [])
    with pytest.raises(AssertionError, match="has no parameter"):
        each("wrong", [1])(lambda number: None)
