"""The message's octets: line ends, the lone dot, dot-stuffing, and where they are held.

Works on blocks cut anywhere. Knows nothing of header fields.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import IO

BLOCK = 1 << 16
"""Octets read at once."""

IN_MEMORY = 1 << 19
"""Octets of a message held in memory; a longer one goes to a temporary file."""

LONGEST_FIELD_NAME = 998


class Message:
    """The message to send, with CRLF line ends: in memory, or in a temporary file if it is long."""

    def __init__(self) -> None:
        self.size = 0
        self.eight_bit = False
        self._blocks: list[bytes] = []
        self._file: IO[bytes] | None = None
        self._no_file = False

    def write(self, block: bytes) -> None:
        self.size += len(block)
        self.eight_bit = self.eight_bit or not block.isascii()
        if self._file is None and self.size > IN_MEMORY and not self._no_file:
            self._file = temporary_file()
            self._no_file = self._file is None
            if self._file is not None:
                self._file.writelines(self._blocks)
                self._blocks = []
        if self._file is None:
            self._blocks.append(block)
        else:
            self._file.write(block)

    def write_lines(self, blocks: Iterable[bytes]) -> None:
        """Write text with LF line ends. The last line gets one if it has none.

        A bare CR stays: the bridge decides, as for all mail, whether it ends a line or is in a header, where
        it would start a field.
        """
        last = b"\n"
        for block in blocks:
            last = block[-1:]
            self.write(block.replace(b"\n", b"\r\n"))
        if last != b"\n":
            self.write(b"\n" if last == b"\r" else b"\r\n")

    def blocks(self) -> Iterator[bytes]:
        if self._file is None:
            yield from self._blocks
            return
        self._file.seek(0)
        while True:
            block = self._file.read(BLOCK)
            if not block:
                return
            yield block

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def temporary_file() -> IO[bytes] | None:
    """A temporary file without a name, or None if this host has nowhere to write one."""
    import tempfile

    try:
        return tempfile.TemporaryFile()
    except OSError:
        return None


def blocks_of(descriptor: int) -> Iterator[bytes]:
    while True:
        block = os.read(descriptor, BLOCK)
        if not block:
            return
        yield block


def unix_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Turn CRLF into LF, even with several CRs before the LF. Other CRs stay."""
    waiting = b""
    for block in blocks:
        joined = waiting + block
        text = joined.rstrip(b"\r")
        waiting = joined[len(text) :]
        if len(waiting) > LONGEST_FIELD_NAME:
            text, waiting = joined, b""
        for _ in range(3):
            text = text.replace(b"\r\n", b"\n")
        if text:
            yield text
    if waiting:
        yield waiting


def until_lone_dot(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines before the first line that is a single dot."""
    waiting, at_line_start = b"", True
    for block in blocks:
        text = waiting + block
        waiting = b""
        if at_line_start and text.startswith(b".\n"):
            return
        end = text.find(b"\n.\n")
        if end >= 0:
            yield text[: end + 1]
            return
        if text.endswith(b"\n.") or (at_line_start and text == b"."):
            text, waiting = text[:-1], b"."
        if text:
            at_line_start = text.endswith(b"\n")
            yield text


def dot_stuffed(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Add dot-stuffing (RFC 5321 §4.5.2) to text with CRLF line ends."""
    at_line_start = True
    for block in blocks:
        text = block.replace(b"\n.", b"\n..")
        yield b"." + text if at_line_start and text.startswith(b".") else text
        at_line_start = text.endswith(b"\n")
