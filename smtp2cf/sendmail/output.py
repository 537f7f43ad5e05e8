"""Standard output and standard error: unbuffered, and without control characters."""

from __future__ import annotations

import os
import sys

NAMED_ON_STDERR = 20
"""Recipients, or replies, that are named; the rest is counted."""


def complain(text: str) -> None:
    """Write one line to standard error, after this program's name."""
    write_stderr(f"{program_name()}: {printable(text)}\n")


def printable(text: str) -> str:
    """The text on one line, with a space for each control character."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def one_line(text: str) -> str:
    """The text for a header field: on one line, at most 200 characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]


def write_stderr(text: str) -> None:
    try:
        os.write(2, text.encode("utf-8", "backslashreplace"))
    except OSError:
        return  # closed: the exit code still tells


def write_stdout(text: str) -> None:
    octets = text.encode("utf-8", "backslashreplace")
    while octets:
        octets = octets[os.write(1, octets) :]


def program_name() -> str:
    return os.path.basename(sys.argv[0]) or "sendmail"
