"""Input: what a client has sent and nobody has acted on yet, cut into lines. No I/O."""

LONGEST_LINE = 12288
"""Octets of the longest line there is: AUTH, and a response to it, with their CRLF (RFC 4954 §4)."""
CUT_OFF_AT = 65536
"""Octets that have been acted on before they are cut off: to do that copies the rest."""


class Input:
    """What has come, in order. The beginning of a line that is too long is not kept."""

    __slots__ = ("_position", "octets", "overlong")

    def __init__(self) -> None:
        self.octets = b""
        """What has come, and perhaps lines before it that were taken already. Empty if nothing is left."""
        self._position = 0
        self.overlong = False
        """The beginning of the next line is missing. Whoever takes the line resets this."""

    def __len__(self) -> int:
        return len(self.octets) - self._position

    def add(self, octets: bytes) -> None:
        """More has come."""
        self.octets = self.octets[self._position :] + octets if self.octets else octets
        self._position = 0

    def line(self) -> bytes | None:
        """The next line with its end; None if none is complete."""
        start = self._position
        end = self.octets.find(b"\n", start) + 1
        if not end:
            self.octets, self._position = self.octets[start:], 0
            return None
        line = self.octets[start:end]
        if end == len(self.octets) or end >= CUT_OFF_AT:
            self.octets, self._position = self.octets[end:], 0
        else:
            self._position = end
        return line

    def take(self, most: int | None = None) -> bytes:
        """The next octets, whatever they are; all of them, or `most`."""
        end = len(self.octets) if most is None else min(len(self.octets), self._position + most)
        taken = self.octets[self._position : end]
        self.octets, self._position = self.octets[end:], 0
        return taken

    def peek(self, most: int) -> bytes:
        """The next octets, which stay."""
        return self.octets[self._position : self._position + most]

    def unfinished(self) -> bytes:
        """The beginning of a line that is not complete: enough of it to see that it is too long."""
        if self.overlong:
            return b""
        return self.peek(LONGEST_LINE + 1)

    def shorten(self) -> None:
        """Keep no more of an incomplete line than is needed to find its end."""
        if self.overlong or len(self) > LONGEST_LINE:
            self.overlong = True
            self.octets, self._position = self.octets[-1:], 0

    def clear(self) -> None:
        """Forget all of it."""
        self.octets, self._position = b"", 0
