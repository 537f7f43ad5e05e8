"""Groups: which recipients a call is made for to find out whom a refusal is about. Makes no calls."""

import re
from collections.abc import Sequence

_PLAIN = re.compile(r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
"""Addresses in a form that nobody refuses."""


def halves(part: Sequence[str]) -> list[Sequence[str]]:
    """Both halves; one if there is one recipient, none if there is none."""
    middle = (len(part) + 1) // 2
    return [half for half in (part[:middle], part[middle:]) if half]


def probes(recipients: Sequence[str], count: int) -> list[str]:
    """Whom to try on their own: plain addresses first, taken from all over the list."""
    plain = [who for who in recipients if _PLAIN.fullmatch(who)]
    odd = [who for who in recipients if not _PLAIN.fullmatch(who)]
    chosen = _evenly(plain, count)
    return chosen + _evenly(odd, count - len(chosen))


def _evenly(recipients: Sequence[str], count: int) -> list[str]:
    """`count` of them, spread from the first to the last; all of them if there are fewer."""
    if len(recipients) <= count:
        return list(recipients)
    return [recipients[number * (len(recipients) - 1) // max(1, count - 1)] for number in range(count)]
