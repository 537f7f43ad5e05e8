"""Sockets: those to listen on at each place, handed over by systemd or opened where the settings say.

Knows only the names of the places and of the settings.
"""

import contextlib
import errno
import socket
from collections.abc import Mapping

from smtp2cf.listen.endpoint import Endpoint, bound, listen, overlaps
from smtp2cf.listen.places import Place


class NamedTwiceError(OSError):
    """Another of our settings has the place already; the text says which."""


class ListeningSockets:
    """Opens listening sockets, and closes them all at the end.

    handed_over: sockets that listen already, by the name of the place. opened: what closes them. mode, group:
    of the unix sockets that are opened here.
    """

    def __init__(
        self,
        handed_over: Mapping[str, list[socket.socket]],
        opened: contextlib.ExitStack,
        *,
        mode: int,
        group: int | None,
    ) -> None:
        self._handed_over = handed_over
        self._opened = opened
        self._mode = mode
        self._group = group
        self._named: list[tuple[str, Endpoint, list[socket.socket]]] = []
        for sockets in handed_over.values():
            self._close_at_the_end(sockets)

    def open(self, name: str, endpoints: tuple[Endpoint, ...], setting: str) -> Place:
        """A place: these endpoints, unless sockets for it were handed over. setting: what names them.

        Raises OSError, whose text names the endpoint and the setting: NamedTwiceError where it was opened
        for another one.
        """
        if given := self._handed_over.get(name):
            return Place(given, tuple(map(Endpoint.of, given)))
        sockets: list[socket.socket] = []
        found = []
        for endpoint in endpoints:
            try:
                new = listen(endpoint, mode=self._mode, group=self._group)
            except OSError as error:
                if error.errno == errno.EADDRINUSE and (other := self._named_by(endpoint)):
                    text = f"{setting}: cannot listen on {endpoint}: {other}"
                    raise NamedTwiceError(error.errno, text) from error
                raise OSError(error.errno, f"{setting}: {error.strerror}") from error
            self._named.append((setting, endpoint, new))
            self._close_at_the_end(new)
            sockets += new
            found.append(bound(new, endpoint))
        return Place(sockets, tuple(found))

    def _named_by(self, endpoint: Endpoint) -> str:
        """Which setting has this place already, or a part of it; "" for none."""
        for setting, other, sockets in self._named:
            if other == endpoint:
                return f"{setting} names it too"
            if overlaps(endpoint, sockets):
                return f"{setting} has {other} already"
        return ""

    def _close_at_the_end(self, sockets: list[socket.socket]) -> None:
        for sock in sockets:
            # Not as a context: uvloop has detached it by then, and its file would stay open.
            self._opened.callback(sock.close)
