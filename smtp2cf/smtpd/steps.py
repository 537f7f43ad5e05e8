"""Steps: what a session can want done next. Plain values; the connection does it."""

import ssl
from collections.abc import Callable, Mapping
from typing import NamedTuple

from smtp2cf.envelope import Envelope
from smtp2cf.reply import Reply
from smtp2cf.smtpd import replies
from smtp2cf.smtpd.chunks import Chunks
from smtp2cf.smtpd.data import DataReader
from smtp2cf.smtpd.rules import Judging
from smtp2cf.smtpd.sasl import Credentials

Reader = DataReader | Chunks
"""Takes the octets of a message out of the stream."""


class Event(NamedTuple):
    """A line for the log: its name, and what it says besides the client.

    about_message: it is about a message, so it is written however many of them there are.
    """

    name: str
    fields: Mapping[str, object]
    about_message: bool = False


class Say(NamedTuple):
    """Send a reply. code: its code. event: what to log."""

    wire: bytes
    code: int
    event: Event | None = None


OK = Say(replies.RESET.wire(), replies.RESET.code)
SENDER_OK = Say(replies.SENDER_OK.wire(), replies.SENDER_OK.code)
RECIPIENT_OK = Say(replies.RECIPIENT_OK.wire(), replies.RECIPIENT_OK.code)


class Read(NamedTuple):
    """Read a message, or a chunk of one, from the octets that follow.

    most: how many of them may belong to it; None if only the reader knows. invitation: to be sent before.
    """

    reader: Reader
    most: int | None = None
    invitation: bytes = b""


class Relay(NamedTuple):
    """Have a message relayed, and send what `answers` makes of the verdict."""

    envelope: Envelope
    message: bytes


class CheckPassword(NamedTuple):
    """Have a password checked, and do what `password_checked` says."""

    credentials: Credentials


class Await(NamedTuple):
    """Await whether something is refused, and do what `then` makes of that."""

    judgement: Judging
    then: Callable[[Reply | None], Say]


class StartTls(NamedTuple):
    """Send the invitation and begin TLS."""

    context: ssl.SSLContext
    invitation: bytes


class Close(NamedTuple):
    """Say goodbye and hang up. event: what to log."""

    reply: Reply
    event: Event | None = None


Step = Say | Read | CheckPassword | Await | StartTls | Close
"""What has to be done next, after a command."""
