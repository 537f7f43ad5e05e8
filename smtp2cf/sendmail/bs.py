"""-bs: SMTP on standard input and output."""

from __future__ import annotations

import _socket
import os

from .client import Client
from .endpoint import REPLY_TIMEOUT
from .exit_codes import OK, TEMPFAIL, Away, Failure
from .message import BLOCK
from .options import Options
from .output import printable, write_stdout
from .settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def smtp_on_stdio(options: Options, settings: Settings) -> int:
    """-bs: connect standard input and output with the bridge, or serve them here if it is away."""
    if not settings.yes("DIRECT"):
        try:
            with Client(settings, verbose=False) as client:
                if settings.yes("TLS") or settings.get("USER"):
                    client.start()
                last = len(client.greeting.lines) - 1
                for number, line in enumerate(client.greeting.lines):
                    write_stdout(f"{client.greeting.code}{' ' if number == last else '-'}{line}\r\n")
                pump(client.sock, client.unread())
                return OK
        except Away as error:
            if not os.path.isdir(settings.drop_directory):
                text = f"421 4.3.2 {settings.bridge} is away, and there is no drop directory"
                write_stdout(f"{printable(text)}\r\n")
                raise Failure(TEMPFAIL, str(error)) from error
    from .session import OwnSession

    return OwnSession(options, settings).run()


def pump(sock: Any, to_caller: bytes) -> None:
    """Copy standard input to the socket, and the socket to standard output, until the bridge closes."""
    to_bridge, caller_open, bridge_open = b"", True, True
    encrypted = hasattr(sock, "pending")
    sock.settimeout(0)
    while bridge_open or to_caller:
        readers = [0] if caller_open and not to_bridge else []
        writers = [1] if to_caller else []
        if bridge_open:
            readers += [] if to_caller else [sock.fileno()]
            writers += [sock.fileno()] if to_bridge else []
        at_once = encrypted and bridge_open and not to_caller and sock.pending()
        # TLS connections can't be half closed: wait this long after a caller that left without QUIT.
        patience = REPLY_TIMEOUT if encrypted and not caller_open else None
        readable, writable = _ready(readers, writers, 0 if at_once else patience)
        if not (readable or writable or at_once):
            return
        if 1 in writable:
            # A pipe that is writable by poll() takes PIPE_BUF octets without blocking.
            to_caller = to_caller[os.write(1, to_caller[:4096]) :]
        if 0 in readable:
            to_bridge = os.read(0, BLOCK)
            caller_open = bool(to_bridge)
            if not caller_open and not encrypted and bridge_open:
                sock.shutdown(_socket.SHUT_WR)
        try:
            if bridge_open and sock.fileno() in writable:
                to_bridge = to_bridge[sock.send(to_bridge) :]
            if bridge_open and (sock.fileno() in readable or at_once):
                to_caller = sock.recv(BLOCK)
                bridge_open = bool(to_caller)
        except BlockingIOError:
            continue
        except OSError as error:
            if type(error).__name__ not in ("SSLWantReadError", "SSLWantWriteError"):
                bridge_open = False


def _ready(readers: list[int], writers: list[int], seconds: float | None) -> tuple[list[int], list[int]]:
    """As select.select(), which takes no descriptor above 1023: a caller may hand its own down to us."""
    import select

    poll = select.poll()
    for fd in {*readers, *writers}:
        wanted = (select.POLLIN if fd in readers else 0) | (select.POLLOUT if fd in writers else 0)
        poll.register(fd, wanted)
    found = dict(poll.poll(None if seconds is None else seconds * 1000))
    return (
        [fd for fd in readers if found.get(fd, 0) & ~select.POLLOUT],
        [fd for fd in writers if found.get(fd, 0) & ~select.POLLIN],
    )
