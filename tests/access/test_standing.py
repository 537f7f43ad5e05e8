"""Standing: who has used most of a quota, from the counts that are kept."""

from smtp2cf.access import limit
from smtp2cf.access.limit import Named
from smtp2cf.access.quotas import Ruling, ruling
from smtp2cf.access.standing import nearly_used_up
from smtp2cf.access.usage import Usage

NOW = 1e9


def used(number: int, seconds: int, ago: float = 0.0) -> str:
    usage = Usage()
    for _ in range(number):
        usage.add(NOW - ago, seconds)
    return usage.text()


def limits(text: str, setting: str, scope: str = "") -> Ruling:
    return ruling(*(Named(one, setting) for one in limit.parse(text)), scope=scope)


def test_those_that_have_used_four_fifths_of_a_limit_are_named_the_fullest_first() -> None:
    counts = {
        "client//messages/60/192.0.2.1": used(8, 60),
        "client//messages/60/192.0.2.2": used(7, 60),
        "client//messages/60/192.0.2.3": used(10, 60, ago=62),
        "client//messages/60/2001:db8::/64": used(10, 60),
        "client//messages/3600/192.0.2.1": used(100, 3600),
        "client/printers/messages/60/192.0.2.1": used(2, 60),
        "user//recipients/86400/anna/b": used(9, 86400),
        "user//recipients/86400/bert": used(10, 86400),
        "sender//messages/60/<>": used(100, 60),
        "nonsense": "x",
        "": "",
    }
    rulings = [
        ("client", limits("10 messages/1m", "C")),
        ("client", limits("2 messages/1m", "P", "printers")),
        ("user", limits("10 recipients/1d", "U")),
    ]
    own = {"bert": limits("12 recipients/1d", "file").limits}
    shown = [str(one).partition(", full")[0] for one in nearly_used_up(counts, NOW, rulings, own.get)]
    assert shown == [
        "2001:db8::/64: 10 of 10 messages/1m (C)",
        "192.0.2.1: 2 of 2 messages/1m (P)",
        "anna/b: 9 of 10 recipients/1d (U)",
        "bert: 10 of 12 recipients/1d (file)",
        "192.0.2.1: 8 of 10 messages/1m (C)",
    ]
    full, *_, scarce = nearly_used_up(counts, NOW, rulings)
    assert 60 <= full.ends_in <= 61
    assert scarce.ends_in == 0.0
