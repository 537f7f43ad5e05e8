"""Other protocols that knock on the SMTP port, by their first words. No I/O."""

from smtp2cf.reply import Reply
from smtp2cf.smtpd import replies

_HTTP_METHODS = frozenset(
    {b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"PATCH", b"TRACE", b"PRI"}
)
_TLS_HANDSHAKE = b"\x16\x03"
"""How the record starts that carries a ClientHello (RFC 8446 §5.1)."""


def foreign_protocol(line: bytes) -> Reply | None:
    """The goodbye to a client that speaks HTTP or TLS; None for what may be SMTP.

    line: what came in place of a command, with or without its end.
    """
    if line.startswith(_TLS_HANDSHAKE):
        return replies.TLS_CLIENT
    if line.partition(b" ")[0].upper() in _HTTP_METHODS:
        return replies.HTTP_CLIENT
    return None
