"""Reply: what became of mail, in the words of SMTP. The one currency of the program.

A Reply is what goes on the wire (RFC 5321 §4.2), a recipient's outcome, the last answer a queue
shows, and the Status and Diagnostic-Code of a DSN. Every reply has an enhanced status code
(RFC 3463). SendError is the only exception that crosses rooms.

Knows nothing of sockets or of the relay, and of Cloudflare only what the named replies say.
"""

import enum
import re
from collections.abc import Sequence
from typing import NamedTuple

WIRE_LINE_LIMIT = 512
"""Octets of a reply line with its CRLF (RFC 5321 §4.5.3.1.5)."""

UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]+")
"""Control characters, what ends a line in some reader's eyes, what turns the direction of text around, and
surrogates, which no encoding takes."""


class Reply(NamedTuple):
    """An SMTP reply: three-digit code, enhanced status code, text for a person."""

    code: int
    status: str
    text: str

    @property
    def success(self) -> bool:
        """The recipient or the message was taken; nobody needs to try again."""
        return 200 <= self.code < 300

    @property
    def transient(self) -> bool:
        """Not now: trying again later may succeed."""
        return 400 <= self.code < 500

    @property
    def permanent(self) -> bool:
        """Never: trying again changes nothing."""
        return self.code >= 500

    @property
    def suppressed(self) -> bool:
        """The recipient is on Cloudflare's suppression list, whatever else is known of that."""
        return self.code >= 500 and self.text.startswith(SUPPRESSED.text)

    def __str__(self) -> str:
        return f"{self.code} {self.status} {self.text}"

    def wire(self, *, utf8: bool = False) -> bytes:
        """The reply as bytes with its CRLF; more than one line where the text is long.

        Control characters become spaces, so that no text, wherever it came from, can start a line
        of its own. Characters outside ASCII go out as UTF-8 to a client that asked for SMTPUTF8
        (RFC 6531 §3.7.4), as backslash escapes to any other.
        """
        text = self.text if self.text.isprintable() else UNPRINTABLE.sub(" ", self.text)
        encoded = text.encode() if utf8 else text.encode("ascii", "backslashreplace")
        room = WIRE_LINE_LIMIT - len(f"{self.code}-{self.status} \r\n")
        if len(encoded) <= room:
            return b"%d %b %b\r\n" % (self.code, self.status.encode(), encoded)
        pieces = _split(encoded, room)
        last = len(pieces) - 1
        return b"".join(
            b"%d%c%b %b\r\n" % (self.code, b" -"[number < last], self.status.encode(), piece)
            for number, piece in enumerate(pieces)
        )


def _split(text: bytes, room: int) -> list[bytes]:
    """Cut `text` into pieces of at most `room` octets, at spaces where there are any and never
    inside a UTF-8 character."""
    pieces = []
    while len(text) > room:
        cut = text.rfind(b" ", room // 2, room + 1)
        if cut < 0:
            cut = room
            while text[cut] & 0xC0 == 0x80:
                cut -= 1
        pieces.append(text[:cut])
        text = text[cut:].removeprefix(b" ")
    pieces.append(text)
    return pieces


DELIVERED = Reply(250, "2.0.0", "delivered")
QUEUED = Reply(250, "2.0.0", "queued by Cloudflare")
ACCEPTED = Reply(250, "2.0.0", "accepted by Cloudflare")
BOUNCED = Reply(550, "5.1.1", "the recipient's server refused it permanently (permanent bounce)")
SUPPRESSED = Reply(550, "5.7.1", "the recipient is on Cloudflare's suppression list (suppressed)")


def one_line(text: str, limit: int) -> str:
    """`text` as words on one line, at most `limit` characters, whatever it held."""
    return " ".join(UNPRINTABLE.sub(" ", text[: 2 * limit]).split())[:limit].rstrip()


def printable(text: str) -> str:
    """`text` with ? for each character that a terminal, a header field or a database may refuse."""
    return text if text.isprintable() else UNPRINTABLE.sub(lambda found: "?" * len(found[0]), text)


def first_few(items: Sequence[str], limit: int) -> list[str]:
    """The first `limit` items, and then "and 3 more" if there are 3 more."""
    more = len(items) - limit
    return [*items[:limit], f"and {more} more"] if more > 0 else list(items)


def few_in_words(items: Sequence[str], limit: int) -> str:
    """The same as text: "a, b and 3 more"."""
    named = ", ".join(items[:limit])
    return " ".join([named, *first_few(items, limit)[limit:]])


def rough_duration(seconds: float) -> str:
    """A duration for people, in the largest unit of which there are two: "40 seconds", "90 minutes"."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return "1 second" if round(seconds) == 1 else f"{seconds:.0f} seconds"


class RefusedError(Exception):
    """A request is refused: `reply` is its answer. Caught in the room that raised it."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.text)
        self.reply = reply


class Scope(enum.Enum):
    """What an error says something about: everybody's mail, that of the sender's domain, this message, or one
    recipient."""

    ACCOUNT = "account"
    SENDER = "sender"
    MESSAGE = "message"
    RECIPIENT = "recipient"


class SendError(Exception):
    """A call to the API that delivered nothing it could vouch for.

    reply: what it means in SMTP's words. scope: what it says something about. retry_after: seconds
    until it makes sense to try again, where the API said so. unanswered: the request went out and
    no answer came back, so the mail may have been sent: trying again may send it twice. invalid:
    Cloudflare calls the message invalid, and may take it repaired.
    """

    def __init__(
        self,
        reply: Reply,
        scope: Scope,
        retry_after: float | None = None,
        *,
        unanswered: bool = False,
        invalid: bool = False,
    ) -> None:
        super().__init__(str(reply))
        self.reply = reply
        self.scope = scope
        self.retry_after = retry_after
        self.unanswered = unanswered
        self.invalid = invalid
