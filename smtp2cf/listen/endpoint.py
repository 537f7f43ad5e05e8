"""Endpoint: a place to listen, `host:port`, `[v6]:port` or `unix:/path`, and the sockets for it.

Knows nothing of what is spoken there.
"""

import contextlib
import errno
import grp
import os
import re
import socket
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

BACKLOG = 2048
"""Connections the kernel may hold before we accept them; it caps this at net.core.somaxconn."""
SEND_BUFFER = 65536
"""Octets that the kernel holds for a client that reads nothing; left alone it holds megabytes. Set before
listen(): a connection has what its socket had when the kernel accepted it."""
SOCKET_MODE = 0o660
"""Permissions of a unix socket: its owner and its group may connect."""
UNIX_PATH_LIMIT = 107
"""Octets of a unix socket's path (sun_path without its NUL, unix(7))."""

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
_ALL = _LOOPBACK.keys()
_HOST_PORT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^:\[\]/]*)):(?P<port>\d{1,5})")


class Endpoint(NamedTuple):
    """Where to listen: a host and a port, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def from_here(self) -> "Endpoint":
        """Where a client on this host finds it: loopback, if it listens on every address."""
        return self._replace(host=_LOOPBACK.get(self.host, self.host))

    @classmethod
    def parse(cls, text: str) -> "Endpoint":
        """Read one endpoint; raises ValueError that says how to write it."""
        text = text.strip()
        if text.startswith("unix:"):
            if not text.startswith("unix:/"):
                raise ValueError(f"{text!r}: a unix socket needs an absolute path, unix:/path")
            path = text.removeprefix("unix:")
            if (length := len(os.fsencode(path))) > UNIX_PATH_LIMIT:
                raise ValueError(
                    f"the path of a unix socket may have {UNIX_PATH_LIMIT} octets, but {path} has {length}"
                )
            return cls(path=path)
        match = _HOST_PORT.fullmatch(text)
        if match is None or int(match["port"]) > 65535:
            raise ValueError(f"{text!r} is not host:port, [v6]:port or unix:/path")
        return cls(host=match["v6"] or match["host"] or "0.0.0.0", port=int(match["port"]))  # noqa: S104 - ":25"

    @classmethod
    def of(cls, sock: socket.socket) -> "Endpoint":
        """Where a listening socket is; an abstract unix socket's name begins with @."""
        name = sock.getsockname()
        if isinstance(name, tuple):
            return cls(host=name[0], port=name[1])
        return cls(path=name if isinstance(name, str) else f"@{os.fsdecode(name[1:])}")


def listen(endpoint: Endpoint, *, mode: int = SOCKET_MODE, group: int | None = None) -> list[socket.socket]:
    """Open listening sockets for an endpoint: one for each address its host has.

    mode, group: permissions and group id of a unix socket. Its file goes away when the socket is closed,
    even by an event loop (uvloop detaches it) before. Raises OSError, whose text names the endpoint.
    """
    try:
        if endpoint.path:
            return [_listen_unix(endpoint.path, mode, group)]
        return _listen_tcp(endpoint.host, endpoint.port)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {endpoint}: {_why(endpoint, error)}") from error


def _why(endpoint: Endpoint, error: OSError) -> str:
    """What keeps us from listening, and what to do about it."""
    why = error.strerror or str(error)
    if isinstance(error, socket.gaierror):
        return f"{why}: use an address or a name of this host"
    if error.errno == errno.EADDRINUSE:
        if endpoint.path and not _is_socket(endpoint.path):
            return "a file that is not a socket is there"
        return f"{why}: another process is listening there (`ss -ltnxp` shows which)"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this host has no such address"
    if error.errno == errno.EACCES:
        if endpoint.path:
            return f"{why}: uid {os.geteuid()} may not create a socket there"
        return (
            f"{why}: ports below 1024 need root, CAP_NET_BIND_SERVICE or a socket from systemd (docs/tls.md)"
        )
    if error.errno == errno.ENOENT and endpoint.path:
        return f"{why}: make {Path(endpoint.path).parent} first"
    return why


