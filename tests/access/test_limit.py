"""Limits, as people write them."""

import pytest

from smtp2cf.access import limit
from smtp2cf.access.limit import Limit, Named, strictest
from tests.support.each import each


@pytest.mark.parametrize(
    ("text", "limits", "shown"),
    [
        ("none", (), ""),
        ("", (), ""),
        ("30 messages/1m", (Limit(30, "messages", 60),), "30 messages/1m"),
        ("1 message / 1h", (Limit(1, "messages", 3600),), "1 message/1h"),
        ("5 RECIPIENTS/90", (Limit(5, "recipients", 90),), "5 recipients/90s"),
        ("2messages/48h", (Limit(2, "messages", 172800),), "2 messages/2d"),
        (
            " 30 messages/1m,5000 recipients/1d ",
            (Limit(30, "messages", 60), Limit(5000, "recipients", 86400)),
            "30 messages/1m, 5000 recipients/1d",
        ),
    ],
)
def test_a_quota_is_read_and_written(text: str, limits: tuple[Limit, ...], shown: str) -> None:
    assert limit.parse(text) == limits
    assert ", ".join(map(str, limits)) == shown
    assert limit.parse(shown) == limits


@pytest.mark.parametrize(
    "text",
    [
        *("30", "30 messages", "messages/1m", "30/1m", "30 mails/1m", "0 messages/1m", "-1 messages/1m"),
        *("30 messages/0", "30 messages/1w", "30 messages/367d", "30 messages/1m,", "1.5 messages/1m"),
        *("9999999999 messages/1m", "none, 30 messages/1m", "30 messages per minute"),
    ],
)
def test_what_is_no_quota_is_told_what_one_looks_like(text: str) -> None:
    with pytest.raises(ValueError, match="such as 30 messages/1m, 5000 recipients/1d"):
        limit.parse(text)


def test_a_quota_has_an_end() -> None:
    with pytest.raises(ValueError, match="more than 10 limits"):
        limit.parse(",".join(["1 message/1m"] * 11))


def test_of_two_limits_on_the_same_the_lower_one_counts() -> None:
    one, other = Named(Limit(30, "messages", 60), "A"), Named(Limit(20, "messages", 60), "B")
    more = Named(Limit(10, "messages", 61), "C"), Named(Limit(10, "recipients", 60), "D")
    assert strictest((one, other, *more)) == (other, *more)
    assert strictest((other, one)) == (other,)


@each(
    ("text", "shown"),
    [
        ("100/1h", "100/1h"),
        ("100 / 60m, 500/1d", "100/1h, 500/1d"),
        ("2 messages/90", "2/90s"),
        ("none", "none"),
        ("", "none"),
    ],
)
def test_limits_of_reports_name_no_unit(text: str, shown: str) -> None:
    assert limit.written(limit.parse_reports(text)) == shown


@each("text", ["many", "0/1h", "100", "100/1h/1d", "100 recipients/1h", "1/367d", "/1h", "100/"])
def test_what_is_no_limit_of_reports_is_told_what_it_must_be(text: str) -> None:
    with pytest.raises(ValueError, match="such as 100/1h"):
        limit.parse_reports(text)
