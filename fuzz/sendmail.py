"""Targets: what sendmail reads from its caller: addresses, the message with its header."""

import re

from fuzz.octets import split, text
from smtp2cf.message.newlines import has_bare_newlines, normalize_newlines
from smtp2cf.sendmail.addresses import parse_addresses, parse_argument
from smtp2cf.sendmail.exit_codes import Failure
from smtp2cf.sendmail.header import Input, is_field, read_header
from smtp2cf.sendmail.message import Message, dot_stuffed, unix_lines, until_lone_dot


def addresses(octets: bytes) -> None:
    """Mailboxes hold no line end and no control character that could get into a command of SMTP."""
    for parse in (parse_addresses, parse_argument):
        try:
            found = parse(text(octets))
        except Failure:
            continue
        for mailbox in found:
            assert mailbox.address is None or mailbox.address.isprintable()


def message(octets: bytes) -> None:
    """However the input is cut, the message is lines with CRLF, in which a CR may be left for the bridge;
    no dot ends it before its end, and its header is fields without a CR."""
    size, body = split(octets, 2)
    step = size[0] or 1 if size else 7
    blocks = [body[at : at + step] for at in range(0, len(body), step)]
    made = _made(blocks)
    assert made == _made([body])
    assert not re.search(rb"(?<!\r)\n", made)
    assert not has_bare_newlines(normalize_newlines(made))
    assert not made or made.endswith(b"\r\n")
    stuffed = b"".join(dot_stuffed([made[at : at + step] for at in range(0, len(made), step)]))
    assert b"\r\n.\r\n" not in b"\r\n" + stuffed
    assert (b"\n" + stuffed).replace(b"\n..", b"\n.")[1:] == made
    dotted = b"".join(until_lone_dot(unix_lines(blocks)))
    assert b"\n.\n" not in b"\n" + dotted
    fields = read_header(Input(unix_lines(blocks)))
    assert not any(b"\r" in field for field in fields)
    assert all(is_field(field.split(b"\n")[0] + b"\n") for field in fields)
    assert all(line[:1] in (b" ", b"\t") for field in fields for line in field.split(b"\n")[1:] if line)


def _made(blocks: list[bytes]) -> bytes:
    made = Message()
    try:
        made.write_lines(unix_lines(blocks))
        return b"".join(made.blocks())
    finally:
        made.close()
