"""Sample: a message and what a reader should find in it once it is UTF-8."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sample:
    """headers: the decoded text of fields, by name. names: display names in From, To and Cc, in order.
    filenames: those of the parts, in order. text: the first leaf's. salvaged: bytes outside any
    leaf's encoding had to be guessed, so that leaves may differ.
    """

    name: str
    message: bytes
    headers: dict[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    filenames: tuple[str, ...] = ()
    text: str | None = None
    salvaged: bool = False

    def __str__(self) -> str:
        return self.name


def lines(*content: str | bytes, charset: str = "ascii") -> bytes:
    """The lines as bytes, each with its CRLF."""
    return b"".join((line if isinstance(line, bytes) else line.encode(charset)) + b"\r\n" for line in content)


HEADER = (
    "Date: Mon, 02 Nov 2026 10:00:00 +0100",
    "Message-ID: <sample@example.com>",
    "MIME-Version: 1.0",
)
"""Fields that most messages have."""

ADDRESSED = ("From: Anna <anna@example.com>", "To: bert@example.net", "Subject: A sample", *HEADER)
"""The same with sender, recipient and subject."""
