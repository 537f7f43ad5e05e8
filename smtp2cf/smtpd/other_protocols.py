"""Other protocols that are spoken to the SMTP port by mistake, recognised by their first words. No I/O."""

from smtp2cf.reply import Reply
from smtp2cf.smtpd import replies

_HTTP_METHODS = frozenset(
    {b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"PATCH", b"TRACE", b"PRI"}
)
PROXY_V1 = b"PROXY "
PROXY_V2 = b"\r\n\r\n\x00\r\nQUIT\n"
"""How the two versions of HAProxy's PROXY protocol begin."""
_TLS_HANDSHAKE = b"\x16\x03"
"""How the record starts that carries a ClientHello (RFC 8446 §5.1)."""


def other_protocol(line: bytes) -> Reply | None:
    """The goodbye to a client that speaks HTTP, TLS or the PROXY protocol; None for what may be SMTP.

    line: what came in place of a command, with or without its end.
    """
    if line.startswith(_TLS_HANDSHAKE):
        return replies.TLS_CLIENT
    if line.partition(b" ")[0].upper() in _HTTP_METHODS:
        return replies.HTTP_CLIENT
    if line.startswith((PROXY_V1, PROXY_V2)):
        return replies.PROXY_CLIENT
    return None
