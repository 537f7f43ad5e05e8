"""Durations and sizes as people write them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.settings.units import as_duration, as_size, octets, seconds


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("90", 90),
        ("90s", 90),
        ("15m", 900),
        ("36h", 129600),
        ("5d", 432000),
        (" 5 D ", 432000),
        ("1h30m", 5400),
        ("1d 12h", 129600),
        ("0.2", 0.2),
        ("1.5h", 5400),
        ("0", 0),
        ("0s", 0),
    ],
)
def test_what_a_duration_may_be(text: str, means: float) -> None:
    assert seconds(text) == means


@pytest.mark.parametrize(
    "text",
    ["", "d", "5 weeks", "5w", "-1", "1e3", "inf", "nan", "1h30", ".5", "5d!", "\u0665d", "1,5h"],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="it must be a duration such as 90s, 15m, 36h or 5d"):
        seconds(text)


@pytest.mark.parametrize(
    ("text", "means"),
    [("1024", 1024), ("25MiB", 25 << 20), ("25 mib", 25 << 20), ("1.5KiB", 1536), ("5MB", 5_000_000)],
)
def test_what_a_size_may_be(text: str, means: int) -> None:
    assert octets(text) == means


@pytest.mark.parametrize("text", ["", "MiB", "25 apples", "-1", "5Mbit", "1 bit", "nan", "inf"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="it must be a size such as 25MiB, or a number of bytes"):
        octets(text)


@given(st.integers(0, 10**9))
def test_a_duration_that_is_shown_reads_the_same(amount: int) -> None:
    assert seconds(as_duration(amount)) == amount


@given(st.integers(0, 2**50))
def test_a_size_that_is_shown_reads_the_same(amount: int) -> None:
    assert octets(as_size(amount)) == amount


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (seconds, octets):
        with contextlib.suppress(ValueError):
            assert 0 <= read(text) < float("inf")
