"""Targets: the bytes of a message, its header, its conversion to UTF-8, the DSN about it."""

import re
from email import message_from_bytes

from fuzz.octets import split, text
from smtp2cf.envelope import Envelope
from smtp2cf.message import dsn as reports
from smtp2cf.message.eightbit import is_utf8, to_utf8
from smtp2cf.message.header import drop_headers, parse_header, received_count, split_header
from smtp2cf.message.newlines import has_bare_newlines, normalize_newlines
from smtp2cf.reply import Reply

DROPPED = frozenset({"bcc", "return-path", "received"})


def header(octets: bytes) -> None:
    """Nothing is lost between header and body, fields follow one another, dropped fields are gone."""
    first, rest = split_header(octets)
    assert first + rest == octets
    found = parse_header(octets, 0, len(octets), most=1000)
    at = 0
    for field in found.fields:
        assert field.start == at
        assert field.start <= field.value <= field.end
        at = field.end
    assert at == found.end <= found.body <= len(octets)
    dropped = drop_headers(octets, DROPPED)
    assert received_count(dropped) == 0
    assert dropped == drop_headers(dropped, DROPPED)
    assert dropped.endswith(rest)
    assert len(dropped) <= len(octets)


def eightbit(octets: bytes) -> None:
    """UTF-8 comes out, once and for all, and no line end that wasn't one."""
    message = normalize_newlines(octets)
    assert not has_bare_newlines(message)
    assert normalize_newlines(message) is message
    converted = to_utf8(message)
    converted.decode()
    assert to_utf8(converted) is converted
    if is_utf8(message):
        assert converted is message
    assert not has_bare_newlines(converted)


def dsn(octets: bytes) -> None:
    """A report is a multipart of its parts, whatever was said by whom."""
    recipient, words, envid, orcpt, sender, message = split(octets, 6)
    who = text(recipient)
    about = Envelope(
        reverse_path=text(sender) or "a@example.com",
        forward_paths=(who,),
        envid=text(envid) or None,
        ret="FULL",
        orcpt={who: text(orcpt)},
        received_at=1e9,
    )
    report = reports.Report(who, reports.Event.FAILED, Reply(550, "5.1.1", text(words)))
    built = reports.build(
        about, message, [report], hostname="relay.example.com", sender="m@example.com", now=2e9
    )
    built.decode()
    assert not has_bare_newlines(built)
    parsed = message_from_bytes(built)
    names = [name.lower() for name in parsed]
    assert len(names) == len(set(names))
    assert set(names) <= _FIELDS
    # Cut by hand: `email` looks into what is in the parts, too.
    boundary = re.search(rb'boundary="([^"]+)"', built)
    assert boundary is not None
    parts = built.split(b"--" + boundary[1])
    assert len(parts) in (4, 5)
    assert parts[-1].startswith(b"--\r\n")
    blocks = parts[2].partition(b"\r\n\r\n")[2].rstrip(b"\r\n").split(b"\r\n\r\n")
    assert len(blocks) == 2
    assert blocks[1].count(b"\r\nAction: ") == 1
    assert b"\r\nAction: failed\r\n" in blocks[1]


_FIELDS = {
    *("from", "to", "subject", "date", "message-id", "in-reply-to", "references", "auto-submitted"),
    *("mime-version", "content-type", "content-transfer-encoding"),
}
