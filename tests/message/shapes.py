"""Multiparts that make careless readers look at the same lines again and again, in any size."""

from collections.abc import Callable

TAIL = b"\r\n\r\n\xe9\r x\r\n"
"""Something to convert and to clean, at the very end."""


def _opened(boundaries: list[bytes]) -> bytes:
    """A multipart in a multipart in a multipart."""
    return b"From: a@example.com\r\n" + b"".join(
        b"Content-Type: multipart/mixed; boundary=%b\r\n\r\n--%b\r\n" % (name, name) for name in boundaries
    )


def _prefixes(size: int) -> bytes:
    """99 boundaries, each the beginning of the next, and lines that begin with all of them."""
    boundaries = [b"b" * length for length in range(1, 100)]
    line = b"--" + b"b" * 120 + b"\r\n"
    return _opened(boundaries) + b"\r\n" + line * (size // len(line)) + TAIL


def _deep(size: int) -> bytes:
    """As many multiparts within one another as fit, each with a boundary of its own."""
    return _opened([b"b%d" % number for number in range(size // 60)]) + TAIL


def _closed(size: int) -> bytes:
    """The same, and all of them end again."""
    names = [b"b%d" % number for number in range(size // 80)]
    return _opened(names) + TAIL + b"".join(b"\r\n--%b--\r\n" % name for name in reversed(names)) + TAIL


def _same(size: int) -> bytes:
    """Multiparts within one another that all have the same boundary."""
    return _opened([b"b"] * (size // 60)) + TAIL


def _wide(size: int) -> bytes:
    """Parts beside one another, each a multipart with a boundary of its own that never comes."""
    parts = (
        b"--b\r\nContent-Type: multipart/x; boundary=c%d\r\n\r\n\xe9\r\n--c\r\n" % number
        for number in range(size // 65)
    )
    return _opened([b"b"]) + b"".join(parts) + TAIL


def _messages(size: int) -> bytes:
    """Messages within messages."""
    field = b"Content-Type: message/rfc822\r\n\r\n"
    return b"From: a@example.com\r\n" + field * (size // len(field)) + TAIL


def _headers(size: int) -> bytes:
    """Parts that are headers without an end."""
    part = b"--b\r\nX: \xe9\rx\r\n"
    return _opened([b"b"]) + part * (size // len(part)) + TAIL


def _colons(size: int) -> bytes:
    """Delimiters that look like fields, and fields that look like delimiters."""
    part = b"--b:\r\n--b: \xe9\r\n--b:c\r\n\r\n"
    return _opened([b'"b:"', b'"b:c"', b'"b"']) + part * (size // len(part)) + TAIL


SHAPES: dict[str, Callable[[int], bytes]] = {
    "boundaries that are prefixes of one another": _prefixes,
    "multiparts in multiparts": _deep,
    "the same, closed": _closed,
    "with one boundary for all": _same,
    "multiparts beside multiparts": _wide,
    "messages in messages": _messages,
    "headers without an end": _headers,
    "fields like delimiters": _colons,
}
"""By name, of about so many octets."""
