"""Units: how people write durations and sizes, in settings and on the command line; one reader each.

A duration is 90s, 15m, 36h or 5d, or several of them, 1h30m; a number alone is seconds. A size is 25MiB,
or a number of bytes.
"""

import re

from pydantic import ByteSize, TypeAdapter, ValidationError

DURATION = "a duration such as 90s, 15m, 36h or 5d"
SIZE = "a size such as 25MiB"

_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,15})?"
_ONE = re.compile(rf"({_NUMBER})\s*([dhms])\s*")
_DURATION = re.compile(rf"(?:{_ONE.pattern})+|{_NUMBER}")
_BYTES: TypeAdapter[ByteSize] = TypeAdapter(ByteSize)


def seconds(text: str) -> float:
    """A duration in seconds. Raises ValueError with what it may be."""
    text = text.strip().lower()
    if not _DURATION.fullmatch(text):
        raise ValueError(f"it must be {DURATION}")
    if text[-1] not in _SECONDS:
        return float(text)
    return sum(float(number) * _SECONDS[unit] for number, unit in _ONE.findall(text))


def octets(text: str) -> int:
    """A size in bytes. Raises ValueError with what it may be."""
    # pydantic's reader takes bits too, and 5Mbit for a size is a mistake.
    if "bit" not in text.lower():
        try:
            return int(_BYTES.validate_python(text.strip()))
        except ValidationError:
            pass
    raise ValueError(f"it must be {SIZE}, or a number of bytes")


def as_duration(amount: float) -> str:
    """Seconds, as `seconds` reads them: in the largest unit that makes a whole number of them."""
    for unit, length in _SECONDS.items():
        if amount >= length and amount % length == 0:
            return f"{amount / length:.15g}{unit}"
    return f"{amount:.15g}s" if amount else "0"


def as_size(amount: int) -> str:
    """Bytes, as `octets` reads them."""
    for unit, length in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if amount >= length and amount % length == 0:
            return f"{amount // length}{unit}"
    return str(amount)
