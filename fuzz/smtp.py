"""Targets: what SMTP's commands and DATA are read with, and replies are written with."""

import itertools
import re

from fuzz.octets import number, split, text
from smtp2cf.reply import UNPRINTABLE, WIRE_LINE_LIMIT, Reply
from smtp2cf.smtpd.data import DataReader
from smtp2cf.smtpd.parameters import MAIL_RULES, RCPT_RULES, parse_parameters
from smtp2cf.smtpd.path import ADDRESS_LIMIT, PathError, parse_path

_LINE = re.compile(rb"(\d{3})([ -])([245]\.\d+\.\d+) ([^\r\n]*)\r\n")


def path(octets: bytes) -> None:
    """An address is one, whatever was around it, and reading it again gives the same."""
    given = text(octets)
    read = _read_path(given)
    if isinstance(read, Reply):
        assert read.permanent
        _assert_wire(read)
        return
    address, rest = read
    assert rest == rest.strip()
    assert not UNPRINTABLE.search(address)
    address.encode()  # no surrogate, which JSON has no form for
    assert len(address) <= ADDRESS_LIMIT
    if address:
        local, _, domain = address.rpartition("@")
        assert local
        assert domain
        assert not re.search(r"[<>\s]", domain)
        assert re.fullmatch(r'"[^\r\n]*"|[^<>\s]+', local)
    assert parse_path(f"<{address}> {rest}") == (address, rest)


def _read_path(given: str) -> tuple[str, str] | Reply:
    try:
        return parse_path(given)
    except PathError as error:
        return error.reply


def parameters(octets: bytes) -> None:
    """What is taken fits its rule and nothing else got in."""
    given = text(octets)
    for rules in (MAIL_RULES, RCPT_RULES):
        found, refused = parse_parameters(given, rules)
        if refused is not None:
            assert refused.permanent
            assert not found
            _assert_wire(refused)
            continue
        for name, value in found.items():
            assert rules[name][0].fullmatch(value)
            assert not UNPRINTABLE.search(value)
            assert " " not in value
        again = " ".join(f"{name}={value}" if value else name for name, value in found.items())
        assert parse_parameters(again, rules) == (found, None)


def data(octets: bytes) -> None:
    """However the stream is cut, the reader says what the standard says of the whole of it."""
    sizes, limit_octets, wire = split(octets, 3)
    limit = number(limit_octets)
    end = (b"\r\n" + wire).find(b"\r\n.\r\n")
    reader = DataReader(limit)
    at = 0
    for size in itertools.cycle(sizes or b"\xff"):
        block = wire[at : at + max(1, size)]
        at += len(block)
        if reader.feed(block):
            break
        if not block:
            assert end < 0, "the end was missed"
            return
    assert end >= 0, "an end where there is none"
    message = reader.message()
    # Line by line as RFC 5321 §4.5.2 has it: a dot at the start goes.
    lines = (b"\r\n" + wire)[2 : end + 2].split(b"\r\n")
    unstuffed = b"\r\n".join(line[1:] if line[:1] == b"." else line for line in lines)
    assert reader.too_big == (len(unstuffed) > limit)
    assert message == (b"" if reader.too_big else unstuffed)
    assert reader.rest + wire[at:] == wire[end + 3 :]


def reply(octets: bytes) -> None:
    """No text, wherever it came from, leaves its line or makes one too long."""
    words = text(octets)
    for code, status in ((250, "2.0.0"), (421, "4.3.2"), (550, "5.7.1")):
        _assert_wire(Reply(code, status, words))


def _assert_wire(given: Reply) -> None:
    for utf8 in (False, True):
        wire = given.wire(utf8=utf8)
        lines = list(_LINE.finditer(wire))
        assert b"".join(line[0] for line in lines) == wire
        assert all(len(line[0]) <= WIRE_LINE_LIMIT for line in lines)
        assert {line[1] for line in lines} == {str(given.code).encode()}
        assert [line[2] for line in lines] == [b"-"] * (len(lines) - 1) + [b" "]
        for line in lines:
            assert not UNPRINTABLE.search(line[4].decode("utf-8" if utf8 else "ascii"))
