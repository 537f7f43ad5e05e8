"""What sendmail writes to standard output and standard error: no control characters, no buffers."""

from __future__ import annotations

import os
import sys

NAMED_ON_STDERR = 20


def complain(text: str) -> None:
    """Write one line to standard error, in this program's name and without control characters."""
    write_stderr(f"{program_name()}: {printable(text)}\n")


def printable(text: str) -> str:
    """The text on one line, with nothing in it that a terminal or a protocol would obey."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def one_line(text: str) -> str:
    """The text without anything that could end the header field it goes into."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]


def write_stderr(text: str) -> None:
    try:
        os.write(2, text.encode("utf-8", "backslashreplace"))
    except OSError:
        return  # a closed standard error says nothing about the mail: the exit code still counts


def write_stdout(text: str) -> None:
    octets = text.encode("utf-8", "backslashreplace")
    while octets:
        octets = octets[os.write(1, octets) :]


def program_name() -> str:
    return os.path.basename(sys.argv[0]) or "sendmail"
