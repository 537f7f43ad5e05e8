"""Messages of clients that were handed values with CR and LF in them, and what they meant to send.

A client ends its lines one way; what is inside its values is somebody else's: a web form, a file name.
"""

import random
import re
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from email.policy import compat32

CRLF, CR_CR_LF, LF = b"\r\n", b"\r\r\n", b"\n"
FOREIGN = {CRLF: (b"\r", b"\n"), CR_CR_LF: (b"\r", b"\n"), LF: (b"\r",)}
"""By the line end of a client, what is none of it."""
_WORDS = (
    *(b"Bcc: v@victim.example", b"Content-Type: text/html", b"X-Evil: 1", b": x", b"From me", b" ", b"\t"),
    *(b"word", b'"', b";", b"(", b"--", b"--b0", b"--b0--", b"--b1", b"--b1--", b"--b2", b"\xc3\xbc", b"."),
)
_NAMES = (b"Subject", b"X-A", b"X-B", b"To", b"Comments", b"Content-Description", b"X")


@dataclass
class Part:
    """What a client means: the names of the fields, and the words of a text or the parts within."""

    names: list[str]
    words: list[bytes] = field(default_factory=list)
    parts: list["Part"] = field(default_factory=list)


class Client:
    """Writes messages by chance. line_end: its own; b"" for CRLF and CR CR LF by turns."""

    def __init__(self, chance: random.Random, line_end: bytes) -> None:
        self._chance = chance
        self._line_end = line_end
        self._boundaries = 0

    def message(self) -> tuple[bytes, Part]:
        """A message that has at least a From and a Message-ID before what is made up."""
        first = [(b"From", b" a@example.com"), (b"Message-ID", b" <1@example.com>")]
        return self._entity(first, depth=0)

    def _entity(self, first: list[tuple[bytes, bytes]], depth: int) -> tuple[bytes, Part]:
        chance = self._chance
        kind = chance.choice(("text", "multipart", "message", "status") if depth < 4 else ("text",))
        fields = [*first, *((chance.choice(_NAMES), self._value()) for _ in range(chance.randint(1, 4)))]
        match kind:
            case "multipart":
                declared, body, part = self._multipart(depth)
            case "message":
                declared = b"message/rfc822"
                inner, inner_part = self._entity([(b"From", b" b@example.com"), (b"X-In", b" 1")], depth + 1)
                body, part = inner, Part([], parts=[inner_part])
            case "status":
                declared = b"message/delivery-status"
                blocks = [self._fields([(b"Final-Recipient", b" x"), (b"Status", self._value())])] * 2
                body = self._end().join(blocks)
                part = Part([], parts=[Part(["Final-Recipient", "Status"])] * 2)
            case _:
                declared = b"text/plain"
                body, part = self._text()
        if declared != b"text/plain":
            value = b' %b; x="%b"' % (declared, self._value().replace(b'"', b"'"))
            fields.insert(chance.randint(min(len(first), 1), len(fields)), (b"Content-Type", value))
        part.names = [name.decode() for name, _ in fields]
        return self._fields(fields) + self._end() + body, part

    def _multipart(self, depth: int) -> tuple[bytes, bytes, Part]:
        boundary = b"b%d" % self._boundaries
        self._boundaries += 1
        body, part = b"preamble" + self._end(), Part([])
        for _ in range(self._chance.randint(1, 3)):
            content, inner = self._entity([(b"X-Part", b" 1")], depth + 1)
            body += b"--" + boundary + self._end() + content + self._end()
            part.parts.append(inner)
        return (
            b'multipart/mixed; boundary="%b"' % boundary,
            body + b"--" + boundary + b"--" + self._end(),
            part,
        )

    def _text(self) -> tuple[bytes, Part]:
        """A body with any newlines in it, but none before two dashes except a CR."""
        chance = self._chance
        text = b"text"
        for _ in range(chance.randint(0, 5)):
            text += chance.choice((b"\r", b"\n", b"\r\n", b"\r\r\n", b"\n\r", b" ", b"\r\r"))
            word = chance.choice(_WORDS)
            text += word if text.endswith((b"\r", b" ")) or not word.startswith(b"--") else b"x" + word
        text += b"."
        return text + self._end(), Part([], words=text.split())

    def _value(self) -> bytes:
        """Text for a field, with newlines that are not this client's anywhere in it."""
        chance = self._chance
        foreign = FOREIGN[self._line_end or CRLF]
        value = b" "
        for _ in range(chance.randint(0, 5)):
            # LFs before CRs, so that none of them together are a CRLF.
            some = sorted(chance.choice(foreign) for _ in range(chance.randint(0, 3)))
            value += b"".join(some) + chance.choice(_WORDS)
        return value + chance.choice((b"", b"", *foreign))

    def _fields(self, fields: list[tuple[bytes, bytes]]) -> bytes:
        return b"".join(name + b":" + value + self._end() for name, value in fields)

    def _end(self) -> bytes:
        return self._line_end or self._chance.choice((CRLF, CR_CR_LF))


def as_read(message: bytes) -> Part:
    """What Python's email finds in a message."""
    return _as_read(message_from_bytes(message, policy=compat32))


def _as_read(message: Message) -> Part:
    payload = message._payload  # as it was written: get_payload() decodes
    if isinstance(payload, list):
        return Part(message.keys(), parts=[_as_read(part) for part in payload])
    text = str(payload).encode("utf-8", "surrogateescape")
    return Part(message.keys(), words=re.sub(rb"[\r\n]", b" ", text).split())
