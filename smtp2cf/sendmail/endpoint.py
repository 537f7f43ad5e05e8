"""Connections to the bridge: `host:port`, `[v6]:port` or `unix:/path`."""

from __future__ import annotations

import _socket  # socket itself brings selectors, enum and collections: 6 of our 30 milliseconds

from .exit_codes import CONFIG, Away, Failure, why

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CONNECT_TIMEOUT = 30
"""Seconds."""

REPLY_TIMEOUT = 300
"""Seconds (RFC 5321 §4.5.3.2)."""


def parse_endpoint(text: str, setting: str) -> tuple[str, int, str]:
    """`host:port`, `[v6]:port` or `unix:/path` as host, port and path."""
    if text.startswith("unix:/"):
        return "", 0, text[len("unix:") :]
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if set(host) & set(' <>"/\\') or not host.isprintable():
        colon = ""
    if not colon or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise Failure(CONFIG, f"{setting}={text}: use host:port, [v6]:port or unix:/path")
    return host, int(port), ""


def connect(text: str, setting: str) -> _socket.socket:
    """A connected socket; raises Away if nobody answers."""
    host, port, path = parse_endpoint(text, setting)
    if path:
        return _connect_to(_socket.AF_UNIX, path, text)
    if host in ("", "0.0.0.0", "::"):  # noqa: S104 - a server on every address is on loopback too
        host = "::1" if host == "::" else "127.0.0.1"
    try:
        found = _socket.getaddrinfo(
            host.encode("idna" if not host.isascii() else "ascii"), port, 0, _socket.SOCK_STREAM
        )
    except (OSError, UnicodeError) as error:
        raise Away(f"{text}: {why(error)}") from error
    for number, (family, _, _, _, address) in enumerate(found, 1):
        try:
            return _connect_to(family, address, text)
        except Away:
            if number == len(found):
                raise
    raise Away(f"{text}: no address found")


def _connect_to(family: int, address: Any, text: str) -> _socket.socket:
    sock = _socket.socket(family, _socket.SOCK_STREAM)
    try:
        sock.settimeout(CONNECT_TIMEOUT)
        sock.connect(address)
        if family != _socket.AF_UNIX:
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    except OSError as error:
        sock.close()
        raise Away(f"{text}: {why(error)}") from error
    return sock
