"""The file beside an SQLite spool that says which transactions are under way, and which answers may be lost.

Every message is noted before its call and forgotten soon after it; in the database that would cost more than
all else that is done for it. What is written to a file outlives a killed process as well. It is not fsynced:
after a power failure, a client that got no answer may have its mail sent twice.

Lines: `+ digest until reply` and `- digest`, the digest in hexadecimal, until by the spool's clock, the reply
as the database has it. Behind them there are zeros. A file that is full of lines is written anew in place,
with what still counts, so a full disk does it no harm.

Knows nothing of mail.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from smtp2cf.spool.permissions import permissions
from smtp2cf.spool.protocol import MEMORY, SpoolError

LIMIT = 1 << 20
"""Octets of the file, unless a quarter of it is too little for what counts."""


class Noted(NamedTuple):
    """A transaction's answer in the database's text, "" while there is none, and until when it counts."""

    reply: str
    until: float


def line_of(digest: bytes, noted: Noted | None) -> bytes:
    """The line that notes something; None: that nothing is noted any more."""
    if noted is None:
        return b"- %b\n" % digest.hex().encode()
    return f"+ {digest.hex()} {noted.until!r} {noted.reply}\n".encode("utf-8", "surrogateescape")


class NotesFile:
    """The open file. all_lines: gives what counts, whenever the file is written anew.

    Raises SpoolError if it can't be opened.
    """

    def __init__(self, path: Path, all_lines: Callable[[], Iterable[bytes]]) -> None:
        self._path = path
        self._all_lines = all_lines
        self._limit = LIMIT
        self._whole = False
        """The file says what it should, in lines up to the end that is known."""
        try:
            self._file = self._open()
        except OSError as error:
            raise SpoolError(_cannot("open", path, error)) from error
        with contextlib.suppress(OSError):
            self._write_anew()

    def append(self, lines: bytes) -> None:
        """Note more, which `all_lines` gives already. Raises OSError: the next call writes everything."""
        if not self._whole or self._end + len(lines) > self._limit:
            self._write_anew()
        else:
            self._write(lines, self._end)
            self._end += len(lines)

    def look_after(self) -> None:
        """Make the file again if it was moved, deleted or replaced, and write what could not be written."""
        with contextlib.suppress(OSError):
            if not self._is_there():
                file = self._open()
                os.close(self._file)
                self._file, self._whole = file, False
            if not self._whole:
                self._write_anew()

    def clear(self) -> None:
        """Empty the file."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)
            self._end = LIMIT

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _open(self) -> int:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._end = max(os.fstat(file).st_size, LIMIT)
        return file

    def _is_there(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(self._path.stat(), os.fstat(self._file))
        return False

    def _write_anew(self) -> None:
        lines = b"".join(self._all_lines())
        self._write(lines.ljust(self._end, b"\0"), 0)
        self._end = len(lines)
        self._limit = max(LIMIT, 4 * len(lines))

    def _write(self, octets: bytes, at: int) -> None:
        self._whole = False
        if os.pwrite(self._file, octets, at) != len(octets):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        self._whole = True


def read_notes(path: Path, now: float) -> dict[bytes, Noted]:
    """What a file says that still counts at `now`. Raises SpoolError."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SpoolError(_cannot("read", path, error)) from error
    noted: dict[bytes, Noted] = {}
    for line in text.partition(b"\0")[0].split(b"\n")[:-1]:
        with contextlib.suppress(ValueError):
            _follow(line, noted)
    # The clock of a spool that was put back may be behind.
    return {digest: note for digest, note in noted.items() if now < note.until <= now + MEMORY}


def later(first: Mapping[bytes, Noted], second: Mapping[bytes, Noted]) -> dict[bytes, Noted]:
    """What two places say: of two notes about the same, the later one."""
    return {
        **first,
        **{key: note for key, note in second.items() if key not in first or first[key].until <= note.until},
    }


def _follow(line: bytes, noted: dict[bytes, Noted]) -> None:
    """Do what a line says. Raises ValueError for what is no line of ours."""
    sign, written, *rest = line.decode("utf-8", "surrogateescape").split(" ", 3)
    digest = bytes.fromhex(written)
    if sign == "-":
        noted.pop(digest, None)
    elif sign == "+":
        until, reply = rest
        noted[digest] = Noted(reply, float(until))


def _cannot(what: str, path: Path, error: OSError) -> str:
    return f"cannot {what} the spool's notes {path}: {error.strerror}{permissions(path)}"
