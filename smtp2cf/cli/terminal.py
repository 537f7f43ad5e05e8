"""Terminal: how every command speaks to the person who typed it. One line for an error, a password unseen.

Knows no settings and no command.
"""

import getpass
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from smtp2cf.listen.endpoint import Endpoint

LINE_LIMIT = 4096
"""Octets of a line of standard input that is a password."""
_ERRNO = re.compile(r"\[Errno -?[0-9]+\] ")
"""What Python puts in front of the system's words."""


def fail(text: str | Sequence[str], status: int) -> NoReturn:
    """Say what is wrong, on one line of standard error each, and end with a status of sysexits.h."""
    for line in (text,) if isinstance(text, str) else text:
        typer.echo(f"smtp2cf: {one_line(line)}", err=True)
    sys.exit(status)


def endpoint_of(text: str, option: str = "") -> Endpoint:
    """Where an option says to listen or connect; ends the command if that is no endpoint."""
    try:
        return Endpoint.parse(text)
    except ValueError as error:
        fail(f"{option}: {error}" if option else str(error), os.EX_USAGE)


def one_line(text: str) -> str:
    """What an error of a library or of the system says, on one line that writes nothing on a terminal."""
    return printable(" ".join(_ERRNO.sub("", text).split()))


def printable(text: str) -> str:
    """No address, name or answer writes on the operator's terminal."""
    return text if text.isprintable() else text.encode("unicode_escape", "backslashreplace").decode("ascii")


def read_password(name: str, *, from_stdin: bool = False, twice: bool = False) -> str:
    """A password, typed on a terminal; else a line of standard input. Raises ValueError.

    name: whose. from_stdin: not from the terminal even where there is one. twice: typed a second time.
    """
    if from_stdin or not sys.stdin.isatty():
        return password_line(sys.stdin.buffer.readline(LINE_LIMIT))
    try:
        password = getpass.getpass(f"Password for {printable(name)}: ")
        if twice and password != getpass.getpass("Repeat it: "):
            raise ValueError("the two passwords differ")
    except EOFError:
        raise ValueError("no password was given") from None
    return password


def password_line(line: bytes) -> str:
    """The password on a line, as an editor or `echo` ends it. Raises ValueError."""
    try:
        return line.partition(b"\n")[0].removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        raise ValueError("the password is not UTF-8") from None