def group_id(name: str) -> int | None:
    """The id of a group given by name or number, None for ""; raises ValueError if there is no such group."""
    if not name:
        return None
    if re.fullmatch("[0-9]{1,9}", name):
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ValueError(f"there is no group {name!r} on this host") from None


def bound(sockets: list[socket.socket], endpoint: Endpoint) -> Endpoint:
    """The endpoint, with the port that the kernel chose if it was 0."""
    return endpoint if endpoint.path else endpoint._replace(port=sockets[0].getsockname()[1])


def overlaps(endpoint: Endpoint, sockets: Iterable[socket.socket]) -> bool:
    """Whether some of these sockets listen at an address and port of this endpoint. Paths don't overlap."""
    if endpoint.path:
        return False
    inet = [sock for sock in sockets if sock.family != socket.AF_UNIX]
    taken = [((sock.family, sock.getsockname()[1]), sock.getsockname()[0]) for sock in inet]
    wanted = [((family, address[1]), address[0]) for family, *_, address in _addresses(*endpoint[:2])]
    return any(
        here == there and (mine == theirs or not _ALL.isdisjoint((mine, theirs)))
        for here, mine in wanted
        for there, theirs in taken
    )


def _addresses(host: str, port: int) -> list[Any]:
    """What `getaddrinfo` makes of a host to listen on."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)


def _listen_tcp(host: str, port: int) -> list[socket.socket]:
    found = _addresses(host, port)
    sockets: list[socket.socket] = []
    with contextlib.ExitStack() as opened:
        for family, kind, proto, _, address in dict.fromkeys(found):
            sock = opened.enter_context(socket.socket(family, kind, proto))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if port == 0 and sockets:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            try:
                sock.bind(address)
            except OSError as error:
                # "localhost" often names ::1 on hosts without IPv6: one address that works is enough.
                if error.errno == errno.EADDRNOTAVAIL and len(found) > 1:
                    sock.close()
                    continue
                raise
            sock.listen(BACKLOG)
            sock.setblocking(False)
            sockets.append(sock)
        if not sockets:
            raise OSError(errno.EADDRNOTAVAIL, "no address of this host")
        opened.pop_all()
    return sockets


class _UnixListener(socket.socket):
    """A unix socket that removes its file when it is closed, unless another file has taken its place."""

    _path = ""
    _file: tuple[int, int, int] | None = None

    def claim(self, path: str) -> None:
        """This file is the socket's."""
        self._path, self._file = path, _identity(path)

    def close(self) -> None:
        super().close()
        file, self._file = self._file, None
        # OSError: it is gone already, or its directory is no longer ours to change.
        with contextlib.suppress(OSError):
            if file is not None and _identity(self._path) == file:
                Path(self._path).unlink()


def _identity(path: str) -> tuple[int, int, int]:
    """What distinguishes a file from one that took its place: a file system may reuse the inode."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _listen_unix(path: str, mode: int, group: int | None) -> socket.socket:
    """A socket that nobody can connect to before its permissions are right.

    The file is made with the mode, not given it later, and nobody listens until it has its group.
    """
    sock = _UnixListener(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_stale(path):
            Path(path).unlink()
        before = os.umask(~mode & 0o777)
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        sock.claim(path)
        if group is not None:
            _give_to(path, group)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _give_to(path: str, group: int) -> None:
    try:
        os.chown(path, -1, group, follow_symlinks=False)
    except PermissionError as error:
        text = f"can't give it to group {group} (SMTP2CF_SOCKET_GROUP): only root and members of it can"
        raise OSError(error.errno, text) from None


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def _is_stale(path: str) -> bool:
    """A socket file is there and nobody listens on it."""
    if not _is_socket(path):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == errno.ECONNREFUSED
