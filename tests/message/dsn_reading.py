"""DSNs to test with, and what a reader sees in one: Python's `email`, as an independent witness."""

import re
from email import message_from_bytes
from email.message import EmailMessage, Message
from email.policy import compat32, default

from smtp2cf.envelope import Envelope
from smtp2cf.message.dsn import Event, Report, build
from smtp2cf.reply import Reply
from tests.message.reading import POLICIES

RECEIVED = 1_795_000_000.0
NOW = RECEIVED + 5 * 86400
NO_SUCH_USER = Reply(550, "5.1.1", "no such user")
UNREACHABLE = Reply(451, "4.4.1", "connection refused")
OK = Reply(250, "2.1.5", "taken")
HEADER = (
    b"From: Anna <anna@example.org>\r\nTo: bert@example.net\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
    b" again\r\nMessage-ID: <1.2@example.org>\r\n"
)
MESSAGE = HEADER + b"\r\nHello Bert,\r\n\r\n.\r\n--\r\nAnna"

FIELDS_OF_A_DSN = {
    *("From", "To", "Subject", "Date", "Message-ID", "In-Reply-To", "References", "Auto-Submitted"),
    *("MIME-Version", "Content-Type", "Content-Transfer-Encoding"),
}
FIELDS_OF_A_MESSAGE = {"Reporting-MTA", "Original-Envelope-Id", "X-Smtp2cf-Queue-ID", "Arrival-Date"}
FIELDS_OF_A_RECIPIENT = {
    *("Original-Recipient", "Final-Recipient", "Action", "Status", "Diagnostic-Code", "Last-Attempt-Date"),
    "Will-Retry-Until",
}


def envelope(reverse_path: str = "anna@example.org", **fields: object) -> Envelope:
    return Envelope(
        reverse_path=reverse_path, forward_paths=("bert@example.net",), received_at=RECEIVED, **fields
    )


def failed(recipient: str = "bert@example.net", reply: Reply = NO_SUCH_USER) -> Report:
    return Report(recipient, Event.FAILED, reply)


def dsn(*reports: Report, about: Envelope | None = None, message: bytes = MESSAGE) -> bytes:
    return build(
        about or envelope(),
        message,
        reports or [failed()],
        hostname="relay.example.com",
        sender="mailer-daemon@example.com",
        now=NOW,
    )


def read(report: bytes) -> EmailMessage:
    return message_from_bytes(report, policy=default)


def opaque_parts(report: bytes) -> list[Message]:
    """The parts with their bytes as they are: `email` parses what is a message/… within another."""
    delimiter = b"--" + (read(report).get_boundary() or "").encode()
    start = delimiter + b"\r\nContent-Type: "
    hidden = report.replace(start + b"message/", start + b"application/")
    parts = message_from_bytes(hidden, policy=compat32).get_payload()
    assert isinstance(parts, list)
    return parts


def text(report: bytes) -> str:
    """What people read, unwrapped."""
    return " ".join(opaque_parts(report)[0].get_payload(decode=True).decode().split())


def blocks(report: bytes) -> list[EmailMessage]:
    """The fields of the message, then those of each recipient."""
    status = opaque_parts(report)[1].get_payload(decode=True)
    return [message_from_bytes(block + b"\r\n", policy=default) for block in status.split(b"\r\n\r\n")]


def returned(report: bytes) -> tuple[str, bytes]:
    """The third part's type, as a reader sees it, and its bytes, decoded."""
    parts = list(read(report).iter_parts())
    return parts[2].get_content_type(), opaque_parts(report)[2].get_payload(decode=True)


def assert_sound(report: bytes) -> None:
    """CRLF, UTF-8, and no field or part that has no business there."""
    assert report.decode()
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", report)
    for policy in POLICIES:
        parsed = message_from_bytes(report, policy=policy)
        assert set(parsed.keys()) <= FIELDS_OF_A_DSN
        assert len(parsed.keys()) == len(set(parsed.keys()))
        assert not parsed.defects
        assert parsed.get_content_type() == "multipart/report"
        assert 2 <= len(parsed.get_payload()) <= 3
    about_message, *recipients = blocks(report)
    assert set(about_message.keys()) <= FIELDS_OF_A_MESSAGE
    for recipient in recipients:
        assert set(recipient.keys()) <= FIELDS_OF_A_RECIPIENT
        assert len(recipient.keys()) == len(set(recipient.keys()))
        assert not recipient.get_payload()
