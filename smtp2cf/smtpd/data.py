"""DataReader: the message out of the stream that follows DATA (RFC 5321 §4.1.1.4, §4.5.2). No I/O.

Only <CR><LF>.<CR><LF> ends it: a bare CR or LF around a dot is content, which is what keeps two
servers from seeing different messages in the same bytes (SMTP smuggling). Lines may be of any
length; dot-stuffing is taken off, nothing else is touched.
"""

import re

_END = b"\r\n.\r\n"
# re finds a few octets in half the time that find() and replace() take to look for them.
_END_IN = re.compile(rb"\r\n\.\r\n")
_STUFFED_IN = re.compile(rb"\r\n\.")
_FINAL_DOT = b".\r\n"
_CROWD = 256
"""Blocks that are joined into one, so that a message that comes byte by byte costs what it weighs."""


class DataReader:
    """Fed with blocks as they arrive, cut anywhere; done when the final dot has been seen.

    limit: octets a message may have, without dot-stuffing. A larger one is read to its end and
    dropped while it comes in, so that it costs no memory.
    """

    __slots__ = (
        "_blocks",
        "_joined",
        "_limit",
        "_stuffed",
        "_tail",
        "dropped",
        "held",
        "received",
        "rest",
        "too_big",
    )

    def __init__(self, limit: int) -> None:
        self._blocks: list[bytes] = []
        self._joined = 0
        self._limit = limit
        self._stuffed = False
        self.received = 0
        """Octets so far, with dot-stuffing."""
        self.held = 0
        """Octets that are in memory."""
        self._tail = b"\r\n"  # the end of the DATA line: a dot right behind it is an empty message
        self.too_big = False
        self.dropped = False
        """Nothing is kept of it, though it may be small enough."""
        self.rest = b""
        """Octets behind the final dot: the commands a client pipelined."""

    def feed(self, block: bytes) -> bool:
        """Take the next octets; True when the final dot is among them."""
        tail = self._tail
        # A look for the dot alone is many times faster, and most of an attachment has none.
        dotted = b"." in block
        seam = (tail + block[:4]).find(_END)
        found = _END_IN.search(block) if dotted and seam < 0 else None
        done = seam >= 0 or found is not None
        if done:
            end = found.end() if found is not None else seam + len(_END) - len(tail)
            self.rest = block[end:]
            block = block[:end]
            dotted = block.find(b".", 0, -len(_FINAL_DOT)) >= 0
        else:
            self._tail = block[-4:] if len(block) >= 4 else (tail + block)[-4:]
        self.received += len(block)
        # Stuffing adds at most a third ("." on every line), the final dot three octets.
        if self.received > self._limit + self._limit // 3 + len(_FINAL_DOT):
            self.too_big = True
            self._forget()
        elif not self.dropped:
            self._stuffed = self._stuffed or dotted
            self.held += len(block)
            blocks = self._blocks
            blocks.append(block)
            if len(blocks) - self._joined > _CROWD:
                blocks[self._joined :] = [b"".join(blocks[self._joined :])]
                self._joined += 1
        return done

    def drop(self) -> None:
        """Keep nothing of it: what comes is read to its end."""
        self.dropped = True
        self._forget()

    def message(self) -> bytes:
        """The message, once done: octets without dot-stuffing and without the final dot.

        Empty where it is too big or was dropped.
        """
        blocks, self._blocks = self._blocks, []
        if self.too_big or self.dropped:
            return b""
        last = blocks.pop()
        if len(last) >= len(_FINAL_DOT):
            blocks.append(last[: -len(_FINAL_DOT)])
            message = b"".join(blocks)
        else:
            message = b"".join([*blocks, last])[: -len(_FINAL_DOT)]
        del blocks, last
        if self._stuffed:
            if _STUFFED_IN.search(message):
                message = message.replace(b"\r\n.", b"\r\n")
            message = message.removeprefix(b".")
        if len(message) > self._limit:
            self.too_big = True
            return b""
        return message

    def _forget(self) -> None:
        self._blocks.clear()
        self.held = 0
