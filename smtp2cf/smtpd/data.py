"""DataReader: the message out of the stream that follows DATA (RFC 5321 §4.1.1.4, §4.5.2). No I/O.

Only <CR><LF>.<CR><LF> ends it: a bare CR or LF around a dot is content, which is what keeps two
servers from seeing different messages in the same bytes (SMTP smuggling). Lines may be of any
length; dot-stuffing is taken off, nothing else is touched.
"""

_END = b"\r\n.\r\n"


class DataReader:
    """Fed with blocks as they arrive, cut anywhere; done when the final dot has been seen.

    limit: octets a message may have, without dot-stuffing. A larger one is read to its end and
    dropped while it comes in, so that it costs no memory.
    """

    __slots__ = ("_blocks", "_limit", "_size", "_stuffed", "_tail", "rest", "too_big")

    def __init__(self, limit: int) -> None:
        self._blocks: list[bytes] = []
        self._limit = limit
        self._size = 0
        self._stuffed = False
        self._tail = b"\r\n"  # the end of the DATA line: a dot right behind it is an empty message
        self.too_big = False
        self.rest = b""
        """Octets behind the final dot: the commands a client pipelined."""

    def feed(self, block: bytes) -> bool:
        """Take the next octets; True when the final dot is among them."""
        tail = self._tail
        seam = (tail + block[:4]).find(_END)
        # A look for the dot alone is many times faster, and most of an attachment has none.
        found = block.find(_END) if seam < 0 and b"." in block else -1
        if seam < 0 and found < 0:
            self._keep(block)
            self._tail = block[-4:] if len(block) >= 4 else (tail + block)[-4:]
            return False
        end = seam + len(_END) - len(tail) if seam >= 0 else found + len(_END)
        self.rest = block[end:]
        self._keep(block[:end] if self.rest else block)
        return True

    def message(self) -> bytes:
        """The message, once done: octets without dot-stuffing and without the final dot.

        Empty where it is too big: see `too_big`.
        """
        blocks, self._blocks = self._blocks, []
        if self.too_big:
            return b""
        last = blocks.pop()
        if len(last) >= 3:
            blocks.append(last[:-3])
            message = b"".join(blocks)
        else:
            message = b"".join([*blocks, last])[:-3]
        del blocks, last
        if self._stuffed and b"\r\n." in message:
            message = message.replace(b"\r\n.", b"\r\n")
        message = message.removeprefix(b".")
        if len(message) > self._limit:
            self.too_big = True
            return b""
        return message

    def _keep(self, block: bytes) -> None:
        self._size += len(block)
        # Stuffing adds at most a third ("\r\n." of every line), the final dot three octets.
        if self._size > self._limit + self._limit // 3 + 3:
            self.too_big = True
            self._blocks.clear()
        elif not self.too_big:
            self._blocks.append(block)
            self._stuffed = self._stuffed or block.find(b".", 0, -3) >= 0
