"""Finding: one thing that `smtp2cf check` has looked at, and what it found."""

from enum import StrEnum
from typing import NamedTuple


class Status(StrEnum):
    """How it is: `error` if mail can't come in or go out as it was meant."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(NamedTuple):
    """check: what was looked at, in a word. text: one line that says, if something is wrong, what to do."""

    check: str
    status: Status
    text: str


def ok(check: str, text: str) -> Finding:
    """It is as it should be."""
    return Finding(check, Status.OK, text)


def warning(check: str, text: str) -> Finding:
    """Somebody should look at it."""
    return Finding(check, Status.WARNING, text)


def error(check: str, text: str) -> Finding:
    """It has to be mended."""
    return Finding(check, Status.ERROR, text)
