"""Sockets that systemd, or another process manager, opened before the program started: sd_listen_fds(3).

A socket unit may listen on port 25 while the program runs as nobody, and holds clients in the queue
while it restarts. Knows nothing of what is spoken on the sockets but its name.
"""

import os
import re
import socket
from collections.abc import MutableMapping

from smtp2cf.listen.endpoint import SEND_BUFFER

PROTOCOLS = ("smtp", "smtps", "lmtp", "admin")
"""What FileDescriptorName= may be, beside the name of a listener; a socket without a name is the first."""

FIRST = 3
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class HandedOver(socket.socket):
    """One of them. When this process ends, clients that wait to be accepted wait for the next one."""


class HandedOverError(Exception):
    """A socket from systemd can't be used; the text is for the operator."""


def handed_over(environ: MutableMapping[str, str] = os.environ) -> dict[str, list[socket.socket]]:
    """The listening sockets that were handed over to this process, by the name of the place.

    They don't block, and children don't inherit them. The variables are removed, so that a child does not
    take the sockets for its own. Raises HandedOverError, and closes the sockets then.
    """
    pid, count, names = (environ.pop(variable, "") for variable in _VARIABLES)
    if pid != str(os.getpid()) or not count:
        return {}
    if not re.fullmatch("[0-9]{1,4}", count):
        raise HandedOverError(f"LISTEN_FDS is {count!r}, not a number of sockets")
    numbers = range(FIRST, FIRST + int(count))
    given = names.split(":") if names else ["unknown"] * len(numbers)
    if len(given) != len(numbers):
        raise HandedOverError(f"LISTEN_FDNAMES has {len(given)} names for {len(numbers)} sockets")
    found: dict[str, list[socket.socket]] = {}
    try:
        for number, name in zip(numbers, given, strict=True):
            found.setdefault(_place(name), []).append(_listening(number, name))
    except HandedOverError:
        for sock in (sock for sockets in found.values() for sock in sockets):
            sock.close()
        raise
    return found


def _place(name: str) -> str:
    # What systemd calls a socket whose unit has no FileDescriptorName=, and one that has no unit.
    return PROTOCOLS[0] if name.endswith(".socket") or name in ("", "unknown") else name


def _listening(number: int, name: str) -> socket.socket:
    """The socket behind a file descriptor, if it is one that takes connections."""
    try:
        os.set_inheritable(number, False)
        sock = HandedOver(fileno=number)
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise HandedOverError(
            f"file descriptor {number} ({name}) from systemd is not a socket: {error.strerror}"
        ) from None
    if sock.type != socket.SOCK_STREAM or not listens:
        sock.close()
        raise HandedOverError(
            f"file descriptor {number} ({name}) from systemd is not a listening stream socket:"
            " use ListenStream= with Accept=no"
        )
    # For those to come. Connections that wait already have the kernel's: sessions see to theirs.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    sock.setblocking(False)
    return sock
