"""Transfer encodings: a body as ASCII that decodes to exactly the same bytes (RFC 2045 §6.7, §6.8).

Knows nothing of headers and of where a body stands.
"""

import binascii
import re

from smtp2cf.message.newlines import has_bare_newlines

_BASE64_LINE = 76
_SHORT = 16384
_RAW = bytes(range(0x80, 0x100))
_QUOTED_RAW = {octet: chr(octet) if octet < 0x80 else f"={octet:02X}" for octet in range(256)}
# A "=" that quotes nothing today must not come to quote what a raw byte behind it becomes.
_STRAY_EQUALS_SIGN = re.compile(rb"=(?=[0-9A-Fa-f]?[\x80-\xff])")


def suits_quoted_printable(body: bytes) -> bool:
    """It is short, or at most a sixth of it is 8-bit, where quoted-printable is not longer than base64.

    Long text in Cyrillic or Japanese would grow to three times its size, and past Cloudflare's limit.
    """
    return len(body) <= _SHORT or (len(body) - len(body.translate(None, _RAW))) * 6 <= len(body)


def quoted_printable(body: bytes) -> bytes:
    """The body as quoted-printable. A CRLF is a line break; a bare CR or LF is quoted, as to a decoder
    a line break is a CRLF."""
    if has_bare_newlines(body):
        return b"\r\n".join([_without_line_breaks(line) for line in body.split(b"\r\n")])
    if b"\n" not in body:
        return _without_line_breaks(body)
    return binascii.b2a_qp(body)


def quoted_printable_raw(body: bytes) -> bytes:
    """A body that is already quoted-printable, with its raw 8-bit bytes quoted; no more lines are broken."""
    return _STRAY_EQUALS_SIGN.sub(b"=3D", body).decode("latin-1").translate(_QUOTED_RAW).encode("ascii")


def base64(body: bytes) -> bytes:
    """The body as base64 in lines; it ends with a line end if the body does."""
    encoded = binascii.b2a_base64(body, newline=False)
    lines = [encoded[start : start + _BASE64_LINE] for start in range(0, len(encoded), _BASE64_LINE)]
    if body.endswith(b"\n"):
        lines.append(b"")
    return b"\r\n".join(lines)


def base64_raw(body: bytes) -> bytes:
    """A body that is base64 already, without the raw 8-bit bytes that a decoder skips (RFC 2045 §6.8)."""
    return body.translate(None, _RAW)


def _without_line_breaks(text: bytes) -> bytes:
    # binascii writes soft line breaks as LF where it has seen no CRLF; every other "=" has two digits behind.
    return binascii.b2a_qp(text, istext=False).replace(b"=\n", b"=\r\n")
