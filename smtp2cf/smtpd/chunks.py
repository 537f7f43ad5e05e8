"""Chunks: a message that comes by BDAT, in pieces whose sizes are said before they come (RFC 3030). No I/O.

Nothing in a chunk means anything: no dot ends it, no line end is looked for. A chunk is read to its end
even where it is refused, so that nothing in it can be taken for a command.
"""

import re

from smtp2cf.reply import Reply

_ARGUMENT = re.compile(r"(\d{1,18})(?:\s+(LAST))?", re.IGNORECASE)


def parse_bdat(argument: str) -> tuple[int, bool] | None:
    """The size of a chunk in octets and whether it is the last; None where this is no BDAT."""
    match = _ARGUMENT.fullmatch(argument) if argument.isascii() else None
    return (int(match[1]), match[2] is not None) if match is not None else None


class Chunks:
    """The chunks of one transaction. `begin` one, `feed` it until it is whole, then begin the next.

    limit: octets a message may have. A larger one is read and dropped, so that it costs no memory.
    """

    __slots__ = (
        "_limit",
        "_octets",
        "_total",
        "dropped",
        "last",
        "missing",
        "refusal",
        "rest",
        "size",
        "too_big",
    )

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._octets = bytearray()
        self._total = 0
        self.missing = 0
        """Octets of the chunk that have not come yet."""
        self.size = 0
        """Octets of the chunk under way."""
        self.last = False
        """It is the last."""
        self.refusal: Reply | None = None
        """Why it is not taken."""
        self.too_big = False
        self.dropped = False
        """Nothing is kept of them, though they may be small enough."""
        self.rest = b""
        """Octets behind the chunk: the commands a client pipelined."""

    def begin(self, size: int, *, last: bool, refusal: Reply | None = None) -> None:
        """A chunk of `size` octets comes; what is refused is read and dropped."""
        self.size = self.missing = size
        self.last = last
        self.refusal = refusal
        self._total += size
        if self._total > self._limit:
            self.too_big = True
            self._octets = bytearray()

    @property
    def received(self) -> int:
        """Octets of the chunk under way that have come."""
        return self.size - self.missing

    @property
    def held(self) -> int:
        """Octets that are in memory."""
        return len(self._octets)

    def drop(self) -> None:
        """Keep nothing of the message: what comes is read to its end."""
        self.dropped = True
        self._octets = bytearray()

    def feed(self, block: bytes) -> bool:
        """Take the next octets; True when the chunk is whole."""
        self.rest = b""
        if len(block) > self.missing:
            block, self.rest = block[: self.missing], block[self.missing :]
        self.missing -= len(block)
        if not self.too_big and not self.dropped and self.refusal is None:
            self._octets += block
        return self.missing == 0

    def message(self) -> bytes:
        """All chunks joined, once the last is whole; empty where they are too big or were dropped."""
        octets, self._octets = self._octets, bytearray()
        return bytes(octets)
