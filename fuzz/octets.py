"""Octets: what a fuzzer's bytes are cut into where a target takes more than one thing."""

SEPARATOR = b"\x1e"
"""Between two parts of an input: a control character that no grammar here has."""


def split(octets: bytes, parts: int) -> list[bytes]:
    """So many parts; the missing ones are empty, the last has the rest."""
    found = octets.split(SEPARATOR, parts - 1)
    return found + [b""] * (parts - len(found))


def text(octets: bytes) -> str:
    """As it comes off the wire: what is not UTF-8 is kept in surrogates (PEP 383)."""
    return octets.decode("utf-8", "surrogateescape")


def number(octets: bytes) -> int:
    """A number from 0, of as many octets as there are, up to two."""
    return int.from_bytes(octets[:2], "big")
